//! Keeps breakers and database of one mind in a process without an engine, which would do so.

use std::sync::Arc;
use std::time::Duration;

use capstan_core::dependency::Breakers;
use capstan_store::{Error, Store};
use tokio_util::sync::CancellationToken;

use crate::problem::chain;

/// Time between two looks at the table, if no breaker changes.
const INTERVAL: Duration = Duration::from_secs(1);

pub(super) async fn run(store: Store, breakers: Arc<dyn Breakers>, shutdown: CancellationToken) {
    let mut switches = store.watch_switches();
    loop {
        if let Err(error) = keep(&store, &*breakers).await {
            tracing::warn!(error = chain(&error), "dependencies are looked at again");
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = breakers.changed() => {}
            _ = switches.changed() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn keep(store: &Store, breakers: &dyn Breakers) -> Result<(), Error> {
    if store.dependencies_note(&breakers.reports()).await? {
        store.dependencies_tell(None).await?;
    }
    breakers.cut_off(&store.dependencies_cut_off().await?);
    Ok(())
}
