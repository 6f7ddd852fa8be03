//! Servers that come, go, die, are pulled out and put back while a deployment is under way.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use std::time::Duration;

use capstan_core::action::Action;
use capstan_core::config::ConfigRequest;
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::input::{Answer, Input, Reading};
use capstan_core::ports::{CmdbGroup, is_cached_revision};
use capstan_core::record::{OutBecause, Service};
use capstan_core::share::Share;
use capstan_core::stage::Stage;
use capstan_core::target_status::TargetStatus as Target;

use sim::case::{Case, baked, half, marked, started, verified};
use sim::{Setup, World};

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
fn a_refresh_that_removes_more_than_half_is_held() {
    let mut case = started(5, half());
    let servers = case.world.record.servers.clone();
    case.world.record.servers.truncate(2);
    case.world.record.revision += 1;
    assert!(matches!(case.world.sync(false), Answer::RefreshHeld(_)));
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

/// What changes a record.
type Change = fn(&mut CmdbGroup);

/// A list may have been read before what was stored since: without revisions nothing else says so.
#[test]
fn a_list_without_revisions_changes_nothing_and_a_record_that_was_read_alone_counts() {
    let mut case = started(5, half());
    let give = |case: &mut Case, reading| {
        let record = Box::new(case.world.record.clone());
        case.world.give(Input::Synced { record, hold_above: None, reading }).unwrap()
    };
    // The CMDB stops giving revisions; what it says is the same.
    case.world.record.revision = 0;
    case.world.pass(Duration::from_mins(1));
    assert_eq!(give(&mut case, Reading::Listed), Answer::Done);
    assert_eq!(case.world.state.group.cmdb_revision, 0);
    assert_eq!(case.world.state.group.synced_at, case.world.now);
    let synced_at = case.world.now;

    let changes: [(&str, Change); 5] = [
        ("a field", |record| record.site = "other".to_owned()),
        ("an owner", |record| record.application.owner = "bob".to_owned()),
        ("a server", |record| record.servers[0].pool = "z".to_owned()),
        ("a server that left", |record| drop(record.servers.pop())),
        ("a server that is retired", |record| record.servers[1].retired = true),
    ];
    for (what, change) in changes {
        change(&mut case.world.record);
        case.world.pass(Duration::from_secs(1));
        let before = case.world.state.group.clone();
        let members = case.world.state.census().members;
        assert_eq!(give(&mut case, Reading::Listed), Answer::ReadAlone, "{what}");
        assert_eq!(case.world.state.group, before, "{what}");
        assert_eq!(case.world.state.census().members, members, "{what}");
        assert_eq!(give(&mut case, Reading::Alone), Answer::Done, "{what}");
        assert!(case.world.state.group.synced_at > synced_at, "{what}");
        assert_eq!(give(&mut case, Reading::Listed), Answer::Done, "{what} is known");
    }
    assert_eq!(case.world.state.census().members, 3);
    // From here on it gives revisions again.
    case.world.record.revision = 3;
    assert_eq!(give(&mut case, Reading::Listed), Answer::Done);
    assert_eq!(case.world.state.group.cmdb_revision, 3);
}

#[test]
fn a_cache_knows_what_is_as_old_and_has_a_revision() {
    const TIME: i64 = 1_700_000_000_000_000;
    for (revision, cached, is_known) in [
        (41, 41, true),
        (40, 41, true),
        (42, 41, false),
        (0, 41, false),
        (0, 0, false),
        (1, 0, false),
        (1, -1, false),
        (41, TIME, false),
        (TIME, TIME + 1, true),
        (TIME, 41, false),
    ] {
        assert_eq!(is_cached_revision(revision, cached), is_known, "{revision} of {cached}");
    }
}

/// Earlier releases numbered records that had no revision by the time, in microseconds.
#[test]
fn a_number_of_an_earlier_release_hides_no_revision() {
    let mut case = started(5, half());
    case.world.record.revision = 1_700_000_000_000_000;
    case.world.sync(false);
    case.world.record.servers[0].pool = "z".to_owned();
    case.world.record.revision = 41;
    case.world.sync(false);
    let group = &case.world.state.group;
    assert_eq!((group.cmdb_revision, case.world.state.servers()[0].pool.as_str()), (41, "z"));
    // A CMDB that numbers by the time itself goes forward only.
    case.world.record.revision = 1_700_000_000_000_001;
    case.world.sync(false);
    case.world.record.revision = 1_700_000_000_000_000;
    case.world.sync(false);
    assert_eq!(case.world.state.group.cmdb_revision, 1_700_000_000_000_001);
}

#[test]
fn a_refresh_is_held_above_the_share_that_it_comes_with() {
    // Of ten, this many would leave.
    for (leaving, percent, is_held) in [
        (1, 9, true),
        (1, 10, false),
        (3, 29, true),
        (3, 30, false),
        (6, 60, false),
        (10, 100, false),
    ] {
        let mut case = started(10, half());
        case.world.record.servers.truncate(10 - leaving);
        case.world.record.revision += 1;
        let refresh = |hold_above| {
            let record = Box::new(case.world.record.clone());
            Input::Synced { record, hold_above, reading: Reading::Alone }
        };
        let (held, confirmed) = (refresh(Some(Share::percent(percent))), refresh(None));
        let answer = case.world.give(held).unwrap();
        let shown = format!("{leaving} of 10, {percent}%: {answer:?}");
        if let Answer::RefreshHeld(text) = &answer {
            let expected =
                format!("would remove {leaving} of 10 servers, more than {percent}%; a person");
            assert!(is_held && text.contains(&expected), "{shown}");
            assert_eq!(case.world.state.census().members, 10, "{shown}");
            assert_eq!(case.world.give(confirmed), Ok(Answer::Done), "{shown}");
        } else {
            assert!(!is_held, "{shown}");
        }
        let left = u32::try_from(10 - leaving).unwrap();
        assert_eq!(case.world.state.census().members, left, "{shown}");
        assert_eq!(case.world.state.group.refresh_held, None, "{shown}");
    }
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

/// A drain that was given up on lands after the Markup: the mark is ours, and it is removed again.
#[test]
fn a_drain_that_lands_late_is_put_right() {
    let mut case = baked(4, half());
    let bastion = case.batch(1)[0];
    let row = |case: &Case| case.world.state.server(bastion).unwrap().clone();
    case.world.late_drains.push(bastion);
    case.world.land(0);
    case.world.look();
    assert_eq!(
        (row(&case).service, row(&case).out_because),
        (Service::Out, Some(OutBecause::LateMark))
    );
    let told = case.world.shadow.events.last().unwrap().data.message.clone().unwrap();
    assert!(told.contains("a drain came late"), "{told}");
    case.world.admit_servers();
    assert!(!case.world.hosts[&bastion].mark);
    assert_eq!((row(&case).service, row(&case).out_because), (Service::In, None));
    // What keeps it out once the mark is off has its own reason.
    for dead in [true, false] {
        case.world.late_drains.push(bastion);
        case.world.land(0);
        case.world.look();
        let host = case.world.hosts.get_mut(&bastion).unwrap();
        (host.dead, host.outside) = (dead, !dead);
        case.world.admit_servers();
        let because = if dead { OutBecause::Dead } else { OutBecause::Outside };
        assert_eq!(row(&case).out_because, Some(because));
        let host = case.world.hosts.get_mut(&bastion).unwrap();
        (host.dead, host.outside) = (false, false);
        case.world.look();
        assert_eq!(row(&case).service, Service::In);
    }
}

#[test]
fn a_mark_that_came_late_stays_on_a_server_that_is_pulled_out_meanwhile() {
    let mut case = baked(4, half());
    let bastion = case.batch(1)[0];
    case.world.late_drains.push(bastion);
    case.world.land(0);
    case.world.look();
    case.pull(bastion);
    case.world.admit_servers();
    assert!(case.world.hosts[&bastion].mark, "nobody removes what a person wants");
    // The act was under way already: the mark is set again.
    case.world.hosts.get_mut(&bastion).unwrap().mark = false;
    let sight = capstan_core::ports::Sight::Serving;
    let late = capstan_core::input::Input::ServerAdmitted { server: bastion, sight };
    case.world.give(late).unwrap();
    case.world.drain();
    assert!(case.world.hosts[&bastion].mark && case.world.state.server(bastion).unwrap().is_out());
}
