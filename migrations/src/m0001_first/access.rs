//! Who may come in, and answers that are kept so that a repeated request is not done twice.

use sea_orm_migration::prelude::{ColumnDef, Table, TableCreateStatement};

use super::Schema;
use crate::columns::{big, id, id_null, index, key, name, name_null, refers, word};

pub(super) fn schema() -> Schema {
    (
        vec![tokens(), sessions(), login_links(), idempotency()],
        vec![
            index("sessions", &["expires_at"]),
            index("login_links", &["expires_at"]),
            index("idempotency", &["created_at"]),
        ],
    )
}

/// `tokens`: access tokens. Only SHA-256 hashes of secrets are kept, here and below.
fn tokens() -> TableCreateStatement {
    Table::create()
        .table("tokens")
        .col(id("id").primary_key())
        .col(name("name"))
        .col(name("hash").unique_key())
        .col(big("created_at"))
        .take()
}

/// `sessions`: browsers that are logged in.
fn sessions() -> TableCreateStatement {
    Table::create()
        .table("sessions")
        .col(name("hash").primary_key())
        .col(id("token_id"))
        .col(name("csrf"))
        .col(big("expires_at"))
        .foreign_key(&mut refers("sessions", "token_id", "tokens"))
        .take()
}

/// `login_links`: links that log in one browser, once.
fn login_links() -> TableCreateStatement {
    Table::create()
        .table("login_links")
        .col(name("hash").primary_key())
        .col(id("token_id"))
        .col(big("expires_at"))
        .foreign_key(&mut refers("login_links", "token_id", "tokens"))
        .take()
}

/// `idempotency`: requests by token, path and the caller's key; without a status: under way in
/// `process`. The deployment that a request made is noted in the transaction that makes it.
fn idempotency() -> TableCreateStatement {
    Table::create()
        .table("idempotency")
        .col(id("token_id"))
        .col(name("path"))
        .col(name("idempotency_key"))
        .col(name("body_hash"))
        .col(word("process"))
        .col(ColumnDef::new("status").integer().null())
        .col(name_null("content_type"))
        .col(id_null("deployment_id"))
        .col(ColumnDef::new("body").blob().null())
        .col(big("created_at"))
        .primary_key(&mut key(&["token_id", "path", "idempotency_key"]))
        .take()
}
