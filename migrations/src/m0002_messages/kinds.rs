//! Lets `dependencies` hold the broker, too.

use sea_orm_migration::prelude::{ConnectionTrait, DbErr, Expr, SchemaManager, Table};
use sea_orm_migration::sea_orm::{DbBackend, Statement};

use crate::columns::{big, big_null, name, name_null, one_of, text_null, word, word_null};

/// The words from here on.
const KINDS: &str = "'load_balancer', 'executor', 'cmdb', 'package_store', 'broker', 'queue'";
const COLUMNS: &str = "name, kind, state, found_by, since, last_error, cut_off_at, cut_off_by, \
                       cut_off_reason, cut_off_until";
/// Where the CHECK of the first schema has got its name from differs between databases and versions.
const NAME_POSTGRES: &str = "SELECT conname AS name FROM pg_constraint \
                             WHERE conrelid = 'dependencies'::regclass AND contype = 'c' \
                             AND pg_get_constraintdef(oid) LIKE '%package_store%'";
const NAME_MYSQL: &str = "SELECT CONSTRAINT_NAME AS name FROM information_schema.CHECK_CONSTRAINTS \
                          WHERE CONSTRAINT_SCHEMA = DATABASE() \
                          AND CHECK_CLAUSE LIKE '%package_store%'";

/// Takes more words as kinds of dependencies.
pub(super) async fn widen(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let backend = manager.get_database_backend();
    if backend == DbBackend::Sqlite {
        return rebuild(manager).await;
    }
    let db = manager.get_connection();
    let (find, quote) =
        if backend == DbBackend::MySql { (NAME_MYSQL, '`') } else { (NAME_POSTGRES, '"') };
    let found = db.query_all_raw(Statement::from_string(backend, find)).await?;
    for row in found {
        let name: String = row.try_get("", "name")?;
        let change = format!(
            "ALTER TABLE dependencies DROP CONSTRAINT {quote}{name}{quote}, \
             ADD CONSTRAINT ck_dependencies_kind CHECK (kind IN ({KINDS}))"
        );
        // An attempt that was cut off has changed it already.
        if name != "ck_dependencies_kind" {
            db.execute_unprepared(&change).await?;
        }
    }
    Ok(())
}

/// SQLite cannot change a CHECK: the table is made anew.
async fn rebuild(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let fresh = Table::create()
        .table("dependencies_fresh")
        .col(name("name").primary_key())
        .col(word("kind"))
        .col(word("state"))
        .col(word_null("found_by"))
        .col(big("since"))
        .col(text_null("last_error"))
        .col(big_null("cut_off_at"))
        .col(name_null("cut_off_by"))
        .col(text_null("cut_off_reason"))
        .col(big_null("cut_off_until"))
        .check(Expr::cust(format!("kind IN ({KINDS})")))
        .check(one_of("state", &["closed", "open", "half_open"]))
        .take();
    manager.create_table(fresh).await?;
    let db = manager.get_connection();
    let copy =
        format!("INSERT INTO dependencies_fresh ({COLUMNS}) SELECT {COLUMNS} FROM dependencies");
    for statement in [
        copy.as_str(),
        "DROP TABLE dependencies",
        "ALTER TABLE dependencies_fresh RENAME TO dependencies",
    ] {
        db.execute_unprepared(statement).await?;
    }
    Ok(())
}
