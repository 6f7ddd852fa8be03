//! Opens the database of a URL and brings its schema up to date.

mod server;
mod sqlite;
mod version;

use std::collections::BTreeSet;
use std::fs::File;
use std::time::Duration;

use capstan_migrations::Migrator;
use sea_orm::DatabaseConnection;
use sea_orm_migration::MigratorTrait;

use crate::Error;
use crate::error::needs_super;

/// How long a caller waits for a connection before it is told to come back later.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// An open database.
pub(crate) struct Opened {
    /// Connections that write; on SQLite there is one.
    pub(crate) writer: DatabaseConnection,
    /// Connections that only read. They see the last commit.
    pub(crate) reader: DatabaseConnection,
    /// Connections for what is decided: requests that wait for one must not keep a release waiting.
    pub(crate) decider: DatabaseConnection,
    /// The migrations that were done, by name.
    pub(crate) migrated: Vec<String>,
    /// The connection on which this process tells others that it lives; none: there can be no others.
    pub(crate) beats: Option<DatabaseConnection>,
    /// What keeps other processes from a file, held as long as the process lives.
    pub(crate) lock: Option<File>,
}

/// Opens the database of `url`, makes a file if it is to be one and there is none, and brings the
/// schema up to date.
pub(crate) async fn open(url: &str) -> Result<Opened, Error> {
    match url.split_once("://") {
        Some(("sqlite", _)) => sqlite::open(url).await,
        Some(("postgres" | "postgresql", _)) => server::open_postgres(url).await,
        Some(("mysql" | "mariadb", _)) => server::open_mysql(url).await,
        _ => Err(Error::url("begins with none of these")),
    }
}

/// Brings the schema of a database up to date and does nothing else. Gives the migrations that were done,
/// by name.
///
/// # Errors
/// When it cannot be opened or brought up to date; [`Error::Newer`]; [`Error::InUse`] for a file, [`Error::TooOld`] for a
/// server.
pub async fn migrate(url: &str) -> Result<Vec<String>, Error> {
    open(url).await.map(|opened| opened.migrated)
}

/// Brings the schema up to date, unless it is ahead. `database` names it in an error. Gives the migrations
/// that were done.
async fn bring_up_to_date(
    writer: &DatabaseConnection,
    database: &str,
) -> Result<Vec<String>, Error> {
    let failed = |source| {
        let database = database.to_owned();
        if needs_super(&source) {
            Error::NoTriggers { database, source }
        } else {
            Error::Migrate { database, source }
        }
    };
    Migrator::install(writer).await.map_err(failed)?;
    let known: BTreeSet<String> =
        Migrator::migrations().iter().map(|migration| migration.name().to_owned()).collect();
    let done = Migrator::get_migration_models(writer).await.map_err(failed)?;
    let done: BTreeSet<String> = done.into_iter().map(|row| row.version).collect();
    let ahead: Vec<&str> = done.difference(&known).map(String::as_str).collect();
    if !ahead.is_empty() {
        let migrations = ahead.join(", ");
        return Err(Error::Newer { database: database.to_owned(), migrations });
    }
    let missing: Vec<String> = known.difference(&done).cloned().collect();
    if !missing.is_empty() {
        Migrator::up(writer, None).await.map_err(failed)?;
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_of_no_known_database_is_refused_and_not_repeated() {
        for url in ["oracle://u:secret@h/d", "/var/lib/capstan.db", "postgres://u:secret@h:x/d"] {
            let error = open(url).await.err().expect("no such URL").to_string();
            assert!(error.contains("sqlite:///absolute/path"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
