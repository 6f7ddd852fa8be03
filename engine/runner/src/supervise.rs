//! Keeps the worker running: whatever ends it, it is started again, later and later.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::job::Context;
use crate::{dependencies, queue, rescue};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A worker that ran for so long starts with the first wait again.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);

/// Runs workers one after the other until the engine stops.
pub(crate) async fn run(context: Arc<Context>, mut stopped: watch::Receiver<bool>) {
    let rescuer = tokio::spawn(rescue::run(Arc::clone(&context), stopped.clone()));
    let keeper = tokio::spawn(dependencies::run(Arc::clone(&context), stopped.clone()));
    let mut wait = FIRST_WAIT;
    let mut number = 0_u64;
    while !*stopped.borrow() {
        number += 1;
        let started = tokio::time::Instant::now();
        let ended = queue::run_worker(Arc::clone(&context), number).await;
        if *stopped.borrow() {
            break;
        }
        if started.elapsed() > HEALTHY_AFTER {
            wait = FIRST_WAIT;
        }
        tracing::error!(?ended, ?wait, "the worker ended by itself; another one is started");
        metrics::counter!("capstan_worker_restarts_total").increment(1);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stopped.changed() => {}
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    context.give_back_all().await;
    for (part, ended) in [("rescuer", rescuer.await), ("keeper of dependencies", keeper.await)] {
        if let Err(error) = ended {
            tracing::error!(part, %error, "ended badly");
        }
    }
}
