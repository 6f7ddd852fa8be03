//! What is owed to a load balancer that was bypassed, and how it is paid.

use capstan_core::ServerId;
use capstan_core::action::Action;
use capstan_core::decide::view;
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::record::Service;
use capstan_core::target_status::TargetStatus as Target;

use super::sim::case::{Case, baked, half, verified};
use super::sim::{Setup, World, package};
use super::{balancer_dies, come_back, cut_off, held, ours, owed, rolling, step};

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
