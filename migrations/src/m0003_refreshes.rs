//! Refreshes from the CMDB that are merged over all processes.

use sea_orm_migration::prelude::{
    DbErr, MigrationName, MigrationTrait, SchemaManager, Table, TableCreateStatement, async_trait,
};

use crate::columns::{big, big_null, id, text_null, word_null};
use crate::tables::create;

/// Who refreshes what.
pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0003_refreshes"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create(manager, (vec![refreshes()], Vec::new())).await
    }

    /// A schema that was made by half would have to be mended by hand.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// `refreshes`: who asks the CMDB for a group just now, so that nobody else does. `ended` counts those that
/// told how they ended, and `told` is what the last one told.
fn refreshes() -> TableCreateStatement {
    Table::create()
        .table("refreshes")
        .col(id("group_id").primary_key())
        .col(word_null("holder"))
        .col(big_null("held_until"))
        .col(big("ended"))
        .col(text_null("told"))
        .take()
}
