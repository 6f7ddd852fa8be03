//! Sends messages about changes, so many a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use capstan_drivers::amqp::CMDB;
use capstan_services::{Change, Changes};
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::fleet::{GROUPS, Memory, name};

/// Messages per second.
const RATE: u32 = 200;
const SEED: u64 = 1;

/// What was sent.
pub(crate) struct Sent {
    pub(crate) count: usize,
    pub(crate) late_count: usize,
    pub(crate) took: Duration,
    /// When the last message was sent.
    pub(crate) ended: Instant,
}

/// Sends until told to stop; what has changed by then is still told of.
pub(crate) struct Sender {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<Sent>>,
}

impl Sender {
    pub(crate) async fn start(url: &str, cmdb: Arc<Memory>) -> anyhow::Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let stop = CancellationToken::new();
        let until = stop.clone();
        let task = tokio::spawn(async move {
            let sent = send(&channel, &cmdb, &until).await;
            connection.close(200, "done".into()).await?;
            sent
        });
        Ok(Self { stop, task })
    }

    pub(crate) async fn stop(self) -> anyhow::Result<Sent> {
        self.stop.cancel();
        self.task.await?
    }
}

async fn send(channel: &Channel, cmdb: &Memory, stop: &CancellationToken) -> anyhow::Result<Sent> {
    let mut changes = Changes::new(GROUPS, usize::MAX, SEED);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    // Late ones are made up for: the rate holds on a machine that is busy.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (began, mut count) = (Instant::now(), 0);
    loop {
        if stop.is_cancelled() {
            changes.end();
        }
        match changes.next() {
            Some(Change::Made(group, revision)) => cmdb.change(group, revision),
            Some(Change::Told(group, revision)) => {
                ticks.tick().await;
                tell(channel, &name(group), revision).await.context("a message")?;
                count += 1;
            }
            None => {
                let (late_count, took) = (changes.late_count(), began.elapsed());
                return Ok(Sent { count, late_count, took, ended: Instant::now() });
            }
        }
    }
}

async fn tell(channel: &Channel, group: &str, revision: i64) -> lapin::Result<()> {
    let body = json!({
        "specversion": "1.0", "id": format!("{group}/{revision}"), "source": "bench",
        "type": "group.changed", "data": {"group": group, "revision": revision},
    });
    let (body, key) = (body.to_string(), format!("group.changed.{group}"));
    let (options, plain) = (BasicPublishOptions::default(), BasicProperties::default());
    let sent = channel.basic_publish(CMDB.into(), key.into(), options, body.as_bytes(), plain);
    sent.await?.await?;
    Ok(())
}
