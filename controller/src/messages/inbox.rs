//! Changes that the CMDB tells of: each refreshes its group, unless the cache is as new already.
//!
//! A message is acknowledged when what it asks for is stored, so one that comes twice, late or out of order
//! does no harm. As long as the CMDB does not answer, messages wait unacknowledged; the broker keeps the
//! rest.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use capstan_core::Timestamp;
use capstan_core::message::{Inbox, Incoming, Verdict};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Backoff, Wait};
use crate::app::App;
use crate::problem::Problem;
use crate::sync::Removal;

/// Messages that are worked on at the same time.
const CONCURRENCY: usize = 16;
/// First and longest wait before a lost connection is made again, and before the CMDB is asked again.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// So often the CMDB may show less than it has told of before the message is laid aside.
const BEHIND: u32 = 5;
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
    let (tasks, room) = (TaskTracker::new(), Arc::new(Semaphore::new(CONCURRENCY)));
    tasks.spawn(count(inbox.clone(), shutdown.clone()));
    let mut backoff = Backoff::new(WAITS.0, WAITS.1);
    let mut is_lost = false;
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { break };
        let next = tokio::select! {
            next = inbox.next() => next,
            () = shutdown.cancelled() => break,
        };
        match next {
            Ok(incoming) => {
                backoff.reset();
                is_lost = false;
                let (app, inbox, stop) = (app.clone(), inbox.clone(), shutdown.clone());
                tasks.spawn(async move {
                    take(&app, &*inbox, incoming, &stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut is_lost, true) {
                    tracing::warn!(%error, "no messages of the CMDB; connecting again");
                }
                if wait(backoff.step(), &shutdown).await == Wait::Stopped {
                    break;
                }
            }
        }
    }
    tasks.close();
    tasks.wait().await;
    // What is not settled goes to another process at once.
    if let Err(error) = inbox.close().await {
        tracing::debug!(%error, "the inbox was not closed");
    }
}

async fn wait(time: Duration, stop: &CancellationToken) -> Wait {
    tokio::select! {
        () = tokio::time::sleep(time) => Wait::Over,
        () = stop.cancelled() => Wait::Stopped,
    }
}

async fn count(inbox: Arc<dyn Inbox>, stop: CancellationToken) {
    loop {
        match inbox.waiting().await {
            Ok(waiting) => {
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

/// Does what one message asks for, and says what became of it.
async fn take(app: &Arc<App>, inbox: &dyn Inbox, incoming: Incoming, stop: &CancellationToken) {
    let (outcome, verdict) = match read(&incoming.body) {
        Ok(envelope) => match refresh(app, &envelope.data, stop).await {
            // The process stops: it comes again, to another one.
            None => return,
            Some(Ok(outcome)) => {
                if let Some(time) = envelope.time {
                    metrics::histogram!(AGE).record(app.store.now().since(time));
                }
                (outcome, Verdict::Done)
            }
            Some(Err(reason)) => ("poison", Verdict::Poison(reason)),
        },
        Err(reason) => ("poison", Verdict::Poison(reason)),
    };
    if let Verdict::Poison(reason) = &verdict {
        tracing::warn!(key = incoming.key, reason, "a message of the CMDB is laid aside");
    }
    if let Err(error) = inbox.settle(incoming.tag, verdict).await {
        tracing::warn!(%error, "a message could not be settled: it comes again");
        if let Err(error) = inbox.close().await {
            tracing::debug!(%error, "the inbox was not closed");
        }
        return;
    }
    metrics::counter!(TAKEN, "outcome" => outcome).increment(1);
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

/// Refreshes a group until the cache has the revision. `None`: the process stops. An error says why it
/// never will.
async fn refresh(
    app: &Arc<App>,
    change: &Change,
    stop: &CancellationToken,
) -> Option<Result<&'static str, String>> {
    let mut backoff = Backoff::new(WAITS.0, WAITS.1);
    let mut outcome = "known";
    let mut behind = 0;
    loop {
        let asked = match app.store.group_revision(&change.group).await {
            Ok(Some(revision)) if revision >= change.revision => return Some(Ok(outcome)),
            Ok(_) => app.refresh_named(&change.group, Removal::Held).await,
            Err(error) => Err(error.into()),
        };
        match asked {
            Ok(()) if is_held(app, &change.group).await => return Some(Ok("held")),
            Ok(()) => {
                if outcome == "known" {
                    adopt(app, &change.group).await;
                }
                outcome = "refreshed";
                let now = app.store.group_revision(&change.group).await.ok().flatten();
                if now.is_some_and(|revision| revision >= change.revision) {
                    return Some(Ok(outcome));
                }
                behind += 1;
                if behind >= BEHIND {
                    let Change { group, revision } = change;
                    return Some(Err(format!(
                        "the CMDB has told of revision {revision} of {group} and shows {}",
                        now.map_or("none".to_owned(), |now| now.to_string())
                    )));
                }
            }
            Err(problem) if is_final(&problem) => return Some(Err(problem.detail)),
            Err(problem) => {
                let why = problem.detail;
                tracing::debug!(group = change.group, why, "a refresh is tried again");
            }
        }
        if wait(backoff.step(), stop).await == Wait::Stopped {
            return None;
        }
    }
}

/// Whether the last refresh of a group waits for a person's word.
async fn is_held(app: &App, external_id: &str) -> bool {
    let Ok(Some(group)) = app.store.group_id_by_external(external_id).await else { return false };
    let group = app.store.group(group).await.ok().flatten();
    group.is_some_and(|group| group.refresh_held.is_some())
}

/// Asks the hosts of a group that is new what they run, and gives new servers of a group its version.
async fn adopt(app: &Arc<App>, external_id: &str) {
    match app.store.group_id_by_external(external_id).await {
        Ok(Some(group)) => {
            app.adopt_later(group);
            app.scale_out_later(group);
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "a group is adopted with its first deployment"),
    }
}

/// Whether the CMDB will answer the same again.
fn is_final(problem: &Problem) -> bool {
    // One that refuses our token now may take another one later: messages wait for that.
    problem.code != "cmdb_unavailable"
        && problem.status != StatusCode::SERVICE_UNAVAILABLE
        && problem.status != StatusCode::INTERNAL_SERVER_ERROR
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
