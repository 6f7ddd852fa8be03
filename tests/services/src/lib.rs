//! Real services for tests: each is started from the system's packages on a free port, in a temporary
//! folder, and is gone with its folder when the process that started it ends, however it ends.
//!
//! A database server is started once per process, when it is first asked for; each test gets a database of
//! its own in it. What a test breaks on purpose it starts for itself. For tests and benchmarks only: nothing is made
//! durable that does not say so, and a service that does not come up panics with what it has printed.

mod changes;
mod lines;
mod mariadb;
mod postgres;
mod proxy;
mod rabbitmq;
mod redis;
mod service;

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use service::run_with;

pub use changes::{Change, Changes};
pub use lines::Lines;
pub use mariadb::MariaDb;
pub use postgres::Postgres;
pub use proxy::Proxy;
pub use rabbitmq::RabbitMq;
pub use redis::Redis;

/// The environment variable that says which database tests run on: `sqlite` (as when it is not set),
/// `postgres` or `mariadb`.
pub const VARIABLE: &str = "CAPSTAN_TEST_DATABASE";

/// An empty database, for one test.
#[derive(Debug)]
pub struct Database {
    /// Its URL, as Capstan's configuration has it.
    pub url: String,
    /// Where its file lies, if it is one.
    _folder: Option<TempDir>,
}

impl Database {
    /// A database of the kind that [`VARIABLE`] names.
    pub fn new() -> Self {
        let kind = std::env::var(VARIABLE).unwrap_or_else(|_| "sqlite".to_owned());
        match kind.as_str() {
            "sqlite" => Self::file(),
            "postgres" => Self { url: Postgres::shared().database(), _folder: None },
            "mariadb" => Self { url: MariaDb::shared().database(), _folder: None },
            _ => panic!("{VARIABLE} is {kind:?}; sqlite, postgres and mariadb are known"),
        }
    }

    /// A database that several processes can share: of the kind that [`VARIABLE`] names, or PostgreSQL if
    /// that is a file.
    pub fn shared() -> Self {
        match std::env::var(VARIABLE).as_deref() {
            Ok("mariadb") => Self::new(),
            _ => Self { url: Postgres::shared().database(), _folder: None },
        }
    }

    /// A database of the kind that [`VARIABLE`] names, restored from a dump in `dumps`: `sqlite.sql`,
    /// `postgres.sql` or `mariadb.sql`, as `sqlite3`, `pg_dump` and `mariadb-dump` write them.
    ///
    /// # Panics
    /// If it cannot be restored.
    pub fn restored(dumps: &Path) -> Self {
        let database = Self::new();
        let dump = |kind: &str| {
            let path = dumps.join(format!("{kind}.sql"));
            File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        match database.kind() {
            "postgres" => postgres::restore(&database.url, dump("postgres")),
            "mysql" => mariadb::restore(&database.url, dump("mariadb")),
            _ => {
                let path = Path::new(database.url.trim_start_matches("sqlite://"));
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
                run_with(Command::new("sqlite3").arg(path), dump("sqlite"));
            }
        }
        database
    }

    /// `sqlite`, `postgres` or `mysql`, as in its URL.
    pub fn kind(&self) -> &str {
        self.url.split("://").next().unwrap_or_default()
    }

    /// The same database behind a line to its server, to be disturbed.
    ///
    /// # Panics
    /// If it is a file.
    pub fn behind_a_line(self) -> (Self, Proxy) {
        let port = self.url.rsplit_once(':').and_then(|(_, rest)| rest.split('/').next());
        let port = port.and_then(|port| port.parse().ok()).expect("a server's port");
        let line = Proxy::to(port);
        (Self { url: line.url(&self.url), ..self }, line)
    }

    /// A SQLite file that is not there yet, in a folder of its own.
    pub fn file() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let url = format!("sqlite://{}", folder.path().join("data/capstan.db").display());
        Self { url, _folder: Some(folder) }
    }
}

impl Default for Database {
    fn default() -> Self {
        Self::new()
    }
}

/// A name that no other database of this process has.
fn fresh_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
