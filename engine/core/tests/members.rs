//! Servers that come, go, are pulled out and put back: who counts as out, and who takes care.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use std::time::Duration;

use capstan_core::action::Action;
use capstan_core::batch_status::BatchStatus;
use capstan_core::config::ConfigRequest;
use capstan_core::decide::{LOOK_INTERVAL, RETURN_PATIENCE};
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::effect::EffectKind;
use capstan_core::event::{Event, EventType};
use capstan_core::record::{OutBecause, Service};
use capstan_core::stage::Stage;
use capstan_core::target_status::TargetStatus as Target;
use capstan_core::{ServerId, Timestamp};

use sim::case::{Case, baked, half, marked, started, verified};
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

fn look_due(case: &Case) -> Timestamp {
    let look = EffectKind::ObserveServers(case.id);
    case.world.shadow.effects[&(look.number(), look.subject())].due_at
}

#[test]
fn a_server_that_comes_back_may_serve_and_is_looked_at() {
    let mut case = baked(8, ConfigRequest::default());
    let back = case.batch(3);
    case.world.pass(Duration::from_secs(1));
    vanish_and_return(&mut case, &back);
    for server in &back {
        assert_eq!(service(&case, *server), (Service::Unknown, None));
        assert!(case.server(*server).is_out(), "nothing says that it serves");
    }
    assert_eq!(look_due(&case), case.world.now, "the look is not far");
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
    case.world.pass(Duration::from_secs(1));
    case.world.add_host(Host::default());
    case.world.add_server();
    assert_eq!(look_due(&case), case.world.now, "who appears may serve already");
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

/// A server that was pulled out before its turn, and put back: the deployment takes it up.
fn taken_up_again() -> (Case, ServerId) {
    let mut case = baked(8, half());
    let server = case.batch(3)[0];
    case.pull(server);
    case.world.put_back(server).unwrap();
    assert_eq!(case.target(server), Target::Pending);
    assert!(!returns(&case, server), "the deployment brings it in");
    (case, server)
}

fn returns(case: &Case, server: ServerId) -> bool {
    let kind = EffectKind::ReturnServer(server);
    case.world.shadow.effects.contains_key(&(kind.number(), kind.subject()))
}

#[test]
fn a_server_that_was_put_back_is_returned_when_its_deployment_ends() {
    let (mut case, server) = taken_up_again();
    case.act(Action::Revoke).is(Status::Revoked);
    assert!(returns(&case, server));
    case.world.return_servers();
    assert_eq!(service(&case, server), (Service::In, None), "it proved the group's version");

    // Under way when the deployment ends: when its stage has ended.
    let (mut case, server) = taken_up_again();
    case.act(Action::Rollout);
    while case.target(server).running().is_none() {
        case.world.succeed(&case.world.stages()[0].clone());
    }
    case.act(Action::Revoke);
    assert!(!returns(&case, server), "its target took it out");
}

#[test]
fn a_target_takes_over_who_was_to_be_returned() {
    let mut case = verified(8, half());
    case.act(Action::Revoke);
    let server = case.batch(2)[0];
    case.pull(server);
    case.world.put_back(server).unwrap();
    assert!(returns(&case, server));
    let id = case.world.rollout(2, half());
    let mut case = Case { world: case.world, id };
    while !case.target(server).is_at_rest() && case.target(server).running().is_none() {
        case.run();
        let next =
            case.allowed().into_iter().find(|it| [Action::Bake, Action::Rollout].contains(it));
        case.act(next.unwrap());
    }
    assert!(!returns(&case, server));
}

#[test]
fn a_server_that_was_put_back_and_left_is_returned_when_it_is_there_again() {
    let mut case = verified(4, half());
    case.act(Action::Revoke);
    let server = case.batch(2)[0];
    case.pull(server);
    case.world.put_back(server).unwrap();
    case.world.remove_server(server, true);
    assert!(!returns(&case, server));
    case.world.restore_server(server);
    assert!(returns(&case, server));
    assert_eq!(service(&case, server), (Service::Out, Some(OutBecause::Person)));
}

#[test]
fn a_lost_answer_does_not_leave_a_server_out_for_good() {
    let mut case = baked(4, half());
    let bastion = case.batch(1)[0];
    case.pull(bastion);
    case.world.hosts.get_mut(&bastion).unwrap().dead = true;
    case.world.put_back(bastion).unwrap();
    let said = |case: &Case| {
        let out = |event: &&Event| event.kind == EventType::ServerOut;
        case.world.events_of(case.id).filter(out).count()
    };
    let before = said(&case);
    for _ in 0..10 {
        case.world.return_servers();
        case.world.look();
        assert!(returns(&case, bastion), "it is asked again");
        case.world.pass(LOOK_INTERVAL);
    }
    assert_eq!(said(&case) - before, 1, "once");
    assert!(case.server(bastion).dead_since.is_some(), "since when is on the row");
    case.revive(bastion);
    case.world.return_servers();
    assert_eq!(service(&case, bastion), (Service::In, None));
    assert!(!returns(&case, bastion));

    case.pull(bastion);
    case.world.hosts.get_mut(&bastion).unwrap().dead = true;
    case.world.put_back(bastion).unwrap();
    case.world.return_servers();
    case.world.pass(RETURN_PATIENCE);
    case.world.return_servers();
    assert!(!returns(&case, bastion), "it stays out");
    assert_eq!(case.target(bastion), Target::VerifyFailure, "and has relapsed");
}

#[test]
fn who_is_put_back_and_kept_out_by_others_is_out_by_others() {
    let mut world = World::new(Setup::default());
    let server = world.server_at(0).unwrap();
    world.pull_out(server).unwrap();
    world.drain();
    world.hosts.get_mut(&server).unwrap().outside = true;
    world.put_back(server).unwrap();
    world.return_servers();
    let row = world.state.server(server).unwrap();
    assert_eq!((row.service, row.out_because), (Service::Out, Some(OutBecause::Outside)));
    assert!(!row.drained, "our own mark is off");
    world.hosts.get_mut(&server).unwrap().outside = false;
    world.look();
    assert_eq!(world.state.server(server).unwrap().service, Service::In);
}

#[test]
fn a_rollback_visits_who_was_left_out_and_stops_serving() {
    for dies in [true, false] {
        let mut case = baked(8, half());
        case.act(Action::Rollout);
        for stage in case.world.stages() {
            case.world.succeed(&stage);
        }
        case.world.roll_back(None, ConfigRequest::default()).unwrap();
        let id = case.world.running().unwrap();
        let mut case = Case { world: case.world, id };
        let planned = case.world.of(id).targets().len();
        let left_out = |row: &&capstan_core::record::Server| {
            case.world.of(id).place_of_server(row.id).is_none()
        };
        let server = case.world.state.servers().iter().find(left_out).unwrap().id;
        if dies {
            case.die(server);
        } else {
            case.world.hosts.get_mut(&server).unwrap().outside = true;
            case.world.look();
        }
        assert_eq!(case.world.of(id).targets().len(), planned + 1);
        assert_eq!(case.target(server), Target::Pending);
        let last = u32::try_from(case.world.of(id).batches().len()).unwrap();
        assert_eq!(case.batch(last), [server], "in a new last batch");
        case.revive(server).run();
        case.is(Status::Success);
    }
}

#[test]
fn who_appears_goes_after_all_that_were_planned() {
    let mut case = baked(4, half());
    let planned: Vec<Vec<ServerId>> = (1..=3).map(|index| case.batch(index)).collect();
    case.world.add_server();
    case.world.add_server();
    assert_eq!(case.batch(4).len(), 2, "one last batch takes all that appear while it is PENDING");
    let away = case.batch(1)[0];
    case.pull(away);
    assert_eq!((1..=3).map(|index| case.batch(index)).collect::<Vec<_>>(), planned);
    case.act(Action::Rollout);
    while case.batch_status(4) == BatchStatus::Pending {
        let stage = case.world.stages()[0];
        case.world.succeed(&stage);
    }
    case.world.add_server();
    assert_eq!(case.batch(5).len(), 1, "it has begun: another one");
    assert_eq!(case.batch(4).len(), 2);
    case.run().is(Status::Success);
}

#[test]
fn who_comes_back_late_shares_the_last_batch_with_who_appears() {
    let mut case = marked(8, 2, half());
    let bad = case.batch(1)[1];
    case.world.run_rounds(|_, stage| stage.server == bad && stage.stage == Stage::Install, |_| {});
    let last = u32::try_from(case.world.of(case.id).batches().len()).unwrap();
    case.pull(bad);
    case.world.put_back(bad).unwrap();
    case.world.add_server();
    let new = case.world.server_at(8).unwrap();
    assert_eq!(case.batch(last + 1), [bad, new]);
}

#[test]
fn a_draft_gives_who_appeared_a_last_batch() {
    let mut world = World::new(Setup { servers: 4, ..Setup::default() });
    let draft = world.create_input(1, half(), false);
    let id = world.create(draft).unwrap();
    world.add_server();
    let mut case = Case { world, id };
    let new = case.world.server_at(4).unwrap();
    case.act(Action::Start);
    assert_eq!(case.batch(4), [new]);
}
