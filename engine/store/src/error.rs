//! What can go wrong in the store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use capstan_core::input::Refused;
use sea_orm::sqlx::error::DatabaseError;
use sea_orm::sqlx::mysql::MySqlDatabaseError;
use sea_orm::sqlx::sqlite::SqliteError;
use sea_orm::{DbErr, RuntimeErr, sqlx};

/// A failure of the store. Messages do not repeat their source; print the whole chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL names no database that the store can open. The URL itself may hold a password and
    /// is not repeated.
    #[error(
        "the database URL must look like sqlite:///absolute/path/capstan.db, \
         postgres://user:password@host:5432/capstan or mysql://user:password@host:3306/capstan; \
         this one {problem}"
    )]
    Url {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The database server cannot be reached, or does not let Capstan in.
    #[error(
        "cannot connect to the database {database}: check that the server runs, that the database \
         exists, and that the user and the password of the URL may use it"
    )]
    Connect {
        /// Its name and where it was looked for.
        database: String,
        /// Why not.
        #[source]
        source: DbErr,
    },
    /// The folder or the file of the database cannot be made.
    #[error(
        "cannot create {path}: check that the folder exists, that its disk is not full, and that \
         the user of Capstan may write there"
    )]
    Create {
        /// The folder or file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Another process has the database open.
    #[error("another Capstan runs on this database: it holds {path}; stop it first")]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// Other processes work on the database, and what was asked for needs it alone.
    #[error("other Capstan processes work on this database; stop all of them first")]
    HasOthers,
    /// The file of the database cannot be opened.
    #[error(
        "cannot open the database {path}: check that it is a SQLite file and that the user of \
         Capstan may read and write it and its folder"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: DbErr,
    },
    /// The schema could not be brought up to date; nothing was changed.
    #[error(
        "cannot bring the schema of {database} up to date: restore the last backup, or start the \
         version of Capstan that wrote it last"
    )]
    Migrate {
        /// The file, or the database's name and where it is.
        database: String,
        /// Why not.
        #[source]
        source: DbErr,
    },
    /// The database server lacks what the statements need; nothing was changed.
    #[error(
        "{database} is on version {found} of its server, which is too old: {wanted} or later is needed"
    )]
    TooOld {
        /// The database's name and where it is.
        database: String,
        /// What the server says of itself.
        found: String,
        /// The oldest that will do.
        wanted: &'static str,
    },
    /// The database's user may make no trigger, which the schema needs.
    #[error(
        "cannot make a trigger in {database}: the server has a binary log and lets only a user with SUPER do so; \
         set its log_bin_trust_function_creators to 1 for the first start, and start again"
    )]
    NoTriggers {
        /// The database's name and where it is.
        database: String,
        /// What the server said.
        #[source]
        source: DbErr,
    },
    /// A statement failed.
    #[error("the database could not {what}")]
    Database {
        /// What it should have done.
        what: &'static str,
        /// Why it did not.
        #[source]
        source: DbErr,
    },
    /// A row cannot be read: somebody else wrote it, or a newer version of Capstan did.
    #[error("row {id} of table {table} cannot be read: {problem}")]
    Row {
        /// The table.
        table: &'static str,
        /// The row's id.
        id: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A record cannot be written as JSON.
    #[error("a row for table {table} cannot be written")]
    Json {
        /// The table.
        table: &'static str,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A statement met another number of rows than was meant; its transaction is given up.
    #[error("{meant} rows of table {table} were to be written and {written} were")]
    Count {
        /// The table.
        table: &'static str,
        /// Rows that were meant.
        meant: u64,
        /// Rows that were written.
        written: u64,
    },
    /// A change names a row that the state does not hold: a bug.
    #[error("{what} {id} is to be written and is not in the state")]
    Missing {
        /// What kind of row.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The transaction that the input was in failed, with all its inputs.
    #[error("the transaction failed")]
    Shared(#[source] Arc<Error>),
    /// Other processes changed the group again and again while the input was decided.
    #[error("the group is changed by other processes too often; try again")]
    Contended,
    /// The rules panicked on this input: a bug. Nothing was changed.
    #[error("the input met a bug; nothing was changed, and the log has the input")]
    Panicked,
    /// The committer has not come round in time: it waits for the database, or is stuck.
    #[error("inputs have not been taken for 5 s; the log says what the database answers")]
    Stuck,
    /// The database was asked and gave no answer in time. Whether a change took place is not known.
    #[error("the database gave no answer within {} s", limit.as_secs())]
    NoAnswer {
        /// How long it was waited for.
        limit: Duration,
    },
    /// The schema was brought up to date by a newer Capstan.
    #[error(
        "the schema of {database} is newer than this Capstan, which does not know {migrations}: start the \
         version that wrote it, or a newer one, or restore the backup from before"
    )]
    Newer {
        /// The file, or the database's name and where it is.
        database: String,
        /// The migrations that are not known, by name.
        migrations: String,
    },
    /// The process may not act outside; see [`Store::may_act`](crate::Store::may_act).
    #[error("the database has not heard of this process for too long: others may be at its work")]
    Silent,
    /// Others have taken over from this process since a request began, and it may have been repeated and done
    /// elsewhere: it is not done here. Says nothing of the database.
    #[error("others took this process's work over while the request was under way; send it again")]
    GivenUp,
    /// The committer has ended: the process stops.
    #[error("the process stops and takes no more inputs")]
    Stopping,
    /// The cursor of a page was not given out by this store.
    #[error("cursor: {0:?} is not one that a page gave out as next_cursor")]
    Cursor(String),
}

/// Why an input was not applied.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The rules refuse it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// There is no such group.
    #[error("there is no such group")]
    GroupUnknown,
    /// The store failed; whether the input was applied is not known.
    #[error("the store failed")]
    Store(#[source] Error),
}

impl Error {
    /// Whether the same call may succeed later: the disk is full or cannot be written, the database
    /// is locked or does not answer. Every other failure is a bug or damage.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Create { .. }
            | Self::Contended
            | Self::GivenUp
            | Self::NoAnswer { .. }
            | Self::Silent
            | Self::Stopping
            | Self::Stuck => true,
            Self::Shared(error) => error.is_unavailable(),
            Self::Open { source, .. }
            | Self::Connect { source, .. }
            | Self::Migrate { source, .. }
            | Self::Database { source, .. } => is_unavailable(source),
            Self::Url { .. }
            | Self::Newer { .. }
            | Self::InUse { .. }
            | Self::HasOthers
            | Self::NoTriggers { .. }
            | Self::Row { .. }
            | Self::Json { .. }
            | Self::Count { .. }
            | Self::Missing { .. }
            | Self::Panicked
            | Self::Cursor(_)
            | Self::TooOld { .. } => false,
        }
    }

    /// Whether another transaction was in the way of this one, and it may succeed when it is tried anew.
    pub(crate) fn is_collision(&self) -> bool {
        let Self::Database { source, .. } = self else { return false };
        let Some(sqlx::Error::Database(error)) = sqlx_error(source) else { return false };
        is_collision(error.as_ref())
    }

    /// The URL names no database that can be opened.
    pub(crate) const fn url(problem: &'static str) -> Self {
        Self::Url { problem }
    }

    /// For `map_err`: the database could not do `what`.
    pub(crate) fn database(what: &'static str) -> impl FnOnce(DbErr) -> Self {
        move |source| Self::Database { what, source }
    }

    /// For `map_err`: a record cannot be written to `table`.
    pub(crate) fn json(table: &'static str) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| Self::Json { table, source }
    }
}

/// An error with all its sources, for a log line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

fn is_unavailable(error: &DbErr) -> bool {
    if matches!(error, DbErr::ConnectionAcquire(_)) {
        return true;
    }
    // Whoever was reached hung up or is something else, as while a server dies: no statement was sent.
    let is_new = matches!(error, DbErr::Conn(_));
    match sqlx_error(error) {
        Some(sqlx::Error::Protocol(_)) => is_new,
        Some(sqlx::Error::Database(error)) => is_passing(error.as_ref()),
        Some(
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed,
        ) => true,
        Some(_) | None => false,
    }
}

/// Whether the server refuses a trigger since it writes a binary log (MySQL's
/// `BINLOG_CREATE_ROUTINE_NEED_SUPER`).
pub(crate) fn needs_super(error: &DbErr) -> bool {
    let Some(sqlx::Error::Database(error)) = sqlx_error(error) else { return false };
    let error = error.try_downcast_ref::<MySqlDatabaseError>();
    error.is_some_and(|error| error.number() == 1419)
}

fn sqlx_error(error: &DbErr) -> Option<&sqlx::Error> {
    let (DbErr::Conn(cause) | DbErr::Exec(cause) | DbErr::Query(cause)) = error else {
        return None;
    };
    let RuntimeErr::SqlxError(error) = cause else { return None };
    Some(error.as_ref())
}

/// Whether what the database says is not the fault of the statement.
fn is_passing(error: &dyn DatabaseError) -> bool {
    let Some(code) = error.code() else { return false };
    if error.try_downcast_ref::<SqliteError>().is_some() {
        // Primary result codes (the low byte of the extended ones): BUSY, LOCKED, READONLY, IOERR, FULL,
        // CANTOPEN.
        return code
            .parse::<u32>()
            .is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 10 | 13 | 14));
    }
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>()
        // DISK_FULL, CON_COUNT, SERVER_SHUTDOWN, RECORD_FILE_FULL, OPTION_PREVENTS_STATEMENT (read-only),
        // READ_ONLY_MODE, SERVER_OFFLINE_MODE, CLIENT_INTERACTION_TIMEOUT (it was silent for too long).
        && matches!(error.number(), 1021 | 1040 | 1053 | 1114 | 1290 | 1836 | 3032 | 4031)
    {
        return true;
    }
    // SQLSTATE: connection, resources, intervention (a shutdown), the system; a read-only server, a
    // transaction that stood still for too long.
    matches!(code.get(..2), Some("08" | "53" | "57" | "58"))
        || matches!(&*code, "25006" | "25P03")
        || is_collision(error)
}

/// Whether the database ended a transaction because another one was in its way; it may be tried again.
fn is_collision(error: &dyn DatabaseError) -> bool {
    let waited_too_long =
        error.try_downcast_ref::<MySqlDatabaseError>().is_some_and(|error| error.number() == 1205);
    // SQLSTATE: not serialisable (MySQL: a deadlock); of PostgreSQL a deadlock, and a lock that did not
    // come in time.
    waited_too_long
        || error.code().is_some_and(|code| matches!(&*code, "40001" | "40P01" | "55P03"))
}
