//! The engine's process, and hosts that take their time.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use capstan_core::OrderKey;
use capstan_core::ports::{
    Call, DriverError, Endpoint, Executor, LoadBalancer, Look, Order, OrderState, Report, Script,
};
use capstan_drivers::breaker::Switchboard;
use capstan_drivers::noop::{NoopExecutor, NoopLoadBalancer};
use capstan_drivers::scripts::Scripts;
use capstan_runner::{Engine, Ports, Settings};
use capstan_store::Store;

use crate::fleet::DRIVER;

/// First argument of the engine's process. The next are the URL of its database, and how many milliseconds
/// its hosts take for an order.
pub(crate) const ENGINE: &str = "engine";

/// What the engine's process does: it works until its input ends.
pub(crate) async fn run(arguments: Vec<String>) -> anyhow::Result<()> {
    let url = arguments.first().context("the URL of the database")?;
    let works = arguments.get(1).context("how long hosts work")?.parse()?;
    let store = Store::open(&capstan_store::Settings::new(url)).await?;
    let balancer: Arc<dyn LoadBalancer> = Arc::new(NoopLoadBalancer);
    let executor: Arc<dyn Executor> = match works {
        0 => Arc::new(NoopExecutor),
        works => Arc::new(Hosts { works: Duration::from_millis(works), ends: Mutex::default() }),
    };
    let ports = Ports {
        health: Arc::clone(&balancer),
        load_balancers: BTreeMap::from([(DRIVER.to_owned(), balancer)]),
        executors: BTreeMap::from([(DRIVER.to_owned(), executor)]),
        scripts: Arc::new(Scripts::new(None)),
        breakers: Arc::new(Switchboard::default()),
    };
    let engine = Engine::start(store.clone(), ports, Settings::default());
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    engine.stop().await;
    store.leave().await?;
    Ok(())
}

/// An engine's process.
pub(crate) struct Process {
    child: Child,
    input: ChildStdin,
}

impl Process {
    /// Starts it and waits until it works.
    pub(crate) fn start(url: &str, works: Duration) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([ENGINE, url, &works.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("its input")?;
        let output = child.stdout.as_mut().context("its output")?;
        output.read_exact(&mut [0; "ready\n".len()]).context("the engine has not started")?;
        Ok(Self { child, input })
    }

    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        drop(self.input);
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "the engine ended badly: {status}");
        Ok(())
    }
}

/// Hosts whose orders succeed after a while: a fifth more or less than `works`, as the host's name says.
struct Hosts {
    works: Duration,
    ends: Mutex<HashMap<OrderKey, Instant>>,
}

impl Hosts {
    fn ends(&self) -> MutexGuard<'_, HashMap<OrderKey, Instant>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self, key: OrderKey) -> OrderState {
        match self.ends().get(&key) {
            None => OrderState::Unknown,
            Some(end) if *end > Instant::now() => OrderState::Running,
            Some(_) => OrderState::Ended(0),
        }
    }
}

impl Executor for Hosts {
    fn start<'a>(&'a self, server: &'a Endpoint, order: &'a Order) -> Call<'a, OrderState> {
        let spread: u32 = server.hostname.bytes().map(u32::from).sum();
        let share = 0.8 + 0.4 * f64::from(spread % 32) / 31.0;
        let end = Instant::now() + self.works.mul_f64(share);
        self.ends().entry(order.key).or_insert(end);
        Box::pin(std::future::ready(Ok(self.state(order.key))))
    }

    fn look<'a>(&'a self, _: &'a Endpoint, key: OrderKey, _: u64) -> Call<'a, Look> {
        let look = Look { state: self.state(key), output: Vec::new() };
        Box::pin(std::future::ready(Ok(look)))
    }

    fn cancel<'a>(&'a self, _: &'a Endpoint, _: OrderKey, _: i64) -> Call<'a, OrderState> {
        Box::pin(std::future::ready(Ok(OrderState::Cancelled)))
    }

    fn report<'a>(&'a self, _: &'a Endpoint, _: &'a Script) -> Call<'a, Option<Report>> {
        Box::pin(std::future::ready(Err(DriverError::Refused("nothing runs here".into()))))
    }
}
