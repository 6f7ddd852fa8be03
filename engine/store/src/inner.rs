//! What all clones of a store share.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use capstan_core::effect::Effect;
use capstan_core::outages::Outages;
use capstan_core::ports::{Clock, Queue};
use capstan_core::{GroupId, Timestamp};
use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend,
    IsolationLevel, TransactionOptions,
};
use tokio::sync::{RwLock, mpsc, watch};
use uuid::Uuid;

use crate::answering::Answering;
use crate::begin::{begin_on, begin_whole};
use crate::bulk::{quoted, sql};
use crate::cache::Cache;
use crate::claims::{self, Owed};
use crate::clock::WallClock;
use crate::commit::{Committer, Request};
use crate::connect::Opened;
use crate::listen::{self, Word};
use crate::operation::within;
use crate::processes::{self, Ended, Member};
use crate::queue::OwnQueue;
use crate::watches::{self, Watches};
use crate::{Error, Settings, Store, chain, connect, crash, idempotency};

/// Inputs that wait for the committer; whoever comes then waits with its input.
const REQUESTS: usize = 4096;
/// So long a failed write of the committer says that the database cannot be written.
const FAILURE_COUNTS: Duration = Duration::from_secs(30);
/// How long a database server may take for the statements of a round, and for its commit.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Wait before what is owed to a claimed effect is tried again.
const OWED_AGAIN: Duration = Duration::from_millis(500);

/// The connections, the copies and the committer's mailbox.
#[derive(Debug)]
pub(crate) struct Inner {
    /// The one connection that writes.
    pub(crate) writer: DatabaseConnection,
    /// Connections that only read.
    pub(crate) reader: DatabaseConnection,
    /// Connections for what is decided, and the copies that it is decided on.
    pub(crate) decider: DatabaseConnection,
    _lock: Option<File>,
    /// After this long without a refresh a group is called stale.
    pub(crate) stale_after: Duration,
    pub(crate) cache: Cache,
    pub(crate) watches: Watches,
    /// This process, as others know it.
    pub(crate) member: Member,
    /// Told when an effect became free.
    pub(crate) queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
    /// Whether this process has ever asked for work.
    has_claimed: AtomicBool,
    /// Held for reading while a round claims what is due, for writing while debts are paid. A payment whose
    /// answer is lost is made again: what it has freed must not have been claimed anew meanwhile.
    pub(crate) claiming: Arc<RwLock<()>>,
    /// What is owed to claimed effects, the oldest first; while there is any, somebody pays.
    debts: Mutex<Vec<(Effect, Owed)>>,
    /// Requests that this process is answering.
    pub(crate) answering: Answering,
    /// When and why the committer's last write failed; none: it did not.
    write_failed: Mutex<Option<(Instant, Arc<Error>)>>,
    /// Changes when somebody sets a hand switch of a dependency.
    pub(crate) switched: watch::Sender<u64>,
    /// Dependencies of kinds that only a newer release knows.
    pub(crate) foreign: Outages,
    /// Groups that this process refreshes from the CMDB just now.
    pub(crate) refreshing: Mutex<BTreeSet<GroupId>>,
    /// How other processes are told of due work, and how it is heard, if not by the queue; none: it is not.
    pub(crate) word: Option<Word>,
}

impl Store {
    /// Opens the database, brings its schema up to date, and takes over what other runs of this
    /// process left behind.
    pub async fn open(settings: &Settings) -> Result<Self, Error> {
        let queue = Arc::new(OwnQueue::default());
        let word = Word::over(&settings.url, Arc::clone(&queue));
        // Boxed: callers' futures would nest deeper than the compiler likes.
        Box::pin(Self::open_by_the_clock(settings, queue, word)).await
    }

    /// The same with another way to tell engines of free effects.
    ///
    /// # Errors
    /// As above.
    pub async fn open_on(settings: &Settings, queue: Arc<dyn Queue>) -> Result<Self, Error> {
        Box::pin(Self::open_by_the_clock(settings, queue, None)).await
    }

    async fn open_by_the_clock(
        settings: &Settings,
        queue: Arc<dyn Queue>,
        word: Option<Word>,
    ) -> Result<Self, Error> {
        let wall = Arc::new(WallClock::default());
        let clock = Arc::clone(&wall) as Arc<dyn Clock>;
        let (store, beats) = Self::open_as(settings, clock, Some(&wall), queue, word).await?;
        if let Some(beats) = beats {
            processes::join(&store.inner, beats, Some(wall)).await?;
        }
        Ok(store)
    }

    /// The same with another clock, and another way to tell engines of free effects.
    pub async fn open_with(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        queue: Arc<dyn Queue>,
    ) -> Result<Self, Error> {
        let (store, beats) = Self::open_as(settings, clock, None, queue, None).await?;
        if let Some(beats) = beats {
            processes::join(&store.inner, beats, None).await?;
        }
        Ok(store)
    }

    async fn open_as(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        wall: Option<&WallClock>,
        queue: Arc<dyn Queue>,
        word: Option<Word>,
    ) -> Result<(Self, Option<DatabaseConnection>), Error> {
        let Opened { writer, reader, decider, migrated, beats, lock } =
            connect::open(&settings.url).await?;
        // Before anybody asks: a clock that has once told an instant never tells an earlier one.
        if let (Some(conn), Some(wall)) = (&beats, wall) {
            processes::tell_time(conn, wall).await?;
        }
        if !migrated.is_empty() {
            tracing::info!(migrations = migrated.join(", "), "brought the schema up to date");
        }
        let id = Uuid::now_v7().to_string();
        let member = if beats.is_some() {
            Member::among_others(id, settings.lease)
        } else {
            claims::release_all_but(&writer, &id).await?;
            idempotency::forget_cut_off(&writer, Ended::AllBut(&id)).await?;
            Member::alone(id)
        };
        if let Some(latest) = claims::latest_instant(&reader).await? {
            clock.not_before(latest);
        }
        let inner = Arc::new(Inner {
            writer,
            reader,
            decider,
            _lock: lock,
            stale_after: settings.stale_after,
            cache: Cache::default(),
            watches: Watches::default(),
            member,
            queue,
            clock,
            has_claimed: AtomicBool::new(false),
            claiming: Arc::default(),
            debts: Mutex::default(),
            answering: Answering::default(),
            write_failed: Mutex::default(),
            switched: watch::Sender::new(0),
            foreign: Outages::default(),
            refreshing: Mutex::default(),
            word,
        });
        let (requests, received) = mpsc::channel::<Request>(REQUESTS);
        let committer = tokio::spawn(Committer::new(Arc::clone(&inner), received).run());
        tokio::spawn(async move {
            if let Err(error) = committer.await
                && error.is_panic()
            {
                // Copies may hold what was never written; the next start reads the truth.
                tracing::error!("the committer panicked: the process ends, the next start goes on");
                std::process::abort();
            }
        });
        watches::follow(&inner);
        listen::tell(&inner);
        Ok((Self { inner, requests }, beats))
    }

    /// The instant now, by the clock that due times are compared with.
    pub fn now(&self) -> Timestamp {
        self.inner.now()
    }
}

impl Inner {
    /// Whether this process has ever asked for work: then some of it may be its own.
    pub(crate) fn has_claimed(&self) -> bool {
        self.has_claimed.load(Ordering::Relaxed)
    }

    /// From now on this process has work, and wants to hear of it.
    pub(crate) fn will_claim(self: &Arc<Self>) {
        self.has_claimed.store(true, Ordering::Relaxed);
        listen::listen(self);
    }

    /// A transaction that sees one state of the database, whatever others commit meanwhile, for a copy.
    pub(crate) async fn snapshot(&self) -> Result<DatabaseTransaction, Error> {
        self.snapshot_on(&self.decider).await
    }

    /// The same for an answer.
    pub(crate) async fn snapshot_to_show(&self) -> Result<DatabaseTransaction, Error> {
        self.snapshot_on(&self.reader).await
    }

    async fn snapshot_on(&self, conn: &DatabaseConnection) -> Result<DatabaseTransaction, Error> {
        let (conn, options) = if self.member.has_others() {
            let options = TransactionOptions {
                isolation_level: Some(IsolationLevel::RepeatableRead),
                access_mode: Some(AccessMode::ReadOnly),
                ..TransactionOptions::default()
            };
            (conn, options)
        } else {
            (&self.reader, TransactionOptions::default())
        };
        begin_whole(conn, options, "begin to read").await
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn note_write(&self, failed: Option<&Arc<Error>>) {
        let mut last = self.write_failed.lock().unwrap_or_else(PoisonError::into_inner);
        *last = failed.map(|error| (Instant::now(), Arc::clone(error)));
    }

    /// Why the committer's last write failed, if that was just now. A small write may fit onto a full
    /// disk where a committer's does not.
    pub(crate) fn last_write(&self) -> Result<(), Error> {
        let last = self.write_failed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((at, error)) if at.elapsed() < FAILURE_COUNTS => {
                Err(Error::Shared(Arc::clone(error)))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Which dialect the database speaks.
    pub(crate) fn backend(&self) -> DbBackend {
        self.writer.get_database_backend()
    }

    /// Begins a transaction that writes. The lock is taken at once: one that reads first and then
    /// finds that another process has written meanwhile could only give up.
    pub(crate) async fn begin(&self) -> Result<DatabaseTransaction, Error> {
        begin_on(&self.writer).await
    }

    /// The same for a round of the committer.
    pub(crate) async fn begin_round(&self) -> Result<DatabaseTransaction, Error> {
        begin_on(&self.decider).await
    }

    /// The same with the group's row: whoever would write the group waits, for as long as for any lock.
    pub(crate) async fn begin_in_group(&self, id: GroupId) -> Result<DatabaseTransaction, Error> {
        within(self.write_limit(), async {
            let txn = self.begin_round().await?;
            if self.member.has_others() {
                let groups = quoted(self.backend(), "groups");
                let text = format!("SELECT version FROM {groups} WHERE id = ? FOR UPDATE");
                txn.query_one_raw(sql(&txn, &text, [id.0.into()]))
                    .await
                    .map_err(Error::database("wait for a group's row"))?;
            }
            Ok(txn)
        })
        .await
    }

    /// How long the committer waits for the database to write, and again to commit. What is on a file
    /// belongs to this process, and an operating system that takes long is not asked twice.
    pub(crate) fn write_limit(&self) -> Duration {
        if self.member.has_others() { WRITE_LIMIT } else { Duration::MAX }
    }

    /// The same for what looks first and then writes: one at a time in all processes, as on a file. For
    /// what happens rarely.
    pub(crate) async fn begin_in_turn(&self) -> Result<DatabaseTransaction, Error> {
        let txn = self.begin().await?;
        if self.member.has_others() {
            // Any row that is always there would do.
            let turn = "SELECT version FROM seaql_migrations ORDER BY version LIMIT 1 FOR UPDATE";
            txn.execute_unprepared(turn).await.map_err(Error::database("wait for a turn"))?;
        }
        Ok(txn)
    }

    /// Notes what must become of a claimed effect. It is done as soon as the database can, however
    /// often it must be tried: an effect that is forgotten here would never be done.
    pub(crate) fn owe(self: &Arc<Self>, effect: Effect, owed: Owed) {
        let mut debts = self.debts.lock().unwrap_or_else(PoisonError::into_inner);
        debts.push((effect, owed));
        // Whoever pays already finds it: after a restart there are thousands.
        if debts.len() > 1 {
            return;
        }
        // Without a runtime the process ends, and the next start takes everything over.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(Arc::clone(self).pay_debts());
    }

    /// Pays until nothing is owed. What is being paid stays in the list, so that nobody else begins.
    async fn pay_debts(self: Arc<Self>) {
        loop {
            let due = self.debts.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for owed in [Owed::Release, Owed::Free, Owed::Delete] {
                let of_kind = due.iter().filter(|(_, it)| *it == owed).map(|(effect, _)| *effect);
                let effects: Vec<Effect> = of_kind.collect();
                if effects.is_empty() {
                    continue;
                }
                let _nobody_claims = self.claiming.write().await;
                while let Err(error) = self.pay(&effects, owed).await {
                    tracing::warn!(error = %chain(&error), "claimed work could not be given back yet");
                    tokio::time::sleep(OWED_AGAIN).await;
                }
            }
            let mut debts = self.debts.lock().unwrap_or_else(PoisonError::into_inner);
            debts.drain(..due.len());
            if debts.is_empty() {
                return;
            }
        }
    }

    /// Does what is owed to claimed effects.
    pub(crate) async fn pay(&self, effects: &[Effect], owed: Owed) -> Result<(), Error> {
        if effects.is_empty() {
            return Ok(());
        }
        within(self.write_limit(), async {
            let txn = self.begin().await?;
            claims::pay(&txn, self.member.id(), effects, owed).await?;
            crash::point("claims.written");
            txn.commit().await.map_err(Error::database("commit a transaction"))
        })
        .await?;
        crash::point("claims.done");
        self.queue.wake();
        if owed != Owed::Delete {
            let groups: BTreeSet<GroupId> = effects.iter().map(|effect| effect.group).collect();
            let one = groups.first().filter(|_| groups.len() == 1);
            self.nudge(one.copied(), self.now());
        }
        Ok(())
    }

    /// Tells other processes of effects that are theirs to take, if there can be others.
    pub(crate) fn nudge(&self, group: Option<GroupId>, at: Timestamp) {
        if self.member.has_others() {
            self.queue.nudge(group, at);
        }
    }
}
