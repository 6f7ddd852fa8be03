//! Which processes work on a database that many share, and how long each may act.
//!
//! A process has a row in `processes` and raises its `beats` six times in a lease. Whoever sees a row stand
//! still for a whole lease, on a clock of its own, deletes it and frees what its process had claimed.
//! No two clocks are compared, so it does not matter when one is wrong.
//!
//! The process itself acts only as long as its last beat is younger than that: a process that was frozen,
//! or that cannot reach the database, stops before others go on with its work. If it finds its row
//! gone it ends, since what it holds in memory is somebody else's by then; a new one starts fresh.
//!
//! While a process cannot reach the database it says nothing about others: when the database was away,
//! all rows stood still. A file has one process, which may always act.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, QueryResult};

use crate::begin::begin_on;
use crate::bulk::sql;
use crate::clock::WallClock;
use crate::inner::Inner;
use crate::{Error, chain, claims, idempotency, listen};

/// Beats in a lease.
const BEATS: u32 = 6;
/// How a process ends whose work was taken over: start it again.
const TAKEN_OVER: i32 = 75;

/// Which processes have ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended<'a> {
    /// This one.
    One(&'a str),
    /// All but this one.
    AllBut(&'a str),
}

/// This run of this process, as others know it.
#[derive(Debug)]
pub(crate) struct Member {
    id: String,
    lease: Lease,
    has_left: AtomicBool,
}

/// Until when the process may act.
#[derive(Debug)]
enum Lease {
    /// As long as it lives.
    Whole,
    /// For a while after each beat.
    Beats {
        length: Duration,
        /// On the clock of [`since_boot`].
        until: Mutex<Duration>,
    },
}

/// Time since the machine started; unlike [`Instant`], it goes on while the machine sleeps.
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

impl Member {
    /// The only process of its database.
    pub(crate) const fn alone(id: String) -> Self {
        Self { id, lease: Lease::Whole, has_left: AtomicBool::new(false) }
    }

    /// One of many.
    pub(crate) const fn among_others(id: String, length: Duration) -> Self {
        let until = Mutex::new(Duration::ZERO);
        Self { id, lease: Lease::Beats { length, until }, has_left: AtomicBool::new(false) }
    }

    /// Names this run; claims are made under it.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Whether others change the database, too.
    pub(crate) const fn has_others(&self) -> bool {
        matches!(self.lease, Lease::Beats { .. })
    }

    /// Whether nobody can have taken its work over yet.
    pub(crate) fn may_act(&self) -> bool {
        match &self.lease {
            Lease::Whole => true,
            Lease::Beats { .. } if self.has_left() => false,
            Lease::Beats { until, .. } => {
                since_boot() < *until.lock().unwrap_or_else(PoisonError::into_inner)
            }
        }
    }

    /// It leaves: from here on others do what it has not done.
    fn acts_no_more(&self) {
        self.has_left.store(true, Ordering::Relaxed);
    }

    fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Relaxed)
    }

    /// A beat was written that was sent at `sent`. The last sixth of the lease is left for an act that is
    /// on its way.
    fn has_beaten(&self, sent: Duration) {
        if let Lease::Beats { length, until } = &self.lease {
            let mut until = until.lock().unwrap_or_else(PoisonError::into_inner);
            *until = sent + *length * (BEATS - 1) / BEATS;
        }
    }
}

#[cfg(test)]
impl Member {
    pub(crate) fn has_beaten_now(&self) {
        self.has_beaten(since_boot());
    }
}

/// Makes this process known, and keeps it so until the store is gone.
pub(crate) async fn join(
    inner: &Arc<Inner>,
    conn: DatabaseConnection,
    clock: Option<Arc<WallClock>>,
) -> Result<(), Error> {
    let Lease::Beats { length, .. } = inner.member.lease else { return Ok(()) };
    let mut pulse = Pulse {
        conn,
        clock,
        length,
        seen: BTreeMap::new(),
        looks_since: None,
        swept_at: Instant::now(),
    };
    pulse.enter(inner).await?;
    pulse.beat(inner).await?;
    let weak = Arc::downgrade(inner);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(length / BEATS);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // The process goes; if it does not say so, others see it by its beats.
            let Some(inner) = weak.upgrade() else { return };
            if let Err(error) = pulse.tick(&inner).await {
                tracing::warn!(error = %chain(&error), "the database does not hear this process");
                pulse.looks_since = None;
            }
        }
    });
    Ok(())
}

/// Fails if others have taken over from this process: what it would write was decided on what it had
/// before. On PostgreSQL nobody takes over until the transaction has ended; elsewhere that would keep the
/// process from its own row.
pub(crate) async fn assert_known(txn: &impl ConnectionTrait, member: &Member) -> Result<(), Error> {
    if !member.has_others() {
        return Ok(());
    }
    let is_postgres = txn.get_database_backend() == DbBackend::Postgres;
    let lock = if is_postgres { " FOR KEY SHARE" } else { "" };
    let text = format!("SELECT id FROM processes WHERE id = ?{lock}");
    let row = txn.query_one_raw(sql(txn, &text, [member.id().into()])).await;
    let row = row.map_err(Error::database("find this process"))?;
    if row.is_some() { Ok(()) } else { Err(Error::Silent) }
}

/// Waits until no other process is known: those that a backup remembers are silent, and are taken out after
/// a lease. One that lives or comes meanwhile is an error.
pub(crate) async fn wait_until_alone(inner: &Inner) -> Result<(), Error> {
    let Lease::Beats { length, .. } = inner.member.lease else { return Ok(()) };
    let first = others(&inner.reader, inner.member.id()).await?;
    loop {
        let others = others(&inner.reader, inner.member.id()).await?;
        if others.is_empty() {
            return Ok(());
        }
        if others.iter().any(|(id, beats)| first.get(id) != Some(beats)) {
            return Err(Error::HasOthers);
        }
        tokio::time::sleep(length / BEATS).await;
    }
}

/// The other processes and their beats.
async fn others(conn: &DatabaseConnection, me: &str) -> Result<BTreeMap<String, i64>, Error> {
    let what = "read the processes";
    let text = "SELECT id, beats FROM processes WHERE id <> ?";
    let rows = conn.query_all_raw(sql(conn, text, [me.into()])).await;
    let rows = rows.map_err(Error::database(what))?;
    let read = |row: &QueryResult| Ok((row.try_get("", "id")?, row.try_get("", "beats")?));
    rows.iter().map(read).collect::<Result<_, DbErr>>().map_err(Error::database(what))
}

/// Takes this process out, and frees what it had claimed, so that others go on at once.
pub(crate) async fn leave(inner: &Inner) -> Result<(), Error> {
    if !inner.member.has_others() {
        return Ok(());
    }
    inner.member.acts_no_more();
    let txn = inner.begin().await?;
    let id = inner.member.id();
    let text = "DELETE FROM processes WHERE id = ?";
    txn.execute_raw(sql(&txn, text, [id.into()]))
        .await
        .map_err(Error::database("remove a process"))?;
    take_over(&txn, id).await?;
    txn.commit().await.map_err(Error::database("commit a transaction"))?;
    inner.nudge(None, inner.now());
    listen::tell_at_last(inner).await;
    Ok(())
}

/// Tells the clock what time it is for the database.
pub(crate) async fn tell_time(conn: &DatabaseConnection, clock: &WallClock) -> Result<(), Error> {
    let text = match conn.get_database_backend() {
        DbBackend::MySql => "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED) AS now",
        DbBackend::Postgres | DbBackend::Sqlite | _ => {
            "SELECT CAST(EXTRACT(EPOCH FROM CLOCK_TIMESTAMP()) * 1000000 AS BIGINT) AS now"
        }
    };
    let what = "tell the time";
    let row = conn.query_one_raw(sql(conn, text, [])).await;
    let row = row.map_err(Error::database(what))?;
    let now: Option<i64> =
        row.map(|row| row.try_get("", "now")).transpose().map_err(Error::database(what))?;
    if let Some(now) = now {
        clock.tell(now, Instant::now());
    }
    Ok(())
}

/// The beats of this process, and what it sees of others'.
struct Pulse {
    /// Connections of its own: requests that wait for one must not make the process look dead.
    conn: DatabaseConnection,
    clock: Option<Arc<WallClock>>,
    length: Duration,
    /// Beats of others, and since when they stand there.
    seen: BTreeMap<String, (i64, Instant)>,
    /// Since when this process has looked without a gap.
    looks_since: Option<Instant>,
    swept_at: Instant,
}

impl Pulse {
    async fn tick(&mut self, inner: &Arc<Inner>) -> Result<(), Error> {
        let slow = |_| Error::Stuck;
        tokio::time::timeout(self.length / 2, self.beat(inner)).await.map_err(slow)??;
        // Whoever is taken over from may still hold its rows: the next beat must not wait for that.
        tokio::time::timeout(self.length / 3, self.look(inner)).await.map_err(slow)?
    }

    async fn enter(&self, inner: &Inner) -> Result<(), Error> {
        let text = "INSERT INTO processes (id, beats, started_at) VALUES (?, 0, ?)";
        let values = [inner.member.id().into(), inner.now().as_micros().into()];
        self.conn
            .execute_raw(sql(&self.conn, text, values))
            .await
            .map(drop)
            .map_err(Error::database("enter a process"))
    }

    async fn read_clock(&self) -> Result<(), Error> {
        match &self.clock {
            Some(clock) => tell_time(&self.conn, clock).await,
            None => Ok(()),
        }
    }

    async fn beat(&mut self, inner: &Arc<Inner>) -> Result<(), Error> {
        let sent = since_boot();
        let text = "UPDATE processes SET beats = beats + 1 WHERE id = ?";
        let statement = sql(&self.conn, text, [inner.member.id().into()]);
        let done =
            self.conn.execute_raw(statement).await.map_err(Error::database("write a beat"))?;
        if done.rows_affected() > 0 {
            inner.member.has_beaten(sent);
            return self.read_clock().await;
        }
        if inner.member.has_left() {
            return Ok(());
        }
        if inner.has_claimed() {
            tracing::error!(
                "this process was silent for longer than its lease, and others took its work over: it \
                 ends; start it again"
            );
            std::process::exit(TAKEN_OVER);
        }
        tracing::warn!("this process was silent for longer than its lease; it had no work to lose");
        self.seen.clear();
        self.enter(inner).await
    }

    /// Takes over from processes that have stood still for a lease.
    async fn look(&mut self, inner: &Arc<Inner>) -> Result<(), Error> {
        let others = others(&self.conn, inner.member.id()).await?;
        let now = Instant::now();
        let mut seen = BTreeMap::new();
        for (id, beats) in others {
            let since = match self.seen.get(&id) {
                Some((known, since)) if *known == beats => *since,
                _ => now,
            };
            seen.insert(id, (beats, since));
        }
        self.seen = seen;
        let looks_since = *self.looks_since.get_or_insert(now);
        let silent: Vec<(String, i64)> = self
            .seen
            .iter()
            .filter(|(_, (_, since))| now.duration_since((*since).max(looks_since)) >= self.length)
            .map(|(id, (beats, _))| (id.clone(), *beats))
            .collect();
        for (id, beats) in silent {
            self.bury(inner, &id, beats).await?;
        }
        if now.duration_since(self.swept_at) >= self.length {
            self.swept_at = now;
            let swept = claims::release_orphans(&self.conn).await?;
            if swept > 0 {
                tracing::warn!(swept, "freed work of processes that are gone");
                inner.queue.wake();
                inner.nudge(None, inner.now());
            }
        }
        Ok(())
    }

    /// Takes over from a process, unless it has stirred or somebody else is faster.
    async fn bury(&self, inner: &Inner, id: &str, beats: i64) -> Result<(), Error> {
        let txn = begin_on(&self.conn).await?;
        let text = "DELETE FROM processes WHERE id = ? AND beats = ?";
        let done = txn
            .execute_raw(sql(&txn, text, [id.into(), beats.into()]))
            .await
            .map_err(Error::database("remove a process"))?;
        if done.rows_affected() == 0 {
            return Ok(());
        }
        let freed = take_over(&txn, id).await?;
        txn.commit().await.map_err(Error::database("commit a transaction"))?;
        metrics::counter!("capstan_processes_taken_over_total").increment(1);
        tracing::warn!(process = id, freed, lease = ?self.length, "took over from a silent process");
        inner.queue.wake();
        inner.nudge(None, inner.now());
        Ok(())
    }
}

/// Frees what a process had claimed, and forgets the requests that it was answering.
async fn take_over(txn: &impl ConnectionTrait, id: &str) -> Result<u64, Error> {
    idempotency::forget_cut_off(txn, Ended::One(id)).await?;
    claims::release_owner(txn, id).await
}
