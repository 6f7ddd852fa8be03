//! `capstan demo`: everything in one process, and a fleet of real processes on this machine.

pub(crate) mod app;

mod client;
mod fleet;
mod packages;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use capstan_drivers::amqp::{self, Topology};
use capstan_store::Begin;
use clap::Args;

use crate::config::{Role, Roles};
use crate::node::{CmdbSource, Node, Settings, local_url, wait_for_the_end};
use fleet::Fleet;

/// Runs everything in one process, with a fleet of real processes to release to.
#[derive(Debug, Args)]
#[command(long_about = "Runs Capstan with a fleet of small web servers on this machine: real \
    processes, each with its own directory and port, in two data centres.\n\n\
    Three packages are there: 1.0.0 runs everywhere, 1.1.0 is good, 1.2.0 answers its health URL \
    for two seconds and then fails. A file named `fault` in the directory of an instance makes its \
    Verify fail, whatever the version.\n\n\
    Ctrl-C stops everything. After a kill -9 the instances live on; start the demo again with the \
    same --data, and it goes on where it was.")]
pub(crate) struct Demo {
    /// How many instances a new fleet has [default: 12]; one that is there stays as it is.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=500))]
    hosts: Option<u16>,
    /// Where to listen; the default takes any free port if 7070 is taken.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// The instances of a new fleet take the free ports from here on.
    #[arg(long, value_name = "PORT", default_value_t = fleet::FIRST_PORT)]
    first_port: u16,
    /// Where everything is kept.
    #[arg(long, value_name = "DIR", default_value = "demo-data")]
    data: PathBuf,
    /// An empty database on a server, instead of a file below --data; `capstan serve` with the same
    /// database and data folder helps.
    #[arg(long, value_name = "URL", env = "CAPSTAN_DEMO_DATABASE", hide_env_values = true)]
    database: Option<String>,
    /// A message broker that events go to
    #[arg(long, value_name = "URL", env = "CAPSTAN_DEMO_BROKER", hide_env_values = true)]
    broker: Option<String>,
    /// A Redis that tells the engines of due work.
    #[arg(
        long,
        value_name = "URL",
        env = "CAPSTAN_DEMO_QUEUE",
        hide_env_values = true,
        requires = "database"
    )]
    queue: Option<String>,
    /// What this process does, if `capstan serve` does the rest
    #[arg(long, value_delimiter = ',', value_name = "ROLE,…", requires = "database")]
    roles: Vec<Role>,
}

/// Instances of a fleet unless told otherwise.
const USUAL_HOSTS: u16 = 12;
const DEFAULT_LISTEN: &str = "127.0.0.1:7070";

/// Runs the demo until Ctrl-C or SIGTERM.
pub(crate) async fn run(demo: Demo) -> anyhow::Result<()> {
    let data = std::path::absolute(&demo.data).context("--data")?;
    let fleet = Fleet::prepare(&data, demo.hosts.unwrap_or(USUAL_HOSTS), demo.first_port)?;
    if let Some(asked) = demo.hosts.filter(|asked| usize::from(*asked) != fleet.size()) {
        println!(
            "--hosts {asked} does not count: {} holds a fleet of {} already. Remove it, or give \
             another --data, for a new fleet.",
            data.display(),
            fleet.size()
        );
    }
    let packages = packages::build(&data)?;
    let listen = listen(demo.listen).await?;
    fleet.start(&packages[0]).await?;
    let mut settings = settings(&data, &fleet, listen);
    if let Some(database) = demo.database {
        settings.database_url = database;
        settings.redis_url = demo.queue;
        if !demo.roles.is_empty() {
            settings.roles = Roles::of(&demo.roles);
        }
    }
    settings.broker = demo.broker.map(|url| amqp::Settings { url, topology: Topology::Declared });
    let node = Node::start(settings).await?;
    let told = tell(&node, &fleet, &packages).await;
    if told.is_ok() {
        wait_for_the_end().await?;
        println!("stopping: the engine, then every instance");
    }
    node.stop().await;
    fleet.stop().await?;
    told
}

async fn tell(node: &Node, fleet: &Fleet, packages: &[packages::Package]) -> anyhow::Result<()> {
    let token = fleet.token()?;
    let url = local_url(node.address);
    let version = client::bring_in(&url, &token, packages).await?;
    let link = node.controller.login_link(&token).await?;
    let elsewhere = if node.address.ip().is_unspecified() {
        " From another machine, put this one's address into it."
    } else {
        ""
    };
    let (program, first_root) = (fleet.program(), fleet.root(0));
    println!(
        "\nCapstan runs with {count} instances of the application `web` (version {version}).\n\n\
         portal: {url}{link}\n\
         token: {token}\n\n\
         The link signs in once.{elsewhere} Three commands to try in another terminal:\n\n\
         \x20 export CAPSTAN_SERVER={url} CAPSTAN_TOKEN={token}\n\
         \x20 {program} group show web-demo\n\
         \x20 {program} deployment create --group web-demo --package 1.1.0 --watch   # it waits for bake, then rollout\n\
         \x20 touch {root}/fault   # its Verify fails from now on\n\n\
         Ctrl-C stops everything.",
        count = fleet.size(),
        root = first_root.display(),
    );
    Ok(())
}

/// The address to listen on. Nobody asked for the default port, so another one will do.
async fn listen(asked: Option<SocketAddr>) -> anyhow::Result<SocketAddr> {
    if let Some(address) = asked {
        return Ok(address);
    }
    let mut address: SocketAddr = DEFAULT_LISTEN.parse().context("the default address")?;
    if tokio::net::TcpListener::bind(address).await.is_err() {
        address.set_port(0);
    }
    Ok(address)
}

/// What webhooks of a demo may call: it is a toy for one machine.
const THIS_MACHINE: [&str; 2] = ["127.0.0.0/8", "::1"];

fn settings(data: &std::path::Path, fleet: &Fleet, listen: SocketAddr) -> Settings {
    Settings {
        listen,
        public_url: None,
        allowed_hosts: Vec::new(),
        data_dir: data.to_owned(),
        roles: Roles::ALL,
        database_url: format!("sqlite://{}", data.join("capstan.db").display()),
        // A file has one process.
        lease: Duration::from_secs(3),
        redis_url: None,
        stale_after: Duration::from_mins(15),
        cmdb: CmdbSource::File(fleet.inventory()),
        hold_above: capstan_core::decide::HOLD_ABOVE,
        packages_dir: data.join("packages"),
        max_package_bytes: 512 * 1024 * 1024,
        roots: vec![fleet.hosts_dir()],
        processes: 64,
        breaker: capstan_drivers::breaker::Settings::default(),
        health_timeout: Duration::from_secs(1),
        engine: capstan_runner::Settings::default(),
        secure_cookies: false,
        token_file: Some(fleet.token_file()),
        waits_for_person: Duration::from_hours(24),
        session: Duration::from_hours(12),
        broker: None,
        broker_begins: Begin::First,
        webhooks_allow: THIS_MACHINE.iter().filter_map(|text| text.parse().ok()).collect(),
        webhook_timeout: Duration::from_secs(5),
        webhook_patience: Duration::from_hours(24),
    }
}
