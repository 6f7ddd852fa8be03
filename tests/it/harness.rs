//! Starts the demo as a process of its own and talks to it as its users do.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::{Duration, Instant};

use capstan_core::event::Event;
use capstan_core::view::{
    DeploymentBrief, DeploymentView, GroupView, Page, ServerView, TargetView,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Demos that run beside each other. A test that measures how long something takes has the machine for
/// itself: it holds the other side of this lock.
static DEMOS: LazyLock<Arc<RwLock<()>>> = LazyLock::new(Arc::default);

/// A demo that runs, with its data folder.
pub(crate) struct Demo {
    folder: tempfile::TempDir,
    hosts: u16,
    first_port: u16,
    child: Option<Child>,
    /// How often the process died by itself.
    pub(crate) deaths: u32,
    pub(crate) url: String,
    pub(crate) link: String,
    pub(crate) token: String,
    client: reqwest::Client,
    beside: Option<OwnedRwLockReadGuard<()>>,
    alone: Option<OwnedRwLockWriteGuard<()>>,
}

impl Demo {
    /// Starts a demo on a fresh folder.
    pub(crate) async fn start(hosts: u16) -> Self {
        let mut demo = Self::prepare(hosts);
        demo.beside = Some(Arc::clone(&DEMOS).read_owned().await);
        demo.run(&[]).await;
        demo
    }

    /// The same, while no other demo of this process runs.
    pub(crate) async fn start_alone(hosts: u16) -> Self {
        let mut demo = Self::prepare(hosts);
        demo.alone = Some(Arc::clone(&DEMOS).write_owned().await);
        demo.run(&[]).await;
        demo
    }

    /// A folder, and no process yet.
    pub(crate) fn prepare(hosts: u16) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            hosts,
            first_port: first_port(),
            child: None,
            deaths: 0,
            url: String::new(),
            link: String::new(),
            token: String::new(),
            client: reqwest::Client::new(),
            beside: None,
            alone: None,
        }
    }

    /// Holds the data folder, and is removed with the demo.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("data")
    }

    pub(crate) fn root(&self, place: usize) -> PathBuf {
        self.data().join(format!("host/web-{place:02}"))
    }

    /// Starts the process and waits until it has told its address.
    pub(crate) async fn run(&mut self, environment: &[(&str, &str)]) {
        let told = self.spawn(environment);
        let lines = tokio::task::spawn_blocking(move || read_told(&told)).await.unwrap();
        let (link, token) = lines.expect("the demo tells its portal and token");
        link.split("/login").next().unwrap().clone_into(&mut self.url);
        self.link = link;
        self.token = token;
    }

    /// Starts the process; it may be meant to die at once.
    pub(crate) fn spawn(&mut self, environment: &[(&str, &str)]) -> mpsc::Receiver<String> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_capstan"))
            .args(["demo", "--listen", "127.0.0.1:0", "--hosts", &self.hosts.to_string()])
            .args(["--first-port", &self.first_port.to_string()])
            .arg("--data")
            .arg(self.data())
            .envs(environment.iter().copied())
            .env("RUST_LOG", "warn")
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, receiver) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // The test may not listen any more.
                drop(sender.send(line));
            }
        });
        self.child = Some(child);
        receiver
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

    // The API.

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = self
            .client
            .request(method, format!("{}/api/v1/{path}", self.url))
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.call(Method::GET, path, None).await;
        assert!(status.is_success(), "GET {path}: {status} {body}");
        serde_json::from_value(body).unwrap()
    }

    /// Sends a request with an idempotency key; `None` when it is not answered.
    pub(crate) async fn post_once(
        &self,
        path: &str,
        key: &str,
        body: &Value,
    ) -> Option<(StatusCode, Value)> {
        let request = self
            .client
            .post(format!("{}/api/v1/{path}", self.url))
            .bearer_auth(&self.token)
            .header("Idempotency-Key", key)
            .json(body);
        let answer = request.send().await.ok()?;
        let status = answer.status();
        Some((status, answer.json().await.ok()?))
    }

    pub(crate) async fn ready(&self) -> (StatusCode, Value) {
        let answer = self.client.get(format!("{}/readyz", self.url)).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    pub(crate) async fn group(&self) -> GroupView {
        let page: Page<GroupView> = self.get("groups").await;
        page.items.into_iter().next().unwrap()
    }

    pub(crate) async fn servers(&self) -> Vec<ServerView> {
        let group = self.group().await.id;
        let page: Page<ServerView> = self.get(&format!("groups/{group}/servers")).await;
        page.items
    }

    pub(crate) async fn create(&self, version: &str, config: Value) -> String {
        let group = self.group().await.id;
        let body = json!({"group": group, "package": version, "config": config, "start": true});
        let (status, answer) = self.call(Method::POST, "deployments", Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    /// The same for a process that may die meanwhile: `None` when it does not answer.
    pub(crate) async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Option<(StatusCode, Value)> {
        let url = format!("{}/api/v1/{path}", self.url);
        let request = self.client.request(method, url).bearer_auth(&self.token);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await.ok()?;
        let status = answer.status();
        let body = answer.json().await.ok()?;
        (!status.is_server_error()).then_some((status, body))
    }

    /// Sends an archive; `None` when it is not answered.
    pub(crate) async fn upload(&self, version: &str, bytes: Vec<u8>) -> Option<StatusCode> {
        let application = "web";
        let url = format!("{}/api/v1/packages/{application}/{version}", self.url);
        let answer = self.client.put(url).bearer_auth(&self.token).body(bytes).send().await.ok()?;
        Some(answer.status())
    }

    /// Edits the inventory's only group as an operator would.
    fn edit_inventory<T>(&self, edit: impl FnOnce(&mut Value) -> T) -> T {
        let path = self.data().join("inventory.yaml");
        let mut inventory: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let group = &mut inventory["groups"][0];
        group["revision"] = json!(group["revision"].as_i64().unwrap() + 1);
        let edited = edit(group);
        let fresh = path.with_extension("edited");
        std::fs::write(&fresh, serde_json::to_string_pretty(&inventory).unwrap()).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        edited
    }

    /// Changes the record of the group in the inventory; whoever calls waits until it is read.
    pub(crate) fn edit_settle_time(&self, seconds: u32) {
        self.edit_inventory(|group| group["settle_seconds"] = json!(seconds));
    }

    /// How long instances must stay healthy, from now on.
    pub(crate) async fn settle_for(&self, seconds: u32) {
        self.edit_settle_time(seconds);
        let deadline = Instant::now() + PATIENCE;
        while self.group().await.settle_seconds != seconds {
            assert!(Instant::now() < deadline, "the inventory was not read again");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Takes a server out of the inventory and gives its entry.
    pub(crate) async fn remove_from_inventory(&self, hostname: &str) -> Value {
        let members = self.members().await;
        let gone = self.edit_inventory(|group| {
            let servers = group["servers"].as_array_mut().unwrap();
            let place = servers.iter().position(|row| row["hostname"] == hostname).unwrap();
            servers.remove(place)
        });
        self.wait_for_members(members - 1).await;
        gone
    }

    /// Adds a server to the inventory.
    pub(crate) async fn add_to_inventory(&self, server: Value) {
        let members = self.members().await;
        self.edit_inventory(|group| group["servers"].as_array_mut().unwrap().push(server));
        self.wait_for_members(members + 1).await;
    }

    async fn members(&self) -> usize {
        self.servers().await.iter().filter(|row| !row.retired).count()
    }

    async fn wait_for_members(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.members().await != count {
            assert!(Instant::now() < deadline, "the inventory was not read again");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The instance's process dies.
    pub(crate) fn kill_instance(&self, hostname: &str) {
        let path = self.data().join("host").join(hostname).join("run/pid");
        let pid = std::fs::read_to_string(path).unwrap();
        assert!(Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
    }

    /// How often each instance was restarted by a hook.
    pub(crate) async fn restarts(&self) -> Vec<usize> {
        let servers = self.servers().await;
        let count = |row: &ServerView| {
            let path = self.data().join("host").join(&row.hostname).join("shared/restarts.log");
            std::fs::read_to_string(path).unwrap().lines().count()
        };
        servers.iter().map(count).collect()
    }

    /// From a release that has just been started to its normal batches.
    pub(crate) async fn click_past_the_bastion(&self, deployment: &str) {
        self.wait_for(deployment, "SMOKE_SUCCESS").await;
        self.act(deployment, "bake").await;
        self.wait_for(deployment, "BAKE_SUCCESS").await;
        self.act(deployment, "rollout").await;
    }

    pub(crate) async fn act(&self, deployment: &str, action: &str) {
        let path = format!("deployments/{deployment}/{action}");
        let (status, answer) = self.call(Method::POST, &path, Some(json!({}))).await;
        assert!(status.is_success(), "{action}: {status} {answer}");
    }

    /// Rolls the group back and gives the new deployment.
    pub(crate) async fn roll_back(&self) -> String {
        let path = format!("groups/{}/rollback", self.group().await.id);
        let (status, answer) = self.call(Method::POST, &path, Some(json!({}))).await;
        assert!(status.is_success(), "rollback: {status} {answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn deployment(&self, id: &str) -> DeploymentView {
        self.get(&format!("deployments/{id}")).await
    }

    pub(crate) async fn newest(&self) -> DeploymentBrief {
        let page: Page<DeploymentBrief> = self.get("deployments?limit=1").await;
        page.items.into_iter().next().unwrap()
    }

    pub(crate) async fn targets(&self, id: &str) -> Vec<TargetView> {
        let page: Page<TargetView> = self.get(&format!("deployments/{id}/targets?limit=500")).await;
        page.items
    }

    pub(crate) async fn events(&self, id: &str) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        loop {
            let after = events.last().map_or(0, |event| event.seq);
            let page: Page<Event> =
                self.get(&format!("deployments/{id}/events?after={after}&limit=500")).await;
            if page.items.is_empty() {
                return events;
            }
            events.extend(page.items);
        }
    }

    /// Waits for a shown status; fails at once when the deployment has ended otherwise.
    pub(crate) async fn wait_for(&self, id: &str, shown: &str) -> DeploymentView {
        self.wait_until(id, |view| view.shown_status == shown).await
    }

    /// Waits until a deployment is as wanted; fails at once when it has ended otherwise.
    pub(crate) async fn wait_until(
        &self,
        id: &str,
        wanted: impl Fn(&DeploymentView) -> bool,
    ) -> DeploymentView {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = self.deployment(id).await;
            if wanted(&view) {
                return view;
            }
            let ended = view.status.is_final();
            if ended || Instant::now() > deadline {
                let targets = self.targets(id).await;
                let told: Vec<_> = targets
                    .iter()
                    .map(|row| (&row.hostname, row.status.word(), &row.message))
                    .collect();
                panic!("it is not as wanted, it is {}: {told:#?}", view.shown_status);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What each instance answers on its health URL: its version, if it is healthy.
    pub(crate) async fn answering(&self) -> Vec<(String, Option<String>)> {
        let mut answers = Vec::new();
        for server in self.servers().await {
            let url = format!("http://127.0.0.1:{}/healthz", server.port);
            let version = match self.client.get(url).send().await {
                Ok(answer) if answer.status().is_success() => answer
                    .headers()
                    .get("x-capstan-version")
                    .and_then(|value| value.to_str().ok())
                    .map(str::to_owned),
                Ok(_) | Err(_) => None,
            };
            answers.push((server.hostname, version));
        }
        answers
    }

    /// Every instance answers with this version.
    pub(crate) async fn assert_all_run(&self, version: &str) {
        for (hostname, answer) in self.answering().await {
            assert_eq!(answer.as_deref(), Some(version), "{hostname}");
        }
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
    }
}

/// A range of ports of its own for each demo: instances give their port up for a moment at each
/// release, and another demo must not take it then.
fn first_port() -> u16 {
    static DEMOS: AtomicU16 = AtomicU16::new(0);
    let process = u16::try_from(std::process::id() % 200).unwrap();
    10_000 + process * 100 + DEMOS.fetch_add(1, Ordering::Relaxed) * 12
}

fn read_told(lines: &mpsc::Receiver<String>) -> Option<(String, String)> {
    let deadline = Instant::now() + PATIENCE;
    let (mut portal, mut token) = (None, None);
    while portal.is_none() || token.is_none() {
        let line = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
        if let Some(text) = line.strip_prefix("portal: ") {
            portal = Some(text.to_owned());
        }
        if let Some(text) = line.strip_prefix("token: ") {
            token = Some(text.to_owned());
        }
    }
    portal.zip(token)
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
