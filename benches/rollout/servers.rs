//! The rollout over a database server, with engines in processes of their own.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use capstan_core::GroupId;
use capstan_core::action::Action;
use capstan_core::dependency::{DependencyKind, QUEUE};
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::ports::Queue;
use capstan_drivers::breaker::{Breaker, Settings as BreakerSettings};
use capstan_drivers::nudges::{self, Nudges};
use capstan_services::{MariaDb, Postgres, Redis};
use capstan_store::Store;

use crate::create::create;
use crate::fleet;
use crate::process::resident_mib;
use crate::recorder::Recorder;
use crate::speed::STAGES;

/// First argument of an engine's process. The next are the URL of its database, and of Redis if it has one.
pub(crate) const ENGINE: &str = "engine";
const ENGINES: [usize; 2] = [1, 3];

/// Rollouts over `PostgreSQL`.
pub(crate) async fn postgres(sizes: &[u32]) -> anyhow::Result<()> {
    let server = Postgres::start_durable();
    over("PostgreSQL", || server.database(), sizes).await
}

/// Rollouts over `MariaDB`.
pub(crate) async fn mariadb(sizes: &[u32]) -> anyhow::Result<()> {
    let server = MariaDb::start_durable();
    over("MariaDB", || server.database(), sizes).await
}

async fn over(name: &str, database: impl Fn() -> String, sizes: &[u32]) -> anyhow::Result<()> {
    println!(
        "{name}, durable commits, medians of several rollouts where groups are small\nqueue     engines  targets  stages/s  µs/target  \
         result→next p50  p99        resident, largest engine"
    );
    let redis = Redis::start();
    for queue in [None, Some(redis.url())] {
        for engines in ENGINES {
            for size in sizes {
                Box::pin(rollouts(&database(), queue.as_deref(), engines, *size)).await?;
            }
        }
    }
    Ok(())
}

/// Rolls out a group several times, one after the other, and prints the median. What is small is over in half a
/// second, and a single run says little.
async fn rollouts(url: &str, redis: Option<&str>, engines: usize, size: u32) -> anyhow::Result<()> {
    let (store, nudges) = open(url, redis, false).await?;
    let group = fleet::group(&store, size).await?;
    let engines =
        (0..engines).map(|_| Engine::start(url, redis)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut times = Vec::new();
    for number in 1..=runs(size) {
        times.push(rollout(&store, group, number).await?);
    }
    times.sort_unstable();
    let took = times[times.len() / 2];
    let count = engines.len();
    let told = engines.into_iter().map(Engine::stop).collect::<anyhow::Result<Vec<_>>>()?;
    let resident = told.iter().map(|told| told.resident_mib).max().unwrap_or_default();
    // A server's stages may run in several engines, none of which sees what is between them.
    let gaps = match told.as_slice() {
        [one] => (format!("{:.1} ms", one.p50_ms), format!("{:.1} ms", one.p99_ms)),
        _ => ("-".to_owned(), "-".to_owned()),
    };
    println!(
        "{:8}  {count:7}  {size:7}  {:8.0}  {:9.1}  {:>15}  {:>9}  {resident:>8} MiB",
        if redis.is_some() { "redis" } else { "database" },
        f64::from(size) * STAGES / took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / f64::from(size),
        gaps.0,
        gaps.1,
    );
    if let Some(nudges) = nudges {
        nudges.stop().await;
    }
    Ok(())
}

/// How often a group of this size is rolled out, an odd number of times: the smaller it is, the more one run varies.
const fn runs(size: u32) -> u32 {
    match size {
        0..=2_000 => 5,
        2_001..=5_000 => 3,
        _ => 1,
    }
}

/// One rollout, and how long it took from its start to its end, as its log has it: this process learns up to a
/// quarter of a second later what engines have written.
async fn rollout(store: &Store, group: GroupId, number: u32) -> anyhow::Result<Duration> {
    let deployment = create(store, group, number, false).await?;
    let started = store.now();
    fleet::act(store, group, deployment, Action::Start).await?;
    fleet::wait_until(store, deployment, DeploymentStatus::is_final).await?;
    let view = store.deployment_view(deployment).await?.context("the deployment")?;
    if view.status != DeploymentStatus::Success {
        bail!("the rollout ended as {}: {:?}", view.status, view.counts);
    }
    Ok(view.status_since.since(started))
}

/// The store of a process, and what tells engines of due work.
async fn open(
    url: &str,
    redis: Option<&str>,
    receives: bool,
) -> anyhow::Result<(Store, Option<Arc<Nudges>>)> {
    let settings = capstan_store::Settings::new(url);
    let Some(redis) = redis else { return Ok((Store::open(&settings).await?, None)) };
    let breaker = Breaker::new(QUEUE, DependencyKind::Queue, BreakerSettings::default());
    let nudges = Nudges::start(&nudges::Settings::new(redis, receives), Arc::new(breaker))?;
    let store = Store::open_on(&settings, Arc::clone(&nudges) as Arc<dyn Queue>).await?;
    Ok((store, Some(nudges)))
}

/// What an engine's process does: it works until its input ends, and says how it went.
pub(crate) async fn engine(arguments: Vec<String>) -> anyhow::Result<()> {
    let url = arguments.first().context("the URL of the database")?;
    let (store, nudges) = open(url, arguments.get(1).map(String::as_str), true).await?;
    let recorder = Arc::new(Recorder::default());
    let engine = fleet::engine(&store, &recorder);
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    let (p50, p99) = recorder.gaps();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("{} {} {}", ms(p50), ms(p99), resident_mib(std::process::id())?);
    std::io::stdout().flush()?;
    engine.stop().await;
    if let Some(nudges) = nudges {
        nudges.stop().await;
    }
    Ok(())
}

/// An engine's process.
struct Engine {
    child: Child,
    input: ChildStdin,
}

/// What an engine's process says of itself.
struct Told {
    p50_ms: f64,
    p99_ms: f64,
    resident_mib: u64,
}

impl Engine {
    /// Starts it and waits until it works.
    fn start(url: &str, redis: Option<&str>) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(ENGINE)
            .arg(url)
            .args(redis)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("its input")?;
        let output = child.stdout.as_mut().context("its output")?;
        let mut ready = [0; "ready\n".len()];
        output.read_exact(&mut ready).context("the engine has not started")?;
        Ok(Self { child, input })
    }

    fn stop(self) -> anyhow::Result<Told> {
        drop(self.input);
        let output = self.child.wait_with_output()?;
        let text = String::from_utf8(output.stdout)?;
        let mut words = text.split_whitespace();
        let mut next = || words.next().context("the engine has said nothing");
        Ok(Told {
            p50_ms: next()?.parse()?,
            p99_ms: next()?.parse()?,
            resident_mib: next()?.parse()?,
        })
    }
}
