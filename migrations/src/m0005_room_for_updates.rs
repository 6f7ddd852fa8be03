//! Room for updates in the pages of PostgreSQL.
//!
//! It writes an updated row anew, and in the same page only if there is room; otherwise every index gets an entry
//! for it, too. The rows of these tables are updated with every stage.

use sea_orm_migration::prelude::{
    DbErr, MigrationName, MigrationTrait, SchemaManager, async_trait,
};
use sea_orm_migration::sea_orm::{ConnectionTrait, DbBackend};

/// Half of each page is left for updates.
pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0005_room_for_updates"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() != DbBackend::Postgres {
            return Ok(());
        }
        for table in ["batches", "deployments", "groups", "server_states", "targets"] {
            let text = format!("ALTER TABLE {table} SET (fillfactor = 50)");
            manager.get_connection().execute_unprepared(&text).await?;
        }
        Ok(())
    }

    /// A schema that was made by half would have to be mended by hand.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
