//! The mailbox of an engine in Redis, and the list of those that there are.
//!
//! A mailbox is an apalis queue of one run of one process, so no two workers ever compare their clocks
//! over it, and one that has gone is no loss: its rows go by themselves after [`KEPT`].
//!
//! apalis-redis (1.0.0) pushes every task through a set that is sorted by the sender's clock, in whole
//! seconds, and its fetch unpacks all that are due: 8,000 of them wedge the queue for good. It keeps
//! what is done for ever. So [`post`] writes the same rows straight into the list of what is to be done,
//! a few at most, and [`Mailbox::forget`] removes what was received.

use std::sync::LazyLock;
use std::time::Duration;

use apalis_redis::Config;
use capstan_core::GroupId;
use redis::{RedisResult, Script};
use serde::{Deserialize, Serialize};

use super::connection::Connection;

/// What a mailbox holds and nobody has fetched, at most. One would do: it wakes the engine after the
/// commits of all others.
const OUTSTANDING: usize = 16;
/// An engine that has not entered its mailbox again for so long is gone.
const ALIVE: Duration = Duration::from_secs(30);
/// How long what is left of a mailbox lies in Redis.
const KEPT: Duration = Duration::from_hours(1);

/// The mailboxes of all engines, by when they were last entered.
const ENGINES: &str = "capstan:engines";
/// apalis' own list of queues.
const QUEUES: &str = "core:apalis:queues:list";

static POST: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("post.lua")));
static ENTER: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("enter.lua")));
static FORGET: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("forget.lua")));
static REMOVE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("remove.lua")));

/// "There is due work of this group", or of more than one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nudge {
    /// The same whenever it is sent.
    pub(crate) id: String,
    pub(crate) group: Option<GroupId>,
}

/// What became of nudges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Posted {
    /// Mailboxes of other engines.
    pub(crate) engines: u64,
    /// Nudges that were put into one.
    pub(crate) sent: u64,
    /// Nudges that were not, since it holds enough.
    pub(crate) full: u64,
}

/// The mailbox of this process.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox {
    name: String,
}

impl Mailbox {
    /// One that nobody has had before.
    pub(crate) fn new() -> Self {
        let (process, random) = (std::process::id(), fastrand::u128(..));
        Self { name: format!("capstan:nudges:{process}-{random:032x}") }
    }

    /// Its name; names of workers begin with it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How apalis is to read it: one nudge at a time, without locks and without keeping results, since
    /// [`Self::forget`] takes the place of its acknowledgement.
    pub(crate) fn config(&self) -> Config {
        Config::default()
            .queue(&self.name)
            .batch_size(1)
            .heartbeat_interval(Duration::from_secs(5))
            .missed_heartbeats(6)
            .lock_tasks(false)
            .persist_results(false)
            .emit_events(false)
    }

    fn keys(&self) -> [String; 6] {
        let config = self.config();
        [
            config.active_jobs_list(),
            config.job_data_hash(),
            config.scheduled_jobs_set(),
            config.signal_list(),
            config.workers_set(),
            config.done_jobs_set(),
        ]
    }

    /// Empties it, so that whatever was wrong with it is gone. Its engine has to look for itself then.
    pub(crate) async fn clear(&self, connection: &Connection) -> RedisResult<()> {
        self.run(&REMOVE, connection).await
    }

    /// Tells senders that it is there.
    pub(crate) async fn enter(&self, connection: &Connection) -> RedisResult<()> {
        self.run(&ENTER, connection).await
    }

    /// Takes it away.
    pub(crate) async fn remove(&self, connection: &Connection) -> RedisResult<()> {
        self.run(&REMOVE, connection).await
    }

    async fn run(&self, script: &Script, connection: &Connection) -> RedisResult<()> {
        let mut call = script.key(ENGINES);
        let call = call.key(QUEUES).key(self.keys().as_slice());
        let call = call.arg(&self.name).arg(KEPT.as_secs());
        call.invoke_async(&mut connection.clone()).await
    }

    /// Removes what was received.
    pub(crate) async fn forget(
        &self,
        connection: &Connection,
        worker: &str,
        task: &str,
    ) -> RedisResult<()> {
        let config = self.config();
        let mut call = FORGET.key(format!("{}:{worker}", config.inflight_jobs_set()));
        let call = call.key(config.job_data_hash());
        let call = call.key(format!("{}:{task}", config.job_meta_hash())).arg(task);
        call.invoke_async(&mut connection.clone()).await
    }
}

/// Puts nudges, each under its id, into the mailbox of every engine but this process's own. An id that
/// is there already is not put again.
pub(crate) async fn post(
    connection: &Connection,
    own: Option<&Mailbox>,
    nudges: &[Nudge],
) -> RedisResult<Posted> {
    let mut call = POST.key(ENGINES);
    let call = call.key(QUEUES).arg(own.map_or("", Mailbox::name)).arg(ALIVE.as_secs());
    let mut call = call.arg(OUTSTANDING).arg(KEPT.as_secs());
    for nudge in nudges {
        let text = serde_json::to_string(nudge).expect("ids are JSON");
        call = call.arg(&nudge.id).arg(text);
    }
    let (engines, sent, full) = call.invoke_async(&mut connection.clone()).await?;
    Ok(Posted { engines, sent, full })
}
