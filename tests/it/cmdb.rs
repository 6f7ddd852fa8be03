//! The binary with a CMDB over HTTP that comes, changes, breaks and comes back, and with `NetBox`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::response::{IntoResponse, Response};
use capstan_core::view::{ApplicationView, GroupView, Page, ServerView};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, client, output};

const TOKEN: &str = "the-secret-of-the-cmdb";

/// What the CMDB answers to everything: groups, or a failure.
type Source = Arc<Mutex<Option<Vec<Value>>>>;

async fn cmdb(source: Source) -> String {
    let answer = async move |request: axum::extract::Request| -> Response {
        let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if token != Some(&format!("Bearer {TOKEN}")) {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        match (&*source.lock().unwrap(), request.uri().path()) {
            (None, _) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            (Some(groups), "/api/groups") => {
                json!({ "groups": groups }).to_string().into_response()
            }
            (Some(groups), path) => {
                let id = path.trim_start_matches("/api/groups/");
                let found = groups.iter().find(|group| group["id"] == id);
                found.map_or(StatusCode::NOT_FOUND.into_response(), |group| {
                    group.to_string().into_response()
                })
            }
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/api")
}

pub(crate) fn group(revision: i64, servers: usize) -> Value {
    let server = |number: usize| {
        json!({"id": format!("web-{number}"), "hostname": format!("web-{number}"),
            "ip_address": format!("127.0.0.{number}")})
    };
    let servers: Vec<Value> = (1..=servers).map(server).collect();
    json!({"id": "web-prod", "revision": revision, "name": "web-prod", "port": 1,
        "application": {"id": "web", "name": "web"}, "doc_base": "/srv/web",
        "health_check_url": "http://{ip}:{port}/", "servers": servers})
}

pub(crate) struct Serving {
    child: Child,
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) client: reqwest::Client,
}

impl Serving {
    fn start(folder: &Path, driver: &str, cmdb: &str) -> Self {
        Self::start_with(folder, driver, cmdb, &[])
    }

    pub(crate) fn start_with(
        folder: &Path,
        driver: &str,
        cmdb: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        std::fs::write(folder.join("token"), format!("{TOKEN}\n")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_capstan"))
            .arg("serve")
            .current_dir(folder)
            .env("CAPSTAN__SERVER__LISTEN", "127.0.0.1:0")
            .env("CAPSTAN__AUTH__ADMIN_TOKEN_FILE", "admin")
            .env("CAPSTAN__CMDB__DRIVER", driver)
            .env("CAPSTAN__CMDB__URL", cmdb)
            .env("CAPSTAN__CMDB__TOKEN_FILE", "token")
            .env("CAPSTAN__CMDB__POLL_SECONDS", "1")
            .env("CAPSTAN__CMDB__STALE_AFTER_SECONDS", "10")
            .env("CAPSTAN__LOG__LEVEL", "debug")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        let lines = output::lines(&mut child);
        let mut serving =
            Self { child, url: String::new(), token: String::new(), client: client() };
        let portal = output::first(&lines, |line| {
            line.strip_prefix("portal: ").map(|url| url.trim_end_matches('/').to_owned())
        });
        serving.url = portal.expect("it tells its portal");
        serving.token = std::fs::read_to_string(folder.join("admin")).unwrap();
        serving
    }

    /// Waits until it has died by itself.
    pub(crate) async fn died(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it lives on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let request = self.client.get(format!("{}{path}", self.url)).bearer_auth(&self.token);
        request.send().await.unwrap().json().await.unwrap()
    }

    /// Looks until the groups are as they should be.
    pub(crate) async fn until(
        &self,
        what: &str,
        is_so: impl Fn(&[GroupView]) -> bool,
    ) -> Vec<GroupView> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let page: Page<GroupView> = self.get("/api/v1/groups").await;
            if is_so(&page.items) {
                return page.items;
            }
            assert!(Instant::now() < deadline, "{what}: {:?}", page.items);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have died by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn a_cmdb_over_http_is_read_followed_and_missed() {
    let folder = tempfile::tempdir().unwrap();
    // The CMDB is down at first: Capstan starts without it.
    let source: Source = Arc::default();
    let serving = Serving::start(folder.path(), "http", &cmdb(source.clone()).await);
    let warned = async |words: &str| {
        let ready: Value = serving.get("/readyz").await;
        assert_eq!(ready["ready"], true, "{ready}");
        ready["warnings"].to_string().contains(words)
    };
    let deadline = Instant::now() + PATIENCE;
    while !warned("500 Internal Server Error").await {
        assert!(Instant::now() < deadline, "nobody is told that the CMDB fails");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    *source.lock().unwrap() = Some(vec![group(41, 3)]);
    serving.until("the group is there", |groups| groups.len() == 1).await;
    // A change is seen long before the next sync, which is five minutes away.
    *source.lock().unwrap() = Some(vec![group(42, 5)]);
    // A list is put together from several reads, and a change may come between them.
    let is_changed = |groups: &[GroupView]| (groups[0].cmdb_revision, groups[0].total) == (42, 5);
    let groups = serving.until("a change", is_changed).await;
    assert!(!groups[0].stale);
    assert!(!warned("cmdb").await);

    // It breaks, and the cache gets old; everything says so.
    *source.lock().unwrap() = None;
    let groups = serving.until("it is stale", |groups| groups[0].stale).await;
    assert_eq!(groups[0].total, 5, "nothing is taken away");
    assert!(groups[0].application.stale);
    let path = format!("/api/v1/groups/{}/servers", groups[0].id);
    let servers: Page<ServerView> = serving.get(&path).await;
    assert!(servers.items.iter().all(|server| server.stale), "{servers:?}");
    let path = format!("/api/v1/applications/{}", groups[0].application.id);
    assert_eq!(serving.get::<ApplicationView>(&path).await, groups[0].application);
    let path = format!("{}/api/v1/groups/{}/sync", serving.url, groups[0].id);
    let sync = serving.client.post(&path).bearer_auth(&serving.token).send().await.unwrap();
    assert_eq!(sync.status(), StatusCode::SERVICE_UNAVAILABLE);
    let problem: Value = sync.json().await.unwrap();
    assert_eq!(problem["code"], "cmdb_unavailable");
    assert!(problem["detail"].to_string().contains("500 Internal Server Error"), "{problem}");

    *source.lock().unwrap() = Some(vec![group(42, 5)]);
    let sync = serving.client.post(&path).bearer_auth(&serving.token).send().await.unwrap();
    assert_eq!(sync.status(), StatusCode::OK);
    serving.until("it is fresh", |groups| !groups[0].stale).await;
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains("CMDB") && !log.contains(TOKEN));
}

#[tokio::test]
async fn groups_come_from_netbox() {
    let answer = async |request: axum::extract::Request| -> Response {
        let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if token != Some(&format!("Token {TOKEN}")) {
            return StatusCode::FORBIDDEN.into_response();
        }
        let results = match request.uri().path() {
            "/api/dcim/devices/" => vec![json!({"id": 7, "name": "web-1",
                "status": {"value": "active", "label": "Active"}, "site": {"id": 1, "slug": "sh"},
                "primary_ip": {"id": 1, "address": "127.0.0.1/8"}, "tags": [],
                "custom_fields": {"capstan_group": "web-prod", "capstan_application": "web"}})],
            "/api/virtualization/virtual-machines/" => Vec::new(),
            _ => return StatusCode::NOT_FOUND.into_response(),
        };
        let count = results.len();
        json!({"count": count, "next": null, "previous": null, "results": results})
            .to_string()
            .into_response()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let folder = tempfile::tempdir().unwrap();
    let serving = Serving::start(folder.path(), "netbox", &url);
    // A new group is there a moment before its servers.
    let is_whole = |groups: &[GroupView]| groups.len() == 1 && groups[0].total == 1;
    let groups = serving.until("the group is there", is_whole).await;
    assert_eq!((groups[0].name.as_str(), groups[0].application.name.as_str()), ("web-prod", "web"));
    assert_eq!((groups[0].doc_base.as_str(), groups[0].idc.as_str()), ("/srv/web", "sh"));
    let path = format!("/api/v1/groups/{}/servers", groups[0].id);
    let servers: Page<ServerView> = serving.get(&path).await;
    assert_eq!(servers.items[0].hostname, "web-1");
}
