//! Which database servers are new enough.

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend};

use crate::Error;
use crate::bulk::sql;

/// The oldest server that has what is asked of it, by its first two numbers.
struct Oldest {
    numbers: [u32; 2],
    name: &'static str,
}

/// It knows `plan_cache_mode` since 12; 13 is the oldest that Capstan promises.
const POSTGRES: Oldest = Oldest { numbers: [13, 0], name: "PostgreSQL 13" };
/// `SKIP LOCKED` since 10.6.
const MARIADB: Oldest = Oldest { numbers: [10, 6], name: "MariaDB 10.6" };
/// `SKIP LOCKED` and constraints that are checked since 8.0.
const MYSQL: Oldest = Oldest { numbers: [8, 0], name: "MySQL 8.0" };

/// Fails if the server is too old: its first error would be one of syntax in the middle of a migration.
pub(super) async fn check(conn: &DatabaseConnection, database: &str) -> Result<(), Error> {
    let backend = conn.get_database_backend();
    let text = if backend == DbBackend::Postgres {
        "SHOW server_version"
    } else {
        "SELECT VERSION() AS server_version"
    };
    let asked = || Error::database("ask the server for its version");
    let row = conn.query_one_raw(sql(conn, text, [])).await.map_err(asked())?;
    let found: Option<String> =
        row.map(|row| row.try_get("", "server_version")).transpose().map_err(asked())?;
    let found = found.unwrap_or_default();
    match too_old(backend, &found) {
        None => Ok(()),
        Some(wanted) => Err(Error::TooOld { database: database.to_owned(), found, wanted }),
    }
}

/// What is needed instead; none: it is new enough, or gives no numbers.
fn too_old(backend: DbBackend, version: &str) -> Option<&'static str> {
    let oldest = match backend {
        DbBackend::Postgres => POSTGRES,
        _ if version.contains("MariaDB") => MARIADB,
        DbBackend::MySql | DbBackend::Sqlite | _ => MYSQL,
    };
    let mut numbers = version.split(|it: char| !it.is_ascii_digit()).map(str::parse::<u32>);
    let first = numbers.next()?.ok()?;
    let second = numbers.next().and_then(Result::ok).unwrap_or(0);
    ([first, second] < oldest.numbers).then_some(oldest.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_told_from_new_ones() {
        for (backend, version, wanted) in [
            (DbBackend::Postgres, "15.6 (Debian 15.6-0+deb12u1)", None),
            (DbBackend::Postgres, "13.0", None),
            (DbBackend::Postgres, "18beta1", None),
            (DbBackend::Postgres, "12.22", Some("PostgreSQL 13")),
            (DbBackend::Postgres, "9.6.24", Some("PostgreSQL 13")),
            (DbBackend::MySql, "10.11.6-MariaDB-0+deb12u1", None),
            (DbBackend::MySql, "11.4.2-MariaDB", None),
            (DbBackend::MySql, "10.5.23-MariaDB", Some("MariaDB 10.6")),
            (DbBackend::MySql, "9.7.4", None),
            (DbBackend::MySql, "8.0.36-0ubuntu0.22.04.1", None),
            (DbBackend::MySql, "5.7.44-log", Some("MySQL 8.0")),
            (DbBackend::Postgres, "unknown", None),
        ] {
            assert_eq!(too_old(backend, version), wanted, "{version}");
        }
    }
}
