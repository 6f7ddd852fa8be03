//! Receives nudges: an apalis worker over the mailbox of this process, started again whenever it ends.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use apalis_core::backend::ext::BackendExt;
use apalis_core::backend::ext::poll_strategy::{IntervalStrategy, PollSnapshot, PollStrategy};
use apalis_core::error::BoxDynError;
use apalis_core::task::data::Data;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::context::WorkerContext;
use apalis_redis::RedisStorage;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Heard};
use super::mailbox::{Mailbox, Nudge};
use super::{RECEIVED, Shared};

/// How often an empty mailbox is looked into.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often the mailbox is entered again, and Redis asked whether it is there.
const BEAT: Duration = Duration::from_secs(5);
/// The same while it does not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// A worker that ran for so long starts with the first wait again.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// Runs workers one after the other until it is told to stop.
pub(crate) async fn run(
    shared: Arc<Shared>,
    connection: Connection,
    mailbox: Mailbox,
    stop: CancellationToken,
) {
    let mut wait = FIRST_WAIT;
    let mut number = 0_u64;
    let mut is_told = false;
    loop {
        number += 1;
        let began = Instant::now();
        let ended = tokio::select! {
            ended = work(&shared, &connection, &mailbox, number) => ended,
            () = connection.breaker().until_cut_off(true) => Err("it is cut off".into()),
            () = stop.cancelled() => return,
        };
        if began.elapsed() > HEALTHY_AFTER {
            (wait, is_told) = (FIRST_WAIT, false);
        }
        let error = ended.err().map(|error| error.to_string()).unwrap_or_default();
        if is_told {
            tracing::debug!(error, "no nudges are received");
        } else {
            tracing::warn!(error, "no nudges are received: work is looked for in the database");
            is_told = true;
        }
        tokio::select! {
            () = again(&connection, wait) => {}
            () = stop.cancelled() => return,
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Waits until it is worth trying again. While Redis is cut off there is no connection to it.
async fn again(connection: &Connection, wait: Duration) {
    connection.close().await;
    connection.breaker().until_cut_off(false).await;
    tokio::time::sleep(wait).await;
}

/// Sees to it that the breaker of a process that only sends knows how Redis stands.
pub(crate) async fn look(connection: Connection, stop: CancellationToken) {
    let mut is_told = false;
    loop {
        let wait = match connection.ping().await {
            Ok(()) => {
                is_told = false;
                BEAT
            }
            Err(error) => {
                if !is_told {
                    tracing::warn!(%error, "no nudges are sent: engines look in the database");
                    is_told = true;
                }
                ASK_AGAIN
            }
        };
        tokio::select! {
            () = again_after(&connection, wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn again_after(connection: &Connection, wait: Duration) {
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = connection.breaker().until_cut_off(true) => again(connection, FIRST_WAIT).await,
    }
}

/// Runs one worker over an empty mailbox, under a name that none had before.
async fn work(
    shared: &Arc<Shared>,
    connection: &Connection,
    mailbox: &Mailbox,
    number: u64,
) -> Result<(), BoxDynError> {
    // Whatever was in it, the engine looks for itself now.
    mailbox.clear(connection).await?;
    mailbox.enter(connection).await?;
    shared.wakes.notify_one();
    let storage = RedisStorage::new(Heard(connection.clone(), Arc::clone(shared)));
    let backend = storage
        .with_config(mailbox.config())
        .poll_with_strategy(Rearm(IntervalStrategy::new(LOOK_EVERY)));
    let reader = Reader {
        shared: Arc::clone(shared),
        connection: connection.clone(),
        mailbox: mailbox.clone(),
    };
    let worker = WorkerBuilder::new(format!("{}-{number}", mailbox.name()))
        .backend(backend)
        .data(Arc::new(reader))
        .build(receive);
    tracing::info!("nudges are received");
    tokio::select! {
        ended = worker.run() => ended.map_err(BoxDynError::from),
        error = beat(connection, mailbox) => Err(error.into()),
    }
}

/// Keeps the mailbox known to senders; ends with the error that kept it from it.
async fn beat(connection: &Connection, mailbox: &Mailbox) -> redis::RedisError {
    loop {
        tokio::time::sleep(BEAT).await;
        if let Err(error) = mailbox.enter(connection).await {
            return error;
        }
    }
}

/// What a received nudge needs.
struct Reader {
    shared: Arc<Shared>,
    connection: Connection,
    mailbox: Mailbox,
}

/// Wakes the engine. It never fails: the database knows what is due, and nothing is to be repeated.
async fn receive(
    nudge: Nudge,
    worker: WorkerContext,
    reader: Data<Arc<Reader>>,
) -> Result<(), BoxDynError> {
    reader.shared.wakes.notify_one();
    metrics::counter!(RECEIVED).increment(1);
    tracing::debug!(group = ?nudge.group, "a nudge");
    if let Err(error) = reader.mailbox.forget(&reader.connection, worker.name(), &nudge.id).await {
        tracing::debug!(%error, "a nudge lies in the mailbox until that is emptied");
    }
    Ok(())
}

/// Looks into the mailbox again and again. A strategy that is ready when a fetch ends must be asked once more,
/// or nobody wakes the worker before its next heartbeat.
struct Rearm<S>(S);

impl<S: PollStrategy> PollStrategy for Rearm<S> {
    fn poll_drive(&mut self, cx: &mut Context<'_>, snapshot: &PollSnapshot) -> Poll<Option<()>> {
        const AT_MOST: usize = 1024;
        let mut ready = Poll::Pending;
        for _ in 0..AT_MOST {
            match self.0.poll_drive(cx, snapshot) {
                Poll::Ready(Some(())) => ready = Poll::Ready(Some(())),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        ready
    }
}
