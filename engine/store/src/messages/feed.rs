//! What is new in the log for a consumer.
//!
//! Numbers are without gaps in each stream, and what is committed later in a stream has a higher number; over
//! all streams there is no such order. So a reader asks for streams whose end lies behind its cursor, and a
//! group's version says whether any of its streams can have grown: each change of a group raises it, and a
//! transaction that is not committed yet has raised it by no more than it will show. Groups at rest cost one
//! comparison, whatever lies in their past.
//!
//! While a group changes, its running deployment and those that this reader has just sent from are asked for
//! each time, which is a row or two. Every few seconds, and first of all, it is asked thoroughly: for every
//! deployment that was written since. Only that raises `seen_version`, so an event on one that has ended long
//! ago (a late outcome) is found, too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use capstan_core::Timestamp;
use capstan_core::event::Event;
use sea_orm::{ConnectionTrait, DatabaseTransaction, QueryResult, Value};
use uuid::Uuid;

use super::batch::{Batch, stream_of};
use super::consumer::hold;
use super::deliveries::{self, NewDelivery};
use crate::bulk::{self, Existing, Table, list, quoted, sql};
use crate::operation::{Operation, timed};
use crate::rows::Reader;
use crate::store::commit;
use crate::{Error, Store};

/// Groups that are looked at together.
const GROUPS: usize = 500;
/// Groups in one statement.
const GROUPS_AT_ONCE: usize = 200;
/// Streams in one statement.
const STREAMS_AT_ONCE: usize = 500;
/// Events of one stream in a batch: no stream keeps the others waiting.
const PER_STREAM: i64 = 200;
/// How often a group that changes is asked thoroughly.
const THOROUGH_EVERY: Duration = Duration::from_secs(5);

const SEEN: Table<3> = Table {
    name: "message_groups",
    columns: ["consumer", "group_id", "seen_version"],
    key: &["consumer", "group_id"],
    fixed: &[],
    nullable: &[],
    known: false,
};
const CURSORS: Table<3> = Table {
    name: "message_cursors",
    columns: ["consumer", "stream", "sent_seq"],
    key: &["consumer", "stream"],
    fixed: &[],
    nullable: &[],
    known: false,
};

/// The log as one consumer reads it. It keeps nothing that the database does not have, but for when it
/// last looked where.
#[derive(Debug)]
pub struct Feed {
    store: Store,
    consumer: String,
    thorough: BTreeMap<Uuid, Instant>,
    /// Deployments that had news since their group was last asked thoroughly, with their group.
    recent: BTreeMap<Uuid, Uuid>,
    /// The group after which the next look begins.
    after: Uuid,
    /// Counts batches.
    turn: usize,
}

/// A group that has changed since it was last seen.
struct Changed {
    group: Uuid,
    version: i64,
    seq: i64,
    seen: i64,
    is_thorough: bool,
}

/// A stream, and where it ends.
struct Stream {
    id: Uuid,
    group: Uuid,
    last: i64,
}

impl Store {
    /// The log as a consumer reads it, which this process has taken.
    pub fn feed(&self, consumer: &str) -> Feed {
        Feed {
            store: self.clone(),
            consumer: consumer.to_owned(),
            thorough: BTreeMap::new(),
            recent: BTreeMap::new(),
            after: Uuid::nil(),
            turn: 0,
        }
    }
}

impl Feed {
    /// The next events, at most `limit`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn next(&mut self, limit: usize) -> Result<Batch, Error> {
        self.next_but(limit, &BTreeSet::new()).await
    }

    /// The same but for streams that wait: they take no room from the others, and nothing of them is passed
    /// over.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn next_but(
        &mut self,
        limit: usize,
        waiting: &BTreeSet<Uuid>,
    ) -> Result<Batch, Error> {
        timed(Operation::FeedNext, async {
            let mut looks_again = false;
            loop {
                let changed = self.changed().await?;
                let is_last = changed.len() < GROUPS;
                self.after = match changed.last() {
                    Some(last) if !is_last => last.group,
                    Some(_) | None => Uuid::nil(),
                };
                looks_again |= changed.iter().any(|group| !group.is_thorough);
                let batch = self.batch(changed, limit, waiting).await?;
                if !batch.is_idle() || is_last {
                    return Ok(Batch { looks_again, ..batch });
                }
            }
        })
        .await
    }

    /// Groups whose versions are newer than what was seen.
    async fn changed(&mut self) -> Result<Vec<Changed>, Error> {
        let reader = self.store.reader();
        let text = format!(
            "SELECT g.id AS id, g.version AS version, g.seq AS seq, s.seen_version AS seen \
             FROM {} g LEFT JOIN message_groups s ON s.consumer = ? AND s.group_id = g.id \
             WHERE g.id > ? AND (s.seen_version IS NULL OR g.version > s.seen_version) \
             ORDER BY g.id LIMIT {GROUPS}",
            quoted(reader.get_database_backend(), "groups")
        );
        let values = [self.consumer.as_str().into(), self.after.into()];
        let what = "find groups that changed";
        let rows = reader.query_all_raw(sql(reader, &text, values)).await;
        let rows = rows.map_err(Error::database(what))?;
        let now = Instant::now();
        self.thorough.retain(|_, at| now.duration_since(*at) < THOROUGH_EVERY);
        let thorough = &self.thorough;
        self.recent.retain(|_, group| thorough.contains_key(group));
        let one = |row: &QueryResult| {
            let group: Uuid = row.try_get("", "id")?;
            let seen: Option<i64> = row.try_get("", "seen")?;
            Ok(Changed {
                group,
                version: row.try_get("", "version")?,
                seq: row.try_get("", "seq")?,
                seen: seen.unwrap_or(-1),
                is_thorough: !thorough.contains_key(&group),
            })
        };
        rows.iter().map(one).collect::<Result<_, _>>().map_err(Error::database(what))
    }

    async fn batch(
        &mut self,
        changed: Vec<Changed>,
        limit: usize,
        waiting: &BTreeSet<Uuid>,
    ) -> Result<Batch, Error> {
        if changed.is_empty() {
            return Ok(Batch::default());
        }
        let mut streams: Vec<Stream> = changed
            .iter()
            .filter(|it| it.seq > 0)
            .map(|it| Stream { id: it.group, group: it.group, last: it.seq })
            .collect();
        let mut deployments = BTreeMap::new();
        for some in changed.chunks(GROUPS_AT_ONCE) {
            self.deployments(some, &mut deployments).await?;
        }
        let asked: BTreeSet<Uuid> =
            changed.iter().filter(|it| it.is_thorough).map(|it| it.group).collect();
        self.recent.retain(|_, group| !asked.contains(group));
        streams.extend(deployments.into_values());
        // Another stream comes first each time: one that never ends keeps none for ever waiting.
        let first = self.turn % streams.len().max(1);
        streams.rotate_left(first);
        self.turn = self.turn.wrapping_add(1);
        let sent = self.sent_seqs(&streams).await?;
        let mut batch = Batch::default();
        // Groups of which something is left.
        let mut left: BTreeSet<Uuid> = BTreeSet::new();
        let mut room = i64::try_from(limit).unwrap_or(i64::MAX);
        for stream in streams {
            let from = sent.get(&stream.id).copied().unwrap_or(0);
            if stream.last <= from {
                continue;
            }
            if stream.id != stream.group {
                self.recent.insert(stream.id, stream.group);
            }
            if waiting.contains(&stream.id) {
                left.insert(stream.group);
                continue;
            }
            let most = (stream.last - from).min(PER_STREAM).min(room);
            if most < stream.last - from {
                left.insert(stream.group);
            }
            if most > 0 {
                room -= most;
                batch.streams.push(self.events(stream.id, from, from + most).await?);
            }
        }
        let ids: Vec<Uuid> =
            batch.streams.iter().filter_map(|it| it.first().map(stream_of)).collect();
        batch.epochs = self.store.epochs(&ids).await?;
        let now = Instant::now();
        for it in changed.iter().filter(|it| it.is_thorough && !left.contains(&it.group)) {
            self.thorough.insert(it.group, now);
            batch.seen.push((it.group, it.version));
        }
        let oldest = batch.events().map(|event| event.at).min();
        batch.lag = oldest.map_or(Duration::ZERO, |at: Timestamp| self.store.now().since(at));
        Ok(batch)
    }

    /// Deployments of groups that may have grown: running ones and recent ones, and thoroughly all that were
    /// written.
    async fn deployments(
        &self,
        groups: &[Changed],
        found: &mut BTreeMap<Uuid, Stream>,
    ) -> Result<(), Error> {
        let quick: BTreeSet<Uuid> =
            groups.iter().filter(|it| !it.is_thorough).map(|it| it.group).collect();
        let recent = self.recent.iter().filter(|(_, group)| quick.contains(*group));
        let recent: Vec<Value> = recent.map(|(id, _)| Value::from(*id)).collect();
        let quick: Vec<Value> = quick.into_iter().map(Value::from).collect();
        for (column, ids) in [("running_group", quick), ("id", recent)] {
            for some in ids.chunks(STREAMS_AT_ONCE) {
                let condition = format!("{column} IN ({})", list(some.len()));
                self.grown(&condition, some.to_vec(), found).await?;
            }
        }
        let thorough: Vec<&Changed> = groups.iter().filter(|it| it.is_thorough).collect();
        if thorough.is_empty() {
            return Ok(());
        }
        let condition = vec!["(group_id = ? AND rev > ?)"; thorough.len()].join(" OR ");
        let values = thorough.iter().flat_map(|it| [it.group.into(), it.seen.into()]).collect();
        self.grown(&condition, values, found).await
    }

    async fn grown(
        &self,
        condition: &str,
        values: Vec<Value>,
        found: &mut BTreeMap<Uuid, Stream>,
    ) -> Result<(), Error> {
        let text = format!("SELECT id, group_id, seq FROM deployments WHERE {condition}");
        let what = "find logs that have grown";
        let reader = self.store.reader();
        let rows = reader.query_all_raw(sql(reader, &text, values)).await;
        for row in rows.map_err(Error::database(what))? {
            let one = || {
                Ok(Stream {
                    id: row.try_get("", "id")?,
                    group: row.try_get("", "group_id")?,
                    last: row.try_get("", "seq")?,
                })
            };
            let stream: Stream = one().map_err(Error::database(what))?;
            found.insert(stream.id, stream);
        }
        Ok(())
    }

    async fn sent_seqs(&self, streams: &[Stream]) -> Result<BTreeMap<Uuid, i64>, Error> {
        let what = "read how far a consumer has come";
        let reader = self.store.reader();
        let mut sent = BTreeMap::new();
        for some in streams.chunks(STREAMS_AT_ONCE) {
            let text = format!(
                "SELECT stream, sent_seq FROM message_cursors \
                 WHERE consumer = ? AND stream IN ({})",
                list(some.len())
            );
            let consumer = std::iter::once(self.consumer.as_str().into());
            let values = consumer.chain(some.iter().map(|stream| stream.id.into()));
            let rows = reader.query_all_raw(sql(reader, &text, values)).await;
            for row in rows.map_err(Error::database(what))? {
                let stream: Uuid = row.try_get("", "stream").map_err(Error::database(what))?;
                let seq: i64 = row.try_get("", "sent_seq").map_err(Error::database(what))?;
                sent.insert(stream, seq);
            }
        }
        Ok(sent)
    }

    async fn events(&self, stream: Uuid, after: i64, last: i64) -> Result<Vec<Event>, Error> {
        let what = "read events to send";
        let reader = self.store.reader();
        let text = "SELECT seq, body FROM events WHERE stream = ? AND seq > ? AND seq <= ? \
                    ORDER BY seq";
        let values = [stream.into(), after.into(), last.into()];
        let rows = reader.query_all_raw(sql(reader, text, values)).await;
        let rows = rows.map_err(Error::database(what))?;
        rows.iter()
            .map(|row| {
                let seq: i64 = row.try_get("", "seq").map_err(Error::database(what))?;
                let body: String = row.try_get("", "body").map_err(Error::database(what))?;
                Reader::new("events", &format!("{stream}/{seq}")).json("body", &body)
            })
            .collect()
    }

    /// Writes that the first events of each stream were sent, so many as `sent` says (in the order of the
    /// batch), and how. Returns whether this process still has the consumer; if not, nothing is written.
    ///
    /// # Errors
    /// When the database does not answer: then they are sent again.
    pub async fn sent(
        &mut self,
        batch: &Batch,
        sent: &[usize],
        tries: Vec<NewDelivery>,
    ) -> Result<bool, Error> {
        timed(Operation::FeedSent, async {
            let txn = self.store.begin().await?;
            let has_it = hold(&txn, &self.consumer, self.store.inner.member.id()).await?;
            if has_it {
                self.write(&txn, batch, sent).await?;
                deliveries::insert(&txn, tries, self.store.now()).await?;
                commit(txn).await?;
            }
            Ok(has_it)
        })
        .await
    }

    async fn write(
        &mut self,
        txn: &DatabaseTransaction,
        batch: &Batch,
        sent: &[usize],
    ) -> Result<(), Error> {
        let consumer = || Value::from(self.consumer.as_str());
        let mut cursors: Vec<Value> = Vec::new();
        let mut behind: BTreeSet<Uuid> = BTreeSet::new();
        for (events, sent) in batch.streams.iter().zip(sent) {
            if *sent < events.len() {
                behind.extend(events.first().map(|event| event.group.0));
            }
            if let Some(last) = sent.checked_sub(1).and_then(|place| events.get(place)) {
                cursors.extend([consumer(), stream_of(last).into(), last.seq.into()]);
            }
        }
        let mut seen: Vec<Value> = Vec::new();
        for (group, version) in batch.seen.iter().filter(|(group, _)| !behind.contains(group)) {
            seen.extend([consumer(), (*group).into(), (*version).into()]);
        }
        let backend = txn.get_database_backend();
        let steps = bulk::rows(backend, &CURSORS, Existing::Update, cursors);
        for step in steps.into_iter().chain(bulk::rows(backend, &SEEN, Existing::Update, seen)) {
            step.run(txn).await?;
        }
        // What was not sent is looked for again at once.
        for group in behind {
            self.thorough.remove(&group);
        }
        Ok(())
    }
}
