//! One process: store, drivers, and the roles that it has, put together.

mod parts;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use capstan_controller::Controller;
use capstan_core::dependency::{
    BROKER, Breakers, CMDB, DependencyKind, PACKAGES, QUEUE, executor, load_balancer,
};
use capstan_core::message::{Broker, Inbox};
use capstan_core::ports::{Cmdb, Executor, LoadBalancer, Queue, ScriptSource};
use capstan_core::share::Share;
use capstan_drivers::amqp::{self, AmqpBroker, AmqpInbox};
use capstan_drivers::breaker::{self, Switchboard};
use capstan_drivers::cmdb_records::Names;
use capstan_drivers::file_cmdb::FileCmdb;
use capstan_drivers::guard::Guard;
use capstan_drivers::http_cmdb::{self, HttpCmdb};
use capstan_drivers::local::LocalExecutor;
use capstan_drivers::netbox_cmdb::{self, NetboxCmdb};
use capstan_drivers::none::NoLoadBalancer;
use capstan_drivers::nudges::{self, Nudges};
use capstan_drivers::packages::FilePackageStore;
use capstan_drivers::scripts::Scripts;
use capstan_drivers::webhooks::{Allowed, HttpWebhooks, Network};
use capstan_runner::Engine;
use capstan_store::{Begin, Store};
use futures::FutureExt;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::parts::Parts;
use crate::config::Roles;

/// How long a stop waits for what is left when the engine has used up its time.
const LAST_WAIT: Duration = Duration::from_secs(5);
/// How long a stop tries to hand over at once. Without that the others wait for the end of the lease.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

/// What a node is made of.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) listen: SocketAddr,
    /// Where hosts fetch packages, without a slash at the end; none: the address that is listened on.
    pub(crate) public_url: Option<String>,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) data_dir: PathBuf,
    pub(crate) roles: Roles,
    pub(crate) database_url: String,
    pub(crate) lease: Duration,
    /// A Redis that tells engines of due work.
    pub(crate) redis_url: Option<String>,
    pub(crate) stale_after: Duration,
    pub(crate) cmdb: CmdbSource,
    /// A refresh that would remove more than this share of a group's members waits for a person.
    pub(crate) hold_above: Share,
    pub(crate) packages_dir: PathBuf,
    pub(crate) max_package_bytes: u64,
    /// Folders below which instances may lie on this machine.
    pub(crate) roots: Vec<PathBuf>,
    pub(crate) processes: usize,
    /// When circuit breakers open and close.
    pub(crate) breaker: breaker::Settings,
    /// How long a server has to answer its health URL when it is looked at.
    pub(crate) health_timeout: Duration,
    pub(crate) engine: capstan_runner::Settings,
    pub(crate) secure_cookies: bool,
    /// Where the administrator's token is written when it is made.
    pub(crate) token_file: Option<PathBuf>,
    /// How long a deployment may wait for a person before it is called stale.
    pub(crate) waits_for_person: Duration,
    /// How long a browser stays signed in.
    pub(crate) session: Duration,
    /// The message broker; none: there is none.
    pub(crate) broker: Option<amqp::Settings>,
    /// With which events it begins if it is new.
    pub(crate) broker_begins: Begin,
    /// What webhooks may be called besides public addresses.
    pub(crate) webhooks_allow: Vec<Network>,
    /// How long one may take to answer.
    pub(crate) webhook_timeout: Duration,
    /// How long one may fail before it is switched off.
    pub(crate) webhook_patience: Duration,
}

/// Where applications, groups and servers come from.
#[derive(Debug, Clone)]
pub(crate) enum CmdbSource {
    /// A YAML file.
    File(PathBuf),
    /// A CMDB that is asked over HTTP.
    Http(http_cmdb::Settings),
    /// A `NetBox`.
    Netbox(Box<netbox_cmdb::Settings>),
}

/// A node that runs.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) controller: Controller,
    /// The administrator's token, if this start made it.
    pub(crate) new_token: Option<String>,
    store: Store,
    engine: Option<Engine>,
    stop: CancellationToken,
    /// How long a stop may take.
    stop_wait: Duration,
    tasks: Parts,
    nudges: Option<Arc<Nudges>>,
}

impl Node {
    /// Starts everything; when this returns, requests are answered.
    pub(crate) async fn start(settings: Settings) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(settings.listen)
            .await
            .with_context(|| format!("[server] listen: cannot listen on {}", settings.listen))?;
        let address = listener.local_addr().context("the address that is listened on")?;
        let url = settings.public_url.clone().unwrap_or_else(|| local_url(address));
        let drivers = drivers(&settings)?;
        let database = capstan_store::Settings {
            url: settings.database_url.clone(),
            stale_after: settings.stale_after,
            lease: settings.lease,
        };
        let nudges = nudges(&settings, &drivers)?;
        let store = match &nudges {
            Some(nudges) => Store::open_on(&database, Arc::clone(nudges) as Arc<dyn Queue>).await?,
            None => Store::open(&database).await?,
        };
        let cmdb = cmdb(&settings.cmdb, &drivers).await?;
        let controller = controller(&settings, store.clone(), &drivers, cmdb)?;
        let keep = |token: &str| match &settings.token_file {
            Some(path) => write_file(path, token, 0o600),
            None => Ok(()),
        };
        let roles = settings.roles;
        let answers = roles.controller || roles.portal;
        let new_token = if answers { controller.ensure_admin_token(keep).await? } else { None };
        let stop = CancellationToken::new();
        let (mut tasks, stop_wait) = (Parts::default(), settings.engine.stop_wait);
        if !roles.engine {
            let breakers = Arc::clone(&drivers.switches) as Arc<dyn Breakers>;
            let keeping = capstan_runner::keep_dependencies(store.clone(), breakers);
            tasks.run("dependencies", stop.clone().run_until_cancelled_owned(keeping).map(drop));
        }
        let engine = roles.engine.then(|| {
            let ports = capstan_runner::Ports {
                health: drivers.health,
                load_balancers: drivers.load_balancers,
                executors: drivers.executors,
                scripts: drivers.scripts,
                breakers: drivers.switches,
            };
            let settings = capstan_runner::Settings { package_base_url: url, ..settings.engine };
            Engine::start(store.clone(), ports, settings)
        });
        let service = controller.router().into_make_service_with_connect_info::<SocketAddr>();
        let server = axum::serve(listener, service)
            .with_graceful_shutdown(stop.clone().cancelled_owned())
            .into_future();
        tasks.run("server", async {
            if let Err(error) = server.await {
                tracing::error!(%error, "the server ended badly");
            }
        });
        if roles.controller {
            tasks.run("sync", Arc::new(controller.clone()).run_sync(stop.clone()));
            tasks.run("messages", Arc::new(controller.clone()).run_messages(stop.clone()));
        }
        Ok(Self { address, controller, new_token, store, engine, stop, stop_wait, tasks, nudges })
    }

    /// Stops: no new work, calls under way end, what was claimed is given back. Other processes go on with
    /// it at once. What hangs is left behind in time.
    pub(crate) async fn stop(self) {
        let began = Instant::now();
        if let Some(engine) = self.engine {
            engine.stop().await;
        }
        self.stop.cancel();
        self.controller.close_streams();
        let left = self.stop_wait.saturating_sub(began.elapsed());
        self.tasks.end(left.max(LAST_WAIT)).await;
        match tokio::time::timeout(LEAVE_WAIT, self.store.leave()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = capstan_store::chain(&error);
                tracing::warn!(%error, "other processes will notice only after the lease");
            }
            Err(_) => {
                let error = "the database did not answer in time";
                tracing::warn!(error, "other processes will notice only after the lease");
            }
        }
        // Last: the others are told to go on.
        if let Some(nudges) = self.nudges {
            nudges.stop().await;
        }
    }
}

fn nudges(settings: &Settings, drivers: &Drivers) -> anyhow::Result<Option<Arc<Nudges>>> {
    let Some(url) = &settings.redis_url else { return Ok(None) };
    let breaker = drivers.switches.breaker(QUEUE, DependencyKind::Queue);
    let settings = nudges::Settings::new(url, settings.roles.engine);
    Nudges::start(&settings, breaker).context("[queue] url").map(Some)
}

struct Drivers {
    /// Asks servers themselves; it is no dependency, and nobody cuts it off.
    health: Arc<dyn LoadBalancer>,
    load_balancers: BTreeMap<String, Arc<dyn LoadBalancer>>,
    executors: BTreeMap<String, Arc<dyn Executor>>,
    scripts: Arc<dyn ScriptSource>,
    switches: Arc<Switchboard>,
}

fn drivers(settings: &Settings) -> anyhow::Result<Drivers> {
    let health: Arc<dyn LoadBalancer> =
        Arc::new(NoLoadBalancer::with_timeout(settings.health_timeout)?);
    let switches = Arc::new(Switchboard::new(settings.breaker));
    let breaker = switches.breaker(&load_balancer("none"), DependencyKind::LoadBalancer);
    let none: Arc<dyn LoadBalancer> =
        Arc::new(Guard::load_balancer("none", Arc::clone(&health)).with_breaker(breaker));
    let local = LocalExecutor::new(settings.data_dir.join("executor"), settings.roots.clone())?;
    let local: Arc<dyn Executor> = Arc::new(local.with_processes(settings.processes));
    let breaker = switches.breaker(&executor("local"), DependencyKind::Executor);
    let local: Arc<dyn Executor> = Arc::new(Guard::executor("local", local).with_breaker(breaker));
    Ok(Drivers {
        health,
        load_balancers: BTreeMap::from([("none".to_owned(), none)]),
        executors: BTreeMap::from([("local".to_owned(), local)]),
        scripts: Arc::new(Scripts::new(None)),
        switches,
    })
}

async fn cmdb(source: &CmdbSource, drivers: &Drivers) -> anyhow::Result<Arc<dyn Cmdb>> {
    let names = Names {
        load_balancers: drivers.load_balancers.keys().cloned().collect(),
        executors: drivers.executors.keys().cloned().collect(),
    };
    let (name, cmdb): (_, Arc<dyn Cmdb>) = match source {
        CmdbSource::File(path) => ("file", Arc::new(FileCmdb::open(path, names).await)),
        CmdbSource::Http(settings) => ("http", Arc::new(HttpCmdb::new(settings, names)?)),
        CmdbSource::Netbox(settings) => ("netbox", Arc::new(NetboxCmdb::new(settings, names)?)),
    };
    let breaker = drivers.switches.breaker(CMDB, DependencyKind::Cmdb);
    Ok(Arc::new(Guard::cmdb(name, cmdb).with_breaker(breaker)))
}

fn controller(
    settings: &Settings,
    store: Store,
    drivers: &Drivers,
    cmdb: Arc<dyn Cmdb>,
) -> anyhow::Result<Controller> {
    let packages = FilePackageStore::open(&settings.packages_dir, settings.max_package_bytes)?;
    let metrics = recorder()?;
    let breaker = drivers.switches.breaker(PACKAGES, DependencyKind::PackageStore);
    let (broker, inbox) = broker(settings, drivers);
    let allowed = Allowed::new(settings.webhooks_allow.clone());
    let webhooks = HttpWebhooks::new(settings.webhook_timeout, allowed)?;
    let ports = capstan_controller::Ports {
        broker,
        inbox,
        webhooks: Arc::new(webhooks),
        cmdb,
        packages: Arc::new(Guard::packages("file", Arc::new(packages)).with_breaker(breaker)),
        load_balancers: drivers.load_balancers.clone(),
        executors: drivers.executors.clone(),
        scripts: Arc::clone(&drivers.scripts),
    };
    let settings = capstan_controller::Settings {
        max_package_bytes: settings.max_package_bytes,
        hold_above: settings.hold_above,
        secure_cookies: settings.secure_cookies,
        session: settings.session,
        stale_after: settings.waits_for_person,
        broker_begins: settings.broker_begins,
        webhook_patience: settings.webhook_patience,
        allowed_hosts: settings.allowed_hosts.clone(),
        metrics: Some(metrics),
        serves_api: settings.roles.controller || settings.roles.portal,
        serves_pages: settings.roles.portal,
        ..capstan_controller::Settings::default()
    };
    Ok(Controller::new(store, ports, settings))
}

type OutAndIn = (Option<Arc<dyn Broker>>, Option<Arc<dyn Inbox>>);

/// The message broker on its way out and in, behind one breaker.
fn broker(settings: &Settings, drivers: &Drivers) -> OutAndIn {
    let Some(broker) = &settings.broker else { return (None, None) };
    let breaker = drivers.switches.breaker(BROKER, DependencyKind::Broker);
    let out: Arc<dyn Broker> = Arc::new(AmqpBroker::new(broker.clone()));
    let out = Guard::broker("amqp", out).with_breaker(Arc::clone(&breaker));
    let inbox: Arc<dyn Inbox> = Arc::new(AmqpInbox::new(broker.clone()));
    let inbox = Guard::inbox("amqp", inbox).with_breaker(breaker);
    (Some(Arc::new(out)), Some(Arc::new(inbox)))
}

/// Upper bounds of the histograms, in seconds: from a commit to a stage that takes its full limit.
const BUCKETS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
    600.0,
];

fn recorder() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .context("the metrics recorder")?;
    capstan_controller::describe_metrics();
    capstan_store::describe_metrics();
    capstan_runner::describe_metrics();
    capstan_drivers::guard::describe_metrics();
    Ok(handle)
}

/// Where a process on this machine reaches what listens on this address: one that stands for every
/// network can be listened on and not asked for.
pub(crate) fn local_url(mut listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{listen}")
}

/// Waits for Ctrl-C or SIGTERM.
pub(crate) async fn wait_for_the_end() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("listening for Ctrl-C"),
        _ = terminate.recv() => Ok(()),
    }
}

/// Writes a file beside its place and renames it, so that nobody ever reads half of it.
pub(crate) fn write_file(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::local_url;

    #[test]
    fn an_address_that_stands_for_every_network_is_told_as_one_that_works() {
        for (listen, url) in [
            ("0.0.0.0:7070", "http://127.0.0.1:7070"),
            ("[::]:7070", "http://[::1]:7070"),
            ("10.0.0.5:80", "http://10.0.0.5:80"),
        ] {
            assert_eq!(local_url(listen.parse().expect("an address")), url);
        }
    }
}
