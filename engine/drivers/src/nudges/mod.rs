//! The queue `redis`: processes tell each other of due work, so that an engine claims it at once and not
//! when it looks next.
//!
//! A nudge holds the id of a group and nothing else; the database says what is due. Each engine has a
//! [`mailbox`] of its own in Redis, with an apalis worker ([`receive`]) that wakes the engine. Whoever
//! commits due work and leaves it to others puts a nudge into each mailbox ([`send`]): which engine may
//! have the work is for the claim to say. Losing every nudge costs latency: while nothing is heard from
//! Redis the engine looks as often as it would without.
//!
//! Commits never wait for Redis. Nudges that wait to be sent are merged, and a mailbox takes only a few
//! at a time: one that is still in it wakes its engine after the commit of those that are not taken.

mod connection;
mod mailbox;
mod receive;
mod send;

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use capstan_core::ports::Queue;
use capstan_core::{GroupId, Timestamp};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::breaker::Breaker;
use connection::Connection;
use mailbox::Mailbox;
use send::Outbox;

/// Counter of nudges by what became of them: `sent`, `full` (the mailbox holds enough), `nobody` (no other
/// engine is there), `lost` (Redis did not take them).
const SENT: &str = "capstan_nudges_sent_total";
/// Counter of nudges that woke the engine of this process.
const RECEIVED: &str = "capstan_nudges_received_total";
/// What is heard of Redis holds for so long.
const HEARD_FOR: Duration = Duration::from_secs(1);
/// How long a stop waits for nudges that are on their way.
const LAST_NUDGES: Duration = Duration::from_millis(500);

/// Says what the metrics mean. Called once, after the recorder is installed.
pub(crate) fn describe_metrics() {
    metrics::describe_counter!(SENT, "Nudges to engines, by what became of them");
    metrics::describe_counter!(RECEIVED, "Nudges that woke the engine of this process");
}

/// How this process takes part.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// `redis://` or `rediss://`, with everything that Redis wants to know. It is never shown.
    pub url: String,
    /// Whether this process has an engine to be woken.
    pub receives: bool,
    /// How often the engine looks for work of others while it hears from Redis.
    pub look_every: Duration,
}

impl Settings {
    /// The usual settings.
    pub fn new(url: impl Into<String>, receives: bool) -> Self {
        Self { url: url.into(), receives, look_every: Duration::from_secs(1) }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("receives", &self.receives).finish_non_exhaustive()
    }
}

/// What is wrong with a URL; `None`: nothing. The URL may hold a password and is not repeated.
pub fn url_problem(url: &str) -> Option<String> {
    redis::Client::open(url).err().map(|error| error.to_string())
}

/// The queue of a process.
#[derive(Debug)]
pub struct Nudges {
    shared: Arc<Shared>,
    look_every: Option<Duration>,
    connection: Connection,
    mailbox: Option<Mailbox>,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What the tasks of a queue have in common.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Wakes the engine of this process. A wake-up that nobody waits for is kept for whoever waits next.
    wakes: Notify,
    outbox: Outbox,
    /// When the mailbox was last asked with success.
    heard_at: Mutex<Option<Instant>>,
}

impl Shared {
    fn hears(&self) {
        *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn has_heard(&self) -> bool {
        let heard_at = *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner);
        heard_at.is_some_and(|at| at.elapsed() < HEARD_FOR)
    }
}

impl Nudges {
    /// Starts to send, and to receive. Redis need not be there.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn start(settings: &Settings, breaker: Arc<Breaker>) -> redis::RedisResult<Arc<Self>> {
        let connection = Connection::new(&settings.url, breaker)?;
        let mailbox = settings.receives.then(Mailbox::new);
        let nudges = Self {
            shared: Arc::default(),
            look_every: settings.receives.then_some(settings.look_every),
            connection,
            mailbox,
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
        };
        let (shared, connection) = (Arc::clone(&nudges.shared), nudges.connection.clone());
        let own = nudges.mailbox.clone();
        let sender = tokio::spawn(send::run(shared, connection, own.clone(), nudges.stop.clone()));
        let (shared, connection) = (Arc::clone(&nudges.shared), nudges.connection.clone());
        let stop = nudges.stop.clone();
        let other = match own {
            Some(mailbox) => tokio::spawn(receive::run(shared, connection, mailbox, stop)),
            None => tokio::spawn(receive::look(connection, stop)),
        };
        nudges.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend([sender, other]);
        Ok(Arc::new(nudges))
    }

    /// Sends what waits, and takes the mailbox away.
    pub async fn stop(&self) {
        self.stop.cancel();
        let tasks: Vec<_> =
            self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        let last = async {
            for task in tasks {
                if let Err(error) = task.await {
                    tracing::error!(%error, "a task of the queue ended badly");
                }
            }
            if let Some(mailbox) = &self.mailbox {
                mailbox.remove(&self.connection).await?;
            }
            redis::RedisResult::Ok(())
        };
        match tokio::time::timeout(LAST_NUDGES, last).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the mailbox goes by itself"),
            Err(_) => tracing::debug!("Redis did not take the last nudges in time"),
        }
    }
}

impl Queue for Nudges {
    fn wake(&self) {
        self.shared.wakes.notify_one();
    }

    fn woken(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.shared.wakes.notified())
    }

    fn nudge(&self, group: Option<GroupId>, at: Timestamp) {
        self.shared.outbox.put(group, at);
    }

    fn look_every(&self) -> Option<Duration> {
        self.look_every.filter(|_| self.shared.has_heard())
    }
}
