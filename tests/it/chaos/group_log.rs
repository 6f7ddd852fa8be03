//! The log of a group itself: what happened to it while no deployment held it. The API gives out the logs of
//! deployments alone, so this one is read from the database.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use capstan_core::event::{Event, EventType};
use capstan_core::{DeploymentId, ServerId, Timestamp};

use crate::restore::{client, program};

/// How far the clocks of two processes may be apart: each has the database's time with the delay of an answer, which may
/// take half a lease.
const CLOCKS: Duration = Duration::from_secs(2);

/// What else is known of a group.
pub(crate) struct Known<'a> {
    pub(crate) id: &'a str,
    /// How many servers its record has, all the time.
    pub(crate) servers: usize,
    /// How often a server was pulled out, and put back when its deployment had ended.
    pub(crate) pulled_out: usize,
    /// The events of all its deployments.
    pub(crate) deployments: &'a [Event],
}

/// Reads the log of a group, as it stands in a database.
pub(crate) async fn read(url: &str, group: &str) -> Vec<Event> {
    let (_, place) = url.split_once("127.0.0.1:").expect("a server of a test");
    let (port, name) = place.split_once('/').expect("a database");
    let bodies = |id: &str| format!("SELECT body FROM events WHERE stream = {id} ORDER BY seq");
    let mut asked = if url.starts_with("postgres") {
        let mut asked = program("psql");
        asked.args(["-qAt", "-c", &bodies(&format!("'{group}'")), url]);
        asked
    } else {
        let id = format!("UNHEX('{}')", group.replace('-', ""));
        let mut asked = client("mariadb", port);
        asked.args(["--batch", "--raw", "--skip-column-names", "-e", &bodies(&id), name]);
        asked
    };
    let text = tokio::task::spawn_blocking(move || answer(&mut asked)).await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn answer(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What is wrong with the log of a group.
pub(crate) fn check(own: &[Event], known: &Known<'_>) -> Vec<String> {
    let mut wrong = order(own);
    let spans = spans(known.deployments);
    wrong.extend(own.iter().filter_map(|event| place(event, known, &spans)));
    wrong.extend(members(own, known));
    wrong.extend(pulled_out(own, known));
    wrong.extend(out_at_first(own, &spans));
    wrong
}

/// Events are numbered from 1 without gaps, and their instants do not go back.
fn order(own: &[Event]) -> Vec<String> {
    let numbers = own.iter().zip(1..).filter(|(event, seq)| event.seq != *seq);
    let numbers = numbers.map(|(event, seq)| format!("event {} is in place {seq}", event.seq));
    let pairs = own.windows(2).filter(|pair| pair[0].at > pair[1].at + CLOCKS);
    let instants = pairs.map(|pair| format!("event {} is before the one before it", pair[1].seq));
    numbers.chain(instants).collect()
}

/// From when to when deployments held the group.
fn spans(deployments: &[Event]) -> Vec<(Timestamp, Timestamp)> {
    let mut spans: BTreeMap<DeploymentId, (Timestamp, Timestamp)> = BTreeMap::new();
    for event in deployments.iter().filter(|event| event.kind == EventType::DeploymentStatus) {
        let Some(id) = event.deployment else { continue };
        if event.data.start.is_some() {
            spans.insert(id, (event.at, event.at));
        } else if let Some(span) = spans.get_mut(&id) {
            span.1 = event.at;
        }
    }
    spans.into_values().collect()
}

/// It is about the group or a server of it, and happened while no deployment held the group: else it is an event of that
/// deployment.
fn place(event: &Event, known: &Known<'_>, spans: &[(Timestamp, Timestamp)]) -> Option<String> {
    let Event { seq, kind, at, .. } = event;
    let is_own = matches!(
        kind,
        EventType::ServerOut
            | EventType::ServerIn
            | EventType::ServerPulledOut
            | EventType::ServerPutBack
            | EventType::ServerDrainedAgain
            | EventType::ServerDrained
            | EventType::ServerAppeared
            | EventType::ServerLeft
            | EventType::DependencyOpened
            | EventType::DependencyCutOff
            | EventType::DependencyRestored
    );
    let names = event.deployment.is_some() || event.target.is_some() || event.batch.is_some();
    if !is_own || names || event.group.to_string() != known.id {
        return Some(format!("this is none of its events: {event:?}"));
    }
    let held = spans.iter().any(|(from, to)| *from + CLOCKS < *at && *at + CLOCKS < *to);
    held.then(|| format!("event {seq}, {}: a deployment held the group", kind.word()))
}

/// The record never changes: every server appeared, once, and none has left.
fn members(own: &[Event], known: &Known<'_>) -> Option<String> {
    let all = || own.iter().chain(known.deployments);
    let of = |kind| all().filter(move |event| event.kind == kind);
    let appeared = of(EventType::ServerAppeared).count();
    let servers: BTreeSet<_> =
        of(EventType::ServerAppeared).filter_map(|event| event.server).collect();
    let left = of(EventType::ServerLeft).count();
    let is_right = (appeared, servers.len(), left) == (known.servers, known.servers, 0);
    (!is_right).then(|| {
        let (of, there) = (servers.len(), known.servers);
        format!("{appeared} servers appeared, {of} different ones, and {left} left, of {there}")
    })
}

/// A server was pulled out as often as a script did so, and put back as often, after its deployment; then it came in.
fn pulled_out(own: &[Event], known: &Known<'_>) -> Vec<String> {
    let count = |events: &[Event], kind| events.iter().filter(|event| event.kind == kind).count();
    let out = count(own, EventType::ServerPulledOut)
        + count(known.deployments, EventType::ServerPulledOut);
    let back = count(own, EventType::ServerPutBack);
    let mut wrong = Vec::new();
    if (out, back) != (known.pulled_out, known.pulled_out) {
        let scripts = known.pulled_out;
        wrong.push(format!(
            "{out} times pulled out and {back} times put back, by {scripts} scripts"
        ));
    }
    let put_back = |event: &Event| event.kind == EventType::ServerPutBack;
    for (place, event) in own.iter().enumerate().filter(|(_, event)| put_back(event)) {
        let later = own[place + 1..].iter().filter(|later| later.server == event.server);
        let mut later = later.take_while(|later| !put_back(later));
        if !later.any(|later| later.kind == EventType::ServerIn) {
            wrong.push(format!("event {}: it was put back and never came in", event.seq));
        }
    }
    wrong
}

/// S1: before a deployment first holds the group, the log alone says how many are out.
fn out_at_first(own: &[Event], spans: &[(Timestamp, Timestamp)]) -> Vec<String> {
    let first = spans.iter().map(|(from, _)| *from).min();
    let mut out: BTreeSet<ServerId> = BTreeSet::new();
    let mut wrong = Vec::new();
    for event in own.iter().take_while(|event| first.is_none_or(|first| event.at + CLOCKS < first))
    {
        if let Some(server) = event.server {
            if event.kind == EventType::ServerIn {
                out.remove(&server);
            } else {
                out.insert(server);
            }
        }
        let (told, is) = (event.data.out_count, u32::try_from(out.len()).unwrap());
        if told != Some(is) {
            wrong.push(format!("event {}: {told:?} are told as out, and {is} are", event.seq));
        }
    }
    wrong
}

/// An event about a server, at a second.
#[cfg(test)]
fn event(seq: i64, kind: &str, second: i64, server: u128, out: Option<u32>) -> Event {
    let event = serde_json::json!({
        "seq": seq, "at": Timestamp::from_micros(second * 1_000_000), "type": kind,
        "group": uuid::Uuid::nil(), "server": uuid::Uuid::from_u128(server), "actor": "ada",
        "data": { "out_count": out },
    });
    serde_json::from_value(event).unwrap()
}

/// A deployment that held the group from the second 50 to 100, and in which a server was pulled out.
#[cfg(test)]
fn deployment() -> [Event; 3] {
    let start = serde_json::json!({
        "members": 2, "may_go_dark": false, "max_unavailable": 50, "max_failure": 50,
        "out": [], "unknown": [], "new": [], "pulled_out": [],
    });
    let id = Some(DeploymentId(uuid::Uuid::from_u128(7)));
    let mut events = [
        event(1, "deployment.status", 50, 1, None),
        event(2, "server.pulled_out", 70, 1, None),
        event(3, "deployment.status", 100, 1, None),
    ];
    for event in &mut events {
        event.deployment = id;
    }
    events[0].data.start = Some(serde_json::from_value(start).unwrap());
    events
}

#[test]
fn what_is_wrong_with_the_log_of_a_group_is_found() {
    let own = [
        event(1, "server.appeared", 10, 1, Some(1)),
        event(2, "server.appeared", 10, 2, Some(2)),
        event(3, "server.in", 20, 1, Some(1)),
        event(4, "server.in", 20, 2, Some(0)),
        event(5, "server.put_back", 110, 1, None),
        event(6, "server.in", 111, 1, None),
    ];
    let (id, deployments) = (uuid::Uuid::nil().to_string(), deployment());
    let wrong = |change: fn(&mut Vec<Event>)| {
        let mut own = own.to_vec();
        change(&mut own);
        let known = Known { id: &id, servers: 2, pulled_out: 1, deployments: &deployments };
        check(&own, &known)
    };
    assert_eq!(wrong(|_| {}), Vec::<String>::new());
    assert_eq!(wrong(|own| own[5].seq = 5), ["event 5 is in place 6"]);
    let held = ["event 5, server.put_back: a deployment held the group"];
    assert_eq!(wrong(|own| own[4].at = Timestamp::from_micros(75_000_000)), held);
    let told = ["event 4: Some(1) are told as out, and 0 are"];
    assert_eq!(wrong(|own| own[3].data.out_count = Some(1)), told);
    let others: [fn(&mut Vec<Event>); 9] = [
        |own| own[0].at = own[2].at,
        |own| own[2].deployment = Some(DeploymentId(uuid::Uuid::nil())),
        |own| own[2].group = capstan_core::GroupId(uuid::Uuid::from_u128(8)),
        |own| own[3].kind = EventType::TargetTry,
        |own| own[0].server = own[1].server,
        |own| own[3].kind = EventType::ServerLeft,
        |own| own[4].kind = EventType::ServerOut,
        |own| own[5].server = own[1].server,
        |own| own.truncate(5),
    ];
    for (place, change) in others.into_iter().enumerate() {
        assert!(!wrong(change).is_empty(), "change {place}");
    }
}
