//! Processes over one PostgreSQL tell each other of due work by its NOTIFY, so that an engine claims it at once and
//! not when it looks next ([ADR 0022](../../../docs/adr/0022-word-of-due-work.md)).
//!
//! A word says that something is due, and the database says what. Losing every word costs latency: a process that
//! hears nothing, not even its own, looks as often as it would without.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use capstan_core::ports::Queue;
use sea_orm::ConnectionTrait;
use sea_orm::sqlx;
use sea_orm::sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::mpsc;

use crate::bulk::sql;
use crate::inner::Inner;
use crate::operation::within;
use crate::queue::OwnQueue;
use crate::{Error, chain};

/// The channel, of this database alone.
const CHANNEL: &str = "capstan_due";
/// Words are sent no more often; those in between are one.
const EVERY: Duration = Duration::from_millis(20);
/// How long it may take to listen.
const LIMIT: Duration = Duration::from_secs(5);
/// How long whoever stops waits until others are told.
const LAST: Duration = Duration::from_millis(500);
/// After so long without a word a process sends one to itself.
const PROBE: Duration = Duration::from_secs(1);
/// After so many such words that were not heard, it listens on another connection.
const SILENT: u32 = 3;
/// Wait before it listens again; doubled up to the last as long as nothing is heard.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// What a process needs to take part.
pub(crate) struct Word {
    queue: Arc<OwnQueue>,
    options: PgConnectOptions,
    listens: AtomicBool,
}

impl std::fmt::Debug for Word {
    /// The options may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Word").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Word {
    /// For the database of a URL; `None`: it has nothing of the kind.
    pub(crate) fn over(url: &str, queue: Arc<OwnQueue>) -> Option<Self> {
        let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        let options = PgConnectOptions::from_str(url).ok().filter(|_| is_postgres)?;
        let options = options.application_name("capstan listens").options([
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
        ]);
        Some(Self { queue, options, listens: AtomicBool::new(false) })
    }

    /// How it is listened.
    #[cfg(test)]
    pub(crate) const fn options(&self) -> &PgConnectOptions {
        &self.options
    }
}

/// Sends what this process has to tell, as long as the store is there.
pub(crate) fn tell(inner: &Arc<Inner>) {
    let Some(told) = inner.word.as_ref().and_then(|word| word.queue.tell_by()) else { return };
    tokio::spawn(send(Arc::downgrade(inner), told));
}

async fn send(inner: Weak<Inner>, mut told: mpsc::Receiver<()>) {
    while told.recv().await.is_some() {
        let Some(inner) = inner.upgrade() else { return };
        let Some(word) = &inner.word else { return };
        let sent = tokio::time::timeout(LIMIT, notify(&inner, word.queue.takes_due())).await;
        if let Err(error) = sent.unwrap_or(Err(Error::NoAnswer { limit: LIMIT })) {
            tracing::debug!(error = %chain(&error), "others are not told of due work");
        }
        drop(inner);
        tokio::time::sleep(EVERY).await;
    }
}

/// Tells others at once, as the last that this process does.
pub(crate) async fn tell_at_last(inner: &Inner) {
    if inner.word.is_none() {
        return;
    }
    if let Err(error) = within(LAST, notify(inner, true)).await {
        tracing::debug!(error = %chain(&error), "others are not told of what is left to them");
    }
}

/// A word that is of no due work says nothing, and wakes nobody.
async fn notify(inner: &Inner, is_due: bool) -> Result<(), Error> {
    let says = if is_due { inner.member.id() } else { "" };
    let values = [CHANNEL.into(), says.into()];
    let statement = sql(&inner.writer, "SELECT pg_notify(?, ?)", values);
    let sent = inner.writer.execute_raw(statement).await;
    sent.map(drop).map_err(Error::database("tell others of due work"))
}

/// Wakes this process by what others tell, as long as the store is there. Once it is begun it goes on.
pub(crate) fn listen(inner: &Arc<Inner>) {
    let Some(word) = &inner.word else { return };
    if !word.listens.swap(true, Ordering::Relaxed) {
        let (queue, options) = (Arc::clone(&word.queue), word.options.clone());
        tokio::spawn(keep_listening(Arc::downgrade(inner), queue, options));
    }
}

async fn keep_listening(inner: Weak<Inner>, queue: Arc<OwnQueue>, options: PgConnectOptions) {
    let mut wait = AGAIN.0;
    while let Some(id) = inner.upgrade().map(|inner| inner.member.id().to_owned()) {
        let heard = hear(&inner, &queue, &options, &id).await;
        wait = if queue.has_heard() { AGAIN.0 } else { (wait * 2).min(AGAIN.1) };
        if let Err(error) = heard {
            let error = chain(&error);
            tracing::debug!(error, ?wait, "others' due work is looked for and not heard of");
        }
        tokio::time::sleep(wait).await;
    }
}

/// Hears until the store is gone, or the line is lost.
pub(crate) async fn hear(
    inner: &Weak<Inner>,
    queue: &OwnQueue,
    options: &PgConnectOptions,
    id: &str,
) -> Result<(), sqlx::Error> {
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(LIMIT);
    let pool = pool.max_lifetime(None).idle_timeout(None).connect_lazy_with(options.clone());
    let listening = async {
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(listener)
    };
    let begun = tokio::time::timeout(LIMIT, listening).await;
    let mut listener = begun.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
    // What was told before is not heard any more; and this shows whether what is told now is.
    queue.wake();
    queue.tell();
    let mut silent = 0;
    while inner.strong_count() > 0 && silent < SILENT {
        match tokio::time::timeout(PROBE, listener.try_recv()).await {
            Ok(Ok(Some(word))) => {
                silent = 0;
                queue.hears();
                if !word.payload().is_empty() && word.payload() != id {
                    queue.wake();
                }
            }
            Ok(Ok(None)) => break,
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                silent += 1;
                queue.tell();
            }
        }
    }
    Ok(())
}
