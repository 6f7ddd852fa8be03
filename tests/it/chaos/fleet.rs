//! Instances that are folders: `order` and the host scripts run in them for real, and what stands for
//! the application is a file that says which version serves. One small server answers the health URLs of
//! all of them, each at an address of its own in 127.0.0.0/8.

use std::fs::Permissions;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::faults::archive;

/// What the restart hook of every package does: it notes the order's key, and the version serves.
const RESTART: &str = r#"#!/bin/sh
set -eu
mkdir -p "$CAPSTAN_ROOT/shared" "$CAPSTAN_ROOT/run"
echo "$CAPSTAN_KEY $CAPSTAN_VERSION" >> "$CAPSTAN_ROOT/shared/restarts.log"
printf '%s\n' "$CAPSTAN_VERSION" > "$CAPSTAN_ROOT/run/serving.new"
mv -f "$CAPSTAN_ROOT/run/serving.new" "$CAPSTAN_ROOT/run/serving"
"#;
/// What every instance runs before anything is released.
pub(crate) const FIRST: &str = "1.0.0";
/// How many hosts share one part of an address.
const HOSTS_EACH: usize = 250;

/// A package that hosts fetch from a file.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    pub(crate) version: String,
    pub(crate) path: PathBuf,
    pub(crate) sha256: String,
}

/// All instances.
#[derive(Debug)]
pub(crate) struct Fleet {
    folder: PathBuf,
    sizes: Vec<usize>,
    pub(crate) packages: Vec<Package>,
    /// Where all health URLs are answered.
    port: u16,
}

impl Fleet {
    /// Makes folders and packages, and answers health URLs from now on.
    pub(crate) fn make(folder: &Path, sizes: &[usize], versions: usize) -> Self {
        let dist = folder.join("dist");
        std::fs::create_dir_all(&dist).unwrap();
        let packages = (0..versions).map(|number| package(&dist, number)).collect();
        let port = answer_health(folder.join("host"));
        let fleet = Self { folder: folder.to_owned(), sizes: sizes.to_vec(), packages, port };
        for (group, size) in sizes.iter().enumerate() {
            for place in 0..*size {
                fleet.set_up(&fleet.root(group, place));
            }
        }
        fleet
    }

    /// What a CMDB says of it at first.
    pub(crate) fn records(&self) -> Vec<Value> {
        (0..self.groups()).map(|group| self.record(group)).collect()
    }

    /// The folder below which all instances lie.
    pub(crate) fn hosts(&self) -> PathBuf {
        self.folder.join("host")
    }

    pub(crate) fn groups(&self) -> usize {
        self.sizes.len()
    }

    pub(crate) fn size(&self, group: usize) -> usize {
        self.sizes[group]
    }

    pub(crate) fn root(&self, group: usize, place: usize) -> PathBuf {
        self.hosts().join(group_name(group)).join(hostname(place))
    }

    /// Makes Verify fail on an instance, or lets it succeed again.
    pub(crate) fn break_host(&self, group: usize, place: usize) {
        std::fs::write(self.root(group, place).join("fault"), "").unwrap();
    }

    /// Takes every fault of a group away.
    pub(crate) fn repair(&self, group: usize) {
        for place in 0..self.size(group) {
            match std::fs::remove_file(self.root(group, place).join("fault")) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// The version that serves on an instance.
    pub(crate) fn serving(&self, group: usize, place: usize) -> Option<String> {
        serving(&self.root(group, place))
    }

    /// Puts the first release in place, as Capstan's own scripts would.
    fn set_up(&self, root: &Path) {
        let first = &self.packages[0];
        let release = root.join("releases").join(&first.version);
        let note = format!("{} {}\n", first.version, first.sha256);
        let hook = release.join("capstan/restart");
        std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
        std::fs::create_dir_all(root.join("run")).unwrap();
        std::fs::create_dir_all(root.join("shared")).unwrap();
        std::fs::write(&hook, RESTART).unwrap();
        std::fs::set_permissions(&hook, Permissions::from_mode(0o755)).unwrap();
        std::fs::write(release.join(".capstan-release"), &note).unwrap();
        let link = Path::new("releases").join(&first.version);
        std::os::unix::fs::symlink(link, root.join("current")).unwrap();
        std::fs::write(root.join("run/restarted"), &note).unwrap();
        std::fs::write(root.join("run/serving"), format!("{}\n", first.version)).unwrap();
    }

    fn record(&self, group: usize) -> Value {
        let port = self.port;
        let servers: Vec<Value> = (0..self.size(group))
            .map(|place| {
                json!({
                    "id": format!("{}-{}", group_name(group), hostname(place)),
                    "hostname": hostname(place),
                    "ip_address": address(group, place), "port": port,
                    "root": self.root(group, place), "idc": (["sh", "pd"][place % 2]),
                    "pool": (["a", "b"][place / 2 % 2]), "is_bastion": place == 0,
                })
            })
            .collect();
        json!({
            "id": group_name(group), "revision": 1, "name": group_name(group),
            "application": {
                "id": "web", "name": "web", "owner": "chaos", "environment": "test",
                "kind": "generic", "bastion": "one",
            },
            "site": "main", "virtual_path": "/", "doc_base": self.hosts(), "port": port,
            "health_check_url": "http://{ip}:{port}/healthz", "idc": "sh", "settle_seconds": 1,
            "load_balancer": "none", "executor": "local", "servers": servers,
        })
    }
}

pub(crate) fn group_name(group: usize) -> String {
    format!("web-{group:02}")
}

pub(crate) fn hostname(place: usize) -> String {
    format!("h{place:03}")
}

/// The other way round.
pub(crate) fn place(hostname: &str) -> usize {
    hostname.trim_start_matches('h').parse().expect("a host of this fleet")
}

fn package(dist: &Path, number: usize) -> Package {
    let version = format!("1.{number}.0");
    let app = format!("version = \"{version}\"\n");
    let bytes = archive(&[("app.toml", &app), ("capstan/restart", RESTART)]);
    let path = dist.join(format!("web-{version}.tar.gz"));
    std::fs::write(&path, &bytes).unwrap();
    let sha256 = capstan_core::order::hex(&Sha256::digest(&bytes));
    Package { version, path, sha256 }
}

fn address(group: usize, place: usize) -> Ipv4Addr {
    let part = |number: usize| u8::try_from(number).expect("a part of an address");
    Ipv4Addr::new(127, part(group + 1), part(place / HOSTS_EACH), part(place % HOSTS_EACH + 1))
}

fn serving(root: &Path) -> Option<String> {
    let text = std::fs::read_to_string(root.join("run/serving")).ok()?;
    Some(text.trim_end().to_owned())
}

/// Answers on a thread of its own, so that a busy test does not look like dead hosts. Gives the port.
fn answer_health(hosts: PathBuf) -> u16 {
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let hosts = Arc::new(hosts);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(answer(stream, Arc::clone(&hosts)));
            }
        });
    });
    port
}

async fn answer(mut stream: TcpStream, hosts: Arc<PathBuf>) {
    let mut asked = [0; 1024];
    // Whoever asked may have hung up, or been killed.
    if !matches!(stream.read(&mut asked).await, Ok(1..)) {
        return;
    }
    let version = match stream.local_addr().map(|it| it.ip()) {
        Ok(IpAddr::V4(at)) => {
            let [_, group, high, low] = at.octets().map(usize::from);
            let (group, place) = (group.wrapping_sub(1), high * HOSTS_EACH + low.wrapping_sub(1));
            serving(&hosts.join(group_name(group)).join(hostname(place)))
        }
        Ok(IpAddr::V6(_)) | Err(_) => None,
    };
    let head = match version {
        Some(version) => format!("200 OK\r\nx-capstan-version: {version}"),
        None => "503 Service Unavailable".to_owned(),
    };
    let text = format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    drop(stream.write_all(text.as_bytes()).await);
}
