//! Events to one webhook: a call for each, in the order of its log.
//!
//! A call that is not answered with 2xx is made again, later and later, and what comes after it in its log
//! waits. A webhook that has failed for long enough is switched off; what it has missed waits in the log
//! and is sent when somebody switches it on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use capstan_core::event::Event;
use capstan_core::message::{EventFilter, Message, WebhookCall};
use capstan_core::view::WebhookView;
use capstan_store::{Batch, NewDelivery, Webhook};
use futures::{FutureExt, StreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::reader::{Reader, Sent, Sink};
use super::{Backoff, DISABLED};
use crate::app::App;
use crate::audit::Deed;
use crate::problem::chain;

/// Calls before it is written how far they came: after a crash at most so many are made again.
const CALLS: usize = 50;
/// Logs that are sent at the same time.
const STREAMS: usize = 4;
/// Longest wait after a failure.
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
    // Another process may have failed just now, or this one before it was started again.
    if let Some(at) = webhook.view.next_try_at {
        tokio::select! {
            () = tokio::time::sleep(at.since(app.store.now())) => {}
            () = stop.cancelled() => return,
        }
    }
    let reader = Reader {
        store: app.store.clone(),
        consumer: webhook.consumer(),
        label: webhook.view.name.clone(),
        begin: None,
        stop,
    };
    let failures = webhook.view.failures;
    let backoff = Backoff::new(app.settings.webhook_first_wait, LONGEST_WAIT).after(failures);
    reader.run(WebhookSink { app, webhook, filter, failures, backoff }).await;
}

struct WebhookSink {
    app: Arc<App>,
    webhook: Webhook,
    filter: EventFilter,
    /// Calls that failed since one succeeded.
    failures: u32,
    backoff: Backoff,
}

/// What became of the events of one stream.
#[derive(Default)]
struct OfStream {
    done: usize,
    sent: u64,
    tries: Vec<NewDelivery>,
    failed: Option<String>,
}

impl Sink for WebhookSink {
    async fn send(&mut self, batch: &Batch) -> Sent {
        let calls = AtomicUsize::new(0);
        let works: Vec<_> = batch
            .streams
            .iter()
            .enumerate()
            .map(|(place, events)| self.stream(events, &calls).map(move |it| (place, it)).boxed())
            .collect();
        let mut streams: Vec<(usize, OfStream)> =
            stream::iter(works).buffer_unordered(STREAMS).collect().await;
        streams.sort_by_key(|(place, _)| *place);
        let mut all = Sent::default();
        let mut why = None;
        for (_, of_stream) in streams {
            all.counts.push(of_stream.done);
            all.told += of_stream.sent;
            all.tries.extend(of_stream.tries);
            why = why.or(of_stream.failed);
        }
        match why {
            Some(why) => all.wait = Some(self.failed(&why).await),
            None if all.told > 0 => self.delivered().await,
            None => {}
        }
        all
    }
}

impl WebhookSink {
    /// Sends one log as far as it goes. After a failure elsewhere it begins no more calls.
    async fn stream(&self, events: &[Event], calls: &AtomicUsize) -> OfStream {
        let mut of_stream = OfStream::default();
        for event in events {
            if self.filter.wants(event.kind) {
                if calls.fetch_add(1, Ordering::Relaxed) >= CALLS || !self.app.store.may_act() {
                    return of_stream;
                }
                let tried = self.call(event).await;
                let error = tried.error.clone();
                of_stream.tries.push(tried);
                if error.is_some() {
                    calls.fetch_add(CALLS, Ordering::Relaxed);
                    of_stream.failed = error;
                    return of_stream;
                }
                of_stream.sent += 1;
            }
            of_stream.done += 1;
        }
        of_stream
    }

    async fn call(&self, event: &Event) -> NewDelivery {
        let view = &self.webhook.view;
        let call = WebhookCall {
            url: view.url.clone(),
            secret: self.webhook.secret.clone(),
            message: Message::of(event),
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
            stream: event.deployment.map_or(event.group.0, |deployment| deployment.0),
            seq: event.seq,
            kind: event.kind,
            attempt: self.failures + 1,
            at,
            status,
            error,
            took: began.elapsed(),
        }
    }

    async fn delivered(&mut self) {
        self.failures = 0;
        self.backoff.reset();
        if let Err(error) = self.app.store.webhook_delivered(self.webhook.view.id).await {
            tracing::warn!(error = chain(&error), "a call of a webhook could not be noted");
        }
    }

    /// Notes a failure; gives how long to wait.
    async fn failed(&mut self, why: &str) -> Duration {
        let WebhookView { id, name, .. } = &self.webhook.view;
        let wait = self.backoff.step();
        self.failures += 1;
        let patience = self.app.settings.webhook_patience;
        tracing::info!(webhook = name, why, failures = self.failures, ?wait, "a webhook failed");
        match self.app.store.webhook_failed(*id, wait, patience, why).await {
            Ok(true) => self.disabled(why).await,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(error = chain(&error), "a call of a webhook could not be noted");
            }
        }
        wait
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
