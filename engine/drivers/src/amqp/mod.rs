//! `RabbitMQ`, and whatever else speaks AMQP 0-9-1: events out ([`AmqpBroker`]), changes of the CMDB in
//! ([`AmqpInbox`]).
//!
//! A connection is made by the first call, and made anew by the call after one that failed. Nothing is
//! kept here for later: what was not confirmed is sent again by the caller, what was not settled is brought
//! again by the broker.
//!
//! | what | name | how |
//! |---|---|---|
//! | exchange | [`EVENTS`] | topic, durable: events out |
//! | exchange | [`CMDB`] | topic, durable: changes of groups come in with the keys [`CHANGED`] |
//! | queue | [`QUEUE`] | durable, bound to the exchange of the CMDB |
//! | queue | [`DEAD`] | durable: messages that nobody understands, with the reason in a header |

mod inbox;
mod publish;
mod replay;

use std::time::Duration;

use capstan_core::ports::DriverError;
use lapin::options::{
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};

pub use inbox::AmqpInbox;
pub use publish::AmqpBroker;

/// The exchange that events go to.
pub const EVENTS: &str = "capstan.events";
/// The exchange that changes of the CMDB come from.
pub const CMDB: &str = "cmdb";
/// The routing keys of changes of groups; an id may hold dots.
pub const CHANGED: &str = "group.changed.#";
/// The queue of changes.
pub const QUEUE: &str = "capstan.cmdb";
/// The queue of changes that were laid aside.
pub const DEAD: &str = "capstan.cmdb.dead";
/// The header that says why a message was laid aside.
pub const REASON: &str = "x-capstan-reason";
/// How often both sides say that they are there, in seconds, unless the URL says so (`?heartbeat=30`). A line that is
/// silent for twice as long is given up. `RabbitMQ` suggests 5 to 20, and has 60 where nobody asks for less.
const HEARTBEAT: u16 = 10;
/// How long a connection may take to come up, with its channel and what is asked of it at once.
const CONNECT: Duration = Duration::from_secs(5);

/// How the broker is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// `amqp://user:password@host:5672/vhost`, or `amqps://…`. It is never logged.
    pub url: String,
    /// Whether exchanges and queues are made. If not, they must be there.
    pub topology: Topology,
}

/// Who makes exchanges and queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// Capstan does, if they are not there.
    Declared,
    /// Somebody else does; it is checked that they are there.
    Checked,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("topology", &self.topology).finish_non_exhaustive()
    }
}

async fn connect(settings: &Settings, name: &str) -> Result<Connection, DriverError> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let failed = |text: String| DriverError::Unknown(format!("no connection: {text}"));
    let mut uri: AMQPUri = settings.url.parse().map_err(failed)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT);
    let connection = Connection::connect_uri(uri, properties).await;
    connection.map_err(|error| failed(error.to_string()))
}

/// Gives up what takes longer. A call of lapin may never answer when its connection is cut at that moment.
async fn in_time<T>(
    limit: Duration,
    what: &str,
    call: impl Future<Output = Result<T, DriverError>>,
) -> Result<T, DriverError> {
    let answer = tokio::time::timeout(limit, call).await;
    answer.unwrap_or_else(|_| {
        Err(DriverError::Unknown(format!("{what}: no answer within {} s", limit.as_secs())))
    })
}

/// A channel whose messages the broker confirms.
async fn confirmed(connection: &Connection) -> Result<Channel, DriverError> {
    let channel = connection.create_channel().await;
    let channel = channel.map_err(|error| failed("a channel", &error))?;
    let confirms = channel.confirm_select(ConfirmSelectOptions::default()).await;
    confirms.map_err(|error| failed("confirms", &error))?;
    Ok(channel)
}

async fn exchange(
    channel: &Channel,
    name: &'static str,
    topology: Topology,
) -> Result<(), DriverError> {
    let options = ExchangeDeclareOptions {
        passive: topology == Topology::Checked,
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default())
        .await
        .map_err(|error| failed(&format!("the exchange {name}"), &error))
}

/// Gives how many messages are in it.
async fn queue(
    channel: &Channel,
    name: &'static str,
    topology: Topology,
) -> Result<u32, DriverError> {
    let options = QueueDeclareOptions {
        passive: topology == Topology::Checked,
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(name.into(), options, FieldTable::default())
        .await
        .map(|queue| queue.message_count())
        .map_err(|error| failed(&format!("the queue {name}"), &error))
}

/// The queues of changes, and what they are bound to.
async fn inward(channel: &Channel, topology: Topology) -> Result<(), DriverError> {
    exchange(channel, CMDB, topology).await?;
    queue(channel, QUEUE, topology).await?;
    queue(channel, DEAD, topology).await?;
    if topology == Topology::Checked {
        // A binding cannot be asked for; whoever made the queue has bound it.
        return Ok(());
    }
    let (from, key): (ShortString, ShortString) = (CMDB.into(), CHANGED.into());
    channel
        .queue_bind(QUEUE.into(), from, key, QueueBindOptions::default(), FieldTable::default())
        .await
        .map_err(|error| failed("the binding", &error))
}

/// What the broker refuses it refuses again; everything else is a connection that is lost.
fn failed(what: &str, error: &lapin::Error) -> DriverError {
    let text = format!("{what}: {error}");
    if error.is_amqp_soft_error() { DriverError::Refused(text) } else { DriverError::Unknown(text) }
}
