//! The first schema. The tables lie in files by what they are about; each has its doc there.

mod access;
mod deployments;
mod inventory;
mod journal;
mod packages;

use sea_orm_migration::prelude::{
    ConnectionTrait, DbErr, MigrationName, MigrationTrait, MysqlQueryBuilder, SchemaManager,
    TableCreateStatement, async_trait,
};
use sea_orm_migration::sea_orm::DbBackend;

use crate::columns::NamedIndex;

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
                create_table(manager, table).await?;
            }
            for index in indexes {
                create_index(manager, index).await?;
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
type Schema = (Vec<TableCreateStatement>, Vec<NamedIndex>);

/// On MySQL text and bytes of any length, names that differ in case are two names, and tables know
/// transactions and references. Each statement is a transaction there, so what an attempt that was cut off
/// has made is passed over.
async fn create_table(
    manager: &SchemaManager<'_>,
    mut table: TableCreateStatement,
) -> Result<(), DbErr> {
    if manager.get_database_backend() != DbBackend::MySql {
        return manager.create_table(table).await;
    }
    table.if_not_exists().engine("InnoDB").character_set("utf8mb4").collate("utf8mb4_bin");
    // The type follows the quoted name of its column: nothing else in the statement looks like it.
    let text = table.to_string(MysqlQueryBuilder);
    let text = text.replace("` text", "` longtext").replace("` blob", "` longblob");
    manager.get_connection().execute_unprepared(&text).await.map(drop)
}

async fn create_index(
    manager: &SchemaManager<'_>,
    (table, index): NamedIndex,
) -> Result<(), DbErr> {
    let name = index.get_index_spec().get_name().unwrap_or_default();
    if manager.get_database_backend() == DbBackend::MySql && manager.has_index(table, name).await? {
        return Ok(());
    }
    manager.create_index(index).await
}
