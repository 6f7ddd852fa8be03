//! Events to the message broker, in parts: it has all of a part or the part is sent again. A part that it does not
//! take in time is made smaller, so that a broker that is slow gets on, and one that refuses a single message gets
//! what comes before it and few of the others again and again.

use std::sync::Arc;
use std::time::{Duration, Instant};

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
    reader.run(BrokerSink::new(broker)).await;
}

/// Messages of a part at most.
const MOST: usize = 500;
/// A part that takes so long is not made larger: one of twice the size takes less than the limit of the call, with room
/// to spare.
const LONG: Duration = Duration::from_secs(2);
/// After so long it is written how far it came, and seen whether this process still has the consumer.
const TURN: Duration = Duration::from_secs(10);

struct BrokerSink {
    broker: Arc<dyn Broker>,
    backoff: Backoff,
    is_failing: bool,
    /// How many messages are sent at once.
    part: usize,
}

impl BrokerSink {
    const fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker, backoff: Backoff::new(WAITS.0, WAITS.1), is_failing: false, part: MOST }
    }

    /// Sends messages in their order, as many as a turn has time for. Gives how many the broker has, and what went wrong
    /// with the next.
    async fn parts(&mut self, messages: &[Message]) -> (usize, Result<(), DriverError>) {
        let (turn, mut sent) = (Instant::now(), 0);
        while sent < messages.len() && turn.elapsed() < TURN {
            let part = &messages[sent..messages.len().min(sent + self.part)];
            let began = Instant::now();
            if let Err(error) = self.broker.publish(part).await {
                self.part = (part.len() / 4).max(1);
                return (sent, Err(error));
            }
            sent += part.len();
            if began.elapsed() < LONG {
                self.part = (self.part * 2).min(MOST);
            }
        }
        (sent, Ok(()))
    }

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
        let (told, ended) = self.parts(&messages).await;
        if told > 0 {
            self.backoff.reset();
        }
        let wait = match ended {
            Ok(()) => {
                if std::mem::replace(&mut self.is_failing, false) {
                    tracing::info!("events go to the message broker again");
                }
                None
            }
            Err(error) => Some(self.failed(&error)),
        };
        let mut left = told;
        let mut taken = |stream: usize| {
            let taken = stream.min(left);
            left -= taken;
            taken
        };
        Sent {
            counts: batch.streams.iter().map(|stream| taken(stream.len())).collect(),
            told: told as u64,
            has_failed: wait.is_some(),
            wait,
            ..Sent::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, PoisonError};

    use capstan_core::event::Event;
    use capstan_core::ports::Call;
    use uuid::Uuid;

    use super::*;

    /// Takes as many messages at once as it can, and one of them never.
    struct Fussy {
        most: usize,
        never: Option<&'static str>,
        /// How often each was taken.
        taken: Mutex<BTreeMap<String, usize>>,
    }

    impl Broker for Fussy {
        fn publish<'a>(&'a self, messages: &'a [Message]) -> Call<'a, ()> {
            Box::pin(async move {
                if messages.len() > self.most {
                    return Err(DriverError::Unknown("scripted: it takes too long".to_owned()));
                }
                let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
                let mut answer = Ok(());
                for message in messages {
                    if self.never.is_some_and(|never| message.id.ends_with(never)) {
                        answer = Err(DriverError::Busy("scripted: not this one".to_owned()));
                    } else {
                        *taken.entry(message.id.clone()).or_default() += 1;
                    }
                }
                answer
            })
        }
    }

    fn events(stream: u128, count: i64) -> Vec<Event> {
        let (id, at) = (Uuid::from_u128(stream), "2026-01-02T03:04:05Z");
        let event = |seq: i64| {
            serde_json::json!({"seq": seq, "at": at, "type": "deployment.created", "group": id,
                "deployment": id, "actor": "ann", "data": {}})
        };
        (1..=count).map(|seq| serde_json::from_value(event(seq)).expect("an event")).collect()
    }

    /// Sends until all is sent or nothing more is taken; gives how often it took, and what is left.
    async fn send(sink: &mut BrokerSink, mut batch: Batch) -> (usize, Vec<usize>) {
        let (mut calls, mut idle) = (0, 0);
        while idle < 10 && batch.events().next().is_some() {
            let sent = sink.send(&batch).await;
            calls += 1;
            idle = if sent.told == 0 { idle + 1 } else { 0 };
            assert_eq!(sent.counts.iter().sum::<usize>() as u64, sent.told);
            assert_eq!(sent.has_failed, sent.wait.is_some());
            for (stream, count) in batch.streams.iter_mut().zip(sent.counts) {
                stream.drain(..count);
            }
        }
        (calls, batch.streams.iter().map(Vec::len).collect())
    }

    fn batch() -> Batch {
        let mut batch = Batch::default();
        batch.streams = vec![events(1, 200), events(2, 200), events(3, 100)];
        batch
    }

    #[tokio::test]
    async fn a_slow_broker_gets_everything_once_in_smaller_parts() {
        for most in [1, 3, 60, 499, 500] {
            let fussy = Arc::new(Fussy { most, never: None, taken: Mutex::default() });
            let mut sink = BrokerSink::new(fussy.clone());
            let (_, left) = send(&mut sink, batch()).await;
            assert_eq!(left, [0, 0, 0], "{most}");
            let taken = fussy.taken.lock().unwrap_or_else(PoisonError::into_inner);
            assert!(taken.len() == 500 && taken.values().all(|count| *count == 1), "{most}");
        }
    }

    #[tokio::test]
    async fn a_message_that_is_refused_stops_what_follows_and_repeats_few() {
        let never = "00000000-0000-0000-0000-000000000002/77";
        let fussy = Arc::new(Fussy { most: 500, never: Some(never), taken: Mutex::default() });
        let mut sink = BrokerSink::new(fussy.clone());
        let (calls, left) = send(&mut sink, batch()).await;
        assert_eq!(left, [0, 124, 100], "all before it is sent, and nothing after it counts");
        let taken = fussy.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let repeats: usize = taken.values().map(|count| count - 1).sum();
        assert!(repeats < 3 * 500 && calls < 40, "{repeats} repeats in {calls} calls");
        assert_eq!(taken.get(never), None);
    }
}
