//! The handle that everybody has: health, metrics, connections.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction};

use tokio::sync::oneshot;

use crate::commit::Request;
use crate::operation::{Operation, timed};
use crate::types::QueueMetrics;
use crate::{Error, Store, claims};
use capstan_core::Timestamp;

/// How long the committer may take until it answers that it goes round.
const PING_LIMIT: Duration = Duration::from_secs(5);

impl Store {
    /// Whether the database can be read and written, and inputs are taken.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn check(&self) -> Result<(), Error> {
        timed(Operation::Check, async {
            let read = "SELECT version FROM seaql_migrations LIMIT 1";
            self.reader().execute_unprepared(read).await.map_err(Error::database("be read"))?;
            // A write that changes nothing still takes the lock, writes a page and commits.
            let txn = self.begin().await?;
            let write = "UPDATE seaql_migrations SET applied_at = applied_at";
            txn.execute_unprepared(write).await.map_err(Error::database("be written"))?;
            commit(txn).await?;
            self.inner.last_write()?;
            self.ping().await
        })
        .await
    }

    /// How much is due that nobody has, for the metrics.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn metrics_snapshot(&self) -> Result<QueueMetrics, Error> {
        timed(Operation::MetricsSnapshot, claims::overdue(self.reader(), self.now())).await
    }

    async fn ping(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let ping = async {
            self.requests.send(Request::Ping(reply)).await.map_err(|_| Error::Stopping)?;
            answer.await.map_err(|_| Error::Stopping)
        };
        tokio::time::timeout(PING_LIMIT, ping).await.unwrap_or(Err(Error::Stuck))
    }

    /// Connections for reading. They see the last commit.
    pub(crate) fn reader(&self) -> &DatabaseConnection {
        &self.inner.reader
    }

    /// The one connection that writes.
    pub(crate) fn writer(&self) -> &DatabaseConnection {
        &self.inner.writer
    }

    /// Whether a cached record that was last known to be right then is called stale.
    pub(crate) fn is_stale(&self, synced_at: Timestamp) -> bool {
        self.now().since(synced_at) > self.inner.stale_after
    }

    pub(crate) async fn begin(&self) -> Result<DatabaseTransaction, Error> {
        self.inner.begin().await
    }
}

/// Makes a transaction durable. After an error it is not known whether it took place.
pub(crate) async fn commit(txn: DatabaseTransaction) -> Result<(), Error> {
    txn.commit().await.map_err(Error::database("commit a change"))
}
