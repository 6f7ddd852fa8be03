//! Transactions begin here.

use std::time::Duration;

use sea_orm::{
    DatabaseConnection, DatabaseTransaction, DbBackend, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};

use crate::Error;
use crate::operation::within;

/// How long a database server may take to let one begin.
const LIMIT: Duration = Duration::from_secs(10);

/// Begins one that writes; on a file with its lock at once.
pub(crate) async fn begin_on(conn: &DatabaseConnection) -> Result<DatabaseTransaction, Error> {
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    begin_whole(conn, options, "begin a change").await
}

/// Begins a transaction to its end, also when nobody waits for it any more: one that is given up half-way would leave
/// its connection in a transaction that the pool does not know of (sqlx 0.9), and whoever gets that connection next
/// would write into it what is never committed.
pub(crate) async fn begin_whole(
    conn: &DatabaseConnection,
    options: TransactionOptions,
    what: &'static str,
) -> Result<DatabaseTransaction, Error> {
    let is_file = conn.get_database_backend() == DbBackend::Sqlite;
    let conn = conn.clone();
    let begins =
        async move { conn.begin_with_options(options).await.map_err(Error::database(what)) };
    // A connection that hears nothing more is not waited for: what is given up here is found out as its connection is
    // given back. A file answers.
    let limit = if is_file { Duration::MAX } else { LIMIT };
    match tokio::spawn(within(limit, begins)).await {
        Ok(begun) => begun,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Stopping),
        },
    }
}
