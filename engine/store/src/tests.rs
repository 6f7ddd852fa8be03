//! The store on a real SQLite file.

mod access;
mod applying;
mod claiming;
mod listing;
mod output;
mod packages;
mod records;
mod schema;

use std::time::{Duration, Instant};

use crate::{Error, Settings, Store};

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
