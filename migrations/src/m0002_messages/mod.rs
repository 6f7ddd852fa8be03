//! What goes out of and into message brokers and webhooks. Nothing that an engine writes for a stage has
//! changed: readers find by the versions of groups what is new in the log.

mod kinds;

use sea_orm_migration::prelude::{
    DbErr, MigrationName, MigrationTrait, SchemaManager, Table, TableCreateStatement, async_trait,
};

use crate::columns::{
    big, big_null, by_key, flag, id, index, key, name, name_null, number, number_null, text,
    text_null, unique, word,
};
use crate::tables::create;

/// Messages out and in.
pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0002_messages"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        let tables = vec![
            consumers(),
            by_key(seen(), backend),
            by_key(cursors(), backend),
            webhooks(),
            deliveries(),
        ];
        let indexes =
            vec![unique("webhooks", &["name"]), index("webhook_deliveries", &["webhook_id", "id"])];
        create(manager, (tables, indexes)).await?;
        kinds::widen(manager).await
    }

    /// A schema that was made by half would have to be mended by hand.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// `message_consumers`: who reads the log to send it somewhere. `owner` is the process that does so now;
/// whoever writes how far it has come raises `batches` in the same transaction, and so finds out whether
/// it is still the one.
fn consumers() -> TableCreateStatement {
    Table::create()
        .table("message_consumers")
        .col(name("name").primary_key())
        .col(name_null("owner"))
        .col(big("batches"))
        .col(big("created_at"))
        .take()
}

/// `message_groups`: up to which version of a group all events are sent. No row: not even looked at yet.
fn seen() -> TableCreateStatement {
    Table::create()
        .table("message_groups")
        .col(name("consumer"))
        .col(id("group_id"))
        .col(big("seen_version"))
        .primary_key(&mut key(&["consumer", "group_id"]))
        .take()
}

/// `message_cursors`: the last event of a stream that was sent. No row: none was.
fn cursors() -> TableCreateStatement {
    Table::create()
        .table("message_cursors")
        .col(name("consumer"))
        .col(id("stream"))
        .col(big("sent_seq"))
        .primary_key(&mut key(&["consumer", "stream"]))
        .take()
}

/// `webhooks`: who is told of events by HTTP. `secret` signs them and must be known to do so. From
/// `failing_since` on nothing was delivered; with `disabled_because` Capstan itself has switched it off.
fn webhooks() -> TableCreateStatement {
    Table::create()
        .table("webhooks")
        .col(id("id").primary_key())
        .col(name("name"))
        .col(text("url"))
        .col(text("secret"))
        .col(text("events"))
        .col(flag("enabled"))
        .col(text_null("disabled_because"))
        .col(name("created_by"))
        .col(big("created_at"))
        .col(big_null("failing_since"))
        .col(number("failures"))
        .col(big_null("next_try_at"))
        .col(big_null("delivered_at"))
        .take()
}

/// `webhook_deliveries`: every try to tell a webhook of an event. `status` is that of HTTP. Old rows are
/// deleted as new ones come.
fn deliveries() -> TableCreateStatement {
    Table::create()
        .table("webhook_deliveries")
        .col(id("id").primary_key())
        .col(id("webhook_id"))
        .col(id("stream"))
        .col(big("seq"))
        .col(word("kind"))
        .col(number("attempt"))
        .col(big("at"))
        .col(number_null("status"))
        .col(text_null("error"))
        .col(number("took_ms"))
        .take()
}
