//! How fast the engine drives a rollout: the real store on `SQLite` with `synchronous=FULL`, the real
//! engine, and drivers that do nothing but note when they were called.
//!
//! `cargo bench --bench rollout` prints one row per size: stage jobs per second, the time per target,
//! host result → next stage dispatched, and resident memory. Sizes can be given as arguments:
//! `cargo bench --bench rollout -- 1000 4000`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use capstan_core::action::Action;
use capstan_core::config::ConfigRequest;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::input::{Act, Answer, Create, Input};
use capstan_core::ports::{
    Call, CmdbGroup, DriverError, Endpoint, Executor, LoadBalancer, Look, Order, OrderState,
    Report, Script, ScriptSource, Seen, Sight,
};
use capstan_core::record::{Flavor, PackageRef};
use capstan_core::rollback::History;
use capstan_core::{DeploymentId, GroupId, OrderKey, ServerId};
use capstan_drivers::cmdb_records::Names;
use capstan_drivers::file_cmdb::FileCmdb;
use capstan_drivers::packages::FilePackageStore;
use capstan_drivers::scripts::Scripts;
use capstan_runner::{Engine, Ports, Settings};
use capstan_store::{NewPackage, Store};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: [u32; 3] = [1000, 4000, 10_000];
const STAGES: f64 = 5.0;
const PATIENCE: Duration = Duration::from_mins(5);

fn main() -> anyhow::Result<()> {
    let given: Vec<u32> =
        std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if given.is_empty() { SIZES.to_vec() } else { given };
    println!("targets  stages/s  µs/target  result→next p50  p99       resident");
    for size in sizes {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(rollout(size))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(brake(4000))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(answers(10_000))
}

/// One rollout of `size` targets in four batches of 25 %.
async fn rollout(size: u32) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let recorder = Arc::new(Recorder::default());
    let (store, group) = fleet(folder.path(), size).await?;
    let deployment = create(&store, group).await?;
    let engine = engine(&store, &recorder);
    let started = Instant::now();
    act(&store, group, deployment, Action::Start).await?;
    wait_until(&store, deployment, capstan_core::deployment_status::DeploymentStatus::is_final)
        .await?;
    let took = started.elapsed();
    let view = store.deployment_view(deployment).await?.context("the deployment")?;
    if view.status != DeploymentStatus::Success {
        bail!("the rollout ended as {}: {:?}", view.status, view.counts);
    }
    let (p50, p99) = recorder.gaps();
    println!(
        "{size:7}  {:8.0}  {:9.1}  {:>15}  {:>8}  {:>8} MiB",
        f64::from(size) * STAGES / took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / f64::from(size),
        format!("{:.1} ms", p50.as_secs_f64() * 1e3),
        format!("{:.1} ms", p99.as_secs_f64() * 1e3),
        resident_mib()?
    );
    engine.stop().await;
    Ok(())
}

/// Brake → last stage started, in a rollout at full speed.
async fn brake(size: u32) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let recorder = Arc::new(Recorder::default());
    let (store, group) = fleet(folder.path(), size).await?;
    let deployment = create(&store, group).await?;
    let engine = engine(&store, &recorder);
    act(&store, group, deployment, Action::Start).await?;
    wait_for_calls(&recorder, size as usize).await?;
    let asked = Instant::now();
    act(&store, group, deployment, Action::Brake).await?;
    let mut watch = store.watch(deployment);
    loop {
        let view = store.deployment_view(deployment).await?.context("the deployment")?;
        let under_way: u32 = view
            .counts
            .iter()
            .filter(|(status, _)| status.ends_with("_RUNNING"))
            .map(|(_, count)| count)
            .sum();
        if under_way == 0 {
            break;
        }
        watch.changed().await?;
    }
    let last = recorder.last_call().context("a call")?;
    println!(
        "brake → last stage started, {size} targets at full speed: {:.1} ms",
        last.saturating_duration_since(asked).as_secs_f64() * 1e3
    );
    engine.stop().await;
    Ok(())
}

/// `GET /deployments/{id}` and the deployment's page, over loopback, with the rollout braked halfway.
async fn answers(size: u32) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let recorder = Arc::new(Recorder::default());
    let (store, group) = fleet(folder.path(), size).await?;
    let deployment = create(&store, group).await?;
    let engine = engine(&store, &recorder);
    act(&store, group, deployment, Action::Start).await?;
    wait_for_calls(&recorder, size as usize).await?;
    act(&store, group, deployment, Action::Brake).await?;
    let (url, token, link) = serve(&store, folder.path()).await?;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let signed_in = client.get(format!("{url}{link}")).send().await?;
    let cookies: Vec<&str> = signed_in
        .headers()
        .get_all("set-cookie")
        .iter()
        .filter_map(|cookie| cookie.to_str().ok()?.split(';').next())
        .collect();
    let cookies = cookies.join("; ");
    for path in [format!("api/v1/deployments/{deployment}"), format!("deployments/{deployment}")] {
        let mut took = Vec::new();
        for _ in 0..200 {
            let request = client.get(format!("{url}/{path}"));
            let request = if path.starts_with("api") {
                request.bearer_auth(&token)
            } else {
                request.header("cookie", &cookies)
            };
            let started = Instant::now();
            let body = request.send().await?.error_for_status()?.bytes().await?;
            took.push(started.elapsed());
            anyhow::ensure!(
                body.windows(11).any(|text| text == b"ROLLOUT_BRA"),
                "{path}: another page"
            );
        }
        took.sort_unstable();
        println!(
            "GET /{}, {size} targets: p50 {:.1} ms, p99 {:.1} ms",
            path.replace(&deployment.to_string(), "{id}"),
            took[100].as_secs_f64() * 1e3,
            took[198].as_secs_f64() * 1e3
        );
    }
    engine.stop().await;
    Ok(())
}

/// A controller on a free port; gives its URL, the administrator's token and a link that signs in.
async fn serve(store: &Store, folder: &Path) -> anyhow::Result<(String, String, String)> {
    let names = Names { load_balancers: Vec::new(), executors: Vec::new() };
    let ports = capstan_controller::Ports {
        cmdb: Arc::new(FileCmdb::open(folder.join("inventory.yaml"), names).await),
        packages: Arc::new(FilePackageStore::open(folder.join("packages"), 1024)?),
        load_balancers: BTreeMap::new(),
        executors: BTreeMap::new(),
        scripts: Arc::new(Scripts::new(None)),
    };
    let settings = capstan_controller::Settings::default();
    let controller = capstan_controller::Controller::new(store.clone(), ports, settings);
    let token = controller.ensure_admin_token(|_| Ok(())).await?.context("a new token")?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let service = controller.router().into_make_service_with_connect_info::<std::net::SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    let link = controller.login_link(&token).await?;
    Ok((url, token, link))
}

async fn fleet(folder: &Path, size: u32) -> anyhow::Result<(Store, GroupId)> {
    let settings = capstan_store::Settings {
        url: format!("sqlite://{}", folder.join("bench.db").display()),
        stale_after: Duration::from_hours(1),
    };
    let store = Store::open(&settings).await?;
    let servers: Vec<serde_json::Value> = (0..size)
        .map(|place| {
            serde_json::json!({
                "id": format!("s{place}"), "hostname": format!("host-{place:05}"),
                "ip_address": "127.0.0.1", "root": format!("/srv/{place}"),
                "idc": (["sh", "pd"][place as usize % 2]), "pool": "a",
            })
        })
        .collect();
    let record: CmdbGroup = serde_json::from_value(serde_json::json!({
        "id": "bench", "revision": 1, "name": "bench", "port": 80,
        "application": {"id": "bench", "name": "bench", "bastion": "none"},
        "health_check_url": "http://{ip}:{port}/", "load_balancer": "bench", "executor": "bench",
        "servers": servers,
    }))?;
    let (group, _) = store.sync_group(record, false).await?;
    let seen = store.servers(group).await?.iter().map(|row| (row.id, Sight::Serving)).collect();
    let observed = Input::Observed { deployment: None, seen, can_drain: false };
    store.submit(group, observed).await?;
    Ok((store, group))
}

async fn create(store: &Store, group: GroupId) -> anyhow::Result<DeploymentId> {
    let application = store.group(group).await?.context("the group")?.application.id;
    let new = NewPackage {
        application,
        version: "1.1.0".into(),
        sha256: "ab".repeat(32),
        size: None,
        locations: Vec::new(),
        stored: true,
    };
    let (package, _) = store.package_register(new).await?;
    let (set, scripts) = Scripts::new(None).scripts("generic")?;
    store.scripts_put(&scripts).await?;
    let create = Create {
        package: PackageRef { id: package.id, version: package.version, sha256: package.sha256 },
        bad: None,
        flavor: Flavor::Rollout,
        config: ConfigRequest::default(),
        seed: None,
        ignore_verify_reason: None,
        plan_hash: None,
        start: false,
        actor: "bench".into(),
        scripts: set,
        stale_after: capstan_core::decide::STALE_AFTER,
        without: Vec::new(),
        history: History::default(),
    };
    match store.submit(group, Input::Create(Box::new(create))).await? {
        Answer::Created(id) => Ok(id),
        answer @ (Answer::Done | Answer::NothingToRollBack { .. } | Answer::RefreshHeld(_)) => {
            bail!("the deployment was not created: {answer:?}")
        }
    }
}

fn engine(store: &Store, recorder: &Arc<Recorder>) -> Engine {
    let balancer: Arc<dyn LoadBalancer> = Arc::clone(recorder) as Arc<dyn LoadBalancer>;
    let executor: Arc<dyn Executor> = Arc::clone(recorder) as Arc<dyn Executor>;
    let ports = Ports {
        load_balancers: BTreeMap::from([("bench".to_owned(), balancer)]),
        executors: BTreeMap::from([("bench".to_owned(), executor)]),
        scripts: Arc::new(Scripts::new(None)),
        breakers: Arc::new(capstan_drivers::breaker::Switchboard::default()),
    };
    Engine::start(store.clone(), ports, Settings::default())
}

async fn act(
    store: &Store,
    group: GroupId,
    deployment: DeploymentId,
    action: Action,
) -> anyhow::Result<()> {
    let act =
        Act { deployment, action, batch: None, actor: "bench".into(), history: History::default() };
    store.submit(group, Input::Act(Box::new(act))).await?;
    Ok(())
}

async fn wait_until(
    store: &Store,
    deployment: DeploymentId,
    wanted: impl Fn(DeploymentStatus) -> bool,
) -> anyhow::Result<()> {
    let mut watch = store.watch(deployment);
    let end = tokio::time::timeout(PATIENCE, async {
        loop {
            let filter = capstan_store::DeploymentFilter::default();
            let page = capstan_store::PageRequest { limit: 1, cursor: None };
            let page = store.deployments(filter, page).await?;
            if page.items.first().is_some_and(|brief| wanted(brief.status)) {
                return anyhow::Ok(());
            }
            watch.changed().await?;
        }
    });
    end.await.context("the rollout took too long")?
}

async fn wait_for_calls(recorder: &Recorder, count: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while recorder.calls() < count {
        if Instant::now() > deadline {
            bail!("the engine made too few calls");
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn resident_mib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib / 1024)
}

/// Drivers that succeed at once and note when they were called and when they answered.
#[derive(Default)]
struct Recorder {
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    answered: BTreeMap<ServerId, Instant>,
    gaps: Vec<Duration>,
    last_call: Option<Instant>,
    calls: usize,
}

impl Recorder {
    fn noted(&self) -> std::sync::MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn called(&self, server: ServerId) {
        let now = Instant::now();
        let mut noted = self.noted();
        noted.calls += 1;
        noted.last_call = Some(now);
        if let Some(answered) = noted.answered.insert(server, now) {
            noted.gaps.push(now.duration_since(answered));
        }
    }

    fn gaps(&self) -> (Duration, Duration) {
        let mut gaps = std::mem::take(&mut self.noted().gaps);
        gaps.sort_unstable();
        let at = |share: usize| gaps.get(gaps.len() * share / 100).copied().unwrap_or_default();
        (at(50), at(99))
    }

    fn last_call(&self) -> Option<Instant> {
        self.noted().last_call
    }

    fn calls(&self) -> usize {
        self.noted().calls
    }
}

impl LoadBalancer for Recorder {
    fn can_drain(&self) -> bool {
        false
    }

    fn sees_all_at_once(&self) -> bool {
        true
    }

    fn drain<'a>(&'a self, server: &'a Endpoint) -> Call<'a, ()> {
        self.called(server.server);
        Box::pin(std::future::ready(Ok(())))
    }

    fn admit<'a>(&'a self, server: &'a Endpoint) -> Call<'a, ()> {
        self.called(server.server);
        Box::pin(std::future::ready(Ok(())))
    }

    fn observe<'a>(&'a self, servers: &'a [Endpoint]) -> Call<'a, Vec<Seen>> {
        let seen = |server: &Endpoint| Seen {
            server: server.server,
            sight: Sight::Serving,
            in_flight: Some(0),
        };
        Box::pin(std::future::ready(Ok(servers.iter().map(seen).collect())))
    }
}

impl Executor for Recorder {
    fn start<'a>(&'a self, server: &'a Endpoint, _: &'a Order) -> Call<'a, OrderState> {
        self.called(server.server);
        Box::pin(std::future::ready(Ok(OrderState::Ended(0))))
    }

    fn look<'a>(&'a self, _: &'a Endpoint, _: OrderKey, _: u64) -> Call<'a, Look> {
        let look = Look { state: OrderState::Ended(0), output: Vec::new() };
        Box::pin(std::future::ready(Ok(look)))
    }

    fn cancel<'a>(&'a self, _: &'a Endpoint, _: OrderKey, _: i64) -> Call<'a, OrderState> {
        Box::pin(std::future::ready(Ok(OrderState::Cancelled)))
    }

    fn report<'a>(&'a self, _: &'a Endpoint, _: &'a Script) -> Call<'a, Option<Report>> {
        Box::pin(std::future::ready(Err(DriverError::Refused("nothing runs here".into()))))
    }
}
