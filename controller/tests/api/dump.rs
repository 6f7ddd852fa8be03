//! All that is kept, for tests that compare before and after: a refused call changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sea_orm::{
    ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend,
    SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
};

use crate::fakes::sha256;
use crate::world::{DATABASE, PACKAGES};

/// Tables that refused calls may write: who signed in, answers by key, the audit, which tells of
/// refusals too, and scripts, which are kept by digest before the decision that may refuse. Nothing
/// refers to a script until a deployment does.
const FREE_TABLES: [&str; 4] = ["sessions", "idempotency", "actions", "scripts"];
/// Columns that refused calls may write: when the CMDB and the servers were last looked at. A group's
/// version counts such looks too.
const FREE_COLUMNS: [(&str, &str); 4] = [
    ("groups", "synced_at"),
    ("groups", "observed_at"),
    ("groups", "version"),
    ("server_states", "observed_at"),
];

/// What is kept: the database, seen through a connection of its own, and the package store's folder.
pub(crate) struct Kept {
    database: DatabaseConnection,
    /// A query per table, that gives each row as one text.
    tables: BTreeMap<String, String>,
    packages: PathBuf,
}

/// Every row of every table and the digest of every file, by table or place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dump(BTreeMap<String, BTreeSet<String>>);

impl Dump {
    /// Panics with the rows that were added, changed or taken away since `before`.
    #[track_caller]
    pub(crate) fn assert_is(&self, before: &Self, after_what: &str) {
        let none = BTreeSet::new();
        let mut changes = Vec::new();
        for place in self.0.keys().chain(before.0.keys()).collect::<BTreeSet<_>>() {
            let (old, new) =
                (before.0.get(place).unwrap_or(&none), self.0.get(place).unwrap_or(&none));
            changes.extend(old.difference(new).map(|row| format!("- {place}: {row}")));
            changes.extend(new.difference(old).map(|row| format!("+ {place}: {row}")));
        }
        assert!(changes.is_empty(), "{after_what} changed:\n{}", changes.join("\n"));
    }

    /// How many rows a table has, or files a folder.
    pub(crate) fn count(&self, place: &str) -> usize {
        self.0.get(place).map_or(0, BTreeSet::len)
    }
}

impl Kept {
    /// What is kept in this folder of a [`crate::world::World`].
    pub(crate) async fn open(folder: &Path) -> Self {
        let url = format!("sqlite://{}?mode=rw", folder.join(DATABASE).display());
        let database = Database::connect(url).await.expect("the database opens once more");
        let mut tables = BTreeMap::new();
        let names = "SELECT name FROM sqlite_master WHERE type = 'table'";
        for table in texts(&database, names).await {
            if !FREE_TABLES.contains(&table.as_str()) {
                let query = query(&database, &table).await;
                tables.insert(table, query);
            }
        }
        assert!(tables.len() > 10, "the schema has tables: {:?}", tables.keys());
        Self { database, tables, packages: folder.join(PACKAGES) }
    }

    pub(crate) async fn execute(&self, statement: &str) {
        self.database.execute_unprepared(statement).await.expect("the database takes it");
    }

    pub(crate) async fn lock(&self) -> DatabaseTransaction {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        self.database.begin_with_options(options).await.expect("a lock")
    }

    pub(crate) async fn dump(&self) -> Dump {
        let mut dump = BTreeMap::new();
        for (table, query) in &self.tables {
            let rows = texts(&self.database, query).await;
            let count = rows.len();
            let rows: BTreeSet<String> = rows.into_iter().collect();
            assert_eq!(rows.len(), count, "rows of {table} differ from each other");
            dump.insert(table.clone(), rows);
        }
        dump.insert(PACKAGES.to_owned(), files(&self.packages));
        Dump(dump)
    }
}

async fn query(database: &DatabaseConnection, table: &str) -> String {
    let names = format!("SELECT name FROM pragma_table_info('{table}')");
    let columns = texts(database, &names).await;
    let shown: Vec<String> = columns
        .iter()
        .filter(|column| !FREE_COLUMNS.contains(&(table, column.as_str())))
        .map(|column| format!("'{column}=' || quote(\"{column}\")"))
        .collect();
    format!("SELECT {} FROM \"{table}\"", shown.join(" || ' ' || "))
}

async fn texts(database: &DatabaseConnection, query: &str) -> Vec<String> {
    let statement = Statement::from_string(DbBackend::Sqlite, query);
    let rows = database.query_all_raw(statement).await.expect("the database answers");
    rows.iter().map(|row| row.try_get_by_index(0).expect("a text")).collect()
}

/// Path and digest of every file below a folder.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            match std::fs::read(&path) {
                Ok(bytes) => {
                    found.insert(format!("{} {}", path.display(), sha256(&bytes)));
                }
                // An upload took it away since the folder was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }
    found
}
