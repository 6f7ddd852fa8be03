//! Thousands of messages as fast as they can be sent, half of them repeats and most of them out of order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use capstan_core::message::{Inbox, Incoming, Replayed, Verdict, Waiting};
use capstan_core::ports::{Call, CmdbGroup};
use capstan_drivers::guard::Guard;
use capstan_services::{Change, Changes};

use super::{Listening, PATIENCE, inbox, vhost};
use crate::fakes::record;

const GROUPS: usize = 12;
const CHANGES: usize = 1_200;
const SEED: u64 = 20_261;
/// Now and then a sync of all groups comes to write a record that it read so many revisions ago.
const BEHIND: i64 = 8;

/// Counts what was answered, and how.
struct Counted {
    inbox: Guard<dyn Inbox>,
    done: AtomicUsize,
    poison: AtomicUsize,
}

impl Counted {
    async fn until_done(&self, count: usize) {
        let answered = tokio::time::timeout(PATIENCE, async {
            while self.done.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let came = answered.await.is_ok();
        assert!(came, "{:?} of {count} are answered, {:?} laid aside", self.done, self.poison);
    }
}

impl Inbox for Counted {
    fn next(&self) -> Call<'_, Incoming> {
        self.inbox.next()
    }

    fn settle(&self, tag: u64, verdict: Verdict) -> Call<'_, ()> {
        Box::pin(async move {
            let count = match &verdict {
                Verdict::Done => &self.done,
                Verdict::Poison(_) => &self.poison,
            };
            self.inbox.settle(tag, verdict).await?;
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    }

    fn close(&self) -> Call<'_, ()> {
        self.inbox.close()
    }

    fn waiting(&self) -> Call<'_, Waiting> {
        self.inbox.waiting()
    }

    fn replay(&self, most: u32) -> Call<'_, Replayed> {
        self.inbox.replay(most)
    }
}

fn name(group: usize) -> String {
    format!("many-{group}")
}

/// A revision of a group. Each has other members, addresses and ports than the one before, but never so many
/// fewer that a person has to confirm it.
fn revision_of(group: usize, revision: i64) -> CmdbGroup {
    let mut random = fastrand::Rng::with_seed(revision.cast_unsigned() << 8 | group as u64);
    let mut record = record(&name(group), &name(group), 8);
    record.revision = revision;
    record.port = random.u16(1024..);
    record.application.owner = format!("owner {revision}");
    let (stays, mut comes) = (record.servers.drain(..5).collect(), record.servers);
    comes.retain(|_| random.bool());
    record.servers = stays;
    record.servers.append(&mut comes);
    for server in &mut record.servers {
        server.ip_address = format!("10.0.{}.{}", random.u8(..), random.u8(..));
        server.port = random.bool().then(|| random.u16(1024..));
        server.pool = random.lowercase().to_string();
    }
    record
}

/// What the cache must say of a group.
#[derive(Debug, PartialEq)]
struct Cached {
    revision: i64,
    owner: String,
    port: u16,
    /// By host name: address, port and pool.
    members: BTreeMap<String, (String, u16, String)>,
}

impl From<CmdbGroup> for Cached {
    fn from(record: CmdbGroup) -> Self {
        let members = record.servers.into_iter().map(|server| {
            let port = server.port.unwrap_or(record.port);
            (server.hostname, (server.ip_address, port, server.pool))
        });
        Self {
            revision: record.revision,
            owner: record.application.owner,
            port: record.port,
            members: members.collect(),
        }
    }
}

async fn cached(listening: &Listening, group: usize) -> Cached {
    let store = &listening.world.store;
    let id = store.group_id_by_external(&name(group)).await.expect("read").expect("it is known");
    let view = store.group(id).await.expect("read").expect("it is known");
    let servers = store.servers(id).await.expect("read");
    let members = servers.into_iter().filter(|server| !server.retired);
    Cached {
        revision: view.cmdb_revision,
        owner: view.application.owner,
        port: view.port,
        members: members.map(|it| (it.hostname, (it.ip_address, it.port, it.pool))).collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_thousands_that_repeat_and_are_out_of_order_the_newest_counts_and_each_is_answered() {
    let url = vhost().await;
    let (done, poison) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let counted = Arc::new(Counted { inbox: inbox(&url), done, poison });
    let mut listening = Listening::with(url, counted.clone()).await;
    let mut changes = Changes::new(GROUPS, CHANGES, SEED);
    for change in changes.by_ref() {
        match change {
            Change::Made(group, revision) => {
                listening.world.cmdb.put(revision_of(group, revision));
                if revision % (2 * BEHIND) == 0 {
                    let old = revision_of(group, revision - BEHIND);
                    listening.world.store.sync_group(old, false).await.expect("it is taken");
                }
            }
            Change::Told(group, revision) => listening.tell(&name(group), revision).await,
        }
    }
    assert!(changes.late_count() > CHANGES, "{} are out of order", changes.late_count());
    counted.until_done(2 * CHANGES).await;
    for (group, newest) in changes.newest().iter().enumerate() {
        assert_eq!(cached(&listening, group).await, revision_of(group, *newest).into());
    }
    listening.end().await;
    // What was not acknowledged would be in the queue again.
    listening.until_waiting(0, 0).await;
    assert_eq!(counted.done.load(Ordering::SeqCst), 2 * CHANGES, "each came once");
    let calls = listening.calls() as usize;
    assert!(calls <= CHANGES, "the CMDB was asked {calls} times: repeats ask for nothing");
}
