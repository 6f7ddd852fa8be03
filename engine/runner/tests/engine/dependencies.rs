//! A load balancer that dies in the middle of a rollout, is cut off, and comes back (S12).

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use capstan_core::OrderKey;
use capstan_core::action::Action;
use capstan_core::config::{ConfigRequest, Mode};
use capstan_core::dependency::{BreakerReport, BreakerState, Breakers, CMDB, DependencyKind};
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::event::EventType;
use capstan_core::ports::{
    Call, Endpoint, Executor, LoadBalancer, Look, Order, OrderState, Report, Script,
};
use capstan_core::record::{HoldReason, Service};
use capstan_core::target_status::TargetStatus;
use capstan_core::view::{CutOff, DeploymentView};
use capstan_drivers::fake::{Act, Asked, Fault, Outcome};
use capstan_drivers::guard::Guard;
use capstan_runner::{Engine, Settings};
use capstan_services::Lines;

use crate::world::{PATIENCE, World, success};

pub(crate) const EDGE: &str = "load_balancer.fake";
const FIRST: &str = "executor.fake";

pub(crate) fn guarded(world: &World, slots: usize) -> Engine {
    let balancer = Arc::clone(&world.balancer) as Arc<dyn LoadBalancer>;
    let breaker = world.switches.breaker(EDGE, DependencyKind::LoadBalancer);
    let guard = Guard::load_balancer("fake", balancer).with_breaker(breaker);
    world.engine_over(Arc::new(guard), Settings { slots, ..Settings::default() })
}

pub(crate) fn succeeded(view: &DeploymentView) -> u32 {
    view.counts.get(TargetStatus::Success.word()).copied().unwrap_or_default()
}

pub(crate) fn is_held(view: &DeploymentView) -> bool {
    view.holds.iter().any(|hold| hold.reason == HoldReason::Dependency)
}

pub(crate) fn dies(world: &World, fault: &Fault) {
    for act in [Act::Drain, Act::Admit, Act::Observe] {
        world.balancer.fail_all(act, fault.clone());
    }
}

pub(crate) async fn cut_off(world: &World) {
    cut_off_by_hand(world, EDGE).await;
}

async fn cut_off_by_hand(world: &World, name: &str) {
    let cut = CutOff {
        by: "ann".into(),
        reason: "its control plane is down, ticket 17".into(),
        since: world.store.now(),
        expires_at: None,
    };
    world.store.dependency_switch(name, Some(cut), None).await.unwrap().expect("it is known");
}

/// Waits until the store shows what is wanted; every commit is a reason to look again.
pub(crate) async fn until(world: &World, what: &str, wanted: impl AsyncFn() -> bool) {
    let mut commits = world.store.watch_all();
    let reached = tokio::time::timeout(PATIENCE, async {
        while !wanted().await {
            commits.changed().await.unwrap();
        }
    });
    reached.await.unwrap_or_else(|_| panic!("{what}"));
}

pub(crate) async fn in_service(world: &World) -> usize {
    let servers = world.store.servers(world.group).await.unwrap();
    servers.iter().filter(|server| server.service == Service::In).count()
}

/// Eight servers, one per batch and click; B is four, so two may be out by us while it is bypassed.
async fn six_of_eight_released() -> (World, Engine) {
    let config = ConfigRequest {
        max_unavailable: Some(50),
        batch_pattern: Some("12%".into()),
        max_failure: Some(100),
        mode: Some(Mode::Manual),
        ..ConfigRequest::default()
    };
    let world = World::new(8, config, |_| Outcome::exit(0)).await;
    let engine = guarded(&world, 8);
    world.act(Action::Start).await;
    for number in 1..=6 {
        let clicked = |view: &DeploymentView| {
            succeeded(view) == number && view.allowed_actions.contains(&Action::Rollout)
        };
        world.wait(clicked).await;
        if number < 6 {
            world.act(Action::Rollout).await;
        }
    }
    (world, engine)
}

#[tokio::test]
async fn a_release_goes_on_without_its_balancer_and_the_debts_are_paid_when_it_is_back() {
    let (world, engine) = six_of_eight_released().await;
    dies(&world, &Fault::LoseQuestion);
    world.act(Action::Rollout).await;
    let view = world.wait(is_held).await;
    let hold = view.holds.iter().find(|hold| hold.reason == HoldReason::Dependency).unwrap();
    assert!(hold.detail.contains(EDGE), "{}", hold.detail);
    let all = world.store.dependencies().await.unwrap();
    assert!(all.iter().any(|it| it.name == EDGE && it.state != BreakerState::Closed), "{all:?}");

    cut_off(&world).await;
    let view = world.wait(|view| !is_held(view) && succeeded(view) == 7).await;
    assert_eq!((view.out, view.most_ours), (1, Some(2)), "it was drained, as far as is known");
    world.act(Action::Rollout).await;
    let view = world.wait(success).await;
    assert_eq!(view.out, 1, "the last one was never drained");
    let drained: Vec<bool> = view.owed.iter().map(|owed| owed.is_drained).collect();
    assert_eq!(drained.iter().filter(|is_drained| **is_drained).count(), 1, "{:?}", view.owed);
    assert_eq!(drained.len(), 2, "{:?}", view.owed);
    assert!(view.ran_without[0].text.contains("ticket 17"), "{:?}", view.ran_without);
    assert_eq!(in_service(&world).await, 7);

    dies(&world, &Fault::None);
    world.store.dependency_switch(EDGE, None, None).await.unwrap();
    until(&world, "every server is in", async || in_service(&world).await == 8).await;
    assert!(world.view().await.owed.is_empty());
    world.assert_right().await;
    engine.stop().await;
}

#[tokio::test]
async fn a_balancer_that_answers_again_lets_the_release_go_on_by_itself() {
    let (world, engine) = six_of_eight_released().await;
    dies(&world, &Fault::LoseQuestion);
    world.act(Action::Rollout).await;
    world.wait(is_held).await;
    dies(&world, &Fault::None);
    world.wait(|view| !is_held(view) && succeeded(view) == 7).await;
    world.act(Action::Rollout).await;
    let view = world.wait(success).await;
    assert!(view.ran_without.is_empty() && view.owed.is_empty());
    assert_eq!(in_service(&world).await, 8);
    world.assert_right().await;
    engine.stop().await;
}

#[tokio::test]
async fn a_cut_ends_by_itself_and_a_new_process_knows_of_it() {
    let (world, engine) = six_of_eight_released().await;
    let cut = CutOff {
        by: "ann".into(),
        reason: "maintenance".into(),
        since: world.store.now(),
        expires_at: Some(world.store.now() + Duration::from_mins(10)),
    };
    world.store.dependency_switch(EDGE, Some(cut), None).await.unwrap();
    engine.stop().await;
    let engine = guarded(&world, 8);
    world.act(Action::Rollout).await;
    let view = world.wait(|view| succeeded(view) == 7).await;
    assert_eq!(view.owed.len(), 1, "nobody called the balancer");
    assert_eq!(view.status, DeploymentStatus::RollingOut);
    world.clock.pass(Duration::from_secs(601));
    until(&world, "the debt is paid", async || world.view().await.owed.is_empty()).await;
    world.act(Action::Rollout).await;
    world.wait(success).await;
    world.assert_right().await;
    engine.stop().await;
}

#[tokio::test]
async fn who_dies_while_the_balancer_is_cut_off_is_a_relapse() {
    let (world, engine) = six_of_eight_released().await;
    cut_off(&world).await;
    world.act(Action::Rollout).await;
    let view = world.wait(|view| succeeded(view) == 7).await;
    let dead = view.owed[0].server;
    assert_eq!(in_service(&world).await, 8, "it was never drained");
    world.health.kill(dead);
    world.pass(Duration::from_secs(10));
    world.wait_for_event(EventType::ServerOut).await;
    world.pass(Duration::from_mins(1));
    let view = world.wait(|view| succeeded(view) == 6).await;
    assert_eq!(view.counts.get(TargetStatus::VerifyFailure.word()), Some(&1), "{view:?}");
    world.assert_right().await;
    engine.stop().await;
}

#[tokio::test]
async fn a_balancer_that_is_cut_off_is_told_of_when_it_begins_and_when_it_ends() {
    let lines = Lines::default();
    let _watched = lines.watch();
    let (world, engine) = six_of_eight_released().await;
    cut_off(&world).await;
    let looked = async |times: usize, level: &str, part: &str| {
        let came = tokio::time::timeout(PATIENCE, async {
            while lines.count(level, part) < times {
                world.pass(Duration::from_secs(6));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(came.await.is_ok(), "{level} {part}: {lines:?}");
    };
    looked(3, "DEBUG", "servers still cannot be looked at").await;
    assert_eq!(lines.count("WARN", "servers cannot be looked at"), 1, "{lines:?}");
    world.store.dependency_switch(EDGE, None, None).await.unwrap();
    looked(1, "INFO", "servers are looked at again").await;
    assert_eq!(lines.count("WARN", "servers cannot be looked at"), 1, "{lines:?}");
    engine.stop().await;
}

/// An executor that counts what it is asked.
struct Counting {
    inner: Arc<dyn Executor>,
    calls: AtomicUsize,
}

impl Counting {
    fn counted(&self) -> &dyn Executor {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.inner.as_ref()
    }
}

impl Executor for Counting {
    fn start<'a>(&'a self, server: &'a Endpoint, order: &'a Order) -> Call<'a, OrderState> {
        self.counted().start(server, order)
    }

    fn look<'a>(&'a self, server: &'a Endpoint, key: OrderKey, offset: u64) -> Call<'a, Look> {
        self.counted().look(server, key, offset)
    }

    fn cancel<'a>(
        &'a self,
        server: &'a Endpoint,
        key: OrderKey,
        fence: i64,
    ) -> Call<'a, OrderState> {
        self.counted().cancel(server, key, fence)
    }

    fn report<'a>(&'a self, server: &'a Endpoint, script: &'a Script) -> Call<'a, Option<Report>> {
        self.counted().report(server, script)
    }
}

/// Scripts that run when their executor is cut off are found by key through the next one, and run once.
#[tokio::test]
async fn orders_go_through_the_next_executor_while_the_first_is_cut_off() {
    let slow_install = |asked: &Asked<'_>| {
        let time = if asked.stage == "INSTALL" { Duration::from_secs(3) } else { Duration::ZERO };
        Outcome::exit(0).after(time)
    };
    let world = World::new(4, ConfigRequest::default(), slow_install).await;
    let hosts = Arc::clone(&world.hosts) as Arc<dyn Executor>;
    let breaker = world.switches.breaker(FIRST, DependencyKind::Executor);
    let first = Guard::executor("fake", Arc::clone(&hosts)).with_breaker(breaker);
    let first: Arc<dyn Executor> = Arc::new(first);
    let spare = Arc::new(Counting { inner: hosts, calls: AtomicUsize::new(0) });
    let second = Arc::clone(&spare) as Arc<dyn Executor>;
    let executors = BTreeMap::from([("fake".to_owned(), first), ("spare".to_owned(), second)]);
    let engine = world.engine_through(executors, Settings { slots: 8, ..Settings::default() });
    world.act(Action::Start).await;
    let installs = |view: &DeploymentView| {
        let counts = view.counts.get(TargetStatus::InstallRunning.word());
        counts.is_some_and(|count| *count > 0)
    };
    world.wait(installs).await;
    let is_known = async || {
        world.store.dependencies().await.unwrap().iter().any(|dependency| dependency.name == FIRST)
    };
    until(&world, "the executor is known", is_known).await;
    assert_eq!(spare.calls.load(Ordering::SeqCst), 0, "the first one is used");
    cut_off_by_hand(&world, FIRST).await;
    let view = world.wait(success).await;
    assert!(spare.calls.load(Ordering::SeqCst) > 0, "the other one is used");
    assert_eq!(view.ran_without.len(), 1, "{:?}", view.ran_without);
    assert_eq!(view.ran_without[0].dependency, FIRST);
    assert!(view.ran_without[0].text.contains("executor.spare"), "{:?}", view.ran_without);
    world.assert_right().await;
    engine.stop().await;
}

/// Breakers that have found this.
struct Found(Vec<BreakerReport>);

impl Breakers for Found {
    fn reports(&self) -> Vec<BreakerReport> {
        self.0.clone()
    }

    fn cut_off(&self, _names: &BTreeSet<String>) {}

    fn is_cut_off(&self, _name: &str) -> bool {
        false
    }

    fn is_usable(&self, _name: &str) -> bool {
        false
    }

    fn changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }
}

/// It asks a balancer now and then, and not again only to find out whether it is well.
#[tokio::test]
async fn who_has_no_engine_does_not_say_that_a_balancer_is_broken() {
    let world = World::new(2, ConfigRequest::default(), |_| Outcome::exit(0)).await;
    let broken = |name: &str, kind| BreakerReport {
        name: name.to_owned(),
        kind,
        state: BreakerState::Open,
        error: Some("no answer".to_owned()),
    };
    let found =
        vec![broken(EDGE, DependencyKind::LoadBalancer), broken(CMDB, DependencyKind::Cmdb)];
    let keeping = capstan_runner::keep_dependencies(world.store.clone(), Arc::new(Found(found)));
    let keeping = tokio::spawn(keeping);
    let names = async || {
        let all = world.store.dependencies().await.unwrap();
        let broken = all.into_iter().filter(|it| it.state != BreakerState::Closed);
        broken.map(|it| it.name).collect::<Vec<_>>()
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while names().await.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the CMDB is known to be broken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(names().await, [CMDB]);
    keeping.abort();
}
