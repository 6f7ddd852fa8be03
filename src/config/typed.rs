//! Makes the configuration out of settings.

mod cmdb;

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use capstan_drivers::breaker;
use capstan_drivers::nudges;
use clap::ValueEnum;
use reqwest::Url;

use self::cmdb::cmdb;
use super::reader::{Problem, Reader};
use super::secret::Secret;
use super::{
    Auth, Broker, BrokerBegin, Config, Database, Engine, Executors, LoadBalancers, LocalExecutor,
    Log, LogFormat, NoLoadBalancer, Packages, Queue, Role, Roles, Server, Webhooks,
};

/// Reads everything; the faults are the reader's.
pub(super) fn config(reader: &mut Reader<'_>) -> Config {
    let data_dir = reader.path("data_dir").unwrap_or_else(|| {
        reader.refuse("data_dir", "it is needed".to_owned());
        PathBuf::from("/")
    });
    let database = database(reader, &data_dir);
    Config {
        roles: roles(reader, &database),
        server: server(reader),
        database,
        queue: queue(reader),
        broker: broker(reader),
        webhooks: webhooks(reader),
        engine: Engine {
            slots: reader.count("engine.slots", 1, 4096),
            stages_under_way: reader.count("engine.stages_under_way", 1, 1_000_000),
            stop_wait: Duration::from_secs(reader.whole("engine.stop_wait_seconds", 0, 600)),
            stale_after: Duration::from_hours(reader.whole("engine.stale_after_hours", 1, 720)),
        },
        cmdb: cmdb(reader, &data_dir),
        packages: Packages {
            path: reader.path_or("packages.path", &data_dir, "packages"),
            max_bytes: reader.whole("packages.max_bytes", 1024, 1 << 40),
        },
        executor: Executors {
            local: LocalExecutor {
                roots: reader.read_texts("executor.local.roots", root),
                processes: reader.count("executor.local.processes", 1, 1024),
            },
        },
        load_balancer: LoadBalancers {
            none: NoLoadBalancer {
                timeout: Duration::from_millis(reader.whole(
                    "load_balancer.none.timeout_ms",
                    50,
                    1500,
                )),
            },
        },
        breaker: breaker::Settings {
            window: Duration::from_secs(reader.whole("breaker.window_seconds", 1, 600)),
            threshold: reader.count("breaker.threshold", 1, 1000),
            open: Duration::from_secs(reader.whole("breaker.open_seconds", 1, 600)),
            probes: u32::try_from(reader.whole("breaker.probes", 1, 100)).unwrap_or(u32::MAX),
        },
        auth: Auth {
            secure_cookies: reader.switch("auth.secure_cookies"),
            session: Duration::from_hours(reader.whole("auth.session_hours", 1, 720)),
            admin_token_file: reader.path("auth.admin_token_file"),
        },
        log: log(reader),
        data_dir,
    }
}

fn roles(reader: &mut Reader<'_>, database: &Database) -> Roles {
    let given = reader.read_texts("roles", |text| {
        Role::from_str(text, false).map_err(|_| format!("there is no role {text:?}"))
    });
    if given.is_empty() {
        reader.refuse("roles", "a process needs one at least".to_owned());
    }
    let roles = Roles::of(&given);
    if database.is_file() && !given.is_empty() && roles != Roles::ALL {
        reader.refuse("roles", ONE_PROCESS.to_owned());
    }
    roles
}

/// Why a process over a file cannot leave a role to another one.
pub(super) const ONE_PROCESS: &str =
    "database.url is a file, which one process has alone: that process needs every role";

fn server(reader: &mut Reader<'_>) -> Server {
    let listen: SocketAddr = reader.read_text("server.listen", |text| {
        text.parse().map_err(|_| "it is no IP address with a port".to_owned())
    });
    let public_url = reader.read_text("server.public_url", |text| match text {
        "" => Ok(None),
        text => url(text).map(Some),
    });
    let public_url = public_url.unwrap_or_else(|| {
        if listen.ip().is_unspecified() {
            let problem = format!(
                "it is needed, since server.listen is {listen}: hosts must be told at which \
                 address to download packages"
            );
            reader.refuse("server.public_url", problem);
        }
        let made = format!("http://{listen}");
        reader.derive("server.public_url", format!("{made:?}"), "from server.listen");
        made
    });
    let allowed_hosts = reader.read_texts("server.allowed_hosts", host);
    let allowed_hosts = match allowed_hosts.as_slice() {
        [] => {
            let hosts = own_names(listen, &public_url);
            let from = "from server.listen and server.public_url";
            reader.derive("server.allowed_hosts", format!("{hosts:?}"), from);
            hosts
        }
        all if all.iter().any(|host| host == "*") => Vec::new(),
        _ => allowed_hosts,
    };
    Server { listen, public_url, allowed_hosts }
}

fn url(text: &str) -> Result<String, Problem> {
    let url: Url = text.parse().map_err(|error| format!("it is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("it does not begin with http:// or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must not hold a user or a password: hosts and browsers see it".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it must end with the path, without ? and #".to_owned());
    }
    if url.path() != "/" {
        return Err("it must not have a path: Capstan serves its pages from the root".to_owned());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn host(text: &str) -> Result<String, Problem> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if text == "*" || (!text.is_empty() && text.bytes().all(good)) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is no host name"))
}

/// The names that this Capstan has anyway.
fn own_names(listen: SocketAddr, public_url: &str) -> Vec<String> {
    let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).into();
    let bare = |address: SocketAddr| match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    };
    if !listen.ip().is_unspecified() {
        hosts.push(bare(listen));
    }
    let public = public_url.parse::<Url>().ok();
    if let Some(host) = public.as_ref().and_then(Url::host_str) {
        hosts.push(host.to_owned());
    }
    let mut seen = std::collections::BTreeSet::new();
    hosts.retain(|host| seen.insert(host.clone()) && host != "[::]" && host != "0.0.0.0");
    hosts
}

fn database(reader: &mut Reader<'_>, data_dir: &Path) -> Database {
    const NAMES: (&str, &str) = ("database.url", "database.url_file");
    let lease = Duration::from_secs(reader.whole("database.lease_seconds", 1, 60));
    let url = reader.secret(NAMES.0, NAMES.1);
    if url.expose().is_empty() {
        let made = format!("sqlite://{}", data_dir.join("capstan.db").display());
        reader.derive(NAMES.0, format!("{made:?}"), "from data_dir");
        return Database { url: Secret::new(made), lease };
    }
    let problem = match url.expose().split_once("://") {
        Some(("sqlite", path)) if Path::new(path).is_absolute() => None,
        Some(("sqlite", _)) => Some("the path must be absolute, with three slashes: sqlite:///…"),
        Some(("postgres" | "postgresql" | "mysql" | "mariadb", _)) => server_problem(url.expose()),
        _ => Some("it is no database URL"),
    };
    if let Some(problem) = problem {
        reader.refuse_secret(NAMES, problem.to_owned());
    }
    Database { url, lease }
}

/// What is wrong with the URL of a database server. The URL may hold a password and is not repeated.
fn server_problem(url: &str) -> Option<&'static str> {
    let Ok(url) = url.parse::<Url>() else { return Some("it cannot be read as a URL") };
    if url.host_str().is_none_or(str::is_empty) {
        return Some("it names no host");
    }
    url.path().trim_matches('/').is_empty().then_some("it names no database after the host")
}

fn queue(reader: &mut Reader<'_>) -> Queue {
    const NAMES: (&str, &str) = ("queue.url", "queue.url_file");
    let url = reader.secret(NAMES.0, NAMES.1);
    let problem = match url.expose().split_once("://") {
        Some(("redis" | "rediss", _)) => match redis_problem(url.expose()) {
            None => return Queue::Redis(url),
            Some(problem) => problem,
        },
        None if url.expose() == "database" => return Queue::Database,
        Some(_) | None => "there is no such queue".to_owned(),
    };
    reader.refuse_secret(NAMES, problem);
    Queue::Database
}

/// What is wrong with the URL of a Redis. The URL may hold a password and is not repeated.
fn redis_problem(text: &str) -> Option<Problem> {
    let Ok(url) = text.parse::<Url>() else { return Some("it cannot be read as a URL".to_owned()) };
    if url.host_str().is_none_or(str::is_empty) {
        return Some("it names no host".to_owned());
    }
    let database = url.path().trim_matches('/');
    if !database.is_empty() && database.parse::<u32>().is_err() {
        return Some("what follows the host must be the number of a database".to_owned());
    }
    if url.fragment().is_some() {
        return Some("it must not have a #: certificates are always checked".to_owned());
    }
    if url.query().is_some() {
        return Some("it must not have a ?: there are no further settings".to_owned());
    }
    nudges::url_problem(text).map(|problem| format!("it cannot be used: {problem}"))
}

fn broker(reader: &mut Reader<'_>) -> Broker {
    const NAMES: (&str, &str) = ("broker.url", "broker.url_file");
    let url = reader.secret(NAMES.0, NAMES.1);
    let problem = match url.expose().split_once(':').map_or("", |(scheme, _)| scheme) {
        "amqp" | "amqps" => url.expose().parse::<Url>().map_or_else(
            |_| Some("it cannot be read as a URL"),
            |url| url.host_str().is_none_or(str::is_empty).then_some("it names no host"),
        ),
        _ if url.expose() == "none" => None,
        _ => Some("there is no such broker"),
    };
    if let Some(problem) = problem {
        reader.refuse_secret(NAMES, problem.to_owned());
    }
    Broker {
        url: Some(url).filter(|url| problem.is_none() && url.expose() != "none"),
        declare: reader.switch("broker.declare"),
        begin: reader.read_text("broker.begin", |text| match text {
            "now" => Ok(BrokerBegin::Now),
            "first" => Ok(BrokerBegin::First),
            _ => Err("there is no such beginning".to_owned()),
        }),
    }
}

fn webhooks(reader: &mut Reader<'_>) -> Webhooks {
    Webhooks {
        allow: reader.read_texts("webhooks.allow", str::parse),
        timeout: Duration::from_millis(reader.whole("webhooks.timeout_ms", 100, 30_000)),
        disable_after: Duration::from_mins(reader.whole(
            "webhooks.disable_after_minutes",
            1,
            43_200,
        )),
    }
}

fn root(text: &str) -> Result<PathBuf, Problem> {
    let path = Path::new(text);
    let is_plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() {
        return Err(format!("{text:?} is no absolute path"));
    }
    if !path.components().all(is_plain) {
        return Err(format!("{text:?} holds `..`"));
    }
    Ok(path.to_owned())
}

fn log(reader: &mut Reader<'_>) -> Log {
    Log {
        format: reader.read_text("log.format", |text| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("there is no such format".to_owned()),
        }),
        level: reader.read_text("log.level", |text| {
            text.split(',').try_for_each(directive).map(|()| text.to_owned())
        }),
    }
}

/// A level, or a part of the program and its level. Spelled out here, since the filter itself would
/// take a misspelled level for the name of a part.
fn directive(text: &str) -> Result<(), Problem> {
    let (part, level) = match text.trim().split_once('=') {
        Some((part, level)) => (Some(part), level),
        None => (None, text.trim()),
    };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_:-".contains(&byte);
    if part.is_some_and(|part| part.is_empty() || !part.bytes().all(good)) {
        return Err(format!("{text:?} does not name a part of the program"));
    }
    if matches!(level, "off" | "error" | "warn" | "info" | "debug" | "trace") {
        return Ok(());
    }
    Err(format!("{level:?} is no level"))
}
