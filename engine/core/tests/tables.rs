//! Every row of the tables of statuses, and what a person may do in each.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use std::time::Duration;

use capstan_core::ServerId;
use capstan_core::action::Action;
use capstan_core::batch_status::BatchStatus;
use capstan_core::config::{ConfigRequest, Mode};
use capstan_core::decide::{permitted, view};
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::event::EventType;
use capstan_core::input::{Again, StageResult};
use capstan_core::record::{Cause, HoldReason, OutBecause, Service};
use capstan_core::stage::Stage;
use capstan_core::target_status::TargetStatus as Target;

use sim::case::{Case, baked, half, marked, started, verified};
use sim::{Setup, World};

#[test]
fn pending_starts_with_and_without_bastions() {
    for (bastion, expected) in [(true, Status::Smoking), (false, Status::RollingOut)] {
        let mut world = World::new(Setup { bastion, ..Setup::default() });
        let manual = ConfigRequest { mode: Some(Mode::Manual), ..ConfigRequest::default() };
        let draft = world.create_input(1, manual, false);
        let id = world.create(draft).unwrap();
        assert_eq!(world.of(id).deployment.status, Status::Pending);
        let mut case = Case { world, id };
        assert_eq!(case.allowed(), [Action::Start, Action::Revoke]);
        case.act(Action::Start).is(expected);
        assert_eq!(case.batch_status(1), BatchStatus::Deploying, "in manual mode, too");
    }
}

#[test]
fn smoking_ends_as_failure_when_a_bastion_fails_or_none_is_left() {
    started(4, half()).run_failing(Stage::Verify).is(Status::SmokeFailure);
    let mut case = started(4, half());
    let bastion = case.batch(1)[0];
    case.pull(bastion);
    case.is(Status::Smoking);
    assert!(case.world.of(case.id).targets()[0].leaving, "its stage ends first");
    case.run().is(Status::SmokeFailure);
    assert_eq!(case.target(bastion), Target::SetAside);
    let next = case.batch(2)[0];
    case.act(Action::Retry).is(Status::Smoking);
    assert!(case.batch(1).contains(&next), "the next server of the plan becomes one");
    case.run().is(Status::SmokeSuccess);
}

#[test]
fn smoke_success_falls_back_when_the_last_bastion_leaves_or_relapses() {
    let mut case = verified(4, half());
    let bastion = case.batch(1)[0];
    case.pull(bastion).is(Status::SmokeFailure);
    assert_eq!(case.target(bastion), Target::SetAside);

    // A bastion that proved the package while it was in service has SUCCESS, and may relapse.
    let mut world = World::new(Setup::default());
    let id = world.rollout(0, ConfigRequest::default());
    let mut case = Case { world, id };
    case.run().is(Status::SmokeSuccess);
    let bastion = case.batch(1)[0];
    assert_eq!(case.target(bastion), Target::Success);
    case.die(bastion).is(Status::SmokeFailure);
    assert_eq!(case.target(bastion), Target::VerifyFailure);
    assert_eq!(case.world.of(id).targets()[0].cause, Some(Cause::Relapsed));
    assert_eq!(case.batch_status(1), BatchStatus::Failure, "SUCCESS to FAILURE by a relapse");
}

#[test]
fn baking_fails_in_markup_or_before() {
    let mut case = verified(4, half());
    case.act(Action::Bake).run_failing(Stage::Markup).is(Status::BakeFailure);
    case.act(Action::Retry).is(Status::Baking);
    let stage = case.world.stages()[0];
    assert_eq!(stage.stage, Stage::Check, "Check, then Markup; nothing is installed");
    case.run().is(Status::BakeSuccess);

    let mut case = verified(4, half());
    case.world.pass(Duration::from_secs(61));
    case.act(Action::Bake);
    assert_eq!(case.world.stages()[0].stage, Stage::Verify, "the proof is too old (S5)");
    case.run_failing(Stage::Verify).is(Status::SmokeFailure);

    let mut case = verified(4, half());
    case.act(Action::Bake).run_failing(Stage::Markup).is(Status::BakeFailure);
    case.act(Action::Retry).run_failing(Stage::Check).is(Status::SmokeFailure);
    assert_eq!(case.target(case.batch(1)[0]), Target::VerifyFailure);
}

#[test]
fn a_proof_of_sixty_seconds_is_fresh_enough() {
    let mut case = verified(4, half());
    case.world.pass(Duration::from_mins(1));
    case.act(Action::Bake);
    assert_eq!(case.world.stages()[0].stage, Stage::Markup);
}

#[test]
fn baking_the_only_server_is_success() {
    verified(1, half()).act(Action::Bake).run().is(Status::Success);
}

#[test]
fn bake_failure_goes_on_when_the_failed_bastion_is_set_aside() {
    let mut case = verified(4, half());
    case.act(Action::Bake).run_failing(Stage::Markup).is(Status::BakeFailure);
    let bastion = case.batch(1)[0];
    case.pull(bastion).is(Status::SmokeFailure);

    for (servers, expected) in [(8, Status::BakeSuccess), (2, Status::Success)] {
        // With two bastions, one serves and one cannot be brought into traffic.
        let mut world = World::new(Setup { servers, marked: 2, dark: true, ..Setup::default() });
        let id = world.rollout(1, ConfigRequest { max_unavailable: Some(100), ..half() });
        let mut case = Case { world, id };
        assert_eq!(case.batch(1).len(), 2);
        case.run().is(Status::SmokeSuccess).act(Action::Bake);
        let bad = case.batch(1)[1];
        case.world
            .run_rounds(|_, stage| stage.stage == Stage::Markup && stage.server == bad, |_| {});
        case.is(Status::BakeFailure);
        case.pull(bad).is(expected);
    }
}

#[test]
fn bake_failure_and_bake_success_fall_back_when_a_bastion_relapses() {
    let mut case = marked(8, 2, half());
    case.run().is(Status::SmokeSuccess).act(Action::Bake);
    let (good, bad) = (case.batch(1)[0], case.batch(1)[1]);
    case.world.run_rounds(|_, stage| stage.stage == Stage::Markup && stage.server == bad, |_| {});
    case.is(Status::BakeFailure);
    case.die(good).is(Status::SmokeFailure);

    let mut case = baked(4, half());
    let bastion = case.batch(1)[0];
    assert!(case.world.of(case.id).deployment.baked);
    case.die(bastion).is(Status::SmokeFailure);
    assert!(!case.world.of(case.id).deployment.baked, "bake brings traffic once more");
    case.revive(bastion).act(Action::Retry).run().is(Status::SmokeSuccess);
    case.act(Action::Bake).run().is(Status::BakeSuccess);
}

#[test]
fn bake_success_without_normal_targets_is_success() {
    let mut case = baked(2, half());
    let other = case.batch(2)[0];
    case.pull(other).is(Status::Success);
}

#[test]
fn a_rollout_ends_as_its_targets_do() {
    baked(4, half()).act(Action::Rollout).run().is(Status::Success);

    let lenient = ConfigRequest { max_failure: Some(100), ..half() };
    let mut case = baked(4, lenient);
    let bad = *case.batch(2).last().unwrap();
    case.act(Action::Rollout);
    case.world.run_rounds(|_, stage| stage.stage == Stage::Install && stage.server == bad, |_| {});
    case.is(Status::RolloutFailure);
    assert_eq!(case.target(bad), Target::InstallFailure);
    assert_eq!(case.batch_status(2), BatchStatus::Failure);
    let allowed = [Action::Retry, Action::Brake, Action::Finish, Action::Revoke, Action::Rollback];
    assert_eq!(case.allowed(), allowed);
    case.pull(bad).is(Status::Success);
    assert_eq!(case.batch_status(2), BatchStatus::Success);
}

#[test]
fn rollout_failure_is_retried_or_finished() {
    let lenient = ConfigRequest { max_failure: Some(100), ..half() };
    let fail = || {
        let mut case = baked(4, lenient.clone());
        let bad = *case.batch(2).last().unwrap();
        case.act(Action::Rollout);
        case.world
            .run_rounds(|_, stage| stage.stage == Stage::Download && stage.server == bad, |_| {});
        case.is(Status::RolloutFailure);
        (case, bad)
    };
    let (mut case, bad) = fail();
    case.act(Action::Retry).is(Status::RollingOut);
    let place = case.world.of(case.id).place_of_server(bad).unwrap();
    assert_eq!(case.world.of(case.id).targets()[place].attempt, 2);
    assert_eq!(case.batch_status(2), BatchStatus::Deploying);
    case.run().is(Status::Success);
    let (mut case, bad) = fail();
    case.act(Action::Finish).is(Status::Failure);
    assert_eq!(case.target(bad), Target::DownloadFailure, "a failure stays what it is");
    assert_eq!(case.batch_status(2), BatchStatus::Revoked);
    assert!(case.world.state.server(bad).unwrap().is_out(), "nothing is marked up");
}

#[test]
fn when_no_target_is_left_it_failed() {
    let mut case = baked(2, half());
    let everyone = [case.batch(1)[0], case.batch(2)[0]];
    case.pull(everyone[0]);
    assert_eq!(case.target(everyone[0]), Target::Success, "a SUCCESS target stays and counts");
    case.pull(everyone[1]).is(Status::Success);

    let mut world = World::new(Setup { servers: 2, ..Setup::default() });
    let draft = world.create_input(1, half(), false);
    let id = world.create(draft).unwrap();
    let mut case = Case { world, id };
    for server in [0, 1].map(|number| case.world.server_at(number).unwrap()) {
        case.pull(server);
    }
    case.is(Status::Pending).act(Action::Start).is(Status::Failure);
}

#[test]
fn revoke_ends_at_once_and_stages_end_by_themselves() {
    let mut case = started(4, half());
    let bastion = case.batch(1)[0];
    case.act(Action::Revoke).is(Status::Revoked);
    assert_eq!(case.target(bastion), Target::MarkdownRunning);
    assert_eq!(case.target(case.batch(2)[0]), Target::Revoked);
    let stage = case.world.stages()[0];
    case.world.succeed(&stage);
    case.is(Status::Revoked);
    assert_eq!(case.target(bastion), Target::Revoked);
    assert!(case.world.state.server(bastion).unwrap().is_out(), "what is out stays out");
}

#[test]
fn a_failed_markdown_gives_the_server_back_at_the_end_of_its_target() {
    // Revoked while it runs.
    let mut case = started(4, half());
    let bastion = case.batch(1)[0];
    case.act(Action::Revoke);
    let stage = case.world.stages()[0];
    case.world.fail(&stage);
    assert_eq!(case.world.state.server(bastion).unwrap().service, Service::In);

    // Failed, retried, and revoked before it started again.
    let mut case = started(4, half());
    let bastion = case.batch(1)[0];
    case.run_failing(Stage::Markdown).is(Status::SmokeFailure);
    assert!(case.world.state.server(bastion).unwrap().is_out(), "not before");
    case.act(Action::Brake).act(Action::Finish).is(Status::Failure);
    assert_eq!(case.world.state.server(bastion).unwrap().service, Service::In);

    // Markdown had succeeded in an earlier attempt: the server stays out.
    let mut case = started(4, half());
    case.run_failing(Stage::Install).act(Action::Retry);
    case.run_failing(Stage::Markdown).act(Action::Revoke);
    assert!(case.world.state.server(case.batch(1)[0]).unwrap().is_out());
}

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
fn manual_batches_wait_for_a_click_and_waits_can_be_cut_short() {
    let manual = ConfigRequest { mode: Some(Mode::Manual), ..ConfigRequest::default() };
    let mut case = baked(4, manual);
    case.act(Action::Rollout).run().is(Status::RollingOut);
    assert_eq!(case.batch_status(3), BatchStatus::Waiting);
    let wrong = case.world.act_on(case.id, Action::Rollout, Some(4)).unwrap_err();
    assert_eq!(wrong.code, "wrong_batch");
    case.world.act_on(case.id, Action::Rollout, Some(3)).unwrap();
    case.run();
    assert_eq!(case.batch_status(4), BatchStatus::Waiting);
    case.act(Action::Rollout).run().is(Status::Success);

    let waits = ConfigRequest {
        batch_wait_seconds: Some(100),
        tail_wait_seconds: Some(10),
        ..ConfigRequest::default()
    };
    let mut case = baked(5, waits);
    case.act(Action::Rollout).run();
    let until = |case: &Case, batch| case.world.of(case.id).batch(batch).unwrap().wait_until;
    assert_eq!(until(&case, 3), Some(case.world.now + Duration::from_secs(100)));
    case.act(Action::Rollout).run();
    assert_eq!(until(&case, 4), Some(case.world.now + Duration::from_secs(10)));
    case.act(Action::Brake);
    case.world.pass(Duration::from_secs(11));
    assert!(case.world.wake());
    assert_eq!(case.batch_status(4), BatchStatus::Waiting, "waits run on but start nothing");
    case.act(Action::Resume);
    assert_eq!(case.batch_status(4), BatchStatus::Deploying);
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

#[test]
fn a_repeat_checks_and_installs_nothing() {
    let mut world = World::new(Setup::default());
    let id = world.rollout(0, half());
    let mut case = Case { world, id };
    case.run().act(Action::Bake).run().act(Action::Rollout).run().is(Status::Success);
    assert!(case.world.of(id).targets().iter().all(|target| target.skipped));
    let out =
        case.world.events_of(id).any(|event| event.data.to.as_deref() == Some("MARKDOWN_RUNNING"));
    assert!(!out, "no server was taken");
}

#[test]
fn members_that_come_back_get_a_new_attempt() {
    // Its batch has not begun: it goes on there.
    let mut case = baked(8, half());
    let waiting = case.batch(3)[0];
    case.pull(waiting);
    assert_eq!(case.target(waiting), Target::SetAside);
    case.world.put_back(waiting).unwrap();
    assert_eq!(case.target(waiting), Target::Pending);
    assert!(case.batch(3).contains(&waiting));
    // Its batch is at rest: it goes into a new last batch.
    let done = case.batch(2)[0];
    case.act(Action::Rollout);
    case.world.run_rounds(|_, stage| stage.server == done && stage.stage == Stage::Install, |_| {});
    case.pull(done);
    let last = u32::try_from(case.world.of(case.id).batches().len()).unwrap();
    case.world.put_back(done).unwrap();
    if !case.status().is_final() {
        assert!(case.batch(last + 1).contains(&done));
        case.run().is(Status::Success);
    }
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
fn a_set_aside_bastion_comes_back_in_the_last_batch_outside_smoking() {
    let mut case = marked(8, 2, ConfigRequest::default());
    let bad = case.batch(1)[1];
    case.world.run_rounds(|_, stage| stage.server == bad && stage.stage == Stage::Markdown, |_| {});
    case.is(Status::SmokeFailure);
    case.pull(bad);
    case.world.put_back(bad).unwrap();
    assert!(!case.batch(1).contains(&bad));
    case.act(Action::Retry).is(Status::SmokeSuccess);
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
fn a_server_that_stays_out_by_others_is_success_and_relapses_when_it_dies() {
    let mut case = verified(4, half());
    let bastion = case.batch(1)[0];
    case.world.hosts.get_mut(&bastion).unwrap().outside = true;
    case.act(Action::Bake).run().is(Status::BakeSuccess);
    let row = case.world.state.server(bastion).unwrap();
    assert_eq!((row.service, row.out_because), (Service::Out, Some(OutBecause::Outside)));
    case.die(bastion).is(Status::SmokeFailure);
    assert_eq!(case.target(bastion), Target::VerifyFailure);
}

#[test]
fn servers_that_appear_get_one_last_batch() {
    let mut case = baked(2, half());
    case.act(Action::Rollout);
    case.world.add_server();
    case.world.add_server();
    assert_eq!(case.batch(3).len(), 2);
    case.run().is(Status::Success);
    assert_eq!(case.world.in_service(), 4);
}

#[test]
fn a_server_that_dies_while_a_target_works_on_it_comes_back_by_proof_only() {
    let mut case = started(4, half());
    let bastion = case.batch(1)[0];
    let row = |case: &Case| case.world.state.server(bastion).unwrap().clone();
    assert_eq!(row(&case).out_because, Some(OutBecause::Target));
    case.world.can_drain = false;
    case.die(bastion).revive(bastion);
    case.world.look();
    assert_eq!(row(&case).service, Service::Out, "it answers, and nothing proved the package");
}

#[test]
fn a_rollback_ends_what_was_under_way_on_its_servers() {
    let mut case = baked(8, half());
    case.act(Action::Rollout);
    let old = case.world.stages();
    assert!(!old.is_empty());
    case.world.roll_back(None, ConfigRequest::default()).unwrap();
    for stage in &old {
        assert_eq!(case.target(stage.server), Target::Revoked, "a later order took its place");
        case.world.succeed(stage);
    }
    let late = case.world.events_of(case.id).filter(|event| event.kind == EventType::LateOutcome);
    assert_eq!(late.count(), old.len(), "what comes later is recorded (S9)");
    case.run().is(Status::Revoked);
    assert_eq!(case.world.in_service(), 8);
}

#[test]
fn drafts_end_after_seven_days_and_waits_are_called_stale_once() {
    let mut world = World::new(Setup::default());
    let draft = world.create_input(1, half(), false);
    let id = world.create(draft).unwrap();
    let mut case = Case { world, id };
    case.world.pass(Duration::from_hours(7 * 24 - 1));
    assert!(!case.world.wake());
    case.world.pass(Duration::from_hours(1));
    case.world.wake();
    case.is(Status::Revoked);

    let stale = |case: &Case| {
        let events = case.world.events_of(case.id);
        events.filter(|event| event.kind == EventType::DeploymentStale).count()
    };
    let braked = {
        let mut case = started(4, half());
        case.act(Action::Brake).run();
        case
    };
    let manual = {
        let config = ConfigRequest { mode: Some(Mode::Manual), ..ConfigRequest::default() };
        let mut case = baked(4, config);
        case.act(Action::Rollout).run();
        case
    };
    for mut case in [verified(4, half()), braked, manual] {
        case.world.pass(Duration::from_hours(23));
        case.world.wake();
        assert_eq!(stale(&case), 0);
        case.world.pass(Duration::from_hours(2));
        case.world.wake();
        assert_eq!(stale(&case), 1);
        case.world.pass(Duration::from_hours(50));
        case.world.wake();
        assert_eq!(stale(&case), 1, "once");
    }
}

/// How long that is, is a setting; a deployment keeps what it was created with.
#[test]
fn a_deployment_is_stale_after_the_time_that_it_was_created_with() {
    let mut world = World::new(Setup::default());
    world.stale_after = Duration::from_hours(2);
    let id = world.rollout(1, half());
    let mut case = Case { world, id };
    case.is(Status::Smoking).run().is(Status::SmokeSuccess);
    case.world.stale_after = Duration::from_hours(24);
    let told = |case: &Case| {
        let events = case.world.events_of(case.id);
        events.filter(|event| event.kind == EventType::DeploymentStale).count()
    };
    case.world.pass(Duration::from_mins(119));
    case.world.wake();
    assert_eq!(told(&case), 0);
    case.world.crash();
    case.world.pass(Duration::from_mins(1));
    assert!(case.world.wake(), "it is woken for that");
    assert_eq!(told(&case), 1);
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
    let mut case = verified(4, half());
    let bastion = case.batch(1)[0];
    let hold =
        |case: &Case| case.world.of(case.id).deployment.hold(HoldReason::Dependency).is_some();
    for _ in 0..3 {
        case.world.hosts.get_mut(&bastion).unwrap().mark = false;
        case.world.look();
    }
    assert!(hold(&case));
    case.world.look_but(|_| true);
    assert!(hold(&case), "a look that shows nothing clears nothing");
}

#[test]
fn a_server_pulled_out_during_its_markup_is_drained_again() {
    let mut case = verified(4, half());
    let bastion = case.batch(1)[0];
    case.act(Action::Bake).pull(bastion).run();
    case.world.drain();
    assert!(case.world.hosts[&bastion].mark);
    let row = case.world.state.server(bastion).unwrap();
    assert!(row.is_out() && row.drained);
}

#[test]
fn a_pulled_out_server_that_answers_stays_out() {
    let mut world = World::new(Setup::default());
    let server = world.server_at(0).unwrap();
    world.hosts.get_mut(&server).unwrap().dead = true;
    world.look();
    world.pull_out(server).unwrap();
    world.hosts.get_mut(&server).unwrap().dead = false;
    world.look();
    assert!(world.state.server(server).unwrap().is_out());
}

#[test]
fn put_back_goes_into_traffic_only_with_the_groups_version() {
    for (number, expected) in [(0, Service::In), (7, Service::Out)] {
        let mut world = World::new(Setup::default());
        let server = world.server_at(0).unwrap();
        world.pull_out(server).unwrap();
        world.drain();
        world.hosts.get_mut(&server).unwrap().package = Some(sim::package(number).id);
        assert!(world.pull_out(server).is_err(), "once");
        world.put_back(server).unwrap();
        world.return_servers();
        assert_eq!(world.state.server(server).unwrap().service, expected);
        assert!(world.put_back(server).is_err());
    }
    // Its SUCCESS target proved another package: a relapse.
    let mut case = baked(4, half());
    let bastion = case.batch(1)[0];
    case.pull(bastion);
    case.world.hosts.get_mut(&bastion).unwrap().package = Some(sim::package(7).id);
    case.world.put_back(bastion).unwrap();
    case.world.return_servers();
    case.is(Status::SmokeFailure);
    assert_eq!(case.target(bastion), Target::VerifyFailure);
}

#[test]
fn a_refresh_that_removes_more_than_half_is_held() {
    let mut case = started(5, half());
    let servers = case.world.record.servers.clone();
    case.world.record.servers.truncate(2);
    case.world.record.revision += 1;
    assert!(matches!(case.world.sync(false), capstan_core::input::Answer::RefreshHeld(_)));
    assert_eq!(case.world.state.census().members, 5);
    assert!(case.world.state.group.refresh_held.is_some());
    case.world.record.servers = servers[..3].to_vec();
    case.world.sync(false);
    assert_eq!(case.world.state.census().members, 3, "two of five are not more than half");
    assert_eq!(case.world.state.group.refresh_held, None);
    case.world.record.servers.truncate(1);
    case.world.record.revision += 1;
    case.world.sync(true);
    assert_eq!(case.world.state.census().members, 1, "a person confirmed");
    case.world.record.revision -= 5;
    case.world.record.servers = servers;
    case.world.sync(false);
    assert_eq!(case.world.state.census().members, 1, "an older revision is ignored");
}

#[test]
fn replacing_every_server_in_one_refresh_does_not_end_the_deployment() {
    let mut case = started(2, half());
    case.act(Action::Brake).run();
    for entry in &mut case.world.record.servers {
        entry.id.push_str("-new");
        entry.hostname.push_str("-new");
    }
    case.world.record.revision += 1;
    case.world.sync(true);
    assert!(!case.status().is_final(), "{:?}", case.status());
}

#[test]
fn final_deployments_allow_nothing_but_a_rollback() {
    let mut case = baked(4, half());
    case.act(Action::Rollout).run().is(Status::Success);
    assert_eq!(case.allowed(), [Action::Rollback]);
    for action in Action::ALL {
        let allowed = permitted(&case.world.state, case.id, action).is_ok();
        assert_eq!(allowed, action == Action::Rollback);
    }
}

#[test]
fn each_status_allows_what_the_table_says() {
    use Action::{Bake, Brake, Finish, Retry, Revoke, Rollback, Rollout};
    let under_way = [Brake, Revoke, Rollback];
    assert_eq!(started(4, half()).allowed(), under_way, "SMOKING");
    let mut case = verified(4, half());
    assert_eq!(case.allowed(), [Bake, Brake, Revoke, Rollback], "SMOKE_SUCCESS");
    assert_eq!(case.act(Bake).allowed(), under_way, "BAKING");
    assert_eq!(case.run().allowed(), [Rollout, Brake, Revoke, Rollback], "BAKE_SUCCESS");
    assert_eq!(case.act(Rollout).allowed(), under_way, "ROLLING_OUT");
    let failed = [Retry, Brake, Finish, Revoke, Rollback];
    let mut case = started(4, half());
    assert_eq!(case.run_failing(Stage::Verify).allowed(), failed, "SMOKE_FAILURE");
    let mut case = verified(4, half());
    assert_eq!(case.act(Bake).run_failing(Stage::Markup).allowed(), failed, "BAKE_FAILURE");
    let mut case = baked(8, ConfigRequest::default());
    case.act(Rollout).run_failing(Stage::Verify).is(Status::RollingOut);
    let braked = [Retry, Brake, Finish, Revoke, Rollback];
    assert_eq!(case.allowed(), braked, "braked ROLLING_OUT with nothing under way");
}

#[test]
fn one_deployment_at_a_time_holds_the_group() {
    let mut case = started(4, half());
    let second = case.world.create_input(2, half(), true);
    let refused = case.world.create(second).unwrap_err();
    assert_eq!((refused.code, refused.deployment), ("deployment_running", Some(case.id)));
    let draft = case.world.create_input(2, half(), false);
    let draft = case.world.create(draft).unwrap();
    let refused = case.world.act(draft, Action::Start).unwrap_err();
    assert_eq!(refused.code, "deployment_running");
    case.world.roll_back(None, half()).unwrap();
    assert_eq!(case.world.of(draft).deployment.status, Status::Pending, "drafts stay");
}
