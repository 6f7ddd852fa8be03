//! Executors, and what every group uses.

use capstan_core::action::Action;
use capstan_core::decide::view;
use capstan_core::dependency::{CMDB, Condition, PACKAGES, QUEUE};
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::event::EventType;
use capstan_core::target_status::TargetStatus as Target;

use super::sim::case::{Case, half};
use super::sim::hosts::{EDGE, HOSTS, SPARE};
use super::sim::{Setup, World};
use super::{balancer_dies, held, rolling, step};

#[test]
fn an_executor_that_is_broken_or_cut_off_holds_and_nothing_is_bypassed() {
    for condition in [Condition::Open, Condition::CutOff] {
        let mut case = rolling();
        step(&mut case);
        let under_way = case.world.stages().len();
        case.world.impair(HOSTS, condition);
        assert!(held(&case).unwrap().contains(HOSTS));
        assert_eq!(case.world.stages().len(), under_way, "they are asked again by key");
        case.run();
        assert!(case.world.of(case.id).counts().of(Target::Pending) > 0, "nothing new starts");
        case.world.restore(HOSTS);
        assert_eq!(held(&case), None);
        case.run().is(Status::Success);
    }
}

#[test]
fn orders_go_through_the_next_executor_only_while_a_person_has_cut_the_first_off() {
    let mut world = World::new(Setup { servers: 8, spare: true, ..Setup::default() });
    let id = world.rollout(1, half());
    let mut case = Case { world, id };
    case.world.impair(HOSTS, Condition::Open);
    assert!(held(&case).unwrap().contains(HOSTS), "what it was given may still run");

    case.world.impair(HOSTS, Condition::CutOff);
    assert_eq!(held(&case), None);
    case.run().is(Status::SmokeSuccess);
    let ran_without = view(&case.world.state, id).unwrap().ran_without;
    assert_eq!(ran_without.len(), 1, "{ran_without:?}");
    assert_eq!(ran_without[0].dependency, HOSTS);
    assert!(ran_without[0].text.starts_with("by executor.spare instead"), "{ran_without:?}");

    case.world.impair(SPARE, Condition::Open);
    assert!(held(&case).unwrap().contains(SPARE));
    case.world.impair(SPARE, Condition::CutOff);
    let detail = held(&case).unwrap();
    assert!(detail.contains(HOSTS) && detail.contains(SPARE), "{detail}");
    case.world.restore(HOSTS);
    assert_eq!(held(&case), None, "the first one is used, whatever the others are");
    case.act(Action::Bake).run().act(Action::Rollout);
    case.run().is(Status::Success);
}

#[test]
fn two_dependencies_hold_together_and_are_named_both() {
    let mut case = rolling();
    balancer_dies(&mut case);
    case.world.impair(HOSTS, Condition::Open);
    let detail = held(&case).unwrap();
    assert!(detail.contains(EDGE) && detail.contains(HOSTS), "{detail}");
    case.world.balancer_is_back();
    let detail = held(&case).unwrap();
    assert!(!detail.contains(EDGE) && detail.contains(HOSTS), "{detail}");
    case.world.restore(HOSTS);
    assert_eq!(held(&case), None);
}

#[test]
fn what_a_release_goes_on_without_is_told_and_holds_nothing() {
    let mut case = rolling();
    case.world.impair("load_balancer.other", Condition::Open);
    case.world.impair(CMDB, Condition::CutOff);
    case.world.impair(PACKAGES, Condition::Open);
    case.world.impair(PACKAGES, Condition::CutOff);
    assert_eq!(held(&case), None);
    let view = view(&case.world.state, case.id).unwrap();
    let without: Vec<&str> = view.ran_without.iter().map(|it| it.dependency.as_str()).collect();
    assert_eq!(without, [CMDB, PACKAGES], "each once, and the other balancer is not its own");
    let text = &view.ran_without[1].text;
    assert!(
        text.starts_with("hosts use other locations or what they have kept: packages"),
        "{text}"
    );
    let told = |case: &Case, kind| {
        let events = case.world.events_of(case.id).filter(|event| event.kind == kind);
        events.filter(|event| event.data.dependency.as_deref() == Some(CMDB)).count()
    };
    assert_eq!(told(&case, EventType::DependencyCutOff), 1);
    case.world.restore(CMDB);
    assert_eq!(told(&case, EventType::DependencyRestored), 1);
    case.run().is(Status::Success);
}

#[test]
fn a_release_that_begins_meanwhile_says_what_it_goes_on_without() {
    let mut case = rolling();
    case.world.impair(QUEUE, Condition::Open);
    case.world.roll_back(None, half()).unwrap();
    let rollback = case.world.running().expect("it is started with its creation");
    assert_ne!(rollback, case.id);
    let without = view(&case.world.state, rollback).unwrap().ran_without;
    assert_eq!(without.len(), 1, "{without:?}");
    assert!(without[0].text.starts_with("engines look for work in the database"), "{without:?}");
}

#[test]
fn a_group_without_a_release_says_nothing_of_what_every_group_uses() {
    let mut world = World::new(Setup::default());
    let before = world.state.group.seq;
    world.impair(QUEUE, Condition::Open);
    assert!(world.state.group.dependencies.contains_key(QUEUE));
    world.restore(QUEUE);
    assert_eq!(world.state.group.seq, before);
    world.impair(EDGE, Condition::Open);
    assert_eq!(world.state.group.seq, before + 1, "its own balancer is its own");
}
