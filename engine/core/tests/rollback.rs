//! Which package a rollback brings back: the sentences of the rule, one by one. Deployments are named by
//! numbers.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use capstan_core::config::ConfigRequest;
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::input::Answer;
use capstan_core::record::Flavor;
use capstan_core::rollback::{History, Past};
use capstan_core::{DeploymentId, Timestamp};

use sim::{Setup, World, package};

fn name(number: u8) -> DeploymentId {
    DeploymentId::derive(Timestamp::from_micros(0), &[&[number]])
}

fn past(number: u8, flavor: Flavor, status: Status, parent: Option<u8>) -> Past {
    Past {
        id: name(number),
        flavor,
        status,
        package: package(u32::from(number)),
        bad: false,
        parent: parent.map(name),
        restores: None,
        seed: format!("seed {number}"),
    }
}

fn rollback(number: u8, status: Status, parent: Option<u8>, restores: u8) -> Past {
    Past {
        restores: Some(name(restores)),
        package: package(u32::from(restores)),
        ..past(number, Flavor::Rollback, status, parent)
    }
}

/// Newest first. What a rollback undoes and restores; `None`: there is no older version.
fn chosen(history: Vec<Past>) -> Option<(DeploymentId, DeploymentId)> {
    let history = History(history);
    match history.choose(None) {
        Ok(choice) => Some((choice.origin.unwrap().id, choice.restores.id)),
        Err(refused) => {
            assert_eq!(refused.code, "no_older_version");
            None
        }
    }
}

#[test]
fn a_rollback_without_to_follows_the_rule() {
    use Flavor::{Adopted, Rollout, Scaleout};
    use Status::{Failure, Revoked, RollingOut, Success};
    let one = || past(1, Adopted, Success, None);
    let two = |status| past(2, Rollout, status, Some(1));
    let three = |status| past(3, Rollout, status, Some(2));
    let expect = |origin, restores| Some((name(origin), name(restores)));
    // Else D's parent, whether D runs, failed or succeeded.
    for status in [RollingOut, Failure, Revoked, Success] {
        assert_eq!(chosen(vec![two(status), one()]), expect(2, 1), "{status}");
    }
    // The newest that is no scale-out.
    let scaleout = past(9, Scaleout, Success, Some(2));
    assert_eq!(chosen(vec![scaleout, two(Success), one()]), expect(2, 1));
    // D a rollback that is not SUCCESS: the same target again.
    let back = rollback(4, Failure, Some(2), 2);
    assert_eq!(chosen(vec![back, three(Revoked), two(Success), one()]), expect(4, 2));
    // D a rollback that restored X: the parent of X; so two in a row go back twice.
    let back = rollback(4, Success, Some(2), 2);
    assert_eq!(chosen(vec![back.clone(), three(Success), two(Success), one()]), expect(4, 1));
    // It never goes forward, and ends.
    let again = rollback(5, Success, Some(2), 1);
    assert_eq!(chosen(vec![again, back, three(Success), two(Success), one()]), None);
    assert_eq!(chosen(vec![one()]), None);
    assert_eq!(chosen(Vec::new()), None);
    // Bad packages are passed over, each to its parent.
    let bad = Past { bad: true, ..two(Success) };
    assert_eq!(chosen(vec![three(RollingOut), bad.clone(), one()]), expect(3, 1));
    let worse = Past { bad: true, ..one() };
    assert_eq!(chosen(vec![three(RollingOut), bad, worse]), None);
}

#[test]
fn the_group_runs_what_its_newest_success_meant() {
    use Status::{Failure, Success};
    let one = past(1, Flavor::Rollout, Success, None);
    let two = past(2, Flavor::Rollout, Success, Some(1));
    let current = |history: Vec<Past>| History(history).current().map(|past| past.id);
    assert_eq!(current(vec![two.clone(), one.clone()]), Some(name(2)));
    let back = rollback(3, Success, Some(2), 1);
    assert_eq!(current(vec![back, two.clone(), one.clone()]), Some(name(1)));
    let scaleout = past(4, Flavor::Scaleout, Success, Some(1));
    let failed = past(5, Flavor::Rollout, Failure, Some(2));
    assert_eq!(current(vec![failed, scaleout, two, one]), Some(name(2)));
}

#[test]
fn a_rollback_to_a_named_deployment_needs_a_proven_package() {
    use Status::{Failure, Success};
    let one = past(1, Flavor::Rollout, Success, None);
    let two = past(2, Flavor::Rollout, Failure, Some(1));
    let three = Past { bad: true, ..past(3, Flavor::Rollout, Success, Some(1)) };
    let history = History(vec![three, two, one]);
    let code = |number| history.choose(Some(name(number))).unwrap_err().code;
    assert_eq!(history.choose(Some(name(1))).unwrap().restores.id, name(1));
    assert_eq!((code(2), code(3)), ("package_not_proven", "package_bad"));
    assert_eq!(code(9), "deployment_unknown");
}

#[test]
fn a_rollback_takes_the_seed_and_leaves_out_what_is_right() {
    let mut world = World::new(Setup { servers: 8, ..Setup::default() });
    let id = world.rollout(1, ConfigRequest::default());
    world.run();
    let Ok(Answer::Created(back)) = world.roll_back(None, ConfigRequest::default()) else {
        panic!("it is possible")
    };
    let row = &world.of(back).deployment;
    assert_eq!(row.seed, world.of(id).deployment.seed);
    assert_eq!(world.of(back).targets().len(), 1, "only the bastion has the new version");
    world.run();
    assert_eq!(world.of(back).deployment.status, Status::Success);
}

#[test]
fn nothing_to_roll_back_still_revokes() {
    let mut world = World::new(Setup { servers: 4, ..Setup::default() });
    let id = world.rollout(1, ConfigRequest::default());
    let markdown = world.stages()[0];
    world.fail(&markdown);
    assert_eq!(world.of(id).deployment.status, Status::SmokeFailure);
    let answer = world.roll_back(None, ConfigRequest::default()).unwrap();
    assert_eq!(answer, Answer::NothingToRollBack { revoked: Some(id) });
    assert_eq!(world.of(id).deployment.status, Status::Revoked);
    assert_eq!(world.in_service(), 4, "the failed Markdown counts as in service again");
}

#[test]
fn a_server_that_a_rollback_left_out_and_that_dies_gets_a_target() {
    let mut world = World::new(Setup { servers: 8, ..Setup::default() });
    world.rollout(1, ConfigRequest::default());
    world.run();
    world.roll_back(None, ConfigRequest::default()).unwrap();
    let back = world.running().unwrap();
    let other = world.server_named("web-005");
    assert_eq!(world.of(back).place_of_server(other), None);
    world.hosts.get_mut(&other).unwrap().dead = true;
    world.look();
    world.pass(std::time::Duration::from_secs(6));
    world.look();
    let place = world.of(back).place_of_server(other).unwrap();
    let batch = world.of(back).targets()[place].batch;
    assert_eq!(batch as usize, world.of(back).batches().len(), "in a new last batch");
}

#[test]
fn a_group_that_was_released_to_is_not_adopted() {
    let fresh = || World::new(Setup { adopted: false, ..Setup::default() });
    let code = |world: &mut World| world.adopt().map_err(|refused| refused.code);
    let mut world = fresh();
    let draft = world.create_input(1, ConfigRequest::default(), false);
    world.create(draft).unwrap();
    assert!(matches!(code(&mut world), Ok(Answer::Created(_))), "a draft has touched nothing");
    assert_eq!(code(&mut world), Err("already_adopted"), "once");

    let mut world = fresh();
    let id = world.rollout(1, ConfigRequest::default());
    assert_eq!(code(&mut world), Err("already_adopted"), "one is under way");
    let refused = world.adopt().unwrap_err();
    assert_eq!(refused.deployment, Some(id));
    world.act(id, capstan_core::action::Action::Revoke).unwrap();
    world.run();
    assert_eq!(code(&mut world), Err("already_adopted"), "one was");
    let servers = world.state.servers().iter().map(|server| server.id).collect();
    let late = capstan_core::input::Input::Adopt {
        package: package(0),
        scripts: sim::scripts(),
        servers,
        history: History::default(),
    };
    let refused = world.give(late).unwrap_err();
    assert_eq!(refused.code, "already_adopted", "and was not known when the hosts were asked");
}
