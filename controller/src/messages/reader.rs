//! Goes through the log for one consumer, as long as this process has it.

use std::collections::BTreeSet;
use std::time::Duration;

use capstan_core::Timestamp;
use capstan_store::{Batch, Begin, Error, Feed, NewDelivery, Store};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{FAILED, LAG, SENT};
use crate::problem::chain;

/// Events in a batch.
const BATCH: usize = 500;
/// How often it is asked for a consumer that another process has, and for news that nobody has told of.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Takes what a reader reads.
pub(super) trait Sink: Send {
    /// This process has the consumer, maybe again: others may have sent what was not taken before.
    fn begin(&mut self) {}
    /// Streams that are not read now.
    fn waiting(&self) -> Waiting {
        Waiting::default()
    }
    /// Sends events, each stream in its order; stops where it cannot go on.
    fn send(&mut self, batch: &Batch) -> impl Future<Output = Sent> + Send;
}

/// Streams of which nothing is sent for now, though there is something.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) streams: BTreeSet<Uuid>,
    /// When the first of them is to be read again.
    pub(super) until: Option<Instant>,
    /// When the oldest event happened that waits.
    pub(super) oldest: Option<Timestamp>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// How many events of each stream are done with, in the order of the batch.
    pub(super) counts: Vec<usize>,
    /// Calls to write down.
    pub(super) tries: Vec<NewDelivery>,
    /// How many events were sent; the others were not wanted.
    pub(super) told: u64,
    /// Whether there was a failure.
    pub(super) has_failed: bool,
    /// How long to wait before the next batch.
    pub(super) wait: Option<Duration>,
}

/// What may be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It is over, or something happened.
    Over,
    /// The process stops.
    Stopped,
}

/// A reader of the log.
pub(super) struct Reader {
    pub(super) store: Store,
    /// The consumer.
    pub(super) consumer: String,
    /// What it is called in the metrics.
    pub(super) label: String,
    /// Where it begins if it is not there; none: then nothing is read.
    pub(super) begin: Option<Begin>,
    pub(super) stop: CancellationToken,
}

impl Reader {
    /// Reads until it is stopped.
    pub(super) async fn run(self, mut sink: impl Sink) {
        loop {
            let taken = self.store.consumer_take(&self.consumer, self.begin).await;
            let waited = match taken {
                Ok(true) => {
                    sink.begin();
                    let read = self.read(&mut sink).await;
                    // Nothing waits here any more; whoever has the consumer now says how much does.
                    metrics::gauge!(LAG, "consumer" => self.label.clone()).set(0.0);
                    match read {
                        Ok(()) => Wait::Over,
                        Err(error) => self.failed(&error).await,
                    }
                }
                Ok(false) => self.wait(ASK_EVERY).await,
                Err(error) => self.failed(&error).await,
            };
            if waited == Wait::Stopped || self.stop.is_cancelled() {
                return;
            }
        }
    }

    async fn failed(&self, error: &Error) -> Wait {
        let consumer = self.label.as_str();
        tracing::warn!(consumer, error = chain(error), "the log cannot be read; trying again");
        self.wait(ASK_EVERY).await
    }

    async fn wait(&self, time: Duration) -> Wait {
        tokio::select! {
            () = tokio::time::sleep(time) => Wait::Over,
            () = self.stop.cancelled() => Wait::Stopped,
        }
    }

    /// Reads as long as this process has the consumer.
    async fn read(&self, sink: &mut impl Sink) -> Result<(), Error> {
        let mut changes = self.store.watch_all();
        let mut feed = self.store.feed(&self.consumer);
        let lag = metrics::gauge!(LAG, "consumer" => self.label.clone());
        loop {
            // Before it is read: what is committed meanwhile wakes the wait below.
            changes.borrow_and_update();
            let waiting = sink.waiting();
            let batch = feed.next_but(BATCH, &waiting.streams).await?;
            let held = waiting.oldest.map_or(Duration::ZERO, |at| self.store.now().since(at));
            lag.set(batch.lag.max(held).as_secs_f64());
            if batch.is_idle() {
                if self.until_changed(&mut changes, waiting.until).await == Wait::Stopped {
                    return Ok(());
                }
                continue;
            }
            // It may have been idle for long, and others may have it by now.
            if !self.store.consumer_is_mine(&self.consumer).await? {
                return Ok(());
            }
            let sent = tokio::select! {
                sent = sink.send(&batch) => sent,
                () = self.stop.cancelled() => return Ok(()),
            };
            if !self.note(&mut feed, &batch, sent).await? {
                return Ok(());
            }
        }
    }

    /// Writes how far it came, and waits after a failure. Whether to go on.
    async fn note(&self, feed: &mut Feed, batch: &Batch, sent: Sent) -> Result<bool, Error> {
        let (wait, has_failed) = (sent.wait, sent.has_failed);
        let is_mine = feed.sent(batch, &sent.counts, sent.tries).await?;
        let label = || [("consumer", self.label.clone())];
        metrics::counter!(SENT, &label()).increment(sent.told);
        if has_failed {
            metrics::counter!(FAILED, &label()).increment(1);
        }
        if let Some(wait) = wait {
            return Ok(is_mine && self.wait(wait).await == Wait::Over);
        }
        Ok(is_mine)
    }

    async fn until_changed(
        &self,
        changes: &mut watch::Receiver<u64>,
        until: Option<Instant>,
    ) -> Wait {
        let ask_at = Instant::now() + ASK_EVERY;
        tokio::select! {
            // The sender lives as long as the store.
            _ = changes.changed() => Wait::Over,
            () = tokio::time::sleep_until(until.map_or(ask_at, |it| it.min(ask_at))) => Wait::Over,
            () = self.stop.cancelled() => Wait::Stopped,
        }
    }
}
