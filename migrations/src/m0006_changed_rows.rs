//! Which rows each version of a group has written.

use sea_orm_migration::prelude::{
    DbErr, MigrationName, MigrationTrait, SchemaManager, Table, TableCreateStatement, async_trait,
};

use crate::columns::{big, bytes_null, id, key};
use crate::tables::create;

/// What a copy of a group lacks, without a look at every row.
pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0006_changed_rows"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create(manager, (vec![changed_rows()], Vec::new())).await
    }

    /// A schema that was made by half would have to be mended by hand.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// `changed_rows`: a row for each of the latest versions of a group, written where there are several processes.
/// `deployments`, `servers` and `targets` are ids one after the other, 16 bytes each; NULL if there were too many.
fn changed_rows() -> TableCreateStatement {
    Table::create()
        .table("changed_rows")
        .col(id("group_id"))
        .col(big("rev"))
        .col(bytes_null("deployments"))
        .col(bytes_null("servers"))
        .col(bytes_null("targets"))
        .primary_key(&mut key(&["group_id", "rev"]))
        .take()
}
