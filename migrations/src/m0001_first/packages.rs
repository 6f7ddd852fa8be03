//! Packages: built artifacts, and the rule that a version never changes.

use sea_orm_migration::prelude::{
    ConnectionTrait, DbErr, SchemaManager, Table, TableCreateStatement,
};
use sea_orm_migration::sea_orm::DbBackend;

use super::Schema;
use crate::columns::{big, big_null, flag, id, index, name, refers, text, text_null, unique};

pub(super) fn schema() -> Schema {
    (
        vec![packages()],
        vec![
            unique("packages", &["application_id", "version"]),
            index("packages", &["application_id", "id"]),
            index("packages", &["sha256"]),
        ],
    )
}

/// `packages`: one row per version of an application. Application, version and digest never change
/// (a trigger refuses it); places where it can be fetched, and `bad`, may.
fn packages() -> TableCreateStatement {
    Table::create()
        .table("packages")
        .col(id("id").primary_key())
        .col(id("application_id"))
        .col(name("version"))
        .col(name("sha256"))
        .col(big_null("size"))
        .col(text("locations"))
        .col(flag("stored"))
        .col(text_null("bad"))
        .col(big("created_at"))
        .foreign_key(&mut refers("packages", "application_id", "applications"))
        .take()
}

const REFUSAL: &str = "a package never changes its application, version or digest";

/// Makes the database refuse a change of what a package is.
pub(super) async fn protect(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let db = manager.get_connection();
    for statement in triggers(manager.get_database_backend()) {
        db.execute_unprepared(&statement).await?;
    }
    Ok(())
}

fn triggers(backend: DbBackend) -> Vec<String> {
    match backend {
        DbBackend::Postgres => vec![
            format!(
                "CREATE FUNCTION packages_immutable() RETURNS trigger LANGUAGE plpgsql AS $$ \
                 BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$"
            ),
            "CREATE TRIGGER packages_immutable BEFORE UPDATE ON packages FOR EACH ROW \
             WHEN (NEW.application_id IS DISTINCT FROM OLD.application_id \
             OR NEW.version IS DISTINCT FROM OLD.version \
             OR NEW.sha256 IS DISTINCT FROM OLD.sha256) \
             EXECUTE FUNCTION packages_immutable()"
                .to_owned(),
        ],
        DbBackend::MySql => vec![
            "DROP TRIGGER IF EXISTS packages_immutable".to_owned(),
            format!(
                "CREATE TRIGGER packages_immutable BEFORE UPDATE ON packages FOR EACH ROW \
             IF NEW.application_id <> OLD.application_id OR NEW.version <> OLD.version \
             OR NEW.sha256 <> OLD.sha256 THEN \
             SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{REFUSAL}'; END IF"
            ),
        ],
        // The enum is open, and `capstan-store` opens no database but these.
        DbBackend::Sqlite | _ => vec![format!(
            "CREATE TRIGGER packages_immutable BEFORE UPDATE ON packages FOR EACH ROW \
             WHEN NEW.application_id IS NOT OLD.application_id \
             OR NEW.version IS NOT OLD.version OR NEW.sha256 IS NOT OLD.sha256 \
             BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
        )],
    }
}
