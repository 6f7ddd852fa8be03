//! What must be true of everything that happened, as far as it can be seen from the outside: in the logs
//! that the API gives out, in what the broker was told, and on the hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capstan_core::event::Event;
use capstan_core::message::Waiting;
use capstan_core::record::Flavor;
use capstan_core::target_status::TargetStatus;
use capstan_core::view::{DeploymentBrief, GroupView};

use super::cmdb::QUEUE;
use super::group::Done;
use super::group_log::{self, Known};
use super::script::Script;
use super::world::World;

/// How long messages may take that are on their way, all of them together.
const MESSAGES: Duration = Duration::from_mins(4);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What was found, for people.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) wrong: Vec<String>,
    pub(crate) events: usize,
    /// Of these, what happened outside any deployment.
    pub(crate) of_groups: usize,
    pub(crate) deployments: usize,
    pub(crate) keys: usize,
    pub(crate) repeats: usize,
    /// How often each status of a target was told that a chain should not have.
    pub(crate) failures: BTreeMap<String, usize>,
}

impl Found {
    fn say(&mut self, wrong: String) {
        self.wrong.push(wrong);
    }
}

/// Checks everything of every group.
pub(crate) async fn check(world: &World, done: &[Done]) -> Found {
    let mut found = Found::default();
    let by = Instant::now() + MESSAGES;
    for (group, done) in done.iter().enumerate() {
        let events = logs(world, group, done, by, &mut found).await;
        if let Err(violations) = capstan_core::checker::check(&events) {
            found.wrong.extend(violations.iter().map(|it| format!("group {group}: {it}")));
        }
        hosts(world, group, done, &events, &mut found);
        let own = own_log(world, group, done, &events, by, &mut found).await;
        found.events += events.len() + own;
        found.of_groups += own;
    }
    cached(world, by, &mut found).await;
    found.wrong.extend(world.ear.wrong.lock().unwrap().iter().cloned());
    found.wrong.extend(world.api.bugs.lock().unwrap().iter().cloned());
    for process in &world.processes {
        let (name, log) = (&process.name, process.log());
        for line in log.lines().filter(|line| line.contains("panicked at")) {
            found.say(format!("{name}: {line}"));
        }
        // 75: it stood still for longer than its lease. 1: it started without its database.
        for end in process.ends().into_iter().filter(|end| !matches!(end, Ok(1 | 75))) {
            found.say(format!("{name} ended by itself with {end:?}"));
        }
    }
    found
}

/// Of each group the cache has what the CMDB says now, and every message about it was answered.
async fn cached(world: &World, by: Instant, found: &mut Found) {
    loop {
        let wrong = differences(world).await;
        if wrong.is_empty() {
            return;
        }
        if Instant::now() > by {
            found.wrong.extend(wrong);
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn differences(world: &World) -> Vec<String> {
    let mut wrong = Vec::new();
    let rows: Vec<GroupView> = world.api.all("groups").await;
    for (group, id) in world.groups.iter().enumerate() {
        let newest = world.cmdb.newest(group);
        let row = rows.iter().find(|row| row.id.to_string() == *id).expect("it is there");
        let cached = (row.cmdb_revision, row.virtual_path.clone());
        if cached != newest {
            wrong.push(format!("group {group} is {newest:?} in the CMDB, and {cached:?} here"));
        }
    }
    let waiting: Waiting = world.api.get("messages").await;
    if waiting != Waiting::default() {
        wrong.push(format!("messages of the CMDB wait or were laid aside: {waiting:?}"));
    }
    // That does not count what a controller has taken.
    let rabbit = Arc::clone(&world.services.rabbit).lock_owned().await;
    let left = tokio::task::spawn_blocking(move || rabbit.messages(QUEUE)).await.unwrap();
    if left != Some(0) {
        wrong.push(format!("messages of the CMDB without an answer: {left:?}"));
    }
    wrong
}

/// The events of all deployments of a group: what was made is there, once, and ended as it should; and the
/// broker was told of every event, in order.
async fn logs(
    world: &World,
    group: usize,
    done: &Done,
    by: Instant,
    found: &mut Found,
) -> Vec<Event> {
    let id = &world.groups[group];
    let rows: Vec<DeploymentBrief> = world.api.all(&format!("deployments?group={id}")).await;
    let made: BTreeSet<String> = rows
        .iter()
        .filter(|row| row.flavor != Flavor::Adopted)
        .map(|row| row.id.to_string())
        .collect();
    let known: BTreeSet<String> = done.deployments.iter().map(|(id, _)| id.clone()).collect();
    if made != known {
        found.say(format!("group {group}: {made:?} were made, and {known:?} were asked for"));
    }
    found.deployments += made.len();
    for (deployment, wanted) in &done.deployments {
        let is = rows.iter().find(|row| row.id.to_string() == *deployment).map(|row| row.status);
        if is != Some(*wanted) {
            found.say(format!("deployment {deployment} is {is:?}, and should be {wanted}"));
        }
    }
    let mut all = Vec::new();
    for row in &rows {
        let log = row.id.to_string();
        let events = world.api.events(&log).await;
        heard(world, &log, &events, by, found).await;
        all.extend(events);
    }
    all
}

/// The log of the group itself: it is whole, and the broker was told of every event, in order. Gives how many there
/// are.
async fn own_log(
    world: &World,
    group: usize,
    done: &Done,
    deployments: &[Event],
    by: Instant,
    found: &mut Found,
) -> usize {
    let id = &world.groups[group];
    let own = group_log::read(&world.services.database_url, id).await;
    heard(world, id, &own, by, found).await;
    let known = Known {
        id,
        servers: world.fleet.size(group),
        pulled_out: done.scripts.iter().filter(|it| **it == Script::PulledOut).count(),
        deployments,
    };
    let wrong = group_log::check(&own, &known);
    found.wrong.extend(wrong.into_iter().map(|it| format!("the log of group {group}: {it}")));
    own.len()
}

/// Each event of the log came, in its order, and is the same.
async fn heard(world: &World, log: &str, events: &[Event], by: Instant, found: &mut Found) {
    while world.ear.heard(log) < events.len() && Instant::now() < by {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let logs = world.ear.logs.lock().unwrap();
    let Some(heard) = logs.get(log) else {
        found.say(format!("nothing came of log {log}"));
        return;
    };
    found.repeats += heard.repeats;
    for (place, event) in events.iter().enumerate() {
        match heard.events.get(place) {
            Some(came) if came == event => {}
            Some(_) => found.say(format!("event {} of {log} came as another one", event.seq)),
            None => {
                found.say(format!("event {} of {log} and what follows never came", event.seq));
                return;
            }
        }
    }
}

/// No script ran twice for a key, none that the log does not know, and each host runs what it should.
fn hosts(world: &World, group: usize, done: &Done, events: &[Event], found: &mut Found) {
    let given: BTreeSet<String> =
        events.iter().filter_map(|event| event.data.key).map(|key| key.to_string()).collect();
    for host in 0..world.fleet.size(group) {
        let root = world.fleet.root(group, host);
        let ran = ran(&root, found);
        found.keys += ran.len();
        for key in ran.difference(&given) {
            found.say(format!("{}: key {key} ran, and the log does not know it", root.display()));
        }
        let serves = world.fleet.serving(group, host);
        if !done.exempt.contains(&host) && serves.as_ref() != Some(&done.runs) {
            let runs = &done.runs;
            found.say(format!("{}: {serves:?} serves, and should be {runs}", root.display()));
        }
    }
    for event in events {
        let to = event.data.to.as_deref().and_then(TargetStatus::from_word);
        if let (Some(to), Some(cause)) = (to.filter(|to| to.is_failure()), event.cause) {
            *found.failures.entry(format!("{to} {cause:?}")).or_default() += 1;
        }
    }
}

/// The keys that ran on a host; says so if one ran twice. Hosts forget orders after a while, so this is
/// looked at after each deployment.
pub(crate) fn ran(root: &Path, found: &mut Found) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for order in std::fs::read_dir(root.join(".capstan/orders")).into_iter().flatten().flatten() {
        // An order that was cancelled in advance was never begun.
        let runs = std::fs::read_to_string(order.path().join("runs")).unwrap_or_default();
        match runs.lines().count() {
            0 => continue,
            1 => {}
            count => found.say(format!("{} ran {count} times", order.path().display())),
        }
        keys.insert(order.file_name().to_string_lossy().into_owned());
    }
    let restarts = std::fs::read_to_string(root.join("shared/restarts.log")).unwrap_or_default();
    let mut restarted = BTreeSet::new();
    for key in restarts.lines().filter_map(|line| line.split(' ').next()) {
        if !restarted.insert(key.to_owned()) {
            found.say(format!("{}: {key} restarted it twice", root.display()));
        }
    }
    keys.extend(restarted);
    keys
}

#[test]
fn a_key_that_ran_twice_is_found() {
    let root = tempfile::tempdir().unwrap();
    let order = root.path().join(".capstan/orders/a-key");
    std::fs::create_dir_all(&order).unwrap();
    std::fs::create_dir_all(root.path().join("shared")).unwrap();
    std::fs::write(order.join("runs"), "begun\n").unwrap();
    let restarts = root.path().join("shared/restarts.log");
    std::fs::write(&restarts, "one 1.0.0\ntwo 1.1.0\n").unwrap();
    let count = || {
        let mut found = Found::default();
        (ran(root.path(), &mut found).len(), found.wrong.len())
    };
    assert_eq!(count(), (3, 0));
    std::fs::write(order.join("runs"), "begun\nbegun\n").unwrap();
    assert_eq!(count(), (3, 1));
    std::fs::write(&restarts, "one 1.0.0\ntwo 1.1.0\none 1.0.0\n").unwrap();
    assert_eq!(count(), (3, 2));
}
