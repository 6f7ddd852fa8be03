//! Sends nudges: what waits is merged, and goes out together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use capstan_core::{GroupId, Timestamp, id};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::mailbox::{self, Mailbox, Nudge};
use super::{SENT, Shared};

/// Groups that wait by their ids. When there are more, one nudge stands for all.
const GROUPS: usize = 16;
/// Time between two sendings: what comes meanwhile goes together.
const GAP: Duration = Duration::from_millis(20);
/// How often nudges are tried: a connection that broke while nobody used it is found out by using it.
const TRIES: usize = 2;

/// What waits to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    nudges: Mutex<BTreeMap<Option<GroupId>, Timestamp>>,
    has_some: Notify,
}

impl Outbox {
    pub(crate) fn put(&self, group: Option<GroupId>, at: Timestamp) {
        let mut nudges = self.nudges.lock().unwrap_or_else(PoisonError::into_inner);
        if nudges.len() >= GROUPS && !nudges.contains_key(&group) {
            nudges.clear();
            nudges.insert(None, at);
        } else {
            nudges.insert(group, at);
        }
        drop(nudges);
        self.has_some.notify_one();
    }

    fn take(&self) -> BTreeMap<Option<GroupId>, Timestamp> {
        std::mem::take(&mut *self.nudges.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Sends until it is told to stop; then what waits, once more.
pub(crate) async fn run(
    shared: Arc<Shared>,
    connection: Connection,
    own: Option<Mailbox>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = shared.outbox.has_some.notified() => {}
            () = stop.cancelled() => break,
        }
        send(&shared.outbox, &connection, own.as_ref()).await;
        tokio::select! {
            () = tokio::time::sleep(GAP) => {}
            () = stop.cancelled() => break,
        }
    }
    send(&shared.outbox, &connection, own.as_ref()).await;
}

async fn send(outbox: &Outbox, connection: &Connection, own: Option<&Mailbox>) {
    let nudges: Vec<Nudge> = outbox.take().into_iter().map(nudge).collect();
    if nudges.is_empty() {
        return;
    }
    let count = nudges.len() as u64;
    let told = |outcome: &'static str, count: u64| {
        if count > 0 {
            metrics::counter!(SENT, "outcome" => outcome).increment(count);
        }
    };
    for _ in 0..TRIES {
        match mailbox::post(connection, own, &nudges).await {
            Ok(posted) => {
                tracing::debug!(?posted, "nudges");
                told("sent", posted.sent);
                told("full", posted.full);
                told("nobody", if posted.engines == 0 { count } else { 0 });
                return;
            }
            // The breaker says that Redis is broken, when it is; engines look for themselves meanwhile.
            Err(error) => tracing::debug!(%error, "nudges were not taken"),
        }
    }
    told("lost", count);
}

/// A nudge, with an id that follows from what it is about: sent twice, it is one.
fn nudge((group, at): (Option<GroupId>, Timestamp)) -> Nudge {
    let name = group.map(|group| group.0.into_bytes()).unwrap_or_default();
    let id = id::derived(at, &[b"nudge", &name, &at.as_micros().to_be_bytes()]).to_string();
    Nudge { id, group }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_merged_and_never_much() {
        let outbox = Outbox::default();
        let at = Timestamp::from_micros;
        let group = |number: i64| Some(GroupId::derive(at(number), &[]));
        for _ in 0..3 {
            outbox.put(group(1), at(1));
        }
        outbox.put(group(2_000), at(2));
        assert_eq!(outbox.take().len(), 2);
        for number in 0..20_000 {
            outbox.put(group(number * 1_000), at(number));
        }
        let waits = outbox.take();
        assert!(waits.len() <= GROUPS && waits.contains_key(&None), "{waits:?}");
        assert!(outbox.take().is_empty());
    }

    #[test]
    fn the_id_follows_from_what_a_nudge_is_about() {
        let group = Some(GroupId::derive(Timestamp::from_micros(7), &[]));
        let id = |group, at| nudge((group, Timestamp::from_micros(at))).id;
        assert_eq!(id(group, 1), id(group, 1));
        assert_ne!(id(group, 1), id(group, 2), "a later commit is another nudge");
        assert_ne!(id(group, 1), id(None, 1));
    }
}
