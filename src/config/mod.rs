//! The configuration: defaults that are compiled in, `capstan.toml`, and the environment.
//!
//! `config.default.toml` is the documentation and the source of the defaults at once. [`load`] puts
//! the file over it and the environment over both, refuses what it does not know, and reports every
//! fault with where it stands, not only the first.

mod fault;
mod keys;
mod layers;
mod reader;
mod secret;
#[cfg(test)]
mod tests;
mod typed;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use capstan_core::share::Share;
use capstan_drivers::netbox_cmdb::Mapping;
use reqwest::Url;

pub(crate) use fault::{Error, Origin};
pub(crate) use secret::Secret;

use keys::KEYS;
use reader::Reader;

/// The documented default configuration.
pub(crate) const DEFAULT_TEXT: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/config.default.toml"));

/// The file that is read when none is named.
const USUAL_FILE: &str = "capstan.toml";

/// Everything that an installation can set. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Folder for what Capstan keeps on this machine.
    pub(crate) data_dir: PathBuf,
    /// What this process does.
    pub(crate) roles: Roles,
    /// The portal and the REST API.
    pub(crate) server: Server,
    /// Where the truth is kept.
    pub(crate) database: Database,
    /// Who hands out work.
    pub(crate) queue: Queue,
    /// Where events go as messages.
    pub(crate) broker: Broker,
    /// Who is told of events by HTTP.
    pub(crate) webhooks: Webhooks,
    /// The roll engine.
    pub(crate) engine: Engine,
    /// The source of applications, groups and servers.
    pub(crate) cmdb: Cmdb,
    /// Capstan's own package store.
    pub(crate) packages: Packages,
    /// Executors by the names that groups use.
    pub(crate) executor: Executors,
    /// Load balancers by the names that groups use.
    pub(crate) load_balancer: LoadBalancers,
    /// Circuit breakers around all of them.
    pub(crate) breaker: capstan_drivers::breaker::Settings,
    /// Tokens and sessions.
    pub(crate) auth: Auth,
    /// Logging.
    pub(crate) log: Log,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Roles {
    /// Answers the REST API and keeps the CMDB's records fresh.
    pub(crate) controller: bool,
    /// Serves the pages.
    pub(crate) portal: bool,
    /// Drives releases.
    pub(crate) engine: bool,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// The REST API, and the CMDB's records.
    Controller,
    /// The pages, and the API that they use.
    Portal,
    /// Drives releases.
    Engine,
}

impl Config {
    /// Takes the roles of the command line.
    ///
    /// # Errors
    /// When a file is the database, and a role is missing.
    pub(crate) fn take_roles(&mut self, roles: &[Role]) -> anyhow::Result<()> {
        self.roles = Roles::of(roles);
        if self.database.is_file() && self.roles != Roles::ALL {
            anyhow::bail!("--roles: {}", typed::ONE_PROCESS);
        }
        Ok(())
    }
}

impl Roles {
    /// Every role.
    pub(crate) const ALL: Self = Self { controller: true, portal: true, engine: true };

    /// These roles.
    pub(crate) fn of(roles: &[Role]) -> Self {
        let has = |role| roles.contains(&role);
        Self {
            controller: has(Role::Controller),
            portal: has(Role::Portal),
            engine: has(Role::Engine),
        }
    }
}

/// `[server]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Where the portal and the API listen.
    pub(crate) listen: SocketAddr,
    /// How others reach them, without a slash at the end.
    pub(crate) public_url: String,
    /// Host names that are answered for; empty: every one.
    pub(crate) allowed_hosts: Vec<String>,
}

/// `[database]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Database {
    /// A URL whose scheme is known.
    pub(crate) url: Secret,
    /// After how long a silence others take over.
    pub(crate) lease: Duration,
}

impl Database {
    /// Whether it is a file, which one process has alone.
    pub(crate) fn is_file(&self) -> bool {
        self.url.expose().starts_with("sqlite:")
    }
}

/// `[queue]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Queue {
    /// The database itself.
    Database,
    /// The database, and a Redis at this URL that tells engines to look.
    Redis(Secret),
}

/// `[broker]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broker {
    /// Where messages go to and come from; none: nowhere.
    pub(crate) url: Option<Secret>,
    /// Whether exchanges and queues are made.
    pub(crate) declare: bool,
    /// With which events a broker begins that is new.
    pub(crate) begin: BrokerBegin,
}

/// With which events a broker begins that is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum BrokerBegin {
    /// With what happens from then on.
    #[default]
    Now,
    /// With the first ones that the log has.
    First,
}

/// `[webhooks]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Webhooks {
    /// What may be called besides public addresses.
    pub(crate) allow: Vec<capstan_drivers::webhooks::Network>,
    /// How long one may take to answer.
    pub(crate) timeout: Duration,
    /// How long one may fail before it is switched off.
    pub(crate) disable_after: Duration,
}

/// `[engine]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Engine {
    /// Driver calls at the same time.
    pub(crate) slots: usize,
    /// Stages under way at the same time in this process.
    pub(crate) stages_under_way: usize,
    /// How long a stop waits for calls under way.
    pub(crate) stop_wait: Duration,
    /// How long a deployment may wait for a person before it is called stale.
    pub(crate) stale_after: Duration,
}

/// `[cmdb]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cmdb {
    /// Which driver.
    pub(crate) driver: CmdbDriver,
    /// What the driver `file` reads.
    pub(crate) path: PathBuf,
    /// Where the drivers `http` and `netbox` ask.
    pub(crate) url: Option<Url>,
    /// What they show there; empty: nothing.
    pub(crate) token: Secret,
    /// How long they wait for one answer.
    pub(crate) timeout: Duration,
    /// How often they ask for changes.
    pub(crate) poll: Duration,
    /// What objects of a `NetBox` mean.
    pub(crate) netbox: Mapping,
    /// A refresh that would remove more than this share of a group's servers waits for a person.
    pub(crate) hold_above: Share,
    /// A cache older than this is shown as stale.
    pub(crate) stale_after: Duration,
}

/// A source of applications, groups and servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CmdbDriver {
    /// A YAML file.
    File,
    /// Capstan's own questions over HTTP.
    Http,
    /// A `NetBox`.
    Netbox,
}

/// `[packages]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packages {
    /// Folder of the store.
    pub(crate) path: PathBuf,
    /// The largest archive, in bytes.
    pub(crate) max_bytes: u64,
}

/// `[executor.*]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Executors {
    /// `[executor.local]`.
    pub(crate) local: LocalExecutor,
}

/// `[executor.local]`: instances on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalExecutor {
    /// A server is taken if its root lies below one of these.
    pub(crate) roots: Vec<PathBuf>,
    /// Processes at the same time.
    pub(crate) processes: usize,
}

/// `[load_balancer.*]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoadBalancers {
    /// `[load_balancer.none]`.
    pub(crate) none: NoLoadBalancer,
}

/// `[load_balancer.none]`: looks at health URLs itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoLoadBalancer {
    /// How long a server may take to answer.
    pub(crate) timeout: Duration,
}

/// `[auth]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Auth {
    /// Sends the session cookie over HTTPS alone.
    pub(crate) secure_cookies: bool,
    /// How long a session of the portal lasts.
    pub(crate) session: Duration,
    /// Where the first token is written.
    pub(crate) admin_token_file: Option<PathBuf>,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    /// For whom.
    pub(crate) format: LogFormat,
    /// Directives of the filter, as in `info,capstan_runner=debug`.
    pub(crate) level: String,
}

/// How log records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Which configuration, as an option of commands.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ConfigArgs {
    /// The configuration file [default: ./capstan.toml if there is one].
    #[arg(long, value_name = "FILE", env = "CAPSTAN_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

/// A configuration and how it came about.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// The configuration.
    pub(crate) config: Config,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// Every setting that is in force, in the order of the default file.
    pub(crate) effective: Vec<Effective>,
}

/// One setting that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Effective {
    /// Its name, as in `server.listen`.
    pub(crate) key: &'static str,
    /// Its value as it would stand in the file; secrets are masked.
    pub(crate) value: String,
    /// Where it comes from.
    pub(crate) origin: String,
}

/// Loads the configuration from the file that is named, or the usual one, and the environment.
pub(crate) fn load(args: &ConfigArgs) -> Result<Loaded, Error> {
    let folder = std::env::current_dir().map_err(|error| Error::Unreadable {
        path: PathBuf::from("."),
        reason: format!("the working folder is gone: {error}"),
    })?;
    load_from(&folder, args.config.as_deref(), std::env::vars_os())
}

/// Loads the configuration as seen from a working folder and with these variables.
pub(crate) fn load_from(
    folder: &Path,
    named: Option<&Path>,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Error> {
    let defaults = layers::defaults();
    let (mut settings, mut faults) = (defaults.clone(), Vec::new());
    let file = match named {
        Some(path) => Some(path.to_owned()),
        None => Some(PathBuf::from(USUAL_FILE)).filter(|path| folder.join(path).exists()),
    };
    if let Some(path) = &file {
        let text = std::fs::read_to_string(folder.join(path))
            .map_err(|error| Error::Unreadable { path: path.clone(), reason: error.to_string() })?;
        layers::read_file(&text, &layers::in_file(path), &mut settings, &mut faults);
    }
    layers::read_environment(variables, &mut settings, &mut faults);
    let mut reader = Reader::new(&settings, &defaults, folder);
    let config = typed::config(&mut reader);
    let Reader { faults: more, derived, .. } = reader;
    faults.extend(more);
    if !faults.is_empty() {
        faults.sort_by_key(|fault| match &fault.origin {
            Origin::Default => (0, 0, String::new()),
            Origin::File(_, line) => (1, *line, String::new()),
            Origin::Variable(name) => (2, 0, name.clone()),
        });
        return Err(Error::Faults(faults));
    }
    let effective = KEYS.iter().map(|key| {
        let setting = settings.get(key.name).expect("every setting has a default");
        let derived = derived.get(key.name);
        let value = derived.map(|derived| derived.shown.clone());
        let origin = derived.and_then(|derived| derived.from.clone());
        Effective {
            key: key.name,
            value: value.unwrap_or_else(|| setting.value.shown(key.kind)),
            origin: origin.unwrap_or_else(|| setting.origin.to_string()),
        }
    });
    Ok(Loaded { effective: effective.collect(), config, file })
}
