//! How many servers a bad release can hurt, and that a good one never brakes itself.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use std::time::Duration;

use capstan_core::DeploymentId;
use capstan_core::action::Action;
use capstan_core::config::ConfigRequest;
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::event::EventType;
use capstan_core::input::Answer;
use capstan_core::record::{Cause, Flavor, HoldReason};
use capstan_core::stage::Stage;
use capstan_core::target_status::TargetStatus;

use sim::{First, Running, Setup, World, check, package};

const WIDTHS: [u32; 6] = [1, 2, 5, 10, 20, 25];

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

fn is_normal(world: &World, stage: &Running) -> bool {
    let row = world.of(stage.deployment);
    !row.is_bastion(&row.targets()[row.place(stage.target).unwrap()])
}

/// Bastions verify, are baked, and the first normal batch starts.
fn past_the_bastions(world: &mut World, id: DeploymentId) {
    world.run_rounds(never, |_| {});
    assert_eq!(world.of(id).deployment.status, Status::SmokeSuccess);
    world.act(id, Action::Bake).unwrap();
    world.run_rounds(never, |_| {});
    if !world.of(id).deployment.status.is_final() {
        assert_eq!(world.of(id).deployment.status, Status::BakeSuccess);
        world.act(id, Action::Rollout).unwrap();
    }
}

#[test]
fn a_release_whose_every_server_fails_stops_within_the_limits() {
    println!("    n width    B    L  max out  started  end");
    for n in [1, 2, 4, 8, 20, 100, 1000] {
        for percent in WIDTHS {
            a_bad_release(n, percent);
        }
    }
}

#[test]
fn narrow_batches_lose_no_more_than_max_failure() {
    for n in [20, 100, 400] {
        for max_failure in [0, 1, 5, 10] {
            let config = ConfigRequest { max_failure: Some(max_failure), ..width(1) };
            let mut world = World::unchecked(Setup { servers: n, ..Setup::default() });
            let id = world.rollout(1, config);
            past_the_bastions(&mut world, id);
            world.run_rounds(|_, stage| stage.stage == Stage::Verify, |_| {});
            check::logs(&world);
            let failed = world.of(id).counts().failed();
            let limit = world.of(id).deployment.config.failure_limit(n);
            // What was started together with the one that reached the limit may fail, too.
            let batch = (n / 100).max(1);
            let most = limit - 1 + batch;
            assert!((limit..=most).contains(&failed), "{n} servers, max_failure {max_failure} %");
            assert!(world.of(id).deployment.hold(HoldReason::Failures).is_some());
        }
    }
}

fn a_bad_release(n: u32, percent: u32) {
    let mut world = World::unchecked(Setup { servers: n, ..Setup::default() });
    let id = world.rollout(1, width(percent));
    past_the_bastions(&mut world, id);
    let mut most = world.state.census().out;
    world.run_rounds(
        |world, stage| stage.stage == Stage::Verify && is_normal(world, stage),
        |world| most = most.max(world.state.census().out),
    );
    check::logs(&world);
    let slots = world.state.slots(world.of(id));
    let row = &world.of(id).deployment;
    let bad = world.of(id).counts().failed();
    let (status, holds) = (row.status, &row.holds);
    let names: Vec<_> = holds.iter().map(|hold| hold.reason).collect();
    let (b, l) = (slots.b, slots.l);
    println!("{n:5} {percent:4}% {b:4} {l:4} {most:8} {bad:8}  {status} {names:?}");
    assert_eq!(slots.l, slots.b, "nobody pulled anything out");
    assert!(most <= slots.l, "{n} servers, {percent} %: {most} were out, L is {}", slots.l);
    assert!(bad <= slots.b);
    let limit = row.config.failure_limit(slots.total);
    if percent == 1 {
        assert!(bad <= limit, "{n} servers: {bad} failed, the limit is {limit}");
    }
    match n {
        1 => assert_eq!(status, Status::Success, "the only server is the bastion"),
        2 => assert_eq!(status, Status::RolloutFailure, "there is nothing left to brake"),
        _ => {
            assert_eq!(status, Status::RollingOut);
            assert!(row.hold(HoldReason::Failures).is_some());
            assert_eq!(row.status.shown(row.is_braked()), "ROLLOUT_BRAKED");
        }
    }
}

#[test]
fn a_good_release_of_any_size_never_brakes_itself() {
    for n in 1..=60 {
        for percent in WIDTHS {
            a_good_release(n, percent, First::In);
        }
    }
    for percent in WIDTHS {
        a_good_release(100, percent, First::In);
    }
    a_good_release(1000, 1, First::In);
    // More than one decision may start at once: the rest must not be forgotten.
    a_good_release(1200, 25, First::In);
}

#[test]
fn a_group_that_is_out_or_new_never_brakes_itself() {
    for first in [First::Out, First::New, First::Unknown] {
        for n in 1..=60 {
            a_good_release(n, WIDTHS[n as usize % WIDTHS.len()], first);
        }
        a_good_release(100, 25, first);
        a_good_release(1000, 25, first);
    }
}

fn a_good_release(n: u32, percent: u32, first: First) {
    let setup = Setup { servers: n, first, pools: 3, marked: n % 4, ..Setup::default() };
    let mut world = World::unchecked(setup);
    world.hosts.values_mut().for_each(|host| host.outside = false);
    let id = world.rollout(1, width(percent));
    past_the_bastions(&mut world, id);
    world.run_rounds(never, |_| {});
    check::logs(&world);
    let row = &world.of(id).deployment;
    assert_eq!(row.status, Status::Success, "{n} servers {first:?}, {percent} %: {:?}", row.holds);
    let held = world.events_of(id).find(|event| event.kind == EventType::HoldSet);
    assert_eq!(held, None, "{n} servers {first:?}, {percent} %");
    assert_eq!(world.in_service(), n as usize);
}

#[test]
fn two_marked_bastions_and_one_slot() {
    let mut world = World::new(Setup { servers: 4, marked: 2, ..Setup::default() });
    let id = world.rollout(1, ConfigRequest::default());
    assert_eq!(world.of(id).counts_where(true).all(), 1, "never more bastions than free slots");
    past_the_bastions(&mut world, id);
    world.run();
    assert_eq!(world.of(id).deployment.status, Status::Success);
    check::logs(&world);
}

#[test]
fn one_of_four_pulled_out_makes_it_slower_and_does_not_stop_it() {
    let mut world = World::new(Setup { servers: 4, ..Setup::default() });
    let pulled = world.server_named("web-003");
    world.pull_out(pulled).unwrap();
    world.drain();
    let id = world.rollout(1, ConfigRequest::default());
    assert_eq!(world.of(id).place_of_server(pulled), None, "it is left out");
    past_the_bastions(&mut world, id);
    let mut most = 0;
    world.run_rounds(never, |world| most = most.max(world.state.census().out));
    assert_eq!(world.of(id).deployment.status, Status::Success);
    assert_eq!(most, 2, "the one by hand and one by Capstan");
    check::logs(&world);
}

#[test]
fn a_bastion_fails_and_a_retry_needs_no_further_slot() {
    let mut world = World::new(Setup { servers: 4, ..Setup::default() });
    let id = world.rollout(1, ConfigRequest::default());
    world.run_rounds(|_, stage| stage.stage == Stage::Install, |_| {});
    assert_eq!(world.of(id).deployment.status, Status::SmokeFailure);
    assert_eq!(world.state.census().out, 1, "it stays out");
    world.act(id, Action::Retry).unwrap();
    past_the_bastions(&mut world, id);
    world.run();
    assert_eq!(world.of(id).deployment.status, Status::Success);
    check::logs(&world);
}

#[test]
fn a_failed_release_is_rolled_back() {
    let mut world = World::new(Setup { servers: 8, ..Setup::default() });
    let id = world.rollout(1, ConfigRequest::default());
    past_the_bastions(&mut world, id);
    world.run_rounds(|_, stage| stage.stage == Stage::Verify, |_| {});
    assert!(world.of(id).deployment.is_braked());
    let out = world.state.census().out;
    assert!(out > 0);
    let Ok(Answer::Created(back)) = world.roll_back(None, ConfigRequest::default()) else {
        panic!("it can be rolled back")
    };
    assert_eq!(world.of(id).deployment.status, Status::Revoked);
    assert_eq!(world.of(id).deployment.superseded_by, Some(back));
    assert!(world.state.census().out >= out, "it starts from the true count");
    world.run();
    let row = &world.of(back).deployment;
    assert_eq!(row.status, Status::Success);
    assert_eq!((row.origin, row.package.clone()), (Some(id), package(0)));
    assert!(world.hosts.values().all(|host| host.package == Some(package(0).id)));
    assert_eq!(world.in_service(), 8);
    check::logs(&world);
}

#[test]
fn servers_that_die_after_success_are_counted_and_stop_the_rollout() {
    let mut world = World::new(Setup { servers: 8, ..Setup::default() });
    let one_by_one = ConfigRequest {
        batch_pattern: Some("10%".into()),
        batch_wait_seconds: Some(60),
        ..ConfigRequest::default()
    };
    let id = world.rollout(1, one_by_one);
    past_the_bastions(&mut world, id);
    let served = |world: &World| world.of(id).counts().of(TargetStatus::Success);
    for expected in [2, 3] {
        world.run_rounds(never, |_| {});
        assert_eq!(served(&world), expected);
        world.pass(Duration::from_secs(10));
        let dying: Vec<_> = world
            .of(id)
            .targets()
            .iter()
            .filter(|target| target.status == TargetStatus::Success && target.batch > 1)
            .map(|target| target.server)
            .collect();
        if expected == 3 {
            for server in dying {
                world.hosts.get_mut(&server).unwrap().dead = true;
            }
        }
        world.look();
        assert_eq!(world.of(id).counts().failed(), 0, "not before the settle time");
        world.pass(Duration::from_secs(6));
        world.look();
        world.pass(Duration::from_mins(1));
        world.wake();
    }
    let state = world.of(id);
    assert_eq!(state.counts().failed(), 2);
    assert!(state.deployment.hold(HoldReason::Failures).is_some());
    let relapsed = state.targets().iter().filter(|it| it.cause == Some(Cause::Relapsed)).count();
    assert_eq!(relapsed, 2);
    assert_eq!(state.counts().under_way(), 0, "nothing starts after the hold");
    assert_eq!(world.state.census().out, 2);
    check::logs(&world);
}

#[test]
fn a_scaleout_of_ten_onto_ten() {
    let mut world = World::new(Setup { servers: 10, ..Setup::default() });
    for _ in 0..10 {
        world.add_server();
    }
    assert_eq!(world.state.census().members, 20);
    assert_eq!(world.state.census().out, 0, "new servers are not out before their first target");
    let mut create = world.create_input(0, ConfigRequest::default(), true);
    create.flavor = Flavor::Scaleout;
    let id = world.create(create).unwrap();
    assert_eq!(world.of(id).targets().len(), 10, "those whose record does not prove the version");
    let mut least = 10;
    world.run_rounds(never, |world| least = least.min(world.in_service()));
    assert_eq!(least, 10, "no server in service is touched");
    assert_eq!(world.of(id).deployment.status, Status::Success);
    assert_eq!(world.in_service(), 20);
    let held = world.events_of(id).find(|event| event.kind == EventType::HoldSet);
    assert_eq!(held, None);
    check::logs(&world);
}
