//! Events out.

use std::time::Duration;

use capstan_core::message::{Broker, CONTENT_TYPE, Message};
use capstan_core::ports::{Call, DriverError};
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use tokio::sync::Mutex;

use super::{CONNECT, EVENTS, Settings, confirmed, connect, exchange, failed, in_time};

/// Counter of messages that no queue has taken, since none is bound for their key.
pub(super) const UNROUTED_METRIC: &str = "capstan_messages_unrouted_total";
/// Delivery mode of messages that outlive a restart of the broker.
pub(super) const PERSISTENT: u8 = 2;

/// How long a batch may take. With a connection before it that is less than the limit of the call.
const BATCH: Duration = Duration::from_secs(9);

/// Sends messages to an exchange, and waits until the broker has all of them.
pub struct AmqpBroker {
    settings: Settings,
    link: Mutex<Option<Link>>,
}

struct Link {
    channel: Channel,
    /// It closes when this is dropped.
    _connection: Connection,
}

impl AmqpBroker {
    /// One that is not connected yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, link: Mutex::new(None) }
    }

    async fn link(&self) -> Result<Link, DriverError> {
        let connection = connect(&self.settings, "capstan events").await?;
        let channel = confirmed(&connection).await?;
        exchange(&channel, EVENTS, self.settings.topology).await?;
        Ok(Link { channel, _connection: connection })
    }

    async fn send(&self, messages: &[Message]) -> Result<(), DriverError> {
        let mut slot = self.link.lock().await;
        // Taken out: a call that is given up half-way leaves no connection behind.
        let link = match slot.take() {
            Some(link) if link.channel.status().connected() => link,
            Some(_) | None => in_time(CONNECT, "a connection", self.link()).await?,
        };
        in_time(BATCH, "a batch", publish(&link.channel, messages)).await?;
        *slot = Some(link);
        Ok(())
    }
}

async fn publish(channel: &Channel, messages: &[Message]) -> Result<(), DriverError> {
    // Mandatory: it is known when nobody listens. That is no failure.
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let mut confirms = Vec::with_capacity(messages.len());
    for message in messages {
        let properties = BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_delivery_mode(PERSISTENT)
            .with_message_id(message.id.as_str().into())
            .with_type(message.kind.as_str().into())
            .with_app_id("capstan".into());
        let key = message.key.as_str().into();
        let body = message.body.as_bytes();
        let sent = channel.basic_publish(EVENTS.into(), key, options, body, properties).await;
        confirms.push(sent.map_err(|error| failed("a message", &error))?);
    }
    for confirm in confirms {
        match confirm.await.map_err(|error| failed("a confirm", &error))? {
            Confirmation::Ack(None) => {}
            Confirmation::Ack(Some(_)) => metrics::counter!(UNROUTED_METRIC).increment(1),
            Confirmation::Nack(_) | Confirmation::NotRequested => {
                let text = "the broker could not keep a message";
                return Err(DriverError::Busy(text.to_owned()));
            }
        }
    }
    Ok(())
}

impl Broker for AmqpBroker {
    fn publish<'a>(&'a self, messages: &'a [Message]) -> Call<'a, ()> {
        Box::pin(self.send(messages))
    }
}
