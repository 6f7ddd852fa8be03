//! What all clones of a store share.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use capstan_core::Timestamp;
use capstan_core::effect::EffectKind;
use sea_orm::{ConnectionTrait, DatabaseConnection, TransactionTrait};
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use crate::bulk::sql;
use crate::cache::Cache;
use crate::claims;
use crate::commit::{Committer, Request};
use crate::submit::Watches;
use crate::{Error, Settings, Store, connect, idempotency};

/// Inputs that wait for the committer; whoever comes then waits with its input.
const REQUESTS: usize = 4096;

/// The connections, the copies and the committer's mailbox.
#[derive(Debug)]
pub(crate) struct Inner {
    /// The one connection that writes.
    pub(crate) writer: DatabaseConnection,
    /// Connections that only read.
    pub(crate) reader: DatabaseConnection,
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

impl Store {
    /// Opens the database, brings its schema up to date, and takes over what other runs of this
    /// process left behind.
    pub async fn open(settings: &Settings) -> Result<Self, Error> {
        let (writer, reader) = connect::open(&settings.url).await?;
        let process: Arc<str> = Uuid::now_v7().to_string().into();
        claims::release_all_but(&writer, &process).await?;
        idempotency::forget_cut_off(&writer).await?;
        let inner = Arc::new(Inner {
            writer,
            reader,
            stale_after: settings.stale_after,
            cache: Cache::default(),
            watches: Watches::default(),
            process,
            freed: Arc::new(Notify::new()),
            latest: AtomicI64::new(0),
        });
        let (requests, received) = mpsc::channel::<Request>(REQUESTS);
        tokio::spawn(Committer::new(Arc::clone(&inner), received).run());
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

    /// Gives claimed effects back, as if they had not been claimed.
    pub(crate) async fn release(&self, effects: &[EffectKind]) -> Result<(), Error> {
        if effects.is_empty() {
            return Ok(());
        }
        let keys: Vec<(i16, Uuid)> =
            effects.iter().map(|kind| (kind.number(), kind.subject())).collect();
        let txn = self.writer.begin().await.map_err(Error::database("begin a transaction"))?;
        claims::release(&txn, &self.process, &keys).await?;
        txn.commit().await.map_err(Error::database("commit a transaction"))?;
        self.freed.notify_one();
        Ok(())
    }

    /// Makes a claimed effect one that nobody has begun.
    pub(crate) async fn free(&self, effect: EffectKind) -> Result<(), Error> {
        let text = "UPDATE effects SET owner = NULL, claims = 0 \
                    WHERE owner = ? AND kind = ? AND subject = ?";
        self.change_effect(text, effect).await
    }

    /// Deletes a claimed effect.
    pub(crate) async fn delete_effect(&self, effect: EffectKind) -> Result<(), Error> {
        self.change_effect(
            "DELETE FROM effects WHERE owner = ? AND kind = ? AND subject = ?",
            effect,
        )
        .await
    }

    async fn change_effect(&self, text: &str, effect: EffectKind) -> Result<(), Error> {
        let values = [(*self.process).into(), effect.number().into(), effect.subject().into()];
        self.writer
            .execute_raw(sql(&self.writer, text, values))
            .await
            .map_err(Error::database("change an effect"))?;
        self.freed.notify_one();
        Ok(())
    }
}
