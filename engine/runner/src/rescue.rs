//! The rescuer: does for every deployment under way what a fresh start would do.
//!
//! It runs when the engine starts and now and then. It takes no input but the database: `Woken` applies
//! the same rows, holds and next steps as every other input, so restart, fail-over and lost wake-ups
//! are one code path.

use std::sync::Arc;
use std::time::Duration;

use capstan_core::input::Input;
use capstan_store::{DeploymentFilter, PageRequest, SubmitError, chain};
use tokio::sync::watch;

use crate::job::Context;

const INTERVAL: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(1);
const PAGE: u32 = 200;

pub(crate) async fn run(context: Arc<Context>, mut stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        let wait = match sweep(&context).await {
            Ok(()) => INTERVAL,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the rescuer could not look; it tries again");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stopped.changed() => {}
        }
    }
}

async fn sweep(context: &Context) -> Result<(), SubmitError> {
    let mut cursor = None;
    loop {
        let filter = DeploymentFilter { running: true, ..DeploymentFilter::default() };
        let page = PageRequest { limit: PAGE, cursor };
        let page = context.store.deployments(filter, page).await.map_err(SubmitError::Store)?;
        for brief in page.items {
            let woken = Input::Woken { deployment: brief.id };
            match context.store.submit(brief.group, woken).await {
                Ok(_) | Err(SubmitError::Refused(_) | SubmitError::GroupUnknown) => {}
                Err(error @ SubmitError::Store(_)) => return Err(error),
            }
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(());
        }
    }
}
