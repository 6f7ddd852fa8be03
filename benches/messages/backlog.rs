//! What waits because the broker was away: what that costs releases, and how fast, in how much memory and in which
//! order it is told afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use capstan_core::message::Broker;
use capstan_core::{DeploymentId, GroupId};
use capstan_drivers::amqp::{self, AmqpBroker, EVENTS, Topology};
use capstan_drivers::guard::Guard;
use capstan_services::{Postgres, RabbitMq};
use capstan_store::Store;
use futures::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::engine::Process;
use crate::fleet::{Memory, TARGETS};
use crate::metrics::Metrics;
use crate::release::release;
use crate::run::{STAGES, controller};

/// Releases with the broker, and as many without it.
const RELEASES: u32 = 10;
const QUEUE: &str = "all";
const PATIENCE: Duration = Duration::from_mins(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Messages that the reader of the queue has at once.
const PREFETCH: u16 = 1_000;

/// Measures, and prints what was measured.
pub(crate) async fn run(metrics: &Metrics) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (postgres, mut rabbit) = (Postgres::start_durable(), RabbitMq::start());
    let (database, broker) = (postgres.database(), rabbit.url());
    listen(&broker).await?;
    let store = Store::open(&capstan_store::Settings::new(&database)).await?;
    let cmdb = Arc::new(Memory::new()?);
    let group = cmdb.fill(&store).await?;
    let settings = amqp::Settings { url: broker.clone(), topology: Topology::Declared };
    let out: Arc<dyn Broker> = Arc::new(Guard::broker("amqp", Arc::new(AmqpBroker::new(settings))));
    let controller = Arc::new(controller(&store, &cmdb, folder.path(), Some(out), None)?);
    let stop = CancellationToken::new();
    let telling = tokio::spawn(controller.run_messages(stop.clone()));
    let engine = Process::start(&database, Duration::ZERO)?;

    let with = releases(&store, group, 1).await?;
    until(|| metrics.lag() == Some(0.0)).await?;
    rabbit = blocking(move || {
        rabbit.kill();
        rabbit
    })
    .await?;
    let told = metrics.sent();
    let without = releases(&store, group, 1 + RELEASES).await?;
    ensure!(metrics.sent() == told, "the broker was away, and events were sent");
    until(|| metrics.lag().is_some_and(|lag| lag > 0.0)).await?;
    rabbit = blocking(move || {
        rabbit.resume();
        rabbit
    })
    .await?;
    let (before, back) = (memory("VmRSS")?, Instant::now());
    // The highest is that from here on.
    std::fs::write("/proc/self/clear_refs", "5")?;
    until(|| metrics.sent() > told).await?;
    let (waited, began) = (back.elapsed(), Instant::now());
    until(|| metrics.lag() == Some(0.0)).await?;
    let (took, backlog) = (began.elapsed(), metrics.sent() - told);
    let most = memory("VmHWM")?;
    stop.cancel();
    telling.await?;
    let heard = check(&store, &broker, metrics.sent()).await?;
    engine.stop()?;
    store.leave().await?;
    drop(rabbit);

    #[expect(clippy::cast_precision_loss, reason = "millions")]
    let rate = backlog as f64 / took.as_secs_f64();
    println!(
        "\nreleases at full speed: {with:.0} stage jobs/s with the broker, {without:.0} while it is \
         away. {backlog} events wait for it; {:.1} s after it is back the first are sent, and all \
         within {:.1} s more, {rate:.0} per second. This process had {before} MiB, and at most {most} \
         MiB meanwhile. {heard} messages came, in the order of their logs, none is missing.",
        waited.as_secs_f64(),
        took.as_secs_f64(),
    );
    Ok(())
}

/// Stage jobs per second of some releases, one after the other.
async fn releases(store: &Store, group: GroupId, first: u32) -> anyhow::Result<f64> {
    let mut took = Duration::ZERO;
    for number in first..first + RELEASES {
        took += release(store, group, number).await?;
    }
    Ok(f64::from(RELEASES * TARGETS * STAGES) / took.as_secs_f64())
}

async fn until(is_so: impl Fn() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        ensure!(Instant::now() < deadline, "it takes longer than {PATIENCE:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    Ok(tokio::task::spawn_blocking(work).await?)
}

/// A line of `/proc/self/status`, in MiB.
fn memory(name: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.context("its memory")?.trim().trim_end_matches(" kB");
    Ok(kib.parse::<u64>()? / 1_024)
}

async fn connect(url: &str) -> anyhow::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// A queue that keeps everything, before anything is sent.
async fn listen(url: &str) -> anyhow::Result<()> {
    let (_connection, channel) = connect(url).await?;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let none = FieldTable::default;
    channel.exchange_declare(EVENTS.into(), ExchangeKind::Topic, durable, none()).await?;
    channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), none()).await?;
    let options = QueueBindOptions::default();
    channel.queue_bind(QUEUE.into(), EVENTS.into(), "#".into(), options, none()).await?;
    Ok(())
}

/// Reads the queue: each log comes in its order, nothing is missing, and there is not more in the logs of
/// deployments than came. Gives how many came.
async fn check(store: &Store, url: &str, sent: u64) -> anyhow::Result<u64> {
    let (_connection, channel) = connect(url).await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = channel.basic_consume(QUEUE.into(), "".into(), options, none).await?;
    let (mut ends, mut count) = (BTreeMap::<String, i64>::new(), 0);
    while count < sent {
        let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("a message")?;
        let delivery = next.context("a message")??;
        if hear(&delivery, &mut ends)? {
            count += 1;
        }
        if count == sent || delivery.delivery_tag.is_multiple_of(u64::from(PREFETCH) / 2) {
            delivery.acker.ack(BasicAckOptions { multiple: true }).await?;
        }
    }
    for (log, end) in &ends {
        let more = store.events(DeploymentId(log.parse()?), *end, 1).await?;
        ensure!(more.is_empty(), "log {log} goes on after {end}, which was not told");
    }
    Ok(count)
}

/// Whether it is new. What a broker that was killed had taken without saying so comes again.
fn hear(delivery: &Delivery, ends: &mut BTreeMap<String, i64>) -> anyhow::Result<bool> {
    let cloud: Value = serde_json::from_slice(&delivery.data)?;
    let (log, seq) = cloud["id"].as_str().and_then(|id| id.rsplit_once('/')).context("an id")?;
    let (seq, end) = (seq.parse::<i64>()?, ends.entry(log.to_owned()).or_default());
    if seq > *end + 1 {
        bail!("{log}/{seq} comes after {end}");
    }
    let is_new = seq == *end + 1;
    *end = seq.max(*end);
    Ok(is_new)
}
