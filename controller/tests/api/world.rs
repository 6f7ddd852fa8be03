//! A controller with a database of its own, and calls to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use capstan_controller::{Controller, Ports, Settings};
use capstan_core::dependency::{BreakerReport, BreakerState, DependencyKind};
use capstan_core::message::Inbox;
use capstan_core::ports::{Executor, LoadBalancer};
use capstan_drivers::packages::FilePackageStore;
use capstan_drivers::webhooks::{Allowed, HttpWebhooks};
use capstan_store::Store;
use sea_orm::DatabaseTransaction;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::dump::{Dump, Kept};
use crate::fakes::{FakeBalancer, FakeCmdb, FakeExecutor, FakeScripts, record, sha256};

/// Name of the database's file.
pub(crate) const DATABASE: &str = "capstan.db";
/// Name of the package store's folder.
pub(crate) const PACKAGES: &str = "packages";

pub(crate) struct World {
    pub(crate) cmdb: Arc<FakeCmdb>,
    pub(crate) balancer: Arc<FakeBalancer>,
    pub(crate) executor: Arc<FakeExecutor>,
    pub(crate) store: Store,
    pub(crate) controller: Arc<Controller>,
    pub(crate) router: Router,
    pub(crate) token: String,
    kept: Kept,
    folder: TempDir,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The JSON of an answer with this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// The problem with this status and code.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        problem
    }
}

impl World {
    /// A controller that knows nothing yet.
    pub(crate) async fn empty() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        Box::pin(Self::with_inbox(settings, None)).await
    }

    /// The same, with messages about changes in the CMDB.
    pub(crate) async fn with_inbox(settings: Settings, inbox: Option<Arc<dyn Inbox>>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", folder.path().join(DATABASE).display());
        let stale_after = Duration::from_mins(10);
        let store = Store::open(&capstan_store::Settings {
            stale_after,
            ..capstan_store::Settings::new(url)
        })
        .await;
        let store = store.expect("a new database opens");
        store.dependencies_note(&dependencies()).await.expect("they are noted");
        let (cmdb, balancer, executor) = (
            Arc::<FakeCmdb>::default(),
            Arc::<FakeBalancer>::default(),
            Arc::<FakeExecutor>::default(),
        );
        let packages = FilePackageStore::open(folder.path().join(PACKAGES), u64::MAX);
        let edge: Arc<dyn LoadBalancer> = balancer.clone();
        let local: Arc<dyn Executor> = executor.clone();
        let ports = Ports {
            cmdb: cmdb.clone(),
            packages: Arc::new(packages.expect("a folder for packages")),
            load_balancers: BTreeMap::from([("edge".to_owned(), edge)]),
            executors: BTreeMap::from([("local".to_owned(), local)]),
            scripts: Arc::new(FakeScripts),
            broker: None,
            inbox,
            webhooks: Arc::new(webhooks()),
        };
        let controller = Arc::new(Controller::new(store.clone(), ports, settings));
        let token = controller.ensure_admin_token(|_| Ok(())).await.expect("a store");
        let token = token.expect("the first start makes a token");
        let router = controller.router();
        let kept = Kept::open(folder.path()).await;
        Self { cmdb, balancer, executor, store, controller, router, token, kept, folder }
    }

    /// Where its database and its packages are.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// A controller with group `web` of ten servers, looked at, and packages 1.0.0 and 1.1.0.
    pub(crate) async fn with_group() -> (Self, Ids) {
        let world = Self::empty().await;
        let ids = world.add_group("web", 10).await;
        (world, ids)
    }

    pub(crate) async fn add_group(&self, name: &str, servers: usize) -> Ids {
        self.cmdb.put(record(name, name, servers));
        let (id, _) =
            self.store.sync_group(record(name, name, servers), false).await.expect("a group");
        let group = id.to_string();
        self.post(&format!("/api/v1/groups/{group}/sync"), json!({})).await.expect(200);
        let application = self.get(&format!("/api/v1/groups/{group}")).await.json();
        let application = application["application"]["id"].as_str().expect("an id").to_owned();
        for version in ["1.0.0", "1.1.0"] {
            let body = json!({
                "application": application,
                "version": version,
                "location": format!("http://pkg.example/{name}-{version}.tar.gz"),
                "sha256": sha256(format!("{name} {version}").as_bytes()),
            });
            self.post("/api/v1/packages", body).await.expect(201);
        }
        Ids { group, application }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.expect("a router never fails");
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 64 * 1024 * 1024).await.expect("a body").to_vec();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    /// A request with the administrator's token.
    pub(crate) fn request(&self, method: Method, path: &str) -> axum::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        let request = self.request(Method::GET, path).body(Body::empty()).expect("a request");
        self.send(request).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.write(Method::POST, path, body, &[]).await
    }

    pub(crate) async fn write(
        &self,
        method: Method,
        path: &str,
        body: Value,
        headers: &[(&str, &str)],
    ) -> Reply {
        let mut request = self.request(method, path).header(CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_string())).expect("a request")).await
    }

    /// Uploads an archive.
    pub(crate) async fn upload(&self, path: &str, body: &[u8], digest: Option<&str>) -> Reply {
        let mut request = self.request(Method::PUT, path);
        if let Some(digest) = digest {
            request = request.header("x-capstan-sha256", digest);
        }
        self.send(request.body(Body::from(body.to_vec())).expect("a request")).await
    }

    /// Creates a deployment of 1.1.0 and starts it.
    pub(crate) async fn start(&self, ids: &Ids) -> Value {
        let body = json!({"group": ids.group, "package": "1.1.0", "start": true});
        self.post("/api/v1/deployments", body).await.expect(201)
    }

    /// Everything that is kept: every row and every archive, see [`Kept`].
    pub(crate) async fn dump(&self) -> Dump {
        self.kept.dump().await
    }

    /// Changes the database behind the store's back.
    pub(crate) async fn execute(&self, statement: &str) {
        self.kept.execute(statement).await;
    }

    /// Holds the database's one lock for writing, as another process could.
    pub(crate) async fn lock(&self) -> DatabaseTransaction {
        self.kept.lock().await
    }

    pub(crate) async fn items(&self, path: &str) -> Vec<Value> {
        self.get(path).await.expect(200)["items"].as_array().expect("items").clone()
    }

    /// Asks until `wanted` holds of the answer.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..500 {
            let value = self.get(path).await.expect(200);
            if wanted(&value) {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} never became what was wanted: {}", self.get(path).await.text());
    }
}

/// The `id` of a record.
pub(crate) fn id(value: &Value) -> &str {
    value["id"].as_str().expect("an id")
}

/// Ids of a group and its application.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    pub(crate) group: String,
    pub(crate) application: String,
}

/// Webhooks may be called on this machine.
fn webhooks() -> HttpWebhooks {
    let allowed = Allowed::new(vec!["127.0.0.1".parse().expect("an address")]);
    HttpWebhooks::new(Duration::from_secs(1), allowed).expect("a client")
}

/// What the engine of this world would note.
fn dependencies() -> Vec<BreakerReport> {
    let report = |name: &str, kind| BreakerReport {
        name: name.to_owned(),
        kind,
        state: BreakerState::Closed,
        error: None,
    };
    vec![
        report("cmdb", DependencyKind::Cmdb),
        report("executor.local", DependencyKind::Executor),
        report("load_balancer.edge", DependencyKind::LoadBalancer),
        report("packages", DependencyKind::PackageStore),
    ]
}
