//! `capstan serve`: the roles of a process, as the configuration says.

use std::io::IsTerminal;

use anyhow::Context;
use capstan_drivers::amqp::{self, Topology};
use capstan_drivers::http_cmdb::{self, Asking};
use capstan_drivers::netbox_cmdb;
use capstan_store::Begin;
use clap::Args;

use crate::config::{
    BrokerBegin, Cmdb, CmdbDriver, Config, ConfigArgs, LogFormat, Queue, Role, load,
};
use crate::node::{CmdbSource, Node, Settings, local_url, wait_for_the_end};

/// Runs Capstan: the API, the pages and the engine, over one database.
#[derive(Debug, Args)]
#[command(
    long_about = "Runs Capstan: the API, the pages and the engine, over one database. Over a \
    database server any number of processes may share the work, each with the roles that it is given.\n\n\
    The first start makes the administrator's token and prints it, this once; only its digest is \
    kept. `capstan config show-default` prints every setting with its meaning.\n\n\
    Example: capstan serve --config /etc/capstan/capstan.toml"
)]
pub(crate) struct Serve {
    #[command(flatten)]
    config: ConfigArgs,
    /// What this process does, instead of what the configuration says
    #[arg(long, value_delimiter = ',', value_name = "ROLE,…")]
    pub(crate) roles: Vec<Role>,
}

/// Serves until Ctrl-C or SIGTERM.
pub(crate) async fn run(serve: Serve) -> anyhow::Result<()> {
    let loaded = load(&serve.config)?;
    let mut config = loaded.config;
    if !serve.roles.is_empty() {
        config.take_roles(&serve.roles)?;
    }
    log(&config)?;
    if let Some(file) = &loaded.file {
        tracing::info!(file = %file.display(), "read the configuration");
    } else {
        tracing::info!("no configuration file: the defaults and the environment count");
    }
    let node = Node::start(settings(&config)?).await?;
    if let Some(token) = &node.new_token {
        tell_token(&config, token);
    }
    let (here, public) = (local_url(node.address), &config.server.public_url);
    println!("portal: {here}/");
    if *public != here {
        println!("from elsewhere: {public}/");
    }
    wait_for_the_end().await?;
    tracing::info!("stopping");
    node.stop().await;
    Ok(())
}

/// The administrator's token is told once: in the file that is configured, else on standard output.
fn tell_token(config: &Config, token: &str) {
    match &config.auth.admin_token_file {
        Some(path) => println!("token: in {}", path.display()),
        None => println!("token: {token}"),
    }
}

fn settings(config: &Config) -> anyhow::Result<Settings> {
    Ok(Settings {
        listen: config.server.listen,
        public_url: Some(config.server.public_url.clone()),
        allowed_hosts: config.server.allowed_hosts.clone(),
        roles: config.roles,
        data_dir: config.data_dir.clone(),
        lease: config.database.lease,
        redis_url: match &config.queue {
            Queue::Database => None,
            Queue::Redis(url) => Some(url.expose().to_owned()),
        },
        database_url: config.database.url.expose().to_owned(),
        stale_after: config.cmdb.stale_after,
        cmdb: cmdb(&config.cmdb)?,
        hold_above: config.cmdb.hold_above,
        packages_dir: config.packages.path.clone(),
        max_package_bytes: config.packages.max_bytes,
        roots: config.executor.local.roots.clone(),
        processes: config.executor.local.processes,
        breaker: config.breaker,
        health_timeout: config.load_balancer.none.timeout,
        engine: capstan_runner::Settings {
            slots: config.engine.slots,
            under_way: config.engine.stages_under_way,
            stop_wait: config.engine.stop_wait,
            ..capstan_runner::Settings::default()
        },
        secure_cookies: config.auth.secure_cookies,
        token_file: config.auth.admin_token_file.clone(),
        waits_for_person: config.engine.stale_after,
        session: config.auth.session,
        broker: config.broker.url.as_ref().map(|url| amqp::Settings {
            url: url.expose().to_owned(),
            topology: if config.broker.declare { Topology::Declared } else { Topology::Checked },
        }),
        broker_begins: match config.broker.begin {
            BrokerBegin::Now => Begin::Now,
            BrokerBegin::First => Begin::First,
        },
        webhooks_allow: config.webhooks.allow.clone(),
        webhook_timeout: config.webhooks.timeout,
        webhook_patience: config.webhooks.disable_after,
    })
}

fn cmdb(config: &Cmdb) -> anyhow::Result<CmdbSource> {
    let url = || config.url.clone().context("[cmdb] url is needed");
    let asking = |authorization: fn(&str) -> String| {
        let token = Some(config.token.expose()).filter(|token| !token.is_empty());
        Asking {
            authorization: token.map(authorization),
            answer: config.timeout,
            ..Asking::default()
        }
    };
    Ok(match config.driver {
        CmdbDriver::File => CmdbSource::File(config.path.clone()),
        CmdbDriver::Http => CmdbSource::Http(http_cmdb::Settings {
            url: url()?,
            asking: asking(|token| format!("Bearer {token}")),
            poll: config.poll,
        }),
        CmdbDriver::Netbox => CmdbSource::Netbox(Box::new(netbox_cmdb::Settings {
            url: url()?,
            asking: asking(netbox_cmdb::authorization),
            poll: config.poll,
            mapping: config.netbox.clone(),
        })),
    })
}

/// Logs as the configuration says.
pub(crate) fn log(config: &Config) -> anyhow::Result<()> {
    let filter =
        tracing_subscriber::EnvFilter::try_new(&config.log.level).context("[log] level")?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}
