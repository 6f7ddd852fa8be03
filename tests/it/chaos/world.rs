//! Three engines and two controllers over the services, and the fleet that they release to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use capstan_core::view::GroupView;
use reqwest::StatusCode;
use serde_json::json;

use super::api::Api;
use super::clock::Clock;
use super::cmdb::Cmdb;
use super::ear::Ear;
use super::fleet::{FIRST, Fleet, Package, group_name};
use super::plan::Plan;
use super::process::{Process, Role};
use super::services::{Kind, Lines, Services};
use crate::harness::{client, processes_with};

const ENGINES: usize = 3;
const CONTROLLERS: usize = 2;
/// How long everything together may take to come up.
const PATIENCE: Duration = Duration::from_mins(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Everything that takes part.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) processes: Vec<Arc<Process>>,
    /// The lines of each process, in the same order.
    pub(crate) lines: Vec<Lines>,
    pub(crate) services: Services,
    pub(crate) fleet: Fleet,
    pub(crate) cmdb: Arc<Cmdb>,
    pub(crate) api: Api,
    pub(crate) ear: Arc<Ear>,
    /// The ids of the groups, in the order of the fleet.
    pub(crate) groups: Vec<String>,
    folder: Folder,
}

/// Where everything lies. What still runs on a host is ended before it goes. After a run that failed it
/// stays, for the logs.
#[derive(Debug)]
struct Folder {
    folder: tempfile::TempDir,
    is_good: AtomicBool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_good.load(Ordering::Relaxed) {
            self.folder.disable_cleanup(true);
            println!("logs and hosts are kept in {}", self.folder.path().display());
        }
        let mark = format!("CAPSTAN_ROOT={}/", self.folder.path().join("host").display());
        for _ in 0..3 {
            for pid in processes_with(&mark) {
                let pid = pid.to_string();
                drop(std::process::Command::new("kill").args(["-9", &pid]).status());
            }
        }
    }
}

impl World {
    /// Starts everything, and waits until every group has adopted what its hosts run.
    pub(crate) async fn start(plan: &Plan, kind: Kind, versions: usize) -> Self {
        let services = tokio::task::spawn_blocking(move || Services::start(kind)).await.unwrap();
        let ear = Ear::open(&services.rabbit_url).await;
        let folder = tempfile::Builder::new().prefix("capstan-chaos-").tempdir().unwrap();
        let folder = Folder { folder, is_good: AtomicBool::new(false) };
        let place = folder.folder.path().to_owned();
        let sizes = plan.sizes.clone();
        let (fleet, place) =
            tokio::task::spawn_blocking(move || (Fleet::make(&place, &sizes, versions), place))
                .await
                .unwrap();
        let cmdb = Arc::new(Cmdb::start(fleet.records()));
        let ports: Vec<u16> = (0..CONTROLLERS).map(|_| free_port()).collect();
        let urls: Vec<String> =
            ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let token = place.join("token");
        let clock = Arc::new(Clock::make(&place));
        let (mut processes, mut lines) = (Vec::new(), Vec::new());
        for number in 0..CONTROLLERS + ENGINES {
            let own = services.lines(&cmdb.url);
            let (name, role, listen) = match ports.get(number) {
                Some(port) => (format!("controller-{number}"), Role::Controller, *port),
                None => (format!("engine-{}", number - CONTROLLERS), Role::Engine, 0),
            };
            let mut environment = environment(&fleet, &services, &own, listen, &urls[0]);
            environment.push(variable("CMDB__URL", &own.cmdb.url(&cmdb.url)));
            environment.push(variable("AUTH__ADMIN_TOKEN_FILE", &token.display()));
            environment.push(variable("PACKAGES__PATH", &place.join("packages").display()));
            let process = Process::new(&name, role, &place, environment, &clock);
            let process = Arc::new(process);
            process.start().await;
            if number == 0 {
                // The first brings the schema up to date and makes the token.
                until_ready(&urls[0], &process).await;
            }
            let watched = Arc::clone(&process);
            tokio::spawn(async move { watched.watch().await });
            processes.push(process);
            lines.push(own);
        }
        let token = std::fs::read_to_string(token).unwrap().trim().to_owned();
        let api = Api::new(urls, token);
        let mut world =
            Self { processes, lines, services, fleet, cmdb, api, ear, groups: Vec::new(), folder };
        world.bring_in().await;
        world
    }

    /// Waits until the groups are there and known to run the first package, then registers the others.
    async fn bring_in(&mut self) {
        let count = self.fleet.groups();
        self.until_groups(|all| all.len() == count).await;
        self.register(&self.fleet.packages[..1]).await;
        let is_adopted = |row: &GroupView| row.version.as_deref() == Some(FIRST);
        let all = self.until_groups(|all| all.iter().all(is_adopted)).await;
        self.register(&self.fleet.packages[1..]).await;
        let named = |group: usize| all.iter().find(|row| row.name == group_name(group));
        let id = |group: usize| named(group).expect("it is there").id.to_string();
        self.groups = (0..count).map(id).collect();
    }

    async fn register(&self, packages: &[Package]) {
        for package in packages {
            let body = json!({
                "application": "web", "version": package.version, "sha256": package.sha256,
                "location": format!("file://{}", package.path.display()),
            });
            let (status, answer) = self.api.post("packages", &body).await;
            assert_eq!(status, StatusCode::CREATED, "{answer}");
        }
    }

    async fn until_groups(&self, is_so: impl Fn(&[GroupView]) -> bool) -> Vec<GroupView> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all: Vec<GroupView> = self.api.all("groups").await;
            if is_so(&all) {
                return all;
            }
            let told: Vec<_> = all.iter().map(|row| (&row.name, row.total, &row.version)).collect();
            assert!(Instant::now() < deadline, "{told:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Nothing has to be kept for who looks for a fault.
    pub(crate) fn is_good(&self) {
        self.folder.is_good.store(true, Ordering::Relaxed);
    }

    /// Ends the processes, so that nothing changes any more.
    pub(crate) async fn end(&self) {
        for process in &self.processes {
            process.end().await;
        }
    }
}

fn variable(name: &str, value: &impl std::fmt::Display) -> (String, String) {
    (format!("CAPSTAN__{name}"), value.to_string())
}

fn environment(
    fleet: &Fleet,
    services: &Services,
    lines: &Lines,
    port: u16,
    public_url: &str,
) -> Vec<(String, String)> {
    let level = std::env::var("CAPSTAN_CHAOS_LOG").unwrap_or_else(|_| "warn".to_owned());
    vec![
        variable("SERVER__LISTEN", &format!("127.0.0.1:{port}")),
        variable("SERVER__PUBLIC_URL", &public_url),
        variable("DATABASE__URL", &lines.database.url(&services.database_url)),
        variable("QUEUE__URL", &lines.redis.url(&services.redis_url)),
        variable("BROKER__URL", &lines.rabbit.url(&services.rabbit_url)),
        variable("BROKER__BEGIN", &"first"),
        variable("CMDB__DRIVER", &"http"),
        // Messages tell of changes, and not lists.
        variable("CMDB__POLL_SECONDS", &3_600),
        variable("CMDB__STALE_AFTER_SECONDS", &7_200),
        variable("EXECUTOR__LOCAL__ROOTS", &fleet.hosts().display()),
        // Of three engines on one machine.
        variable("EXECUTOR__LOCAL__PROCESSES", &8),
        variable("LOAD_BALANCER__NONE__TIMEOUT_MS", &1_500),
        variable("LOG__LEVEL", &level),
    ]
}

async fn until_ready(url: &str, process: &Process) {
    let deadline = Instant::now() + PATIENCE;
    let (client, ready) = (client(), format!("{url}/readyz"));
    while !client.get(&ready).send().await.is_ok_and(|answer| answer.status().is_success()) {
        assert!(Instant::now() < deadline, "it is not ready: {}", process.log());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A port that nobody takes while the process that has it is away: below those that the system gives out,
/// beside those of the demos, and given out once.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(8_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
