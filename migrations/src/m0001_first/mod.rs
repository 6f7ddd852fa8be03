//! The first schema. The tables lie in files by what they are about; each has its doc there.

mod access;
mod deployments;
mod inventory;
mod journal;
mod packages;

use sea_orm_migration::prelude::{
    DbErr, MigrationName, MigrationTrait, SchemaManager, async_trait,
};

use crate::tables::{Schema, create};

/// The first schema.
pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0001_first"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        for schema in [
            inventory::schema(backend),
            packages::schema(),
            deployments::schema(backend),
            journal::schema(backend),
            access::schema(),
        ] {
            create(manager, schema).await?;
        }
        packages::protect(manager).await
    }

    /// A schema that was made by half would have to be mended by hand.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
