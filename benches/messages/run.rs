//! One measurement: everything is new but the broker.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use capstan_controller::{Controller, Ports, Settings};
use capstan_core::message::{Broker, Inbox, Waiting};
use capstan_core::ports::LoadBalancer;
use capstan_drivers::amqp::{self, AmqpInbox, Topology};
use capstan_drivers::guard::Guard;
use capstan_drivers::noop::{NoopExecutor, NoopLoadBalancer};
use capstan_drivers::packages::FilePackageStore;
use capstan_drivers::scripts::Scripts;
use capstan_drivers::webhooks::{Allowed, HttpWebhooks};
use capstan_services::{Postgres, RabbitMq};
use capstan_store::{Begin, Store};
use tokio_util::sync::CancellationToken;

use crate::engine::Process;
use crate::fleet::{DRIVER, Memory, TARGETS};
use crate::metrics::Metrics;
use crate::release::release;
use crate::sender::Sender;
use crate::{Messages, Pace};

/// Stage jobs of a target.
pub(crate) const STAGES: u32 = 5;
/// Orders that a host gets one after the other in a release of four batches.
const ORDERS: u32 = 3 * 4;
/// What comes to an order besides the host's work: it is looked at once a second, and the slowest host of a
/// batch takes a fifth longer.
const BESIDES: Duration = Duration::from_millis(500);
const SLOWEST: f64 = 1.2;
const PATIENCE: Duration = Duration::from_mins(2);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What all measurements share.
pub(crate) struct Services {
    rabbit: RabbitMq,
    metrics: Metrics,
}

impl Services {
    pub(crate) fn start(metrics: Metrics) -> Self {
        Self { rabbit: RabbitMq::start(), metrics }
    }
}

/// What came of it.
pub(crate) struct Ran {
    pub(crate) releases: u32,
    /// All releases together, from the start of each to its end.
    pub(crate) took: Duration,
    pub(crate) told: Option<Told>,
}

/// Of the messages.
pub(crate) struct Told {
    pub(crate) per_second: f64,
    pub(crate) late_share: f64,
    pub(crate) refreshes: u64,
    /// From the last message to the last answer.
    pub(crate) behind: Duration,
}

impl Ran {
    pub(crate) fn stages_per_second(&self) -> f64 {
        f64::from(self.releases * TARGETS * STAGES) / self.took.as_secs_f64()
    }
}

pub(crate) async fn run(
    services: &Services,
    pace: Pace,
    messages: Messages,
    lasts: Duration,
) -> anyhow::Result<Ran> {
    let folder = tempfile::tempdir()?;
    let (postgres, queue) = (Postgres::start_durable(), services.rabbit.vhost());
    let database = postgres.database();
    let store = Store::open(&capstan_store::Settings::new(&database)).await?;
    let cmdb = Arc::new(Memory::new()?);
    let group = cmdb.fill(&store).await?;
    let inbox: Arc<dyn Inbox> = Arc::new(Guard::inbox("amqp", Arc::new(inbox(&queue))));
    let controller = Arc::new(controller(&store, &cmdb, folder.path(), None, Some(inbox))?);
    let stop = CancellationToken::new();
    let listening = tokio::spawn(controller.run_messages(stop.clone()));
    let works = match pace {
        Pace::Full => Duration::ZERO,
        Pace::Paced => (lasts / ORDERS).saturating_sub(BESIDES).div_f64(SLOWEST),
    };
    let engine = Process::start(&database, works)?;
    let before = services.metrics.answered();
    // The queue is there from here on.
    ensure!(waiting(&queue).await? == Waiting::default(), "the queue is not empty");
    let sender = match messages {
        Messages::Sent => Some(Sender::start(&queue, cmdb.clone()).await?),
        Messages::None => None,
    };
    let (began, mut took, mut releases) = (Instant::now(), Duration::ZERO, 0);
    while releases == 0 || pace == Pace::Full && began.elapsed() < lasts {
        releases += 1;
        took += release(&store, group, releases).await?;
    }
    let told = match sender {
        None => None,
        Some(sender) => Some(told(services, sender, &cmdb, before).await?),
    };
    stop.cancel();
    listening.await?;
    // What was not acknowledged would be in the queue again.
    let left = waiting(&queue).await?;
    ensure!(left == Waiting::default(), "messages are left: {left:?}");
    cmdb.check(&store).await?;
    engine.stop()?;
    store.leave().await?;
    Ok(Ran { releases, took, told })
}

async fn told(
    services: &Services,
    sender: Sender,
    cmdb: &Memory,
    before: (u64, u64),
) -> anyhow::Result<Told> {
    let sent = sender.stop().await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (done, poison) = services.metrics.answered();
        ensure!(poison == before.1, "messages were laid aside");
        if done >= before.0 + sent.count as u64 {
            break;
        }
        if Instant::now() > deadline {
            bail!("{} of {} messages are answered", done - before.0, sent.count);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let (count, late) = (sent.count as f64, sent.late_count as f64);
    Ok(Told {
        per_second: count / sent.took.as_secs_f64(),
        late_share: late / count,
        refreshes: cmdb.asked(),
        behind: sent.ended.elapsed(),
    })
}

fn inbox(url: &str) -> AmqpInbox {
    AmqpInbox::new(amqp::Settings { url: url.to_owned(), topology: Topology::Declared })
}

async fn waiting(url: &str) -> anyhow::Result<Waiting> {
    inbox(url).waiting().await.context("the queues")
}

/// A controller with a broker out, in, or neither. It tells of all that ever happened.
pub(crate) fn controller(
    store: &Store,
    cmdb: &Arc<Memory>,
    folder: &Path,
    broker: Option<Arc<dyn Broker>>,
    inbox: Option<Arc<dyn Inbox>>,
) -> anyhow::Result<Controller> {
    let balancer: Arc<dyn LoadBalancer> = Arc::new(NoopLoadBalancer);
    let webhooks = HttpWebhooks::new(Duration::from_secs(1), Allowed::new(Vec::new()))?;
    let ports = Ports {
        cmdb: Arc::new(Guard::cmdb("bench", cmdb.clone())),
        packages: Arc::new(FilePackageStore::open(folder.join("packages"), u64::MAX)?),
        load_balancers: BTreeMap::from([(DRIVER.to_owned(), balancer)]),
        executors: BTreeMap::from([(DRIVER.to_owned(), Arc::new(NoopExecutor) as _)]),
        scripts: Arc::new(Scripts::new(None)),
        broker,
        inbox,
        webhooks: Arc::new(webhooks),
    };
    let settings = Settings { broker_begins: Begin::First, ..Settings::default() };
    Ok(Controller::new(store.clone(), ports, settings))
}
