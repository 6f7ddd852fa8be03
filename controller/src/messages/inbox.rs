//! Changes that the CMDB tells of: each refreshes its group, unless the cache is as new already.
//!
//! A message is acknowledged when what it asks for is stored, so one that comes twice, late or out of order
//! does no harm. As long as the CMDB does not answer, messages wait unacknowledged; the broker keeps the
//! rest. Messages about one group are answered together (`groups`); a connection that is lost is made again,
//! later and later (`link`).

mod groups;
mod link;

use std::sync::Arc;
use std::time::{Duration, Instant};

use capstan_core::Timestamp;
use capstan_core::message::{Inbox, Incoming, Verdict};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::groups::{Groups, Told};
use self::link::Link;
use super::Wait;
use crate::app::App;

/// First and longest wait before a lost connection is made again, and before the CMDB is asked again.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How often it is counted how many messages wait.
const COUNT_EVERY: Duration = Duration::from_secs(15);

const TAKEN: &str = "capstan_cmdb_messages_total";
const AGE: &str = "capstan_cmdb_message_age_seconds";
const WAITING: &str = "capstan_cmdb_messages_waiting";
const DEAD: &str = "capstan_cmdb_messages_dead";

pub(super) fn describe_metrics() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!(TAKEN, "Messages about changes in the CMDB, by what became of them");
    let age = "From a change in the CMDB to its record in the cache, as its message says";
    describe_histogram!(AGE, Unit::Seconds, age);
    describe_gauge!(WAITING, "Messages about changes in the CMDB that wait in the broker");
    describe_gauge!(DEAD, "Messages about changes in the CMDB that were laid aside");
}

/// A `CloudEvent` as far as it matters here.
#[derive(Deserialize)]
struct Envelope {
    specversion: String,
    #[serde(default)]
    time: Option<Timestamp>,
    data: Change,
}

/// A group has this revision in the CMDB.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Change {
    group: String,
    revision: i64,
}

/// Takes messages until `shutdown`.
pub(super) async fn run(app: Arc<App>, inbox: Arc<dyn Inbox>, shutdown: CancellationToken) {
    let tasks = TaskTracker::new();
    let link = Arc::new(Link::new(inbox));
    tasks.spawn(count(link.clone(), shutdown.clone()));
    let groups = Arc::new(Groups::new(app, link.clone(), shutdown.clone()));
    loop {
        let next = tokio::select! {
            next = link.inbox.next() => next,
            () = shutdown.cancelled() => break,
        };
        match next {
            Ok(incoming) => take(incoming, &link, &groups, &tasks),
            Err(error) => {
                if wait(link.lost(&error), &shutdown).await == Wait::Stopped {
                    break;
                }
            }
        }
    }
    tasks.close();
    tasks.wait().await;
    link.close().await;
}

async fn wait(time: Duration, stop: &CancellationToken) -> Wait {
    tokio::select! {
        () = tokio::time::sleep(time) => Wait::Over,
        () = stop.cancelled() => Wait::Stopped,
    }
}

async fn count(link: Arc<Link>, stop: CancellationToken) {
    loop {
        let waiting = tokio::select! {
            waiting = link.inbox.waiting() => waiting,
            () = stop.cancelled() => return,
        };
        match waiting {
            Ok(waiting) => {
                link.answers(Instant::now());
                metrics::gauge!(WAITING).set(waiting.queued);
                metrics::gauge!(DEAD).set(waiting.dead);
            }
            Err(error) => tracing::debug!(%error, "waiting messages cannot be counted"),
        }
        if wait(COUNT_EVERY, &stop).await == Wait::Stopped {
            return;
        }
    }
}

fn take(incoming: Incoming, link: &Arc<Link>, groups: &Arc<Groups>, tasks: &TaskTracker) {
    let Incoming { tag, key, body } = incoming;
    match read(&body) {
        Ok(Envelope { data: change, time, .. }) => {
            let connection = link.connection();
            groups.take(Told { tag, key, change, time, connection, tries: 0 }, tasks);
        }
        Err(reason) => {
            tracing::warn!(key, reason, "a message of the CMDB is laid aside");
            let link = link.clone();
            tasks.spawn(async move { link.settle(tag, Verdict::Poison(reason), "poison").await });
        }
    }
}

fn read(body: &[u8]) -> Result<Envelope, String> {
    let envelope: Envelope =
        serde_json::from_slice(body).map_err(|error| format!("it is no message: {error}"))?;
    if envelope.specversion != "1.0" {
        return Err(format!("it is no CloudEvent 1.0, but {:?}", envelope.specversion));
    }
    if envelope.data.group.is_empty() {
        return Err("it names no group".to_owned());
    }
    Ok(envelope)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_and_poison_has_a_reason() {
        let good = br#"{"specversion": "1.0", "id": "1", "source": "cmdb", "type": "group.changed",
            "time": "2026-01-02T03:04:05Z", "data": {"group": "web-prod", "revision": 7, "x": 1}}"#;
        let envelope = read(good).expect("it is one");
        assert_eq!(envelope.data, Change { group: "web-prod".to_owned(), revision: 7 });
        assert!(envelope.time.is_some());
        for (poison, why) in [
            ("", "no message"),
            ("{}", "specversion"),
            (r#"{"specversion": "0.3", "data": {"group": "a", "revision": 1}}"#, "CloudEvent"),
            (r#"{"specversion": "1.0", "data": {"group": "", "revision": 1}}"#, "no group"),
            (r#"{"specversion": "1.0", "data": {"group": "a"}}"#, "revision"),
            (r#"{"specversion": "1.0", "data": {"group": "a", "revision": "7"}}"#, "invalid type"),
        ] {
            let Err(reason) = read(poison.as_bytes()) else { panic!("{poison} is taken") };
            assert!(reason.contains(why), "{poison}: {reason}");
        }
    }
}
