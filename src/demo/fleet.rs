//! The demo's fleet: directories, ports, an inventory, and processes.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use capstan_core::ports::CmdbGroup;
use capstan_core::stage::Stage;
use capstan_drivers::scripts::Scripts;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::packages::Package;

/// Where the instances' ports begin unless told otherwise.
pub(crate) const FIRST_PORT: u16 = 18_100;
/// Instances that are started at the same time.
const AT_ONCE: usize = 4;
/// How long processes get to end after SIGTERM.
const END_WAIT: Duration = Duration::from_secs(5);
/// Left behind when the demo stopped its instances: then the next start starts them again.
const STOPPED: &str = "stopped";

/// In the folder of an instance that the demo has set up: from then on Capstan alone installs on it.
const SET_UP: &str = ".set-up-by-demo";

/// The fleet of one data folder.
#[derive(Debug)]
pub(crate) struct Fleet {
    data: PathBuf,
    ports: Vec<u16>,
}

/// The inventory as the CMDB driver reads it. JSON is YAML.
#[derive(Debug, Serialize, Deserialize)]
struct Inventory {
    groups: Vec<CmdbGroup>,
}

/// A stable name for this program: packages are immutable, and the program's path is not.
pub(crate) fn program_link(data: &Path) -> PathBuf {
    data.join("bin").join("capstan")
}

impl Fleet {
    /// Makes folders, the inventory (at the first start) and the link to this program.
    pub(crate) fn prepare(data: &Path, size: u16, first_port: u16) -> anyhow::Result<Self> {
        for folder in ["bin", "host"] {
            let folder = data.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        }
        link_program(data)?;
        let path = data.join("inventory.yaml");
        let ports = if path.exists() { read_ports(&path)? } else { free_ports(size, first_port)? };
        let fleet = Self { data: data.to_owned(), ports };
        if !path.exists() {
            let text = serde_json::to_string_pretty(&fleet.new_inventory())
                .context("writing the inventory")?;
            write_file(&path, &format!("{text}\n"), 0o644)?;
        }
        Ok(fleet)
    }

    pub(crate) fn size(&self) -> usize {
        self.ports.len()
    }

    pub(crate) fn inventory(&self) -> PathBuf {
        self.data.join("inventory.yaml")
    }

    pub(crate) fn hosts_dir(&self) -> PathBuf {
        self.data.join("host")
    }

    /// The folder of an instance.
    pub(crate) fn root(&self, place: usize) -> PathBuf {
        self.hosts_dir().join(hostname(place))
    }

    /// How a person starts this program.
    pub(crate) fn program(&self) -> String {
        program_link(&self.data).display().to_string()
    }

    /// Where the administrator's token is. The demo keeps it, so that it can be printed again.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.data.join("token")
    }

    /// The administrator's token.
    pub(crate) fn token(&self) -> anyhow::Result<String> {
        let path = self.token_file();
        fs::read_to_string(&path).with_context(|| {
            format!("{} is gone; start the demo with another --data", path.display())
        })
    }

    /// Brings every instance up: with the first package if it has none, else with what it has, if
    /// the demo stopped it. What a killed demo left running is not touched.
    pub(crate) async fn start(&self, first: &Package) -> anyhow::Result<()> {
        let stopped = self.data.join(STOPPED);
        let was_stopped = stopped.exists();
        futures::stream::iter(0..self.ports.len())
            .map(|place| self.start_one(place, first, was_stopped))
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        if was_stopped {
            fs::remove_file(&stopped).with_context(|| format!("removing {}", stopped.display()))?;
        }
        Ok(())
    }

    async fn start_one(
        &self,
        place: usize,
        first: &Package,
        was_stopped: bool,
    ) -> anyhow::Result<()> {
        let root = self.root(place);
        let set_up = root.join(SET_UP);
        let installed = set_up.exists();
        if installed && !was_stopped {
            return Ok(());
        }
        fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
        let (version, sha256) = if installed {
            let marker = root.join("current/.capstan-release");
            let text = fs::read_to_string(&marker)
                .with_context(|| format!("reading {}", marker.display()))?;
            let mut words = text.split_whitespace().map(str::to_owned);
            (words.next().unwrap_or_default(), words.next().unwrap_or_default())
        } else {
            (first.version.to_owned(), first.sha256.clone())
        };
        for stage in [Stage::Download, Stage::Install] {
            self.run_script(place, stage, &version, &sha256, first).await?;
        }
        write_file(&set_up, "", 0o644)
    }

    /// Runs one of Capstan's host scripts by hand, as an operator would who sets a host up.
    async fn run_script(
        &self,
        place: usize,
        stage: Stage,
        version: &str,
        sha256: &str,
        first: &Package,
    ) -> anyhow::Result<()> {
        let rendered = Scripts::new(None).render("generic")?;
        let digest = rendered.set.digest(stage).context("the stage has a script")?;
        let script = rendered.scripts.iter().find(|script| script.sha256 == digest);
        let script = script.context("the script is rendered")?;
        let output = Command::new("sh")
            .arg("-c")
            .arg(&script.body)
            .envs(self.environment(place, stage, version, sha256, first))
            .current_dir(self.root(place))
            .output()
            .await
            .context("running sh")?;
        match output.status.code() {
            Some(0 | 10) => Ok(()),
            code => bail!(
                "{stage} of {version} on {} ended with {code:?}: {}{}",
                hostname(place),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }

    fn environment(
        &self,
        place: usize,
        stage: Stage,
        version: &str,
        sha256: &str,
        first: &Package,
    ) -> BTreeMap<&'static str, String> {
        let port = self.ports[place];
        BTreeMap::from([
            ("CAPSTAN_STAGE", stage.word().to_owned()),
            ("CAPSTAN_APPLICATION", "web".to_owned()),
            ("CAPSTAN_GROUP", "web-demo".to_owned()),
            ("CAPSTAN_INSTANCE", String::new()),
            ("CAPSTAN_VERSION", version.to_owned()),
            ("CAPSTAN_PACKAGE_URLS", format!("file://{}", first.path.display())),
            ("CAPSTAN_PACKAGE_SHA256", sha256.to_owned()),
            ("CAPSTAN_ROOT", self.root(place).display().to_string()),
            ("CAPSTAN_PORT", port.to_string()),
            ("CAPSTAN_HEALTH_URL", format!("http://127.0.0.1:{port}/healthz")),
            ("CAPSTAN_TIMEOUT_SECONDS", "60".to_owned()),
            ("CAPSTAN_SETTLE_SECONDS", "1".to_owned()),
            ("CAPSTAN_KEEP_RELEASES", "5".to_owned()),
            ("CAPSTAN_KEY", uuid::Uuid::now_v7().to_string()),
            ("CAPSTAN_FENCE", "1".to_owned()),
        ])
    }

    /// Ends every process of the fleet and leaves none behind.
    pub(crate) async fn stop(&self) -> anyhow::Result<()> {
        write_file(&self.data.join(STOPPED), "", 0o644)?;
        let deadline = tokio::time::Instant::now() + END_WAIT;
        loop {
            let left = self.processes();
            if left.is_empty() {
                return Ok(());
            }
            let signal = if tokio::time::Instant::now() < deadline { "-TERM" } else { "-KILL" };
            let pids: Vec<String> = left.iter().map(ToString::to_string).collect();
            // A process may end by itself meanwhile; the next round sees what is left.
            Command::new("kill").arg(signal).args(&pids).output().await.context("running kill")?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Processes whose environment names a folder of this fleet: instances, and scripts under way.
    fn processes(&self) -> Vec<u32> {
        let mark = format!("CAPSTAN_ROOT={}/", self.hosts_dir().display()).into_bytes();
        let own = std::process::id();
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| *pid != own && !is_zombie(*pid))
            .filter(|pid| {
                fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
                    environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(&mark))
                })
            })
            .collect()
    }

    fn new_inventory(&self) -> Inventory {
        let servers: Vec<serde_json::Value> = self
            .ports
            .iter()
            .enumerate()
            .map(|(place, port)| {
                serde_json::json!({
                    "id": hostname(place), "hostname": hostname(place), "ip_address": "127.0.0.1",
                    "port": port, "root": self.root(place), "idc": (["sh", "pd"][place % 2]),
                    "pool": (["a", "b"][place / 2 % 2]), "is_bastion": place == 0,
                })
            })
            .collect();
        let group = serde_json::json!({
            "id": "web-demo", "revision": 1, "name": "web-demo",
            "application": {
                "id": "web", "name": "web", "owner": "demo", "environment": "demo",
                "kind": "generic", "bastion": "one",
            },
            "site": "main", "virtual_path": "/", "doc_base": self.hosts_dir(), "port": FIRST_PORT,
            "health_check_url": "http://{ip}:{port}/healthz", "idc": "sh",
            "load_balancer": "none", "executor": "local", "servers": servers,
        });
        let group = serde_json::from_value(group).expect("the demo's group is a CMDB group");
        Inventory { groups: vec![group] }
    }
}

fn hostname(place: usize) -> String {
    format!("web-{:02}", place + 1)
}

fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// Points the stable name at this program, by rename, since instances may be starting from it.
fn link_program(data: &Path) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("finding this program")?;
    let link = program_link(data);
    let fresh = link.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", fresh.display()));
        }
        Ok(()) | Err(_) => {}
    }
    std::os::unix::fs::symlink(&program, &fresh)
        .and_then(|()| fs::rename(&fresh, &link))
        .with_context(|| format!("linking {}", link.display()))
}

fn read_ports(path: &Path) -> anyhow::Result<Vec<u16>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let inventory: Inventory = serde_json::from_str(&text).with_context(|| {
        format!("{} was edited into something the demo cannot read", path.display())
    })?;
    let group = inventory.groups.into_iter().next().context("the inventory has no group")?;
    Ok(group.servers.iter().map(|server| server.port.unwrap_or(group.port)).collect())
}

fn free_ports(count: u16, first: u16) -> anyhow::Result<Vec<u16>> {
    let ports: Vec<u16> = (first..=u16::MAX)
        .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .take(usize::from(count))
        .collect();
    if ports.len() < usize::from(count) {
        bail!("--hosts: {count} ports from {first} on are not free on 127.0.0.1");
    }
    Ok(ports)
}

fn write_file(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    crate::node::write_file(path, text, mode).with_context(|| format!("writing {}", path.display()))
}
