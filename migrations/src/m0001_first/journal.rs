//! What happened, what is due next and who does it, who asked for what, and what hosts printed.

use sea_orm_migration::prelude::{ColumnDef, Table, TableCreateStatement};

use sea_orm_migration::sea_orm::DbBackend;

use super::Schema;
use crate::columns::{big, by_key, id, id_null, index, key, name, name_null, number, text, word};

pub(super) fn schema(backend: DbBackend) -> Schema {
    (
        vec![
            by_key(events(), backend),
            by_key(effects(), backend),
            processes(),
            actions(),
            outputs(),
        ],
        vec![
            // The claim: what nobody has, by due time.
            index("effects", &["owner", "due_at"]),
            index("actions", &["deployment_id", "id"]),
            index("outputs", &["target_id"]),
        ],
    )
}

/// `events`: append-only logs. A stream is a deployment's or, for what happens outside any
/// deployment, a group's; `seq` runs from 1 without gaps. `body` is the JSON of the event.
fn events() -> TableCreateStatement {
    Table::create()
        .table("events")
        .col(id("stream"))
        .col(big("seq"))
        .col(big("at"))
        .col(word("kind"))
        .col(text("body"))
        .primary_key(&mut key(&["stream", "seq"]))
        .take()
}

/// `effects`: what is to be done, at most one row per kind and subject; a new one replaces the old.
///
/// `owner` is the engine process that has it; `claims` counts how often it was taken, so whoever
/// takes it again knows that it may have been started.
fn effects() -> TableCreateStatement {
    Table::create()
        .table("effects")
        .col(ColumnDef::new("kind").small_integer().not_null())
        .col(id("subject"))
        .col(id("group_id"))
        .col(id_null("deployment_id"))
        .col(big("due_at"))
        .col(name_null("owner"))
        .col(number("claims"))
        .primary_key(&mut key(&["kind", "subject"]))
        .take()
}

/// `actions`: the audit. Who asked for what on which subject, refused requests too; append-only.
fn actions() -> TableCreateStatement {
    Table::create()
        .table("actions")
        .col(id("id").primary_key())
        .col(big("at"))
        .col(name("actor"))
        .col(name("action"))
        .col(word("subject_kind"))
        .col(name("subject"))
        .col(id_null("deployment_id"))
        .col(name("answer"))
        .col(text("detail"))
        .take()
}

/// `processes`: who works on a database that many share. A process raises `beats` as long as it lives; a
/// row that stands still is deleted by whoever takes its work over. A file has one process and no row.
fn processes() -> TableCreateStatement {
    Table::create()
        .table("processes")
        .col(word("id").primary_key())
        .col(big("beats"))
        .col(big("started_at"))
        .take()
}

/// `outputs`: what scripts printed, in parts; `byte_offset` counts the bytes of the order before it.
fn outputs() -> TableCreateStatement {
    Table::create()
        .table("outputs")
        .col(id("order_key"))
        .col(big("byte_offset"))
        .col(id("target_id"))
        .col(word("stage"))
        .col(number("attempt"))
        .col(big("at"))
        .col(ColumnDef::new("bytes").blob().not_null())
        .primary_key(&mut key(&["order_key", "byte_offset"]))
        .take()
}
