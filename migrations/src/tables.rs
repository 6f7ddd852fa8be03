//! Makes tables and indexes, the same way for every migration.

use sea_orm_migration::prelude::{
    ConnectionTrait, DbErr, MysqlQueryBuilder, SchemaManager, TableCreateStatement,
};
use sea_orm_migration::sea_orm::DbBackend;

use crate::columns::NamedIndex;

/// Tables and their indexes.
pub(crate) type Schema = (Vec<TableCreateStatement>, Vec<NamedIndex>);

/// Makes tables, then their indexes.
pub(crate) async fn create(
    manager: &SchemaManager<'_>,
    (tables, indexes): Schema,
) -> Result<(), DbErr> {
    for table in tables {
        create_table(manager, table).await?;
    }
    for index in indexes {
        create_index(manager, index).await?;
    }
    Ok(())
}

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
