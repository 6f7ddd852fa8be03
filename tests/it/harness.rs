//! Starts the demo as a process of its own and talks to it as its users do.

mod api;
mod inventory;
pub(crate) mod output;
mod ports;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use capstan_services::{Database, Proxy};

use self::ports::first_port;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A client that gives up what is not answered.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().timeout(PATIENCE).build().unwrap()
}

/// A demo that runs, with its data folder.
pub(crate) struct Demo {
    /// The binary.
    pub(crate) program: PathBuf,
    folder: tempfile::TempDir,
    pub(crate) hosts: u16,
    first_port: u16,
    /// A database on a server; none: a file.
    database: Option<Database>,
    /// What the process does, if not everything.
    roles: Option<&'static str>,
    child: Option<Child>,
    /// How often the process died by itself.
    pub(crate) deaths: u32,
    pub(crate) url: String,
    pub(crate) link: String,
    pub(crate) token: String,
    /// What it told before it ran.
    pub(crate) told: String,
    client: reqwest::Client,
}

impl Demo {
    /// Starts a demo on a fresh folder.
    pub(crate) async fn start(hosts: u16) -> Self {
        let mut demo = Self::prepare(hosts);
        demo.run(&[]).await;
        demo
    }

    /// The same with more in its environment.
    pub(crate) async fn start_with(hosts: u16, environment: &[(&str, &str)]) -> Self {
        let mut demo = Self::prepare(hosts);
        demo.run(environment).await;
        demo
    }

    /// A demo that leaves the engine to other processes, over a database that they share.
    pub(crate) async fn start_without_engine(hosts: u16) -> Self {
        Self::start_without_engine_with(hosts, &[]).await
    }

    /// The same with more in its environment.
    pub(crate) async fn start_without_engine_with(
        hosts: u16,
        environment: &[(&str, &str)],
    ) -> Self {
        let mut demo = Self::prepare_without_engine(hosts);
        demo.run(environment).await;
        demo
    }

    /// The same, and no process yet.
    pub(crate) fn prepare_without_engine(hosts: u16) -> Self {
        let mut demo = Self::prepare(hosts);
        demo.database = Some(Database::shared());
        demo.roles = Some("controller,portal");
        demo
    }

    /// A demo over a database on a server, with more in its environment.
    pub(crate) async fn start_on_server_with(hosts: u16, environment: &[(&str, &str)]) -> Self {
        let mut demo = Self::prepare(hosts);
        demo.database = Some(Database::shared());
        demo.run(environment).await;
        demo
    }

    /// A demo over a database server, and the line between them, to be disturbed.
    pub(crate) async fn start_behind_a_line(hosts: u16) -> (Self, Proxy) {
        let mut demo = Self::prepare(hosts);
        let (database, line) = Database::shared().behind_a_line();
        demo.database = Some(database);
        demo.run(&[]).await;
        (demo, line)
    }

    /// A folder, and no process yet. The database is one of the kind that the tests are run on.
    pub(crate) fn prepare(hosts: u16) -> Self {
        Self {
            program: env!("CARGO_BIN_EXE_capstan").into(),
            folder: tempfile::tempdir().unwrap(),
            hosts,
            first_port: first_port(hosts),
            database: Some(Database::new()).filter(|it| !it.url.starts_with("sqlite")),
            roles: None,
            child: None,
            deaths: 0,
            url: String::new(),
            link: String::new(),
            token: String::new(),
            told: String::new(),
            client: client(),
        }
    }

    /// Holds the data folder, and is removed with the demo.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("data")
    }

    /// What its processes have logged, one after the other.
    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).expect("its log")
    }

    /// Where they log.
    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Whether the database is a file, which one process has alone.
    pub(crate) fn is_on_file(&self) -> bool {
        self.database.is_none()
    }

    /// The URL of the database that the demo shares with others.
    pub(crate) fn database(&self) -> &str {
        &self.database.as_ref().expect("a database on a server").url
    }

    pub(crate) fn root(&self, place: usize) -> PathBuf {
        self.data().join(format!("host/web-{place:02}"))
    }

    /// Starts the process and waits until it has told its address.
    pub(crate) async fn run(&mut self, environment: &[(&str, &str)]) {
        let told = self.spawn(environment);
        let lines = tokio::task::spawn_blocking(move || read_told(&told)).await.unwrap();
        let Told { link, token, text } = lines.expect("the demo tells its portal and token");
        link.split("/login").next().unwrap().clone_into(&mut self.url);
        self.link = link;
        self.token = token;
        self.told = text;
    }

    /// Starts the process; it may be meant to die at once.
    pub(crate) fn spawn(&mut self, environment: &[(&str, &str)]) -> mpsc::Receiver<String> {
        let mut command = Command::new(&self.program);
        command.arg("demo");
        if let Some(database) = &self.database {
            command.env("CAPSTAN_DEMO_DATABASE", &database.url);
        }
        if let Some(roles) = self.roles {
            command.args(["--roles", roles]);
        }
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--hosts", &self.hosts.to_string()])
            .args(["--first-port", &self.first_port.to_string()])
            .arg("--data")
            .arg(self.data())
            .envs(environment.iter().copied())
            .env("RUST_LOG", "warn")
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(output::log_file(&self.log()))
            .spawn()
            .unwrap();
        let lines = output::lines(&mut child);
        self.child = Some(child);
        lines
    }

    /// kill -9 of the engine's process; the instances live on.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Waits until the process has died by itself.
    pub(crate) async fn wait_until_dead(&mut self) {
        let child = self.child.as_mut().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the process did not die");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.child = None;
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        let Some(child) = self.child.as_mut() else { return false };
        let is_alive = child.try_wait().unwrap().is_none();
        if !is_alive {
            self.deaths += 1;
            self.child = None;
        }
        is_alive
    }

    /// Ctrl-C, and what it leaves behind.
    pub(crate) async fn interrupt(&mut self) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        self.wait_until_dead().await;
    }

    /// Processes that belong to this demo's fleet.
    pub(crate) fn fleet_processes(&self) -> Vec<u32> {
        processes_with(&format!("CAPSTAN_ROOT={}/", self.data().join("host").display()))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The process may have died already; either way nothing may stay behind.
            drop(child.kill());
            drop(child.wait());
        }
        for _ in 0..3 {
            for pid in self.fleet_processes() {
                drop(Command::new("kill").args(["-9", &pid.to_string()]).status());
            }
        }
        output::show_if_failing(&self.log());
    }
}

struct Told {
    link: String,
    token: String,
    text: String,
}

fn read_told(lines: &mpsc::Receiver<String>) -> Option<Told> {
    let deadline = Instant::now() + PATIENCE;
    let (mut portal, mut token, mut text) = (None, None, String::new());
    while portal.is_none() || token.is_none() {
        let line = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
        text.push_str(&line);
        text.push('\n');
        if let Some(link) = line.strip_prefix("portal: ") {
            portal = Some(link.to_owned());
        }
        if let Some(secret) = line.strip_prefix("token: ") {
            token = Some(secret.to_owned());
        }
    }
    Some(Told { link: portal?, token: token?, text })
}

/// Processes whose environment has an entry that begins like this.
pub(crate) fn processes_with(mark: &str) -> Vec<u32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ"));
            environment.is_ok_and(|text| {
                text.split(|byte| *byte == 0).any(|entry| entry.starts_with(mark.as_bytes()))
            })
        })
        .collect()
}
