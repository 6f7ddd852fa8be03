//! What follows a brake: retries and rollbacks; and releases of which every server fails.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use std::time::Duration;

use capstan_core::DeploymentId;
use capstan_core::action::Action;
use capstan_core::config::ConfigRequest;
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::input::Answer;
use capstan_core::record::{Flavor, HoldReason};
use capstan_core::stage::Stage;
use capstan_core::target_status::TargetStatus;

use sim::{Running, Setup, World, check, package};

fn width(percent: u32) -> ConfigRequest {
    ConfigRequest {
        max_unavailable: Some(25),
        batch_pattern: Some(format!("{percent}%")),
        ..ConfigRequest::default()
    }
}

fn never(_: &World, _: &Running) -> bool {
    false
}

/// The host does not prove the package, whoever asks.
fn proves_nothing(stage: &Running) -> bool {
    matches!(stage.stage, Stage::Check | Stage::Verify)
}

fn is_normal(world: &World, stage: &Running) -> bool {
    let row = world.of(stage.deployment);
    !row.is_bastion(&row.targets()[row.place(stage.target).unwrap()])
}

/// Bastions verify, are baked, and the first normal batch starts.
fn past_the_bastions(world: &mut World, id: DeploymentId) {
    world.run_rounds(never, |_| {});
    world.act(id, Action::Bake).unwrap();
    world.run_rounds(never, |_| {});
    assert_eq!(world.of(id).deployment.status, Status::BakeSuccess);
    world.act(id, Action::Rollout).unwrap();
}

/// The hosts of targets that succeeded, with the number of orders that each was given.
fn done(world: &World, id: DeploymentId) -> Vec<(u32, u32)> {
    let targets = world.of(id).targets().iter();
    let done = targets.filter(|target| target.status == TargetStatus::Success);
    done.map(|target| (target.place, target.orders)).collect()
}

/// A rollout whose normal servers fail until the brake; no more than L are ever out.
fn braked(n: u32) -> (World, DeploymentId) {
    let mut world = World::unchecked(Setup { servers: n, ..Setup::default() });
    let id = world.rollout(1, width(25));
    past_the_bastions(&mut world, id);
    world.run_rounds(|world, stage| proves_nothing(stage) && is_normal(world, stage), within);
    let row = &world.of(id).deployment;
    assert_eq!(row.status.shown(row.is_braked()), "ROLLOUT_BRAKED");
    (world, id)
}

fn within(world: &World) {
    let Some(running) = world.state.running() else { return };
    let slots = world.state.slots(running);
    assert!(slots.out <= slots.l, "{slots:?}");
}

#[test]
fn b_servers_fail_and_half_of_them_fail_again() {
    for n in [20, 100] {
        let (mut world, id) = braked(n);
        let b = n / 4;
        assert_eq!(world.of(id).counts().failed(), b, "B failed");
        let before = done(&world, id);
        let failed: Vec<_> = world
            .of(id)
            .targets()
            .iter()
            .filter(|target| target.status.is_failure())
            .map(|target| target.server)
            .collect();
        let again = &failed[..failed.len() / 2];
        world.act(id, Action::Retry).unwrap();
        world.run_rounds(|_, stage| proves_nothing(stage) && again.contains(&stage.server), within);
        check::logs(&world);
        let after = done(&world, id);
        assert!(before.iter().all(|one| after.contains(one)), "who succeeded is not visited again");
        let row = &world.of(id).deployment;
        assert_eq!(world.of(id).counts().failed() as usize, again.len());
        // Half of B stays below the limit: the others go on, with the slots that are left.
        assert_eq!(row.status, Status::RolloutFailure, "{n}: {:?}", row.holds);
        assert_eq!(world.state.census().out as usize, again.len());
        world.act(id, Action::Retry).unwrap();
        world.run_rounds(never, within);
        assert_eq!(world.of(id).deployment.status, Status::Success);
        check::logs(&world);
    }
}

#[test]
fn b_servers_fail_and_are_rolled_back_within_the_limit() {
    for n in [4, 20, 100] {
        let (mut world, id) = braked(n);
        let out = world.state.census().out;
        assert_eq!(out, n / 4);
        let answer = world.roll_back(None, ConfigRequest::default());
        let Ok(Answer::Created(back)) = answer else { panic!("{answer:?}") };
        assert!(world.state.census().out >= out, "it starts from the true count");
        world.run_rounds(never, within);
        assert_eq!(world.of(back).deployment.status, Status::Success);
        assert_eq!(world.of(id).deployment.superseded_by, Some(back));
        assert_eq!(world.in_service(), n as usize);
        assert!(world.hosts.values().all(|host| host.package == Some(package(0).id)));
        check::logs(&world);
    }
}

#[test]
fn two_marked_bastions_and_one_slot_that_both_fail() {
    let mut world = World::new(Setup { servers: 4, marked: 2, ..Setup::default() });
    let id = world.rollout(1, ConfigRequest::default());
    world.run_rounds(|_, stage| proves_nothing(stage), within);
    assert_eq!(world.of(id).deployment.status, Status::SmokeFailure);
    assert_eq!((world.state.census().out, world.of(id).counts().failed()), (1, 1));
    world.act(id, Action::Retry).unwrap();
    world.run_rounds(|_, stage| proves_nothing(stage), within);
    assert_eq!(world.of(id).deployment.status, Status::SmokeFailure, "and nobody else was taken");
    assert_eq!(world.state.census().out, 1);
    check::logs(&world);
}

#[test]
fn one_of_four_pulled_out_and_every_server_fails() {
    let mut world = World::new(Setup { servers: 4, ..Setup::default() });
    let pulled = world.server_named("web-003");
    world.pull_out(pulled).unwrap();
    world.drain();
    let id = world.rollout(1, ConfigRequest::default());
    past_the_bastions(&mut world, id);
    world.run_rounds(|world, stage| proves_nothing(stage) && is_normal(world, stage), within);
    let row = &world.of(id).deployment;
    assert!(row.hold(HoldReason::Failures).is_some(), "{:?}", row.holds);
    assert_eq!(world.of(id).counts().failed(), 1);
    assert_eq!(world.state.census().out, 2, "the one by hand and the one that failed");
    assert_eq!(world.in_service(), 2);
    check::logs(&world);
}

#[test]
fn a_scaleout_of_ten_onto_ten_that_all_fail() {
    let mut world = World::new(Setup { servers: 10, ..Setup::default() });
    for _ in 0..10 {
        world.add_server();
    }
    let mut create = world.create_input(0, ConfigRequest::default(), true);
    create.flavor = Flavor::Scaleout;
    let id = world.create(create).unwrap();
    world.run_rounds(
        |_, stage| proves_nothing(stage),
        |world| assert_eq!(world.in_service(), 10, "no server in service is touched"),
    );
    let row = &world.of(id).deployment;
    assert!(row.hold(HoldReason::Failures).is_some(), "{:?}", row.holds);
    let failed = world.of(id).counts().failed();
    assert_eq!(failed, row.config.failure_limit(20), "the limit, and nobody after it");
    check::logs(&world);
}

#[test]
fn servers_that_die_ten_seconds_after_success_stop_the_rollout() {
    for n in [4, 20, 100] {
        let mut world = World::unchecked(Setup { servers: n, ..Setup::default() });
        let waits = ConfigRequest { batch_wait_seconds: Some(30), ..width(25) };
        let id = world.rollout(1, waits);
        past_the_bastions(&mut world, id);
        world.run_rounds(never, within);
        let first: Vec<_> = world
            .of(id)
            .targets()
            .iter()
            .filter(|target| target.batch == 2)
            .map(|target| target.server)
            .collect();
        assert!(first.iter().all(|server| world.status_of(id, *server) == TargetStatus::Success));
        world.pass(Duration::from_secs(10));
        for server in &first {
            world.hosts.get_mut(server).unwrap().dead = true;
        }
        world.look();
        world.pass(Duration::from_secs(6));
        world.look();
        assert_eq!(world.of(id).counts().failed() as usize, first.len());
        assert!(world.of(id).deployment.hold(HoldReason::Failures).is_some(), "{n} servers");
        world.pass(Duration::from_hours(1));
        world.wake();
        assert_eq!(world.of(id).counts().under_way(), 0, "nothing starts after the hold");
        within(&world);
        check::logs(&world);
    }
}
