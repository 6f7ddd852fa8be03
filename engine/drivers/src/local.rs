//! Executor `local`: hosts are folders on this machine.
//!
//! Orders go through the same program as on every other host, `agent-scripts/order`, which is
//! compiled in. It keeps all state under the instance's root, so an engine that dies forgets nothing.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use capstan_core::OrderKey;
use capstan_core::order::hex;
use capstan_core::ports::{
    Call, DriverError, Endpoint, Executor, Look, Order, OrderState, Report, Script,
};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::scripts::names_other_interpreter;

const ORDER: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../agent-scripts/order"));
/// How long a call may take; `order` answers within 1.8 s by itself.
const LIMIT: Duration = Duration::from_secs(2);
/// How long a call waits for its turn.
const TURN: Duration = Duration::from_millis(500);
/// How many processes run at once.
const PROCESSES: usize = 32;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Exit code of `order` for what it cannot do; the reason is on standard error.
const REFUSED: i32 = 64;
/// Exit code of a report when nothing is proven to run.
const NOTHING_RUNS: i32 = 3;
/// Exit codes of `timeout` when it ended the report.
const TIMED_OUT: [i32; 2] = [124, 137];
/// Exit code of host scripts for what will not succeed on another try.
const WILL_NOT_SUCCEED: i32 = 20;

/// Why the executor cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder for its programs cannot be written.
    #[error("the folder {} for the executor's programs cannot be written", .path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A prefix of roots is no absolute path without `..`.
    #[error("{} cannot hold instances: it must be an absolute path without `..`", .prefix.display())]
    Prefix {
        /// The prefix.
        prefix: PathBuf,
    },
}

/// Gives orders to instances on this machine.
#[derive(Debug)]
pub struct LocalExecutor {
    folder: PathBuf,
    order: PathBuf,
    prefixes: Vec<PathBuf>,
    processes: Semaphore,
}

impl LocalExecutor {
    /// An executor that keeps its programs in `folder` and takes instances whose root lies below
    /// one of `prefixes`. Without a prefix it refuses everything.
    pub fn new(folder: impl AsRef<Path>, prefixes: Vec<PathBuf>) -> Result<Self, Error> {
        if let Some(prefix) = prefixes.iter().find(|prefix| !is_plain(prefix)) {
            return Err(Error::Prefix { prefix: prefix.clone() });
        }
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Folder { path, source }
        };
        let folder = std::path::absolute(folder.as_ref()).map_err(failed(folder.as_ref()))?;
        std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
        let digest = hex(&Sha256::digest(ORDER));
        // Orders under way start this file again, so another version gets another name.
        let order = folder.join(format!("order-{}", &digest[..16]));
        write_once(&order, ORDER).map_err(failed(&order))?;
        Ok(Self { folder, order, prefixes, processes: Semaphore::new(PROCESSES) })
    }

    /// The same with another number of processes that may run at once.
    #[must_use]
    pub fn with_processes(mut self, count: usize) -> Self {
        self.processes = Semaphore::new(count.max(1));
        self
    }

    fn check_root(&self, server: &Endpoint) -> Result<(), DriverError> {
        let root = Path::new(&server.root);
        if !is_plain(root) || server.root.contains('\0') {
            return Err(DriverError::Refused(format!(
                "the root `{}` of {} is no absolute path without `..`",
                server.root, server.hostname
            )));
        }
        if self.prefixes.iter().any(|prefix| root != prefix && root.starts_with(prefix)) {
            return Ok(());
        }
        let allowed: Vec<_> =
            self.prefixes.iter().map(|prefix| prefix.display().to_string()).collect();
        Err(DriverError::Refused(format!(
            "the root {} of {} lies below none of the folders that this executor may use ({})",
            server.root,
            server.hostname,
            if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") }
        )))
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, DriverError> {
        match tokio::time::timeout(TURN, self.processes.acquire()).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => Err(DriverError::Busy(format!(
                "this machine is busy with other orders; none ended within {} ms",
                TURN.as_millis()
            ))),
        }
    }

    /// Runs `order` with these arguments; what it printed on success.
    async fn order(
        &self,
        server: &Endpoint,
        arguments: &[String],
        environment: &BTreeMap<String, String>,
        input: &str,
    ) -> Result<Vec<u8>, DriverError> {
        self.check_root(server)?;
        let mut command = bare("sh");
        command.arg(&self.order).args(arguments);
        command.envs(environment).env("CAPSTAN_ROOT", &server.root);
        let output = self.run(command, input).await?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let reason = last_line(&output.stderr);
        if output.status.code() == Some(REFUSED) {
            return Err(DriverError::Refused(format!("{}: {reason}", server.hostname)));
        }
        Err(DriverError::Unknown(format!(
            "the order program on {} ended with {}: {reason}",
            server.hostname, output.status
        )))
    }

    async fn run(&self, mut command: Command, input: &str) -> Result<Output, DriverError> {
        let began = async {
            let _permit = self.turn().await?;
            let child = command.spawn().map_err(|error| not_started(&error))?;
            talk(child, input).await
        };
        tokio::time::timeout(LIMIT, began).await.unwrap_or_else(|_| {
            Err(DriverError::Unknown(format!(
                "this machine did not answer within {} ms",
                LIMIT.as_millis()
            )))
        })
    }

    async fn report_of(
        &self,
        server: &Endpoint,
        script: &Script,
    ) -> Result<Option<Report>, DriverError> {
        self.check_root(server)?;
        let file = self.keep(script)?;
        // `timeout` ends what the script has started as well.
        let mut command = bare("timeout");
        command.args(["-k", "0.1", "1.8"]);
        if !names_other_interpreter(&script.body) {
            command.arg("sh");
        }
        command.arg(&file).env("CAPSTAN_ROOT", &server.root);
        let output = self.run(command, "").await?;
        let said = last_line(&output.stdout);
        match output.status.code() {
            Some(0) => parse_report(&said).map(Some),
            Some(NOTHING_RUNS) => Ok(None),
            Some(WILL_NOT_SUCCEED) => {
                Err(DriverError::Refused(format!("{}: {said}", server.hostname)))
            }
            Some(code) if TIMED_OUT.contains(&code) => Err(DriverError::Unknown(format!(
                "the report script on {} did not end in time",
                server.hostname
            ))),
            _ => Err(DriverError::Unknown(format!(
                "the report script on {} ended with {}: {said} {}",
                server.hostname,
                output.status,
                last_line(&output.stderr)
            ))),
        }
    }

    /// The file that holds `script`; written once.
    fn keep(&self, script: &Script) -> Result<PathBuf, DriverError> {
        let digest = hex(&Sha256::digest(&script.body));
        if digest != script.sha256 {
            return Err(DriverError::Refused(format!(
                "the script has sha256 {digest}, it should have {}",
                script.sha256
            )));
        }
        let file = self.folder.join(format!("script-{digest}"));
        write_once(&file, &script.body).map_err(|error| {
            DriverError::Busy(format!("{} cannot be written: {error}", file.display()))
        })?;
        Ok(file)
    }
}

impl Executor for LocalExecutor {
    fn start<'a>(&'a self, server: &'a Endpoint, order: &'a Order) -> Call<'a, OrderState> {
        Box::pin(async move {
            let environment = environment(server, order)?;
            let said =
                self.order(server, &["start".into()], &environment, &order.script.body).await?;
            parse_state(&said)
        })
    }

    fn look<'a>(&'a self, server: &'a Endpoint, key: OrderKey, offset: u64) -> Call<'a, Look> {
        Box::pin(async move {
            let arguments = ["look".into(), key.to_string(), offset.to_string()];
            let mut said = self.order(server, &arguments, &BTreeMap::new(), "").await?;
            let line = said.iter().position(|byte| *byte == b'\n').map_or(said.len(), |at| at + 1);
            let output = said.split_off(line);
            Ok(Look { state: parse_state(&said)?, output })
        })
    }

    fn cancel<'a>(
        &'a self,
        server: &'a Endpoint,
        key: OrderKey,
        fence: i64,
    ) -> Call<'a, OrderState> {
        Box::pin(async move {
            let arguments = ["cancel".into(), key.to_string(), fence.to_string()];
            parse_state(&self.order(server, &arguments, &BTreeMap::new(), "").await?)
        })
    }

    fn report<'a>(&'a self, server: &'a Endpoint, script: &'a Script) -> Call<'a, Option<Report>> {
        Box::pin(self.report_of(server, script))
    }
}

fn environment(server: &Endpoint, order: &Order) -> Result<BTreeMap<String, String>, DriverError> {
    let is_name = |name: &str| {
        name.starts_with("CAPSTAN_")
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    for (name, value) in &order.environment {
        if !is_name(name) || value.contains('\0') {
            return Err(DriverError::Refused(format!(
                "the order's environment holds `{name}`, which hosts do not take"
            )));
        }
    }
    if order.environment.get("CAPSTAN_ROOT").is_some_and(|root| *root != server.root) {
        return Err(DriverError::Refused(format!(
            "the order is for another root than that of {}, {}",
            server.hostname, server.root
        )));
    }
    let whole_seconds = order.time_limit.as_secs() + u64::from(order.time_limit.subsec_nanos() > 0);
    let mut environment = order.environment.clone();
    environment.extend([
        ("CAPSTAN_KEY".to_owned(), order.key.to_string()),
        ("CAPSTAN_FENCE".to_owned(), order.fence.to_string()),
        // The script's own limit, CAPSTAN_TIMEOUT_SECONDS, is in the order's environment.
        ("CAPSTAN_ORDER_TIMEOUT_SECONDS".to_owned(), whole_seconds.to_string()),
        ("CAPSTAN_SCRIPT_SHA256".to_owned(), order.script.sha256.clone()),
    ]);
    Ok(environment)
}

/// A command that inherits nothing and ends when its call is dropped.
fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).current_dir("/").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Gives the child its input and waits for its end.
async fn talk(mut child: Child, input: &str) -> Result<Output, DriverError> {
    let mut stdin = child.stdin.take().expect("the child was started with a pipe");
    let give = async move {
        match stdin.write_all(input.as_bytes()).await {
            // It answered without reading to the end.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    };
    let (given, output) = tokio::join!(give, child.wait_with_output());
    let lost = |error: std::io::Error| {
        DriverError::Unknown(format!("the order program cannot be talked to: {error}"))
    };
    given.map_err(lost)?;
    output.map_err(lost)
}

fn not_started(error: &std::io::Error) -> DriverError {
    let reason = format!("this machine cannot start a program: {error}");
    let is_for_good = matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::InvalidInput
    );
    if is_for_good { DriverError::Refused(reason) } else { DriverError::Busy(reason) }
}

fn parse_state(said: &[u8]) -> Result<OrderState, DriverError> {
    let line = String::from_utf8_lossy(said);
    let line = line.trim_end();
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let state = match word {
        "unknown" => Some(OrderState::Unknown),
        "accepted" | "running" => Some(OrderState::Running),
        "cancelled" => Some(OrderState::Cancelled),
        "lost" => Some(OrderState::Lost),
        "ended" => rest.parse().ok().map(OrderState::Ended),
        "stale" => rest.parse().ok().map(OrderState::Stale),
        "busy" => {
            return Err(DriverError::Busy("another order on this root is being ended".to_owned()));
        }
        "refused" => return Err(DriverError::Refused(rest.to_owned())),
        _ => None,
    };
    state.ok_or_else(|| DriverError::Unknown(format!("the host answers `{line}`")))
}

fn parse_report(line: &str) -> Result<Report, DriverError> {
    let is_digest = |text: &str| {
        text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    match line.split_once(' ') {
        Some((version, sha256)) if !version.is_empty() && is_digest(sha256) => {
            Ok(Report { version: version.to_owned(), sha256: sha256.to_owned() })
        }
        _ => Err(DriverError::Refused(format!(
            "the report script says `{line}`, which is no version with a sha256 digest"
        ))),
    }
}

fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.trim_end().lines().next_back().unwrap_or_default();
    line.chars().take(500).collect()
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// Writes an executable file by rename unless it is there with this text.
fn write_once(path: &Path, text: &str) -> std::io::Result<()> {
    if std::fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    let unique = format!("{}-{:?}", std::process::id(), std::thread::current().id());
    let part = path.with_extension(format!("part-{unique}"));
    let written = (|| {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o700).open(&part)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.set_permissions(std::fs::Permissions::from_mode(0o700))?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    })();
    if written.is_err() {
        drop(std::fs::remove_file(&part));
    }
    written
}
