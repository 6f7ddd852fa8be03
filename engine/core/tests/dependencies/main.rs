//! What follows when a load balancer or an executor breaks, is cut off and comes back: the rows of the
//! table “Degrading” (S12).
#![allow(clippy::unwrap_used, missing_docs)]

mod dead;
mod others;
#[path = "../sim/mod.rs"]
mod sim;

use std::time::Duration;

use capstan_core::ServerId;
use capstan_core::action::Action;
use capstan_core::checker::check;
use capstan_core::config::ConfigRequest;
use capstan_core::decide::view;
use capstan_core::dependency::{Condition, Without};
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::event::{Event, EventType};
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
fn a_release_ends_in_success_while_markups_are_owed_and_the_debts_are_paid_afterwards() {
    let mut case = rolling();
    // All but the last two are released while the balancer answers.
    while case.world.of(case.id).counts().of(Target::Pending) > 1 {
        step(&mut case);
    }
    balancer_dies(&mut case);
    step(&mut case);
    assert!(held(&case).is_some());
    cut_off(&mut case);
    case.run().is(Status::Success);
    let owed_now = view(&case.world.state, case.id).unwrap().owed;
    assert_eq!(owed_now.len(), 2);
    assert_eq!(owed_now.iter().filter(|owed| owed.is_drained).count(), 1);
    assert_eq!(case.world.in_service(), 11);
    come_back(&mut case);
    assert_eq!(case.world.in_service(), 12, "the debts are paid without a deployment under way");
    assert!(owed(&case).is_empty());
    assert!(case.world.state.servers().iter().all(|server| !server.drained));
}

#[test]
fn a_group_that_bypasses_does_so_when_the_breaker_opens() {
    let mut world = World::new(Setup { servers: 8, bypass: true, ..Setup::default() });
    let id = world.rollout(1, half());
    let mut case = Case { world, id };
    balancer_dies(&mut case);
    assert_eq!(held(&case), None);
    case.run().is(Status::SmokeSuccess);
    case.act(Action::Bake).run().is(Status::BakeSuccess);
    assert_eq!(owed(&case).len(), 1);
    come_back(&mut case);
    case.act(Action::Rollout).run().is(Status::Success);
}

#[test]
fn a_host_that_runs_something_else_by_then_is_not_brought_in() {
    let mut case = verified(4, half());
    cut_off(&mut case);
    case.act(Action::Bake).is(Status::BakeSuccess);
    let bastion = case.batch(1)[0];
    case.world.hosts.get_mut(&bastion).unwrap().package = Some(package(0).id);
    come_back(&mut case);
    assert_eq!(case.server(bastion).service, Service::Out);
    assert!(owed(&case).is_empty());
    case.is(Status::SmokeFailure);
}

#[test]
fn a_server_whose_markdown_was_bypassed_is_drained_when_the_balancer_is_back() {
    let mut case = baked(12, half());
    cut_off(&mut case);
    case.act(Action::Rollout);
    let fresh: Vec<ServerId> = case
        .world
        .state
        .servers()
        .iter()
        .filter(|server| server.is_out() && !server.drained)
        .map(|server| server.id)
        .collect();
    assert_eq!(fresh.len(), 3, "some were taken without a call");
    assert!(fresh.iter().all(|server| !case.world.hosts[server].mark));
    case.world.balancer_is_back();
    case.world.look();
    case.world.drain();
    assert!(fresh.iter().all(|server| case.world.hosts[server].mark), "S13");
    case.run().is(Status::Success);
    assert_eq!(case.world.in_service(), 12);
}

#[test]
fn dead_servers_are_repaired_by_halves_too() {
    let mut case = baked(12, half());
    for host in case.world.hosts.values_mut().skip(4) {
        host.dead = true;
    }
    case.world.look();
    cut_off(&mut case);
    case.act(Action::Rollout);
    assert_eq!(ours(&case), 3, "they need no slot, and a place among those out by us");
}

#[test]
fn a_pulled_out_server_owes_nothing() {
    let mut case = verified(4, half());
    cut_off(&mut case);
    case.act(Action::Bake);
    let bastion = case.batch(1)[0];
    assert!(case.server(bastion).markup_owed.is_some());
    case.pull(bastion);
    assert!(case.server(bastion).markup_owed.is_none());
    come_back(&mut case);
    assert!(case.server(bastion).is_out());
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

// The checker sees S12 in the log.

fn bypassed_log() -> Vec<Event> {
    let mut case = rolling();
    cut_off(&mut case);
    case.run();
    come_back(&mut case);
    case.run().is(Status::Success);
    let log: Vec<Event> = case.world.events_of(case.id).cloned().collect();
    check(&log).unwrap();
    log
}

fn bent(wanted: impl Fn(&Event) -> bool, change: impl Fn(&mut Event)) -> Vec<&'static str> {
    let mut log = bypassed_log();
    change(log.iter_mut().find(|event| wanted(event)).expect("there is such an event"));
    check(&log).expect_err("the log is bent").into_iter().map(|found| found.rule).collect()
}

#[test]
fn the_checker_finds_what_breaks_s12() {
    let bypassed = |event: &Event, to: &str| {
        event.kind == EventType::TargetStatus
            && event.data.bypassed == Some(true)
            && event.data.to.as_deref() == Some(to)
    };
    let called =
        bent(|event| bypassed(event, "MARKDOWN_RUNNING"), |event| event.data.bypassed = None);
    assert!(called.contains(&"S12"), "{called:?}");
    let serves = bent(
        |event| bypassed(event, "SUCCESS"),
        |event| {
            event.data.service = Some(Service::In);
            event.data.out_because = None;
        },
    );
    assert!(serves.contains(&"S12"), "{serves:?}");
    let cut = |event: &Event| event.kind == EventType::DependencyCutOff;
    let untold = bent(cut, |event| event.data.bypassed = Some(false));
    assert!(untold.contains(&"S12"), "{untold:?}");
    let holds = bent(cut, |event| event.data.held_by = Some(vec![EDGE.to_owned()]));
    assert!(holds.contains(&"S12"), "{holds:?}");
}

#[test]
fn the_checker_counts_who_is_out_by_us() {
    // The same log, of a balancer that was cut off before more than half of B were out.
    let mut case = baked(12, half());
    case.act(Action::Rollout);
    assert!(ours(&case) > 3);
    let mut log: Vec<Event> = case.world.events_of(case.id).cloned().collect();
    for event in &mut log {
        if let Some(start) = &mut event.data.start {
            start.bypassed = true;
        }
        let word = event.data.to.as_deref().unwrap_or_default();
        if word.starts_with("MARK") && event.data.out_count.is_some() {
            event.data.bypassed = Some(true);
        }
    }
    let found = check(&log).expect_err("too many were taken");
    let counted = found.iter().any(|it| it.rule == "S12" && it.message.contains("out by us"));
    assert!(counted, "{found:?}");
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
