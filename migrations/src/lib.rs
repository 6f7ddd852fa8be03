//! The schema, forward only.
//!
//! A change to the schema is a new migration that the version before can live with (expand, then
//! contract). No migration is ever edited once a release carried it, and none goes backwards.
//! The crate holds no queries and knows nothing of records; only `capstan-store` calls it.
//!
//! Conventions of all tables:
//! * ids are UUIDs, instants are BIGINT microseconds since 1970-01-01T00:00:00Z
//! * words (statuses, reasons) are short VARCHARs, with a CHECK where a wrong one would do harm
//! * structures that no query looks into are TEXT with JSON
//! * `rev` is the version of the group that the row was last written with

mod columns;
mod m0001_first;
mod m0002_messages;
mod m0003_refreshes;
mod m0004_restored_streams;
mod m0005_room_for_updates;
mod m0006_changed_rows;
mod tables;

use sea_orm_migration::prelude::{MigrationTrait, MigratorTrait, async_trait};

/// All migrations, in order.
#[derive(Debug, Clone, Copy)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_first::Migration),
            Box::new(m0002_messages::Migration),
            Box::new(m0003_refreshes::Migration),
            Box::new(m0004_restored_streams::Migration),
            Box::new(m0005_room_for_updates::Migration),
            Box::new(m0006_changed_rows::Migration),
        ]
    }
}
