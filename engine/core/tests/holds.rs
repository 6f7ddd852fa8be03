//! What brakes a deployment by itself, and what lets it go on: failures, slots, a dependency.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use capstan_core::ServerId;
use capstan_core::action::Action;
use capstan_core::config::ConfigRequest;
use capstan_core::decide::view;
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::record::HoldReason;
use capstan_core::stage::Stage;
use capstan_core::target_status::TargetStatus as Target;

use sim::case::{Case, baked, half, started, verified};
use sim::{Setup, World};

#[test]
fn a_brake_stops_starts_and_not_results() {
    let mut case = started(4, half());
    case.act(Action::Brake);
    let view = view(&case.world.state, case.id).unwrap();
    assert_eq!(view.shown_status, "SMOKE_BRAKED");
    case.run().is(Status::Smoking);
    assert_eq!(case.target(case.batch(1)[0]), Target::MarkdownSuccess, "held");
    assert!(case.world.act(case.id, Action::Finish).is_err(), "revoked or rolled back only");
    case.act(Action::Resume).run().is(Status::SmokeSuccess);
    case.act(Action::Brake);
    let refused = case.world.act(case.id, Action::Bake).unwrap_err();
    assert_eq!(refused.code, "action_not_allowed");
    assert!(refused.allowed.contains(&Action::Resume));
    case.act(Action::Resume).act(Action::Bake).act(Action::Brake).run().is(Status::BakeSuccess);
    assert!(case.world.act(case.id, Action::Rollout).is_err());
}

#[test]
fn the_hold_of_failures_is_cleared_by_retry_or_below_the_limit() {
    let mut case = baked(8, ConfigRequest::default());
    case.act(Action::Rollout).run_failing(Stage::Verify).is(Status::RollingOut);
    let hold = |case: &Case| case.world.of(case.id).deployment.hold(HoldReason::Failures).cloned();
    assert!(hold(&case).is_some());
    let refused = case.world.act(case.id, Action::Resume).unwrap_err();
    assert!(refused.message.contains("fewer targets fail"), "{}", refused.message);
    case.act(Action::Brake).act(Action::Resume);
    assert!(hold(&case).is_some(), "resume clears what it may and keeps the rest");
    let failed: Vec<ServerId> =
        case.batch(2).into_iter().filter(|server| case.target(*server).is_failure()).collect();
    case.pull(failed[0]);
    assert!(hold(&case).is_some(), "a hold does not go by itself");
    case.act(Action::Resume);
    assert!(hold(&case).is_none());
}

#[test]
fn unknown_answers_count_as_failures_and_brake_again_with_one_more() {
    let mut case = baked(12, ConfigRequest::default());
    case.act(Action::Rollout);
    for stage in case.world.stages() {
        case.world.lose(&stage);
    }
    let hold = |case: &Case| case.world.of(case.id).deployment.hold(HoldReason::Failures).is_some();
    assert!(hold(&case), "three of twelve are unknown");
    case.act(Action::Retry);
    assert!(!hold(&case), "retry clears it though they still count");
    let stages = case.world.stages();
    case.world.find(&stages[0]);
    assert!(!hold(&case));
    case.world.lose(&stages[0]);
    assert!(hold(&case), "one more is added");
}

#[test]
fn a_limit_that_falls_below_the_failures_brakes() {
    let config = ConfigRequest { max_failure: Some(25), ..half() };
    let mut case = baked(8, config);
    case.act(Action::Rollout);
    let bad = case.world.stages()[0];
    case.world.fail(&bad);
    assert!(!case.world.of(case.id).deployment.is_braked(), "one failed, the limit is two");
    let gone = case.batch(3)[0];
    case.world.remove_server(gone, false);
    assert!(case.world.of(case.id).deployment.is_braked(), "floor(7 x 25 %) is one");
}

#[test]
fn who_needs_no_slot_joins_the_running_batch_that_waits_for_one() {
    let mut case = baked(8, ConfigRequest::default());
    let (first, later) = (case.batch(2), case.batch(4));
    // One of a later batch dies, and so does one outside the running batch: no slot is free.
    for server in [later[0], case.batch(3)[0]] {
        case.world.hosts.get_mut(&server).unwrap().dead = true;
    }
    case.world.look();
    case.act(Action::Rollout);
    assert!(!case.world.of(case.id).deployment.is_braked(), "the hold is set only if none joined");
    let joined = case.batch(2);
    assert!(first.iter().all(|server| joined.contains(server)));
    assert!(joined.contains(&later[0]));
    assert_eq!(case.target(later[0]), Target::MarkdownRunning);
    assert_eq!(case.target(first[0]), Target::Pending, "it waits for a slot");
    for host in case.world.hosts.values_mut() {
        host.dead = false;
    }
    case.run().is(Status::Success);
}

#[test]
fn without_anyone_to_join_the_slots_hold_is_set_and_clears_itself() {
    let mut case = baked(4, ConfigRequest::default());
    let bastion = case.batch(1)[0];
    case.world.hosts.get_mut(&bastion).unwrap().outside = true;
    case.world.look();
    case.act(Action::Rollout).is(Status::RollingOut);
    let hold = |case: &Case| case.world.of(case.id).deployment.hold(HoldReason::Slots).is_some();
    assert!(hold(&case));
    assert!(case.world.act(case.id, Action::Resume).is_err(), "it clears itself");
    case.act(Action::Brake).act(Action::Resume);
    assert!(hold(&case));
    case.world.hosts.get_mut(&bastion).unwrap().outside = false;
    case.world.look();
    assert!(!hold(&case));
    case.run().is(Status::Success);
}

#[test]
fn a_bastion_that_waits_moves_on_when_another_has_ended() {
    for fails in [false, true] {
        let mut world = World::new(Setup { servers: 8, marked: 2, ..Setup::default() });
        let draft = world.create_input(1, ConfigRequest::default(), false);
        let id = world.create(draft).unwrap();
        let mut case = Case { world, id };
        let (runs, waits) = (case.batch(1)[0], case.batch(1)[1]);
        let other = case.batch(2)[0];
        case.world.hosts.get_mut(&other).unwrap().dead = true;
        case.world.look();
        case.act(Action::Start).is(Status::Smoking);
        assert_eq!(case.target(waits), Target::Pending, "one slot is left for two bastions");
        if fails {
            case.run_failing(Stage::Verify).is(Status::SmokeFailure);
        } else {
            case.run().is(Status::SmokeSuccess);
        }
        assert_eq!(case.batch(1), [runs]);
        assert!(case.batch(2).contains(&waits));
    }
}

#[test]
fn a_bastion_that_waits_for_a_slot_gives_its_place_to_one_that_needs_none() {
    let mut world = World::new(Setup { servers: 4, ..Setup::default() });
    let draft = world.create_input(1, ConfigRequest::default(), false);
    let id = world.create(draft).unwrap();
    let mut case = Case { world, id };
    let (bastion, other) = (case.batch(1)[0], case.batch(3)[0]);
    case.world.hosts.get_mut(&other).unwrap().dead = true;
    case.world.look();
    case.act(Action::Start).is(Status::Smoking);
    assert_eq!(case.batch(1), [other], "it is out, and needs no slot");
    assert!(case.batch(3).contains(&bastion));
    case.world.hosts.get_mut(&other).unwrap().dead = false;
    case.run().is(Status::SmokeSuccess);
}

#[test]
fn a_drained_server_in_traffic_is_drained_again_and_the_second_time_holds() {
    let mut case = verified(4, half());
    let bastion = case.batch(1)[0];
    let unmark = |case: &mut Case| {
        case.world.hosts.get_mut(&bastion).unwrap().mark = false;
        case.world.look();
    };
    let hold =
        |case: &Case| case.world.of(case.id).deployment.hold(HoldReason::Dependency).is_some();
    unmark(&mut case);
    assert!(!hold(&case));
    case.world.drain();
    assert!(case.world.hosts[&bastion].mark, "drained again");
    case.world.look();
    unmark(&mut case);
    assert!(hold(&case), "the second time");
    assert!(case.world.act(case.id, Action::Resume).is_err(), "it clears itself");
    case.world.drain();
    case.world.look();
    assert!(!hold(&case), "the load balancer does again what it is told");
    case.act(Action::Bake).run().is(Status::BakeSuccess);
}

/// A large group is not looked at as a whole: each look shows a part of it.
#[test]
fn the_dependency_hold_ends_when_several_looks_together_saw_every_server_stay_out() {
    let mut case = baked(8, half());
    case.act(Action::Rollout);
    let out: Vec<ServerId> = case.batch(2);
    for stage in case.world.stages() {
        case.world.succeed(&stage);
    }
    let hold =
        |case: &Case| case.world.of(case.id).deployment.hold(HoldReason::Dependency).is_some();
    for _ in 0..2 {
        for server in &out {
            case.world.hosts.get_mut(server).unwrap().mark = false;
        }
        case.world.look();
        case.world.drain();
    }
    assert!(hold(&case));
    let places: Vec<usize> = (0..case.world.state.servers().len()).collect();
    let (last, others) = places.split_last().unwrap();
    for place in others {
        case.world.look_but(|hidden| hidden != *place);
        let (before, _) = case.world.state.servers().split_at(place + 1);
        let awaited = out.iter().any(|id| before.iter().all(|server| server.id != *id));
        assert_eq!(hold(&case), awaited, "after a look at server {place}");
        case.world.crash();
    }
    case.world.look_but(|hidden| hidden != *last);
    assert!(!hold(&case));
}

#[test]
fn a_server_seen_in_traffic_again_is_awaited_again() {
    let mut case = baked(8, half());
    case.act(Action::Rollout);
    let out: Vec<ServerId> = case.batch(2);
    for stage in case.world.stages() {
        case.world.succeed(&stage);
    }
    let hold =
        |case: &Case| case.world.of(case.id).deployment.hold(HoldReason::Dependency).is_some();
    for _ in 0..2 {
        for server in &out {
            case.world.hosts.get_mut(server).unwrap().mark = false;
        }
        case.world.look();
        case.world.drain();
    }
    case.world.look_but(|_| true);
    assert!(hold(&case), "a look that shows nothing clears nothing");
    assert!(out.len() > 1);
    let one = out[0];
    let place = case.world.state.servers().iter().position(|row| row.id == one).unwrap();
    // It is seen to stay out, and then in traffic once more, before the others are seen at all.
    case.world.look_but(|other| other != place);
    case.world.hosts.get_mut(&one).unwrap().mark = false;
    case.world.look_but(|other| other != place);
    case.world.drain();
    case.world.look_but(|other| other == place);
    assert!(hold(&case), "it was not seen to stay out since");
    case.world.look_but(|other| other != place);
    assert!(!hold(&case));
}
