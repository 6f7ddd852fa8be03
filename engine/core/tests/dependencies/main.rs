//! What follows when a load balancer or an executor breaks, is cut off and comes back: the rows of the
//! table “Degrading” (S12).
#![allow(clippy::unwrap_used, missing_docs)]

mod checked;
mod dead;
mod debts;
mod others;
#[path = "../sim/mod.rs"]
mod sim;

use std::time::Duration;

use capstan_core::ServerId;
use capstan_core::action::Action;
use capstan_core::config::ConfigRequest;
use capstan_core::decide::view;
use capstan_core::dependency::{Condition, Without};
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::input::{Again, StageResult};
use capstan_core::plan::{PlanInput, plan};
use capstan_core::record::{Cause, Flavor, HoldReason, Service};
use capstan_core::stage::Stage;
use capstan_core::target_status::TargetStatus as Target;

use sim::case::{Case, baked, half, verified};
use sim::hosts::EDGE;
use sim::{Setup, World, package};

fn held(case: &Case) -> Option<String> {
    let row = &case.world.of(case.id).deployment;
    row.hold(HoldReason::Dependency).map(|hold| hold.detail.clone())
}

fn balancer_dies(case: &mut Case) {
    case.world.balancer_answers = false;
    case.world.impair(EDGE, Condition::Open);
}

fn cut_off(case: &mut Case) {
    case.world.balancer_answers = false;
    case.world.impair(EDGE, Condition::CutOff);
}

fn come_back(case: &mut Case) {
    case.world.balancer_is_back();
    case.world.return_servers();
    case.world.look();
}

/// Ends every stage that is under way once, as far as the world lets it.
fn step(case: &mut Case) {
    for stage in case.world.stages() {
        case.world.succeed(&stage);
    }
}

fn ours(case: &Case) -> u32 {
    case.world.state.census().ours
}

fn owed(case: &Case) -> Vec<ServerId> {
    view(&case.world.state, case.id).unwrap().owed.iter().map(|owed| owed.server).collect()
}

/// A rollout to twelve, B is six, whose second batch is in its Markdown.
fn rolling() -> Case {
    let config = ConfigRequest { batch_pattern: Some("10%".into()), ..half() };
    let mut case = baked(12, config);
    case.act(Action::Rollout);
    case
}

#[test]
fn a_broken_balancer_holds_until_it_answers_again() {
    let mut case = rolling();
    let server = case.batch(2)[0];
    balancer_dies(&mut case);
    let detail = held(&case).unwrap();
    assert!(detail.contains(EDGE) && detail.contains("no answer"), "{detail}");
    step(&mut case);
    assert_eq!(case.target(server), Target::MarkdownRunning, "it is asked again");
    let state = case.world.of(case.id);
    assert!(state.targets().iter().any(|target| target.unknown_since.is_some()));
    assert!(case.world.act(case.id, Action::Resume).is_err(), "it clears itself");
    case.world.balancer_is_back();
    assert_eq!(held(&case), None);
    case.run().is(Status::Success);
    assert!(view(&case.world.state, case.id).unwrap().ran_without.is_empty());
}

#[test]
fn a_deployment_that_begins_while_the_balancer_is_broken_starts_nothing() {
    let mut world = World::new(Setup::default());
    world.impair(EDGE, Condition::Open);
    let id = world.rollout(1, half());
    let mut case = Case { world, id };
    assert!(held(&case).is_some());
    assert!(case.world.stages().is_empty());
    case.world.restore(EDGE);
    case.run().is(Status::SmokeSuccess);
}

#[test]
fn cutting_a_broken_balancer_off_clears_the_hold_and_bypasses_what_was_asked() {
    let mut case = rolling();
    let server = case.batch(2)[0];
    balancer_dies(&mut case);
    cut_off(&mut case);
    assert_eq!(held(&case), None);
    assert_ne!(case.target(server), Target::MarkdownRunning, "nobody asks for it any more");
    assert!(case.server(server).drained, "it may have been drained");
    case.run();
    assert_eq!(case.target(server), Target::Success);
    assert_eq!(case.server(server).service, Service::Out, "it is out until the balancer confirms");
    assert!(owed(&case).contains(&server));
    let view = view(&case.world.state, case.id).unwrap();
    assert!(view.ran_without[0].text.contains("ann"), "{:?}", view.ran_without);
    assert!(view.owed.iter().any(|owed| owed.server == server && owed.is_drained));
}

#[test]
fn at_most_half_of_b_are_out_by_us_while_the_balancer_is_bypassed() {
    let config = ConfigRequest { batch_pattern: Some("50%+50%".into()), ..half() };
    let mut case = baked(12, config);
    cut_off(&mut case);
    case.act(Action::Rollout);
    let mut most = 0;
    while !case.world.stages().is_empty() {
        most = most.max(ours(&case));
        step(&mut case);
    }
    assert_eq!(most, 3, "B is six");
    case.is(Status::Success);
    assert_eq!(case.world.in_service(), 12, "none of them was drained");
    assert_eq!(owed(&case).len(), 11, "and none was seen since");
    come_back(&mut case);
    assert!(owed(&case).is_empty());
}

/// Eleven servers that were released while the balancer was bypassed and never drained.
fn released_unseen() -> Case {
    let mut case = baked(12, half());
    cut_off(&mut case);
    case.act(Action::Rollout);
    case.run();
    case
}

#[test]
fn what_is_drained_stays_out_and_too_many_of_them_hold_the_release() {
    let config = ConfigRequest { batch_pattern: Some("50%+50%".into()), ..half() };
    let mut case = baked(12, config);
    case.act(Action::Rollout);
    assert_eq!(ours(&case), 6, "all of them are drained by a call");
    cut_off(&mut case);
    case.run();
    let row = &case.world.of(case.id).deployment;
    let slots = row.hold(HoldReason::Slots).expect("nothing brings them in");
    assert!(slots.detail.contains("at most 3"), "{}", slots.detail);
    assert!(slots.detail.contains("restored"), "it names the remedy: {}", slots.detail);
    assert_eq!((owed(&case).len(), case.world.in_service()), (6, 6));
    come_back(&mut case);
    assert!(case.world.of(case.id).deployment.hold(HoldReason::Slots).is_none());
    case.run().is(Status::Success);
    assert_eq!(case.world.in_service(), 12);
}

#[test]
fn who_was_out_before_the_balancer_was_bypassed_stays_out() {
    let mut case = baked(12, half());
    let ids: Vec<ServerId> = case.world.hosts.keys().copied().collect();
    let bastion = case.batch(1)[0];
    let others: Vec<ServerId> = ids.into_iter().filter(|id| *id != bastion).collect();
    case.world.hosts.get_mut(&others[0]).unwrap().outside = true;
    case.world.hosts.get_mut(&others[1]).unwrap().dead = true;
    case.world.look();
    case.world.hosts.get_mut(&others[1]).unwrap().dead = false;
    cut_off(&mut case);
    case.act(Action::Rollout);
    case.run().is(Status::Success);
    for server in &others[..2] {
        assert_eq!(case.server(*server).service, Service::Out, "nobody saw it in traffic");
        assert!(owed(&case).contains(server));
    }
    assert_eq!(case.world.in_service(), 10);
    case.world.hosts.get_mut(&others[0]).unwrap().outside = false;
    come_back(&mut case);
    assert_eq!(case.world.in_service(), 12);
}

#[test]
fn a_server_that_dies_unseen_by_its_balancer_is_a_relapse() {
    let mut case = baked(12, half());
    cut_off(&mut case);
    case.act(Action::Rollout);
    while case.world.of(case.id).counts().of(Target::Success) < 3 {
        step(&mut case);
    }
    let row = case.world.of(case.id);
    let is_unseen = |id: &ServerId| {
        let server = case.server(*id);
        server.service == Service::In && server.markup_owed.is_some()
    };
    let done = row.targets().iter().filter(|target| target.status == Target::Success);
    let server = done.map(|target| target.server).find(is_unseen).unwrap();
    case.world.hosts.get_mut(&server).unwrap().dead = true;
    case.world.look();
    assert!(case.server(server).is_out());
    case.world.pass(Duration::from_mins(1));
    case.world.look();
    assert_eq!(case.target(server), Target::VerifyFailure, "it answers no health check");
    case.world.hosts.get_mut(&server).unwrap().dead = false;
    case.world.look();
    assert_eq!(case.server(server).service, Service::In);
    assert!(owed(&case).contains(&server), "its balancer has still to confirm it");
}

#[test]
fn what_the_balancer_shows_when_it_is_back_is_the_truth() {
    let mut case = released_unseen();
    case.is(Status::Success);
    let unseen = owed(&case);
    case.world.hosts.get_mut(&unseen[0]).unwrap().outside = true;
    case.world.hosts.get_mut(&unseen[1]).unwrap().dead = true;
    case.world.hosts.get_mut(&unseen[2]).unwrap().package = Some(package(0).id);
    come_back(&mut case);
    assert!(case.server(unseen[0]).is_out());
    assert!(case.server(unseen[1]).is_out());
    assert!(owed(&case).iter().all(|server| *server == unseen[1]), "{:?}", owed(&case));
    case.world.hosts.get_mut(&unseen[1]).unwrap().dead = false;
    case.world.pass(Duration::from_mins(1));
    case.world.return_servers();
    assert_eq!(case.server(unseen[1]).service, Service::In);
    assert!(owed(&case).is_empty());
}

#[test]
fn a_rollback_of_a_whole_group_goes_out_without_its_balancer() {
    let mut case = baked(12, half());
    case.act(Action::Rollout).run().is(Status::Success);
    cut_off(&mut case);
    case.world.roll_back(None, half()).unwrap();
    case.id = case.world.running().expect("it is started with its creation");
    case.run().is(Status::Success);
    assert!(case.world.hosts.values().all(|host| host.package == Some(package(0).id)));
    assert_eq!(case.world.in_service(), 12);
}

#[test]
fn a_markdown_that_failed_is_retried_without_the_balancer() {
    let mut case = rolling();
    let stages = case.world.stages();
    case.world.lose(&stages[0]);
    let gone = StageResult::Failed { cause: Cause::Unreachable, again: Again::WillNot };
    case.world.end(&stages[0], gone);
    let server = stages[0].server;
    assert_eq!(case.target(server), Target::MarkdownFailure);
    cut_off(&mut case);
    case.world.pass(Duration::from_secs(1));
    if case.allowed().contains(&Action::Retry) {
        case.act(Action::Retry);
    }
    case.run();
    come_back(&mut case);
    for _ in 0..10 {
        case.run();
        if case.allowed().contains(&Action::Retry) {
            case.act(Action::Retry);
        }
    }
    case.is(Status::Success);
    assert_eq!(case.world.in_service(), 12);
}

#[test]
fn a_plan_says_what_it_goes_without() {
    let mut world = World::new(Setup { servers: 12, ..Setup::default() });
    let made = |world: &World| {
        let config =
            capstan_core::config::DeploymentConfig::complete(&half(), Flavor::Rollout, false);
        plan(PlanInput {
            group: &world.state.group,
            servers: world.state.servers(),
            package: &package(1),
            flavor: Flavor::Rollout,
            config: &config.unwrap(),
            seed: None,
        })
        .unwrap()
    };
    let before = made(&world);
    world.impair(EDGE, Condition::CutOff);
    let after = made(&world);
    assert_eq!((before.free, after.free), (6, 3));
    assert_eq!((before.b, before.l, &before.plan_hash), (after.b, after.l, &after.plan_hash));
    assert!(after.notes[0].contains("at most 3"), "{:?}", after.notes);
}

#[test]
fn what_was_done_without_at_the_creation_is_kept() {
    let mut world = World::new(Setup::default());
    let mut create = world.create_input(1, half(), true);
    let text = "its record of noon counts".to_owned();
    create.without = vec![Without { dependency: "cmdb".into(), since: world.now, text }];
    let id = world.create(create).unwrap();
    assert_eq!(view(&world.state, id).unwrap().ran_without[0].dependency, "cmdb");
}

#[test]
fn a_stage_is_never_called_markup_before_verify_even_when_bypassed() {
    let mut case = verified(4, half());
    case.world.pass(Duration::from_mins(2));
    cut_off(&mut case);
    case.act(Action::Bake);
    let bastion = case.batch(1)[0];
    assert_eq!(case.target(bastion), Target::VerifyRunning, "S5: the proof is too old");
    let stages = case.world.stages();
    assert_eq!(stages[0].stage, Stage::Verify);
    case.run().is(Status::BakeSuccess);
}

#[test]
fn a_balancer_that_is_asked_says_alone_how_a_server_stands() {
    let mut case = baked(12, half());
    let server = case.batch(2)[0];
    case.world.hosts.get_mut(&server).unwrap().dead = true;
    case.world.look();
    assert!(case.server(server).is_out());
    // One look fails, and the server itself answers.
    case.world.hosts.get_mut(&server).unwrap().dead = false;
    case.world.balancer_answers = false;
    case.world.look();
    assert!(case.server(server).is_out(), "its balancer has not shown it");
    case.world.balancer_answers = true;
    case.world.look();
    assert_eq!(case.server(server).service, Service::In);
}

#[test]
fn what_a_wrong_report_disproved_is_visited_by_a_rollback() {
    let mut case = released_unseen();
    let wrong = owed(&case)[0];
    case.world.hosts.get_mut(&wrong).unwrap().package = Some(package(0).id);
    come_back(&mut case);
    case.world.look();
    assert_eq!(case.server(wrong).service, Service::In, "the balancer sends it traffic");
    assert!(!case.server(wrong).proves(package(1).id));
}
