//! Acts that are done again: automatic tries, and what an engine takes over from one that died.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use std::time::Duration;

use capstan_core::action::Action;
use capstan_core::config::ConfigRequest;
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::event::EventType;
use capstan_core::input::{Again, Input, StageResult};
use capstan_core::record::{Cause, Service};
use capstan_core::stage::Stage;
use capstan_core::target_status::TargetStatus as Target;

use sim::Running;
use sim::case::{Case, half, started, verified};

const MAY: StageResult = StageResult::Failed { cause: Cause::Timeout, again: Again::May };

/// A bastion whose Download failed and is tried again in two seconds.
fn awaiting() -> Case {
    let mut case = started(4, half());
    let stage = case.world.stages()[0];
    case.world.succeed(&stage);
    let stage = case.world.stages()[0];
    case.world.end(&stage, MAY);
    assert_eq!(case.world.stages()[0].due_at, case.world.now + Duration::from_secs(2));
    case
}

fn take_over(case: &mut Case, stage: &Running) {
    let Running { deployment, target, .. } = *stage;
    case.world.give(Input::TakenOver { deployment, target }).unwrap();
}

#[test]
fn a_brake_stops_a_try_that_is_not_due() {
    let mut case = awaiting();
    case.act(Action::Brake).is(Status::SmokeFailure);
    assert!(case.world.stages().is_empty(), "a try is a new order");
    let target = &case.world.of(case.id).targets()[0];
    assert_eq!((target.status, target.cause), (Target::DownloadFailure, Some(Cause::Timeout)));
    assert_eq!(case.server(target.server).order, None);
    case.act(Action::Retry).run().is(Status::SmokeSuccess);
}

#[test]
fn a_try_that_is_due_has_begun() {
    let mut case = awaiting();
    case.world.pass(Duration::from_secs(2));
    case.act(Action::Brake).is(Status::Smoking);
    assert_eq!(case.world.stages().len(), 1, "a brake stops starts, not what runs");
}

#[test]
fn the_end_revokes_a_try_that_is_not_due() {
    let mut case = awaiting();
    case.act(Action::Revoke).is(Status::Revoked);
    assert!(case.world.stages().is_empty());
    let target = &case.world.of(case.id).targets()[0];
    assert_eq!((target.status, target.cause), (Target::Revoked, None));
    assert!(case.server(target.server).is_out(), "what is out stays out");

    let mut case = started(4, half());
    let stage = case.world.stages()[0];
    case.world.end(&stage, MAY);
    case.act(Action::Revoke);
    assert_eq!(case.server(stage.server).service, Service::In, "its Markdown had failed");
}

#[test]
fn a_server_that_leaves_has_no_further_try() {
    let mut case = awaiting();
    let bastion = case.batch(1)[0];
    case.pull(bastion);
    assert_eq!(case.target(bastion), Target::SetAside);
    assert!(case.world.stages().is_empty());
}

#[test]
fn a_try_that_succeeds_forgets_why_the_first_failed() {
    let mut case = awaiting();
    assert_eq!(case.world.of(case.id).targets()[0].cause, Some(Cause::Timeout));
    case.run().is(Status::SmokeSuccess);
    assert_eq!(case.world.of(case.id).targets()[0].cause, None);
}

#[test]
fn markup_is_not_tried_again_on_an_old_proof() {
    let mut case = verified(4, half());
    case.act(Action::Bake);
    let stage = case.world.stages()[0];
    assert_eq!(case.world.work(&stage).verified_at, Some(case.world.now));
    case.world.pass(Duration::from_secs(58));
    case.world.end(&stage, MAY);
    let stage = case.world.stages()[0];
    assert_eq!(stage.due_at, case.world.now + Duration::from_secs(2), "fresh when it is due");
    case.world.end(&stage, MAY);
    case.is(Status::BakeFailure);
    let target = &case.world.of(case.id).targets()[0];
    assert_eq!((target.status, target.tries), (Target::MarkupFailure, 1));
    case.act(Action::Retry).run().is(Status::BakeSuccess);
}

#[test]
fn markup_is_not_taken_over_on_an_old_proof() {
    let mut case = verified(4, half());
    case.act(Action::Bake);
    let stage = case.world.stages()[0];
    case.world.pass(Duration::from_mins(1));
    take_over(&mut case, &stage);
    case.is(Status::Baking);
    assert_eq!(case.world.stages().len(), 1, "sixty seconds are fresh enough");
    case.world.pass(Duration::from_secs(1));
    take_over(&mut case, &stage);
    case.is(Status::Baking);
    let verify = case.world.stages()[0];
    assert_eq!(verify.stage, Stage::Verify, "it is verified again first");
    assert!(case.server(stage.server).is_out());
    case.run().is(Status::BakeSuccess);
}

#[test]
fn a_braked_markup_on_an_old_proof_has_failed_when_it_is_taken_over() {
    let mut case = verified(4, half());
    case.act(Action::Bake);
    let stage = case.world.stages()[0];
    case.act(Action::Brake);
    case.world.pass(Duration::from_secs(61));
    take_over(&mut case, &stage);
    assert!(case.world.stages().is_empty(), "while braked no stage starts");
    let target = &case.world.of(case.id).targets()[0];
    assert_eq!(target.status, Target::MarkupFailure);
    assert_eq!(target.message.as_deref(), Some("the proof is older than a minute"));
}

/// Its act may have happened while the proof was fresh, so it is asked for and not given up (S11).
#[test]
fn a_markup_whose_answer_was_lost_goes_on_being_asked_for_when_it_is_taken_over() {
    for braked in [false, true] {
        let mut case = verified(4, half());
        case.act(Action::Bake);
        let stage = case.world.stages()[0];
        case.world.lose(&stage);
        if braked {
            case.act(Action::Brake);
        }
        case.world.pass(Duration::from_secs(61));
        take_over(&mut case, &stage);
        assert_eq!(case.world.of(case.id).targets()[0].status, Target::MarkupRunning);
    }
}

#[test]
fn what_is_taken_over_has_its_whole_limit() {
    let mut case = started(4, ConfigRequest::default());
    let stage = case.world.stages()[0];
    let began = case.world.now;
    case.world.pass(Duration::from_hours(3));
    let late = case.world.work(&stage);
    assert_eq!((late.act_at, late.deadline_at), (began, began + Duration::from_mins(1)));
    take_over(&mut case, &stage);
    let work = case.world.work(&stage);
    assert_eq!((work.stage, work.key), (Stage::Markdown, stage.key));
    assert_eq!(work.act_at, case.world.now, "a drain is counted from here");
    assert_eq!(work.deadline_at, case.world.now + Duration::from_mins(1));
    assert_eq!(work.started_at, began);
    let events = case.world.events_of(case.id);
    assert_eq!(events.filter(|event| event.kind == EventType::TargetTakenOver).count(), 1);
}

#[test]
fn a_try_is_counted_from_the_instant_at_which_it_is_due() {
    let case = awaiting();
    let stage = case.world.stages()[0];
    assert_eq!(case.world.work(&stage).act_at, stage.due_at);
}

#[test]
fn automatic_tries_follow_after_two_and_eight_seconds() {
    let mut case = started(4, half());
    let may = StageResult::Failed { cause: Cause::Timeout, again: Again::May };
    for wait in [2, 8] {
        let stage = case.world.stages()[0];
        case.world.end(&stage, may);
        let again = case.world.stages()[0];
        assert_ne!(stage.key, again.key, "an automatic try is a new order");
        let effect = case.world.shadow.effects[&(1, again.target.0)];
        assert_eq!(effect.due_at, case.world.now + Duration::from_secs(wait));
    }
    let stage = case.world.stages()[0];
    case.world.end(&stage, may);
    case.is(Status::SmokeFailure);
}

#[test]
fn only_a_bad_health_answer_is_forgiven() {
    let forgiving = ConfigRequest { ignore_verify: Some(true), ..half() };
    for (config, expected) in [(half(), Status::SmokeFailure), (forgiving, Status::SmokeSuccess)] {
        let mut case = started(4, config);
        while case.world.stages()[0].stage != Stage::Verify {
            let stage = case.world.stages()[0];
            case.world.succeed(&stage);
        }
        let stage = case.world.stages()[0];
        case.world.end(&stage, StageResult::Unhealthy);
        let unverified = case.world.of(case.id).targets()[0].unverified;
        assert_eq!(unverified, expected == Status::SmokeSuccess);
        case.is(expected);
    }
}
