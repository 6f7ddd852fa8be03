//! The first schema. The tables lie in files by what they are about; each has its doc there.

mod access;
mod deployments;
mod inventory;
mod journal;
mod packages;

use sea_orm_migration::prelude::{
    DbErr, IndexCreateStatement, MigrationName, MigrationTrait, SchemaManager,
    TableCreateStatement, async_trait,
};

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
        for (tables, indexes) in [
            inventory::schema(backend),
            packages::schema(),
            deployments::schema(backend),
            journal::schema(backend),
            access::schema(),
        ] {
            for table in tables {
                manager.create_table(table).await?;
            }
            for index in indexes {
                manager.create_index(index).await?;
            }
        }
        packages::protect(manager).await
    }

    /// A schema that was made by half would have to be mended by hand.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// Tables and their indexes.
type Schema = (Vec<TableCreateStatement>, Vec<IndexCreateStatement>);
