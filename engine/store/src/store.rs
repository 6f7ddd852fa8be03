//! The handle that everybody has: health, metrics, connections.

use std::time::Duration;

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, SqliteTransactionMode,
    TransactionOptions, TransactionTrait,
};

use crate::operation::{Operation, timed};
use crate::types::QueueMetrics;
use crate::{Error, Store, claims};

impl Store {
    /// Whether the database can be read and written.
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
            commit(txn).await
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

    /// Connections for reading. They see the last commit.
    pub(crate) fn reader(&self) -> &DatabaseConnection {
        &self.inner.reader
    }

    /// The one connection that writes.
    pub(crate) fn writer(&self) -> &DatabaseConnection {
        &self.inner.writer
    }

    pub(crate) fn stale_after(&self) -> Duration {
        self.inner.stale_after
    }

    /// Begins a transaction that writes. The lock is taken at once: one that reads first and then
    /// finds that another process has written meanwhile could only give up.
    pub(crate) async fn begin(&self) -> Result<DatabaseTransaction, Error> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        self.writer().begin_with_options(options).await.map_err(Error::database("begin a change"))
    }
}

/// Makes a transaction durable. After an error it is not known whether it took place.
pub(crate) async fn commit(txn: DatabaseTransaction) -> Result<(), Error> {
    txn.commit().await.map_err(Error::database("commit a change"))
}
