//! What all clones of a store share.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use capstan_core::Timestamp;
use capstan_core::effect::EffectKind;
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, TransactionTrait};
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use crate::bulk::sql;
use crate::cache::Cache;
use crate::claims;
use crate::commit::{Committer, Request};
use crate::connect::Opened;
use crate::submit::Watches;
use crate::{Error, Settings, Store, chain, connect, idempotency};

/// Inputs that wait for the committer; whoever comes then waits with its input.
const REQUESTS: usize = 4096;
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
    pub(crate) freed: Arc<Notify>,
    /// The latest instant that was given out: the clock never runs backwards within a process.
    latest: AtomicI64,
}

/// What must become of a claimed effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owed {
    /// It is given back, as if it had not been claimed.
    Release,
    /// It becomes one that nobody has begun.
    Free,
    /// It is deleted.
    Delete,
}

impl Store {
    /// Opens the database, brings its schema up to date, and takes over what other runs of this
    /// process left behind.
    pub async fn open(settings: &Settings) -> Result<Self, Error> {
        let Opened { writer, reader, lock } = connect::open(&settings.url).await?;
        let process: Arc<str> = Uuid::now_v7().to_string().into();
        claims::release_all_but(&writer, &process).await?;
        idempotency::forget_cut_off(&writer).await?;
        let inner = Arc::new(Inner {
            writer,
            reader,
            _lock: lock,
            stale_after: settings.stale_after,
            cache: Cache::default(),
            watches: Watches::default(),
            process,
            freed: Arc::new(Notify::new()),
            latest: AtomicI64::new(0),
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
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        let latest = self.latest.fetch_max(now, Ordering::Relaxed);
        Timestamp::from_micros(latest.max(now))
    }

    /// Notes what must become of a claimed effect. It is done as soon as the database can, however
    /// often it must be tried: an effect that is forgotten here would never be done.
    pub(crate) fn owe(self: &Arc<Self>, effect: EffectKind, owed: Owed) {
        let inner = Arc::clone(self);
        // Without a runtime the process ends, and the next start takes everything over.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            while let Err(error) = inner.pay(&[effect], owed).await {
                tracing::warn!(error = %chain(&error), "claimed work could not be given back yet");
                tokio::time::sleep(OWED_AGAIN).await;
            }
        });
    }

    /// Does what is owed to claimed effects.
    pub(crate) async fn pay(&self, effects: &[EffectKind], owed: Owed) -> Result<(), Error> {
        if effects.is_empty() {
            return Ok(());
        }
        let txn = self.writer.begin().await.map_err(Error::database("begin a transaction"))?;
        match owed {
            Owed::Release => {
                let keys: Vec<(i16, Uuid)> =
                    effects.iter().map(|kind| (kind.number(), kind.subject())).collect();
                claims::release(&txn, &self.process, &keys).await?;
            }
            Owed::Free | Owed::Delete => {
                for effect in effects {
                    self.change_effect(&txn, owed, *effect).await?;
                }
            }
        }
        txn.commit().await.map_err(Error::database("commit a transaction"))?;
        self.freed.notify_one();
        Ok(())
    }

    async fn change_effect(
        &self,
        txn: &DatabaseTransaction,
        owed: Owed,
        effect: EffectKind,
    ) -> Result<(), Error> {
        let text = if owed == Owed::Delete {
            "DELETE FROM effects WHERE owner = ? AND kind = ? AND subject = ?"
        } else {
            "UPDATE effects SET owner = NULL, claims = 0 \
             WHERE owner = ? AND kind = ? AND subject = ?"
        };
        let values = [(*self.process).into(), effect.number().into(), effect.subject().into()];
        txn.execute_raw(sql(txn, text, values))
            .await
            .map_err(Error::database("change an effect"))?;
        Ok(())
    }
}
