//! Servers that come, go, are pulled out and put back: who counts as out, and who takes care.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use capstan_core::ServerId;
use capstan_core::action::Action;
use capstan_core::config::ConfigRequest;
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::effect::EffectKind;
use capstan_core::record::{OutBecause, Service};

use sim::case::{Case, baked, half, started};
use sim::{First, Host, Setup, World};

fn service(case: &Case, server: ServerId) -> (Service, Option<OutBecause>) {
    let row = case.server(server);
    (row.service, row.out_because)
}

fn vanish_and_return(case: &mut Case, servers: &[ServerId]) {
    for server in servers {
        case.world.remove_server(*server, true);
        case.world.restore_server(*server);
    }
}

#[test]
fn a_server_that_comes_back_may_serve_and_is_looked_at() {
    let mut case = baked(8, ConfigRequest::default());
    let back = case.batch(3);
    vanish_and_return(&mut case, &back);
    for server in &back {
        assert_eq!(service(&case, *server), (Service::Unknown, None));
        assert!(case.server(*server).is_out(), "nothing says that it serves");
    }
    let look = EffectKind::ObserveServers(case.id);
    let effect = case.world.shadow.effects[&(look.number(), look.subject())];
    assert_eq!(effect.due_at, case.world.now, "the look is not far");
    case.world.look();
    assert_eq!(service(&case, back[0]), (Service::In, None));
    case.act(Action::Rollout).run().is(Status::Success);
}

#[test]
fn servers_that_came_back_are_taken_as_if_they_served() {
    let mut world = World::new(Setup { servers: 8, bastion: false, ..Setup::default() });
    let draft = world.create_input(1, ConfigRequest::default(), false);
    let id = world.create(draft).unwrap();
    let mut case = Case { world, id };
    let everyone: Vec<ServerId> = (0..8).map(|at| case.world.server_at(at).unwrap()).collect();
    vanish_and_return(&mut case, &everyone);
    case.act(Action::Start);
    assert_eq!(case.world.stages().len(), 2, "L is two, and any of them may serve");
    case.run().is(Status::Success);
}

#[test]
fn a_server_that_came_back_does_not_prove_what_it_ran() {
    let mut case = baked(4, half());
    case.act(Action::Rollout).run().is(Status::Success);
    let server = case.batch(2)[0];
    vanish_and_return(&mut case, &[server]);
    let package = case.world.of(case.id).deployment.package.id;
    let row = case.server(server);
    assert!(row.may_run(package) && !row.proves(package));
}

#[test]
fn what_we_drained_before_it_vanished_is_still_out_by_us() {
    let mut case = started(4, half());
    let bastion = case.batch(1)[0];
    vanish_and_return(&mut case, &[bastion]);
    assert_eq!(service(&case, bastion), (Service::Out, Some(OutBecause::Target)));
    case.run().is(Status::SmokeSuccess);
}

#[test]
fn a_host_under_a_new_id_may_serve_too() {
    let mut case = baked(8, ConfigRequest::default());
    let server = case.batch(3)[0];
    case.world.rename_server(server);
    assert_eq!(service(&case, server), (Service::Unknown, None));
    case.world.look();
    assert_eq!(service(&case, server), (Service::In, None));
}

#[test]
fn a_new_server_that_serves_needs_a_slot() {
    let mut case = baked(2, half());
    case.world.add_host(Host::default());
    case.world.add_server();
    let (serves, blank) = (case.world.server_at(2).unwrap(), case.world.server_at(3).unwrap());
    case.world.look();
    assert_eq!(service(&case, serves), (Service::In, None), "truth of traffic is observed");
    assert_eq!(service(&case, blank), (Service::Out, Some(OutBecause::New)));
    case.act(Action::Rollout);
    case.run().is(Status::Success);
    let took = case.world.events_of(case.id).filter(|event| event.server == Some(serves));
    assert!(took.into_iter().any(|event| event.data.already_out == Some(false)));
}

#[test]
fn an_adopted_server_may_serve_though_it_was_new() {
    let world = World::new(Setup { first: First::New, ..Setup::default() });
    let rows = world.state.servers().iter().filter(|row| !row.retired);
    assert!(rows.into_iter().all(|row| row.service == Service::Unknown));
}
