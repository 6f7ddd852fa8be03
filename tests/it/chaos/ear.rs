//! Hears what the broker is told: a queue of our own, read all the time, though the broker is killed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use capstan_core::event::Event;
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, ExchangeKind};
use serde_json::Value;

use crate::harness::PATIENCE;

const EXCHANGE: &str = "capstan.events";
const QUEUE: &str = "ear";
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How long the broker may take to let somebody in, or to answer.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);
/// After how long a silence the connection is made anew.
const QUIET: Duration = Duration::from_secs(10);

/// What came of one log.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Its events, in the order of the log.
    pub(crate) events: Vec<Event>,
    /// How many messages came again.
    pub(crate) repeats: usize,
}

/// All that came.
#[derive(Debug, Default)]
pub(crate) struct Ear {
    pub(crate) logs: Mutex<BTreeMap<String, Heard>>,
    /// Messages that may not come.
    pub(crate) wrong: Mutex<Vec<String>>,
}

impl Ear {
    /// Listens from now on. Nothing may have been sent before.
    pub(crate) async fn open(url: &str) -> Arc<Self> {
        let ear = Arc::new(Self::default());
        let made = tokio::time::timeout(PATIENCE, connect(url)).await;
        drop(made.expect("the broker answers").expect("the broker runs"));
        let (hears, url) = (Arc::clone(&ear), url.to_owned());
        tokio::spawn(async move {
            loop {
                // The client may wait for ever for an answer that died with the broker.
                let connected = tokio::time::timeout(CONNECTS_WITHIN, connect(&url)).await;
                if let Ok(Ok((_connection, channel))) = connected {
                    hears.listen(&channel).await;
                }
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        });
        ear
    }

    /// Takes messages until the connection breaks, or nothing has come for a while: then it may have.
    async fn listen(&self, channel: &lapin::Channel) {
        // The broker may not know yet that the last connection is gone: messages would go to both in turn.
        let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
        let none = FieldTable::default();
        let consumer = channel.basic_consume(QUEUE.into(), "".into(), options, none);
        let consumer = tokio::time::timeout(CONNECTS_WITHIN, consumer).await;
        let Ok(Ok(mut consumer)) = consumer else { return };
        while let Ok(Some(Ok(delivery))) = tokio::time::timeout(QUIET, consumer.next()).await {
            self.hear(&delivery.data);
            let ack = delivery.acker.ack(BasicAckOptions::default());
            if !matches!(tokio::time::timeout(CONNECTS_WITHIN, ack).await, Ok(Ok(_))) {
                return;
            }
        }
    }

    fn hear(&self, body: &[u8]) {
        let cloud: Value = serde_json::from_slice(body).unwrap();
        let id = cloud["id"].as_str().unwrap();
        let event: Event = serde_json::from_value(cloud["data"].clone()).unwrap();
        let (log, seq) = id.rsplit_once('/').unwrap();
        let seq: usize = seq.parse().unwrap();
        let mut logs = self.logs.lock().unwrap();
        let heard = logs.entry(log.to_owned()).or_default();
        let wrong = if event.seq != i64::try_from(seq).unwrap() {
            Some("holds another event")
        } else if seq == heard.events.len() + 1 {
            heard.events.push(event);
            None
        } else if let Some(first) = heard.events.get(seq.wrapping_sub(1)) {
            heard.repeats += 1;
            (*first != event).then_some("comes again, and differently")
        } else {
            Some("comes before those that it follows")
        };
        if let Some(wrong) = wrong {
            let last = heard.events.len();
            self.wrong.lock().unwrap().push(format!("message {id} {wrong}, after {last}"));
        }
    }

    /// How much of a log came.
    pub(crate) fn heard(&self, log: &str) -> usize {
        self.logs.lock().unwrap().get(log).map_or(0, |heard| heard.events.len())
    }
}

async fn connect(url: &str) -> lapin::Result<(Connection, lapin::Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let none = FieldTable::default;
    channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, durable, none()).await?;
    channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), none()).await?;
    let options = QueueBindOptions::default();
    channel.queue_bind(QUEUE.into(), EXCHANGE.into(), "#".into(), options, none()).await?;
    Ok((connection, channel))
}

/// What the broker gives out may come again, and may not be missing, mixed up or different.
#[test]
fn an_ear_notices_what_is_missing_mixed_up_or_different() {
    let message = |seq: i64, actor: &str| {
        let id = uuid::Uuid::nil();
        let event = serde_json::json!({
            "seq": seq, "at": "2026-01-02T03:04:05Z", "type": "deployment.created", "group": id,
            "deployment": id, "actor": actor, "data": {},
        });
        let cloud = serde_json::json!({"id": format!("{id}/{seq}"), "data": event});
        cloud.to_string().into_bytes()
    };
    let wrong = |messages: &[(i64, &str)]| {
        let ear = Ear::default();
        for (seq, actor) in messages {
            ear.hear(&message(*seq, actor));
        }
        let wrong = ear.wrong.lock().unwrap().len();
        (ear.heard(&uuid::Uuid::nil().to_string()), wrong)
    };
    assert_eq!(wrong(&[(1, "ada"), (2, "ada"), (1, "ada"), (2, "ada"), (3, "ada")]), (3, 0));
    assert_eq!(wrong(&[(1, "ada"), (3, "ada")]), (1, 1), "one is missing");
    assert_eq!(wrong(&[(2, "ada"), (1, "ada")]), (1, 1), "two are mixed up");
    assert_eq!(wrong(&[(1, "ada"), (1, "bob")]), (1, 1), "it comes again as another");
}
