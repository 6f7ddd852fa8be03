//! The emergency: a large group is rolled back while its load balancer is dead, and so are the CMDB, Redis and the
//! message broker.

use std::time::Duration;

use capstan_core::action::Action;
use capstan_core::config::ConfigRequest;
use capstan_core::decide::STALE_AFTER;
use capstan_core::dependency::{BROKER, BreakerReport, BreakerState, CMDB, DependencyKind, QUEUE};
use capstan_core::input::{Input, RollBack};
use capstan_core::ports::ScriptSource;
use capstan_core::view::WaitKind;
use capstan_drivers::fake::{Fault, Outcome};
use capstan_drivers::scripts::Scripts;

use crate::dependencies::{EDGE, cut_off, dies, guarded, in_service, is_held, succeeded, until};
use crate::world::{World, draft, success};

const SERVERS: usize = 100;

fn halves() -> ConfigRequest {
    ConfigRequest {
        max_unavailable: Some(50),
        batch_pattern: Some("50%+50%".into()),
        max_failure: Some(50),
        ..ConfigRequest::default()
    }
}

/// A group that was released twice, and its engine.
async fn released() -> (World, capstan_runner::Engine) {
    let mut world = World::new(SERVERS, halves(), |_| Outcome::exit(0)).await;
    let engine = guarded(&world, 64);
    world.act(Action::Start).await;
    world.wait(success).await;
    world.deployment = draft(&world.store, world.group, halves(), "1.2.0").await;
    world.act(Action::Start).await;
    world.wait(success).await;
    (world, engine)
}

/// What the breakers of another process say of what this one does not call.
async fn the_others_are_dead(world: &World) {
    let dead = |name: &str, kind| BreakerReport {
        name: name.to_owned(),
        kind,
        state: BreakerState::Open,
        error: Some("no answer".to_owned()),
    };
    let reports = [
        dead(CMDB, DependencyKind::Cmdb),
        dead(QUEUE, DependencyKind::Queue),
        dead(BROKER, DependencyKind::Broker),
    ];
    world.store.dependencies_note(&reports).await.unwrap();
}

async fn roll_back(world: &mut World) {
    let (set, _) = Scripts::new(None).scripts("generic").unwrap();
    let rollback = RollBack {
        to: None,
        config: halves(),
        actor: "ann".into(),
        scripts: set,
        stale_after: STALE_AFTER,
        without: Vec::new(),
        history: world.store.history(world.group).await.unwrap(),
    };
    world.store.submit(world.group, Input::Rollback(Box::new(rollback))).await.unwrap();
    world.deployment = world.store.history(world.group).await.unwrap().0[0].id;
}

#[tokio::test]
async fn a_rollback_holds_on_its_dead_balancer_and_one_cut_lets_it_go_on() {
    let (mut world, engine) = released().await;
    // Nobody looks at a group that nothing is released to.
    world.pass(Duration::from_mins(5));
    dies(&world, &Fault::LoseQuestion);
    the_others_are_dead(&world).await;
    roll_back(&mut world).await;
    let view = world.wait(is_held).await;
    let waits: Vec<_> =
        view.waiting_for.iter().filter(|waits| waits.what == WaitKind::Dependency).collect();
    assert!(waits.iter().any(|waits| waits.text.contains(EDGE)), "{:?}", view.waiting_for);
    assert_eq!(succeeded(&view), 0, "nothing goes on by itself");

    cut_off(&world).await;
    let view = world.wait(success).await;
    assert_eq!(view.package.version, "1.1.0");
    let mut without: Vec<&str> = view.ran_without.iter().map(|it| &*it.dependency).collect();
    without.sort_unstable();
    assert_eq!(without, [BROKER, CMDB, EDGE, QUEUE]);
    let events = world.store.events(world.deployment, 0, 100_000).await.unwrap();
    let most = events.iter().filter_map(|event| event.data.out_count).max();
    assert!(most <= Some(50), "B is fifty: {most:?}");
    assert!(!view.owed.is_empty(), "nobody has seen them in traffic");
    world.assert_right().await;

    dies(&world, &Fault::None);
    world.store.dependency_switch(EDGE, None, None).await.unwrap();
    until(&world, "the debts are paid", async || world.view().await.owed.is_empty()).await;
    assert_eq!(in_service(&world).await, SERVERS);
    engine.stop().await;
}
