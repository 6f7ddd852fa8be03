//! The store on a real database: the one that `CAPSTAN_TEST_DATABASE` names, else a SQLite file.

mod access;
mod applying;
mod changed;
mod claiming;
mod connections;
mod deeds;
mod dependencies;
mod listening;
mod listing;
mod messages;
mod output;
mod packages;
mod persisted;
mod processes;
mod records;
mod refreshes;
mod rounds;
mod schema;
mod sqlite;
mod upgrade;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use capstan_core::changes::Changes;
use capstan_core::state::GroupState;
use sea_orm::{ConnectionTrait, DatabaseTransaction};

use crate::apply::{EffectKey, statements};
use crate::bulk::Applied;
use crate::merged::run;
use crate::{Error, Settings, Store};

/// Writes changes as a round does; what is in `claimed` becomes `owner`'s.
async fn apply(
    txn: &DatabaseTransaction,
    state: &GroupState,
    changes: &Changes,
    version: i64,
    owner: &str,
    claimed: &BTreeSet<EffectKey>,
) -> Result<Applied, Error> {
    let backend = txn.get_database_backend();
    run(txn, statements(backend, state, changes, version, owner, claimed)?).await
}

/// Opens a database that was just given up: the lock goes when the last of its tasks has ended.
async fn open_again(settings: &Settings) -> Store {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match Store::open(settings).await {
            Ok(store) => return store,
            Err(Error::InUse { .. }) if Instant::now() < deadline => tokio::task::yield_now().await,
            Err(error) => panic!("the store does not open again: {error}"),
        }
    }
}
