//! Changes of the CMDB in.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use capstan_core::message::{Inbox, Incoming, Replayed, Verdict, Waiting};
use capstan_core::ports::{Call, DriverError};
use futures::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use tokio::sync::{Mutex, Notify};

use super::publish::PERSISTENT;
use super::replay::replay;
use super::{
    CONNECT, DEAD, QUEUE, REASON, Settings, Topology, confirmed, connect, failed, in_time, inward,
    queue,
};

/// Messages that are here and not settled. They bound the memory; and a group that the CMDB cannot give keeps
/// others waiting only when so many messages are about it.
pub(super) const PREFETCH: u16 = 512;
/// How often it is seen, while no message comes, whether the connection is there.
const LOOK: Duration = Duration::from_secs(10);
/// How long it may take to say what became of a message. That is less than the limit of the call.
const SETTLE: Duration = Duration::from_secs(9);
/// After this time whoever waits for a message is told again that the connection is given up.
const TELL_AGAIN: Duration = Duration::from_millis(100);
/// Longest reason that is sent along, in characters.
const LONGEST: usize = 500;

/// Takes messages from a queue, and says what became of each.
pub struct AmqpInbox {
    settings: Settings,
    link: Mutex<Option<Link>>,
    /// What is here and not settled, of the present connection.
    open: Mutex<Open>,
    tags: AtomicU64,
    /// The connection was given up, and whoever waits for messages is not told yet.
    given_up: Notify,
}

struct Link {
    consumer: Consumer,
    /// It may be closed while the connection lives.
    channel: Channel,
    connection: Connection,
}

impl Link {
    async fn delivery(&mut self) -> Result<Delivery, DriverError> {
        loop {
            match tokio::time::timeout(LOOK, self.consumer.next()).await {
                Ok(Some(delivery)) => {
                    return delivery.map_err(|error| failed("the queue", &error));
                }
                Ok(None) => {
                    let text = "the broker has ended the queue";
                    return Err(DriverError::Unknown(text.to_owned()));
                }
                Err(_) if self.is_there() => {}
                Err(_) => return Err(DriverError::Unknown("the connection is lost".to_owned())),
            }
        }
    }

    fn is_there(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }
}

#[derive(Default)]
struct Open {
    deliveries: BTreeMap<u64, Delivery>,
    /// Where what is laid aside goes.
    out: Option<Channel>,
}

impl AmqpInbox {
    /// One that is not connected yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            link: Mutex::default(),
            open: Mutex::default(),
            tags: AtomicU64::new(0),
            given_up: Notify::new(),
        }
    }

    async fn link(&self) -> Result<Link, DriverError> {
        let connection = connect(&self.settings, "capstan cmdb").await?;
        let channel = confirmed(&connection).await?;
        inward(&channel, self.settings.topology).await?;
        let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default()).await;
        qos.map_err(|error| failed("the prefetch", &error))?;
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel.basic_consume(QUEUE.into(), "".into(), options, none).await;
        let consumer = consumer.map_err(|error| failed("the queue", &error))?;
        let out = Some(channel.clone());
        *self.open.lock().await = Open { deliveries: BTreeMap::new(), out };
        Ok(Link { consumer, channel, connection })
    }

    async fn receive(&self) -> Result<Incoming, DriverError> {
        let mut slot = self.link.lock().await;
        let link = match &mut *slot {
            Some(link) => link,
            none => none.insert(in_time(CONNECT, "a connection", self.link()).await?),
        };
        let delivery = match link.delivery().await {
            Ok(delivery) => delivery,
            Err(error) => {
                *slot = None;
                // All of them come again.
                *self.open.lock().await = Open::default();
                return Err(error);
            }
        };
        let tag = self.tags.fetch_add(1, Ordering::Relaxed);
        let incoming =
            Incoming { tag, key: delivery.routing_key.to_string(), body: delivery.data.clone() };
        self.open.lock().await.deliveries.insert(tag, delivery);
        Ok(incoming)
    }

    async fn finish(&self, tag: u64, verdict: Verdict) -> Result<(), DriverError> {
        let (delivery, out) = {
            let mut open = self.open.lock().await;
            (open.deliveries.remove(&tag), open.out.clone())
        };
        let (Some(delivery), Some(out)) = (delivery, out) else {
            // The connection that it came by is lost: it comes again, whatever became of it.
            return Ok(());
        };
        in_time(SETTLE, "settling a message", end(&out, &delivery, verdict)).await
    }

    /// Gives the connection up. Whoever waits for a message holds it, and lets go of it when told; who began
    /// to wait right after that was not.
    async fn give_up(&self) {
        loop {
            self.given_up.notify_one();
            if let Ok(mut link) = tokio::time::timeout(TELL_AGAIN, self.link.lock()).await {
                *link = None;
                // Before somebody else connects.
                *self.open.lock().await = Open::default();
                return;
            }
        }
    }

    /// On a connection of its own: that happens rarely.
    async fn count(&self) -> Result<Waiting, DriverError> {
        let connection = connect(&self.settings, "capstan cmdb, once").await?;
        let channel = confirmed(&connection).await?;
        inward(&channel, self.settings.topology).await?;
        let queued = queue(&channel, QUEUE, Topology::Checked).await?;
        let dead = queue(&channel, DEAD, Topology::Checked).await?;
        Ok(Waiting { queued, dead })
    }
}

/// Lays a message aside if it is poison, and takes it from the queue.
async fn end(out: &Channel, delivery: &Delivery, verdict: Verdict) -> Result<(), DriverError> {
    if let Verdict::Poison(reason) = verdict {
        lay_aside(out, delivery, &reason).await?;
    }
    let done = delivery.acker.ack(BasicAckOptions::default()).await;
    done.map(drop).map_err(|error| failed("an acknowledgement", &error))
}

async fn lay_aside(out: &Channel, delivery: &Delivery, reason: &str) -> Result<(), DriverError> {
    let reason: String = reason.chars().take(LONGEST).collect();
    let mut headers = FieldTable::default();
    headers.insert(REASON.into(), AMQPValue::LongString(reason.into()));
    let key = delivery.routing_key.to_string();
    headers.insert("x-capstan-key".into(), AMQPValue::LongString(key.into()));
    send(out, DEAD, &delivery.data, headers).await
}

/// Puts a message into a queue, and waits until it is there.
async fn send(
    channel: &Channel,
    queue: &'static str,
    body: &[u8],
    headers: FieldTable,
) -> Result<(), DriverError> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties =
        BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(headers);
    let sent = channel.basic_publish("".into(), queue.into(), options, body, properties).await;
    let sent = sent.map_err(|error| failed("a message", &error))?;
    let confirmation = sent.await.map_err(|error| failed("a confirm", &error))?;
    if confirmation.is_ack() && confirmation.take_message().is_none() {
        return Ok(());
    }
    Err(DriverError::Busy(format!("the queue {queue} has not taken a message")))
}

impl Inbox for AmqpInbox {
    fn next(&self) -> Call<'_, Incoming> {
        Box::pin(async {
            tokio::select! {
                biased;
                () = self.given_up.notified() => {
                    Err(DriverError::Busy("the connection was given up".to_owned()))
                }
                next = self.receive() => next,
            }
        })
    }

    fn settle(&self, tag: u64, verdict: Verdict) -> Call<'_, ()> {
        Box::pin(self.finish(tag, verdict))
    }

    fn close(&self) -> Call<'_, ()> {
        Box::pin(async {
            self.give_up().await;
            Ok(())
        })
    }

    fn waiting(&self) -> Call<'_, Waiting> {
        Box::pin(in_time(CONNECT, "the queues", self.count()))
    }

    fn replay(&self, most: u32) -> Call<'_, Replayed> {
        Box::pin(replay(&self.settings, most))
    }
}
