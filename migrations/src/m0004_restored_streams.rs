//! Which events were written after the database was restored from a backup.

use sea_orm_migration::prelude::{
    DbErr, MigrationName, MigrationTrait, SchemaManager, Table, TableCreateStatement, async_trait,
};

use crate::columns::{big, id, key};
use crate::tables::create;

/// Where logs go on after a restore.
pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0004_restored_streams"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create(manager, (vec![restored_streams()], Vec::new())).await
    }

    /// A schema that was made by half would have to be mended by hand.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// `restored_streams`: a row per log and restore. Events above `after_seq` were written in this epoch, which is
/// the second of the restore, or in a later one.
fn restored_streams() -> TableCreateStatement {
    Table::create()
        .table("restored_streams")
        .col(id("stream"))
        .col(big("epoch"))
        .col(big("after_seq"))
        .primary_key(&mut key(&["stream", "epoch"]))
        .take()
}
