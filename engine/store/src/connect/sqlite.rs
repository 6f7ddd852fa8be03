//! A database file: the one writer and the readers.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::sqlx::{self, Connection, SqliteConnection};
use sea_orm::{ConnectOptions, Database};

use super::{ACQUIRE_TIMEOUT, Opened, bring_up_to_date};
use crate::Error;

/// How long a statement waits for another process that writes to the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const READERS: u32 = 4;
/// Pages in the log after which they are brought into the file: 16 MiB. A rollout writes the same
/// pages again and again, and each is brought over once, however often it was written meanwhile.
const WAL_PAGES: &str = "4096";
/// The writer's page cache in KiB (negative, as SQLite wants it): what a rollout of ten thousand
/// servers changes fits.
const CACHE_KIB: &str = "-8192";

/// Opens the file of `url`, makes it if there is none, and brings its schema up to date.
///
/// SQLite has one writer at a time, so there is one connection that writes: callers wait for it in
/// order, in the pool, instead of running into each other's locks. Readers see the last commit and
/// wait for nobody (WAL).
pub(super) async fn open(url: &str) -> Result<Opened, Error> {
    let path = path_of(url)?;
    create(&path)?;
    let lock = lock(&path)?;
    let failed = |source| Error::Open { path: path.clone(), source };
    let writer = Database::connect(options(&path, 1, false)).await.map_err(failed)?;
    let migrated = bring_up_to_date(&writer, &path.display().to_string()).await?;
    let reader = Database::connect(options(&path, READERS, true)).await.map_err(failed)?;
    let decider = writer.clone();
    Ok(Opened { writer, reader, decider, migrated, beats: None, lock: Some(lock) })
}

/// One process per file: a claim lasts as long as its process, so a second process would take over
/// what the first is doing. The kernel lets go of the lock when the process ends, however it does.
fn lock(path: &Path) -> Result<File, Error> {
    let path = path.with_extension("lock");
    let failed = |source| Error::Create { path: path.clone(), source };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.clone() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn path_of(url: &str) -> Result<PathBuf, Error> {
    let path = PathBuf::from(url.strip_prefix("sqlite://").unwrap_or(url));
    if path.is_absolute() { Ok(path) } else { Err(Error::url("has no absolute path")) }
}

/// Makes the folder and the file, readable by Capstan's user only. SQLite gives the files that it
/// puts beside the database the same mode.
fn create(path: &Path) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| Error::Create { path: folder.to_owned(), source })?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(Error::Create { path: path.to_owned(), source }),
    }
}

fn options(path: &Path, connections: u32, read_only: bool) -> ConnectOptions {
    let path = path.to_owned();
    let mut options = ConnectOptions::new("sqlite://capstan.db");
    options
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // The file does not go away: pings and fresh connections would only cost time.
        .test_before_acquire(false)
        .max_lifetime(None::<Duration>)
        .idle_timeout(None::<Duration>)
        .sqlx_logging(false)
        .record_stmt_in_spans(false)
        .map_sqlx_sqlite_pool_opts(|options| {
            options.before_acquire(|connection, _| Box::pin(is_clean(connection)))
        })
        .map_sqlx_sqlite_opts(move |_| {
            let options = SqliteConnectOptions::new()
                .filename(&path)
                .create_if_missing(false)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .foreign_keys(true)
                .busy_timeout(BUSY_TIMEOUT)
                .statement_cache_capacity(256);
            let options = sea_orm::sqlx::ConnectOptions::disable_statement_logging(options);
            if read_only {
                options.pragma("query_only", "ON")
            } else {
                options.pragma("wal_autocheckpoint", WAL_PAGES).pragma("cache_size", CACHE_KIB)
            }
        });
    options
}

/// Whether a connection may be used again.
///
/// SQLite ends a transaction by itself when the disk is full or cannot be read. The driver's own
/// ROLLBACK then fails, and it goes on counting a transaction that is not there: what begins next is
/// a savepoint to it, which a "commit" does not make durable. Such a connection is closed.
async fn is_clean(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    if !connection.is_in_transaction() {
        return Ok(true);
    }
    // A ROLLBACK that was asked for may still be on its way to the connection's thread.
    connection.ping().await?;
    let is_clean = !connection.is_in_transaction();
    if !is_clean {
        tracing::warn!("a transaction was ended by the database; its connection is closed");
    }
    Ok(is_clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_an_absolute_path_to_a_sqlite_file() {
        assert_eq!(
            path_of("sqlite:///var/lib/capstan/capstan.db").expect("a good URL"),
            PathBuf::from("/var/lib/capstan/capstan.db")
        );
        let error = path_of("sqlite://capstan.db").expect_err("no such URL").to_string();
        assert!(error.contains("sqlite:///absolute/path"), "{error}");
    }
}
