//! A load balancer that died before anybody knew.

use std::time::Duration;

use capstan_core::action::Action;
use capstan_core::config::ConfigRequest;
use capstan_core::decide::view;
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::record::HoldReason;
use capstan_core::stage::Stage;
use capstan_core::target_status::TargetStatus as Target;

use super::sim::case::{Case, baked, half};
use super::sim::{Running, World};
use super::{balancer_dies, come_back, cut_off, held};

/// The answers of a whole batch are lost before anybody knows that the balancer is dead.
fn lost_all() -> Case {
    let config = ConfigRequest { batch_pattern: Some("50%+50%".into()), ..half() };
    let mut case = baked(12, config);
    case.act(Action::Rollout);
    for stage in case.world.stages() {
        case.world.lose(&stage);
    }
    assert!(case.world.of(case.id).deployment.hold(HoldReason::Failures).is_some(), "S2");
    let clears = &view(&case.world.state, case.id).unwrap().holds[0].clears;
    assert!(clears.contains("cut off the load balancer"), "{clears}");
    balancer_dies(&mut case);
    case
}

#[test]
fn cutting_a_balancer_off_ends_the_brake_that_its_lost_answers_caused() {
    let mut case = lost_all();
    assert!(held(&case).is_some());
    cut_off(&mut case);
    let row = &case.world.of(case.id).deployment;
    assert!(row.holds.is_empty(), "one cut is enough: {:?}", row.holds);
    case.run();
    come_back(&mut case);
    case.run().is(Status::Success);
}

#[test]
fn a_brake_for_other_failures_outlives_the_cut() {
    let config = ConfigRequest { batch_pattern: Some("50%+50%".into()), ..half() };
    let mut case = baked(12, config);
    case.act(Action::Rollout).run_failing(Stage::Download);
    let is_braked =
        |case: &Case| case.world.of(case.id).deployment.hold(HoldReason::Failures).is_some();
    assert!(is_braked(&case));
    let clears = &view(&case.world.state, case.id).unwrap().holds[0].clears;
    assert!(!clears.contains("load balancer"), "{clears}");
    cut_off(&mut case);
    assert!(is_braked(&case), "it is not the balancer's");
}

#[test]
fn a_balancer_of_which_nothing_was_heard_is_tried_with_few_markdowns() {
    let mut case = baked(12, half());
    case.act(Action::Rollout).run().is(Status::Success);
    case.world.pass(Duration::from_mins(5));
    let halves = ConfigRequest { batch_pattern: Some("50%+50%".into()), ..half() };
    case.world.roll_back(None, halves).unwrap();
    case.id = case.world.running().expect("it is started with its creation");
    let stages = case.world.stages();
    assert_eq!(stages.len(), 2, "nobody knows whether it answers");
    balancer_dies(&mut case);
    for stage in &stages {
        case.world.lose(stage);
    }
    cut_off(&mut case);
    case.run().is(Status::Success);
    assert_eq!(case.world.in_service(), 10, "those two may be drained");
    come_back(&mut case);
    assert_eq!(case.world.in_service(), 12);
}

#[test]
fn a_check_says_nothing_of_the_balancer() {
    let mut case = baked(12, half());
    let failing = case.batch(2)[0];
    let fails = |_: &World, running: &Running| {
        running.server == failing && running.stage == Stage::Download
    };
    case.act(Action::Rollout);
    case.world.run_rounds(fails, |_| {});
    case.act(Action::Finish);
    case.world.pass(Duration::from_mins(5));
    let halves = ConfigRequest { batch_pattern: Some("50%+50%".into()), ..half() };
    case.world.roll_back(None, halves).unwrap();
    case.id = case.world.running().expect("it is started with its creation");
    assert_eq!(case.target(failing), Target::CheckRunning, "it may run the old package still");
    let of = |status| case.world.of(case.id).counts().of(status);
    assert_eq!(of(Target::MarkdownRunning), 2);
}

#[test]
fn all_of_a_batch_start_once_the_balancer_has_answered() {
    let mut case = baked(12, half());
    case.act(Action::Rollout).run().is(Status::Success);
    for is_seen in [true, false] {
        case.world.pass(Duration::from_mins(5));
        let halves = ConfigRequest { batch_pattern: Some("50%+50%".into()), ..half() };
        let id = case.world.rollout(if is_seen { 2 } else { 3 }, halves);
        case.id = id;
        case.run().act(Action::Bake).run();
        case.world.pass(Duration::from_mins(5));
        if is_seen {
            case.world.look();
        }
        case.act(Action::Rollout);
        let stages = case.world.stages();
        assert_eq!(stages.len(), if is_seen { 6 } else { 2 });
        case.world.succeed(&stages[0]);
        assert_eq!(case.world.stages().len(), 6);
        case.run().is(Status::Success);
    }
}
