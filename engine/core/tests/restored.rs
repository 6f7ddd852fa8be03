//! The record was restored from a backup: hosts may be ahead of it.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use capstan_core::action::Action;
use capstan_core::decide::RESTORED_FENCES;
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::event::EventType;
use capstan_core::record::Cause;
use capstan_core::target_status::TargetStatus as Target;

use sim::case::{Case, baked, half, started, verified};
use sim::package;

fn all_run_the_package(case: &Case) {
    for server in case.world.state.servers() {
        assert_eq!(
            case.world.hosts[&server.id].package,
            Some(package(1).id),
            "{}",
            server.hostname
        );
    }
}

#[test]
fn every_fence_rises_past_what_was_given_out_and_no_proof_is_left() {
    let mut case = baked(4, half());
    let before: Vec<i64> = case.world.state.servers().iter().map(|row| row.fence).collect();
    case.world.restored();
    for (server, before) in case.world.state.servers().iter().zip(before) {
        assert_eq!(server.fence, before + RESTORED_FENCES);
        assert!(server.running.as_ref().is_none_or(|running| running.proven_at.is_none()));
    }
}

#[test]
fn what_was_under_way_is_ordered_under_another_key() {
    let mut case = started(4, half());
    let old = case.world.stages()[0];
    case.world.restored();
    let new = case.world.stages()[0];
    assert_eq!((new.target, new.stage), (old.target, old.stage));
    assert_ne!(new.key, old.key, "its host may have ended the old key, or forgotten it");
    let told = case.world.events_of(case.id).last().unwrap();
    assert_eq!((told.kind, told.data.key), (EventType::TargetTry, Some(new.key)));
    assert!(told.data.fence.unwrap() > RESTORED_FENCES);
    case.world.succeed(&old);
    let kinds: Vec<_> = case.world.events_of(case.id).map(|event| event.kind).collect();
    assert_eq!(kinds.last(), Some(&EventType::LateOutcome));
    case.run().is(Status::SmokeSuccess);
}

#[test]
fn a_host_that_is_ahead_is_put_right_by_a_retry() {
    let mut case = baked(4, half());
    let bastion = case.batch(1)[0];
    // After the backup everything was rolled back.
    case.world.hosts.get_mut(&bastion).unwrap().package = Some(package(0).id);
    case.world.restored();
    case.is(Status::SmokeFailure);
    let row = case.world.of(case.id);
    let target = &row.targets()[row.place_of_server(bastion).unwrap()];
    assert_eq!((target.status, target.cause), (Target::VerifyFailure, Some(Cause::Relapsed)));
    case.act(Action::Retry).run().is(Status::SmokeSuccess);
    case.act(Action::Bake).run().is(Status::BakeSuccess);
    case.act(Action::Rollout).run().is(Status::Success);
    all_run_the_package(&case);
}

#[test]
fn a_host_that_is_as_the_record_says_gets_a_check_and_nothing_else() {
    let mut case = baked(4, half());
    let bastion = case.batch(1)[0];
    case.world.restored();
    case.act(Action::Retry);
    assert_eq!(case.target(bastion), Target::CheckRunning);
    case.run();
    assert_eq!(case.target(bastion), Target::Success);
    assert!(!case.server(bastion).is_out());
}

#[test]
fn a_proof_that_waits_for_its_markup_is_made_again() {
    let mut case = verified(4, half());
    case.world.restored();
    case.is(Status::SmokeSuccess);
    case.act(Action::Bake);
    let bastion = case.batch(1)[0];
    assert_eq!(case.target(bastion), Target::VerifyRunning, "S5");
    case.run().is(Status::BakeSuccess);
}

#[test]
fn a_markup_under_way_waits_for_another_proof() {
    let mut case = verified(4, half());
    case.act(Action::Bake);
    let bastion = case.batch(1)[0];
    assert_eq!(case.target(bastion), Target::MarkupRunning);
    case.world.restored();
    assert_eq!(case.target(bastion), Target::VerifyRunning, "S5");
    case.run().is(Status::BakeSuccess);
}

#[test]
fn what_an_ended_deployment_had_under_way_is_given_up() {
    let mut case = started(4, half());
    case.act(Action::Revoke);
    assert_eq!(case.world.stages().len(), 1, "a revoke waits for no host");
    case.world.restored();
    assert!(case.world.stages().is_empty());
    let bastion = case.batch(1)[0];
    assert_eq!(case.target(bastion), Target::Revoked);
}

#[test]
fn a_mark_that_the_record_does_not_know_is_not_taken_off_unproven() {
    let mut case = baked(4, half());
    let server = case.world.state.servers().iter().find(|row| !row.is_out()).unwrap().id;
    // After the backup a release drained it, or a person pulled it out.
    case.world.hosts.get_mut(&server).unwrap().mark = true;
    case.world.restored();
    case.world.look();
    case.world.admit_servers();
    assert!(case.world.hosts[&server].mark, "S5: nobody knows what it runs");
    assert!(case.server(server).is_out());
}
