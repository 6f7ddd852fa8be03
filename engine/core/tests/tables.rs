//! Every row of the tables of statuses, and what a person may do in each.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use std::time::Duration;

use capstan_core::action::Action;
use capstan_core::batch_status::BatchStatus;
use capstan_core::config::{ConfigRequest, Mode};
use capstan_core::decide::permitted;
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::event::EventType;
use capstan_core::record::Cause;
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
