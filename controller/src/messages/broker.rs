//! Events to the message broker.

use std::sync::Arc;
use std::time::Duration;

use capstan_core::dependency::BROKER;
use capstan_core::message::{Broker, Message};
use capstan_core::ports::DriverError;
use capstan_store::Batch;
use tokio_util::sync::CancellationToken;

use super::Backoff;
use super::reader::{Reader, Sent, Sink};
use crate::app::App;

/// First and longest wait after a failure. It is short: a breaker keeps calls away by itself.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Sends to the broker until `stop`.
pub(super) async fn run(app: Arc<App>, broker: Arc<dyn Broker>, stop: CancellationToken) {
    let reader = Reader {
        store: app.store.clone(),
        consumer: BROKER.to_owned(),
        label: BROKER.to_owned(),
        begin: Some(app.settings.broker_begins),
        stop,
    };
    let sink = BrokerSink { broker, backoff: Backoff::new(WAITS.0, WAITS.1), is_failing: false };
    reader.run(sink).await;
}

struct BrokerSink {
    broker: Arc<dyn Broker>,
    backoff: Backoff,
    is_failing: bool,
}

impl BrokerSink {
    fn failed(&mut self, error: &DriverError) -> Duration {
        // Said once, and not each time as long as it lasts.
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(%error, "events wait for the message broker");
        }
        self.backoff.step()
    }
}

impl Sink for BrokerSink {
    async fn send(&mut self, batch: &Batch) -> Sent {
        let messages: Vec<Message> =
            batch.events().map(|event| Message::of(event, batch.epoch(event))).collect();
        if messages.is_empty() {
            return Sent::default();
        }
        match self.broker.publish(&messages).await {
            Ok(()) => {
                if std::mem::replace(&mut self.is_failing, false) {
                    tracing::info!("events go to the message broker again");
                }
                self.backoff.reset();
                Sent {
                    counts: batch.streams.iter().map(Vec::len).collect(),
                    told: messages.len() as u64,
                    ..Sent::default()
                }
            }
            Err(error) => Sent {
                counts: vec![0; batch.streams.len()],
                has_failed: true,
                wait: Some(self.failed(&error)),
                ..Sent::default()
            },
        }
    }
}
