//! What all clones of a store share.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use capstan_core::Timestamp;
use capstan_core::effect::Effect;
use capstan_core::ports::{Clock, Queue};
use sea_orm::{
    DatabaseConnection, DatabaseTransaction, DbBackend, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::cache::Cache;
use crate::claims::{self, Owed};
use crate::clock::WallClock;
use crate::commit::{Committer, Request};
use crate::connect::Opened;
use crate::queue::OwnQueue;
use crate::submit::Watches;
use crate::{Error, Settings, Store, chain, connect, crash, idempotency};

/// Inputs that wait for the committer; whoever comes then waits with its input.
const REQUESTS: usize = 4096;
/// So long a failed write of the committer says that the database cannot be written.
const FAILURE_COUNTS: Duration = Duration::from_secs(30);
/// Wait before what is owed to a claimed effect is tried again.
const OWED_AGAIN: Duration = Duration::from_millis(500);

/// The connections, the copies and the committer's mailbox.
#[derive(Debug)]
pub(crate) struct Inner {
    /// The one connection that writes.
    pub(crate) writer: DatabaseConnection,
    /// Connections that only read.
    pub(crate) reader: DatabaseConnection,
    _lock: File,
    /// After this long without a refresh a group is called stale.
    pub(crate) stale_after: Duration,
    pub(crate) cache: Cache,
    pub(crate) watches: Watches,
    /// Names this run of this process: claims are made under it.
    pub(crate) process: Arc<str>,
    /// Told when an effect became free.
    pub(crate) queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
    /// What is owed to claimed effects, the oldest first; while there is any, somebody pays.
    debts: Mutex<Vec<(Effect, Owed)>>,
    /// When and why the committer's last write failed; none: it did not.
    write_failed: Mutex<Option<(Instant, Arc<Error>)>>,
    /// Changes when somebody sets a hand switch of a dependency.
    pub(crate) switched: watch::Sender<u64>,
}

impl Store {
    /// Opens the database, brings its schema up to date, and takes over what other runs of this
    /// process left behind.
    pub async fn open(settings: &Settings) -> Result<Self, Error> {
        let queue = Arc::new(OwnQueue::default());
        Self::open_with(settings, Arc::new(WallClock::default()), queue).await
    }

    /// The same with another clock, and another way to tell engines of free effects.
    pub async fn open_with(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        queue: Arc<dyn Queue>,
    ) -> Result<Self, Error> {
        let Opened { writer, reader, lock } = connect::open(&settings.url).await?;
        let process: Arc<str> = Uuid::now_v7().to_string().into();
        claims::release_all_but(&writer, &process).await?;
        idempotency::forget_cut_off(&writer).await?;
        if let Some(latest) = claims::latest_instant(&reader).await? {
            clock.not_before(latest);
        }
        let inner = Arc::new(Inner {
            writer,
            reader,
            _lock: lock,
            stale_after: settings.stale_after,
            cache: Cache::default(),
            watches: Watches::default(),
            process,
            queue,
            clock,
            debts: Mutex::default(),
            write_failed: Mutex::default(),
            switched: watch::Sender::new(0),
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
        Ok(Self { inner, requests })
    }

    /// The instant now, by the clock that due times are compared with.
    pub fn now(&self) -> Timestamp {
        self.inner.now()
    }
}

impl Inner {
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
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        self.writer.begin_with_options(options).await.map_err(Error::database("begin a change"))
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
                // What is paid is never paid again: it may have been claimed anew meanwhile.
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
        let txn = self.begin().await?;
        claims::pay(&txn, &self.process, effects, owed).await?;
        crash::point("claims.written");
        txn.commit().await.map_err(Error::database("commit a transaction"))?;
        crash::point("claims.done");
        self.queue.wake();
        Ok(())
    }
}
