//! Events to one webhook: a call for each, in the order of its log.
//!
//! A call that is not answered with 2xx is made again, later and later, and what comes after it in its log
//! waits (`held`); other logs go on. A webhook that has taken nothing for long enough is switched off; what it
//! has missed waits in the log and is sent when somebody switches it on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use capstan_core::Timestamp;
use capstan_core::event::Event;
use capstan_core::message::{EventFilter, Message, WebhookCall};
use capstan_core::view::WebhookView;
use capstan_store::{Batch, NewDelivery, Webhook};
use futures::{FutureExt, StreamExt, stream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::held::{Held, Kept};
use super::reader::{Reader, Sent, Sink, Waiting};
use super::{Backoff, DISABLED};
use crate::app::App;
use crate::audit::Deed;
use crate::problem::chain;

/// Calls before it is written how far they came: after a crash at most so many are made again.
const CALLS: usize = 50;
/// Logs that are sent at the same time.
const STREAMS: usize = 4;
/// Longest wait of a log after a failure.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// Calls a webhook until `stop`.
pub(super) async fn run(app: Arc<App>, webhook: Webhook, stop: CancellationToken) {
    let filter = match EventFilter::parse(&webhook.view.events) {
        Ok(filter) => filter,
        Err(problem) => {
            let name = &webhook.view.name;
            tracing::error!(webhook = name, problem, "a webhook wants what nobody knows");
            stop.cancelled().await;
            return;
        }
    };
    let reader = Reader {
        store: app.store.clone(),
        consumer: webhook.consumer(),
        label: webhook.view.name.clone(),
        begin: None,
        stop,
    };
    let held = Held::new(Backoff::new(app.settings.webhook_first_wait, LONGEST_WAIT));
    reader.run(WebhookSink { app, webhook, filter, held }).await;
}

struct WebhookSink {
    app: Arc<App>,
    webhook: Webhook,
    filter: EventFilter,
    held: Held,
}

/// Calls of one batch, over all of its streams.
#[derive(Default)]
struct Calls {
    begun: AtomicUsize,
    taken: AtomicUsize,
    failed: AtomicUsize,
}

impl Calls {
    /// Whether another one may be made. Where nothing is taken, it is left at a few: all others would be
    /// calls to somebody who does not answer.
    fn begin(&self) -> bool {
        let is_dead = self.taken.load(Ordering::Relaxed) == 0
            && self.failed.load(Ordering::Relaxed) >= STREAMS;
        !is_dead && self.begun.fetch_add(1, Ordering::Relaxed) < CALLS
    }
}

/// What became of the events of one stream.
#[derive(Default)]
struct OfStream {
    done: usize,
    sent: u64,
    tries: Vec<NewDelivery>,
    failed: Option<Failure>,
}

/// An event that was not taken.
struct Failure {
    stream: Uuid,
    /// When the event happened.
    at: Timestamp,
    why: String,
}

impl Sink for WebhookSink {
    fn begin(&mut self) {
        self.held.clear();
    }

    fn waiting(&self) -> Waiting {
        self.held.waiting(tokio::time::Instant::now())
    }

    async fn send(&mut self, batch: &Batch) -> Sent {
        let calls = Calls::default();
        let works: Vec<_> = batch
            .streams
            .iter()
            .enumerate()
            .map(|(place, events)| {
                self.stream(batch, events, &calls).map(move |it| (place, it)).boxed()
            })
            .collect();
        let mut streams: Vec<(usize, OfStream)> =
            stream::iter(works).buffer_unordered(STREAMS).collect().await;
        streams.sort_by_key(|(place, _)| *place);
        let mut all = Sent::default();
        let mut failures = Vec::new();
        for (place, of_stream) in streams {
            if of_stream.sent > 0 {
                self.held.taken(batch.streams[place].first().map_or(Uuid::nil(), of));
            }
            all.counts.push(of_stream.done);
            all.told += of_stream.sent;
            all.tries.extend(of_stream.tries);
            failures.extend(of_stream.failed);
        }
        if all.told > 0 {
            self.delivered().await;
        }
        if !failures.is_empty() {
            all.has_failed = true;
            all.wait = self.failed(failures).await;
        }
        all
    }
}

/// The stream of an event.
fn of(event: &Event) -> Uuid {
    event.deployment.map_or(event.group.0, |deployment| deployment.0)
}

impl WebhookSink {
    /// Sends one log as far as it goes.
    async fn stream(&self, batch: &Batch, events: &[Event], calls: &Calls) -> OfStream {
        let mut of_stream = OfStream::default();
        for event in events {
            if self.filter.wants(event.kind) {
                if !self.app.store.may_act() || !calls.begin() {
                    return of_stream;
                }
                let tried = self.call(event, batch.epoch(event)).await;
                let error = tried.error.clone();
                of_stream.tries.push(tried);
                if let Some(why) = error {
                    calls.failed.fetch_add(1, Ordering::Relaxed);
                    of_stream.failed = Some(Failure { stream: of(event), at: event.at, why });
                    return of_stream;
                }
                calls.taken.fetch_add(1, Ordering::Relaxed);
                of_stream.sent += 1;
            }
            of_stream.done += 1;
        }
        of_stream
    }

    async fn call(&self, event: &Event, epoch: i64) -> NewDelivery {
        let view = &self.webhook.view;
        let call = WebhookCall {
            url: view.url.clone(),
            secret: self.webhook.secret.clone(),
            message: Message::of(event, epoch),
        };
        let (at, began) = (self.app.store.now(), Instant::now());
        let answer = self.app.ports.webhooks.call(&call).await;
        let (status, error) = match answer {
            Ok(status) if (200..300).contains(&status) => (Some(status), None),
            Ok(status) => (Some(status), Some(format!("it answered {status}"))),
            Err(error) => (None, Some(error.to_string())),
        };
        NewDelivery {
            webhook: view.id,
            stream: of(event),
            seq: event.seq,
            kind: event.kind,
            attempt: self.held.failures(of(event)) + 1,
            at,
            status,
            error,
            took: began.elapsed(),
        }
    }

    async fn delivered(&self) {
        if let Err(error) = self.app.store.webhook_delivered(self.webhook.view.id).await {
            tracing::warn!(error = chain(&error), "a call of a webhook could not be noted");
        }
    }

    /// Notes failures. Gives how long the whole webhook waits, if it does.
    async fn failed(&mut self, failures: Vec<Failure>) -> Option<Duration> {
        let now = tokio::time::Instant::now();
        let mut is_full = false;
        let mut last = String::new();
        for Failure { stream, at, why } in failures {
            is_full |= self.held.failed(stream, at, now) == Kept::Full;
            last = why;
        }
        let WebhookView { id, name, .. } = &self.webhook.view;
        let wait = self.held.next_try(now);
        let patience = self.app.settings.webhook_patience;
        tracing::info!(webhook = name, why = last, ?wait, "a webhook failed");
        let is_off = match self.app.store.webhook_failed(*id, wait, patience, &last).await {
            Ok(is_off) => is_off,
            Err(error) => {
                tracing::warn!(error = chain(&error), "a call of a webhook could not be noted");
                false
            }
        };
        if is_off {
            self.disabled(&last).await;
        }
        // One that is off is not called until this reader is ended.
        (is_off || is_full).then(|| wait.max(self.app.settings.webhook_first_wait))
    }

    /// Tells everybody that it is switched off.
    async fn disabled(&self, why: &str) {
        let name = &self.webhook.view.name;
        let patience = self.app.settings.webhook_patience;
        tracing::warn!(webhook = name, why, ?patience, "a webhook failed for too long: it is off");
        metrics::counter!(DISABLED).increment(1);
        let deed = Deed {
            actor: capstan_core::decide::CAPSTAN,
            action: "webhook.disable",
            kind: "webhook",
            subject: self.webhook.view.id.to_string(),
            deployment: None,
            detail: format!("it failed for {} s: {why}", patience.as_secs()),
        };
        self.app.note(deed, "accepted").await;
        self.app.webhooks_changed.notify_one();
    }
}
