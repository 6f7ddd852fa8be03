//! A store, scripted hosts and a scripted load balancer, for an engine to run over.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use capstan_core::action::Action;
use capstan_core::checker;
use capstan_core::config::ConfigRequest;
use capstan_core::dependency::Breakers;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::event::EventType;
use capstan_core::input::{Act, Answer, Create, Input};
use capstan_core::ports::{Clock, CmdbGroup, Executor, LoadBalancer, Queue, ScriptSource, Sight};
use capstan_core::record::{Flavor, PackageRef};
use capstan_core::view::DeploymentView;
use capstan_core::{DeploymentId, GroupId, Timestamp};
use capstan_drivers::breaker::{self, Switchboard};
use capstan_drivers::fake::{Asked, FakeExecutor, FakeLoadBalancer, Outcome};
use capstan_drivers::scripts::Scripts;
use capstan_runner::{Engine, Ports, Settings};
use capstan_store::{NewPackage, Store};

/// Far below the rescuer's interval: what only the rescuer finds is too late.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The wall clock, but for the time that a test lets pass at once.
#[derive(Debug, Default)]
pub(crate) struct HastyClock {
    ahead: AtomicI64,
    latest: AtomicI64,
}

impl HastyClock {
    /// Lets time pass.
    pub(crate) fn pass(&self, time: Duration) {
        let micros = i64::try_from(time.as_micros()).unwrap();
        self.ahead.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for HastyClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let wall = i64::try_from(since.as_micros()).unwrap() + self.ahead.load(Ordering::SeqCst);
        let before = self.latest.fetch_max(wall, Ordering::SeqCst);
        Timestamp::from_micros(wall.max(before))
    }

    fn not_before(&self, at: Timestamp) {
        self.latest.fetch_max(at.as_micros(), Ordering::SeqCst);
    }
}

/// Wakes the engine of this process.
#[derive(Debug, Default)]
struct OneQueue(tokio::sync::Notify);

impl Queue for OneQueue {
    fn wake(&self) {
        self.0.notify_one();
    }

    fn woken(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.0.notified())
    }
}

pub(crate) struct World {
    /// Where the database lies, if it is a file.
    pub(crate) folder: Option<tempfile::TempDir>,
    pub(crate) store: Store,
    pub(crate) group: GroupId,
    pub(crate) deployment: DeploymentId,
    pub(crate) clock: Arc<HastyClock>,
    queue: Arc<OneQueue>,
    pub(crate) hosts: Arc<FakeExecutor>,
    pub(crate) balancer: Arc<FakeLoadBalancer>,
    /// Who answers, whatever the load balancer says.
    pub(crate) health: Arc<FakeLoadBalancer>,
    pub(crate) switches: Arc<Switchboard>,
}

impl World {
    /// A group of `size` servers and a draft of a rollout to it.
    pub(crate) async fn new(
        size: usize,
        config: ConfigRequest,
        rule: impl Fn(&Asked<'_>) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("capstan.db").display());
        let settings =
            capstan_store::Settings { stale_after: PATIENCE, ..capstan_store::Settings::new(url) };
        let (clock, queue) = (Arc::new(HastyClock::default()), Arc::new(OneQueue::default()));
        let wakes = Arc::clone(&queue) as Arc<dyn Queue>;
        let store =
            Store::open_with(&settings, Arc::clone(&clock) as Arc<dyn Clock>, wakes).await.unwrap();
        Self { folder: Some(folder), clock, queue, ..Self::over(store, size, config, rule).await }
    }

    /// The same over a database server, on which others may open stores of their own.
    pub(crate) async fn shared(
        settings: &capstan_store::Settings,
        size: usize,
        config: ConfigRequest,
        rule: impl Fn(&Asked<'_>) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        let clock = Arc::new(HastyClock::default());
        let queue = Arc::new(OneQueue::default());
        let wakes = Arc::clone(&queue) as Arc<dyn Queue>;
        let store =
            Store::open_with(settings, Arc::clone(&clock) as Arc<dyn Clock>, wakes).await.unwrap();
        Self { clock, queue, ..Self::over(store, size, config, rule).await }
    }

    async fn over(
        store: Store,
        size: usize,
        config: ConfigRequest,
        rule: impl Fn(&Asked<'_>) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        let (group, _) = store.sync_group(record(size), false).await.unwrap();
        let servers = store.servers(group).await.unwrap();
        let seen = servers.iter().map(|server| (server.id, Sight::Serving)).collect();
        let answering = Vec::new();
        let observed = Input::Observed { deployment: None, seen, can_drain: true, answering };
        store.submit(group, observed).await.unwrap();
        let deployment = draft(&store, group, config, "1.1.0").await;
        Self {
            folder: None,
            store,
            group,
            deployment,
            clock: Arc::default(),
            queue: Arc::default(),
            hosts: Arc::new(FakeExecutor::with_rule(rule)),
            balancer: Arc::new(FakeLoadBalancer::new()),
            health: Arc::new(FakeLoadBalancer::new()),
            switches: Arc::new(Switchboard::new(breaker::Settings {
                threshold: 3,
                open: Duration::from_millis(200),
                ..breaker::Settings::default()
            })),
        }
    }

    pub(crate) fn engine(&self, slots: usize) -> Engine {
        self.engine_with(Settings { slots, ..Settings::default() })
    }

    pub(crate) fn engine_with(&self, settings: Settings) -> Engine {
        self.engine_over(Arc::clone(&self.balancer) as Arc<dyn LoadBalancer>, settings)
    }

    pub(crate) fn engine_over(
        &self,
        balancer: Arc<dyn LoadBalancer>,
        settings: Settings,
    ) -> Engine {
        let hosts: Arc<dyn Executor> = Arc::clone(&self.hosts) as Arc<dyn Executor>;
        self.engine_from(balancer, BTreeMap::from([("fake".to_owned(), hosts)]), settings)
    }

    /// The executors of the group are `fake`, and then `spare`.
    pub(crate) fn engine_through(
        &self,
        executors: BTreeMap<String, Arc<dyn Executor>>,
        settings: Settings,
    ) -> Engine {
        self.engine_from(Arc::clone(&self.balancer) as Arc<dyn LoadBalancer>, executors, settings)
    }

    fn engine_from(
        &self,
        balancer: Arc<dyn LoadBalancer>,
        executors: BTreeMap<String, Arc<dyn Executor>>,
        settings: Settings,
    ) -> Engine {
        let ports = Ports {
            load_balancers: BTreeMap::from([("fake".to_owned(), balancer)]),
            executors,
            health: Arc::clone(&self.health) as Arc<dyn LoadBalancer>,
            scripts: Arc::new(Scripts::new(None)),
            breakers: Arc::clone(&self.switches) as Arc<dyn Breakers>,
        };
        Engine::start(self.store.clone(), ports, settings)
    }

    pub(crate) async fn act(&self, action: Action) {
        let act = Act {
            deployment: self.deployment,
            action,
            batch: None,
            without: Vec::new(),
            actor: "test".into(),
            history: self.store.history(self.group).await.unwrap(),
        };
        self.store.submit(self.group, Input::Act(Box::new(act))).await.unwrap();
    }

    pub(crate) async fn view(&self) -> DeploymentView {
        self.store.deployment_view(self.deployment).await.unwrap().unwrap()
    }

    /// Waits, awake with every commit, until the view is as wanted.
    pub(crate) async fn wait(&self, wanted: impl Fn(&DeploymentView) -> bool) -> DeploymentView {
        let mut watch = self.store.watch(self.deployment);
        let reached = tokio::time::timeout(PATIENCE, async {
            loop {
                let view = self.view().await;
                if wanted(&view) {
                    return view;
                }
                watch.changed().await.unwrap();
            }
        });
        match reached.await {
            Ok(view) => view,
            Err(late) => panic!("it stands still ({late}): {:#?}", self.view().await),
        }
    }

    /// Lets time pass, and the engine sees what is due by now.
    pub(crate) fn pass(&self, time: Duration) {
        self.clock.pass(time);
        self.queue.wake();
    }

    /// Waits until the deployment's log has an event of this type.
    pub(crate) async fn wait_for_event(&self, kind: EventType) {
        let mut watch = self.store.watch(self.deployment);
        let told = tokio::time::timeout(PATIENCE, async {
            loop {
                let events = self.store.events(self.deployment, 0, 1000).await.unwrap();
                if events.iter().any(|event| event.kind == kind) {
                    return;
                }
                watch.changed().await.unwrap();
            }
        });
        told.await.unwrap_or_else(|_| panic!("{kind:?} is told"));
    }

    /// The log keeps every rule, and no host ran a key twice.
    pub(crate) async fn assert_right(&self) {
        let events = self.store.events(self.deployment, 0, 100_000).await.unwrap();
        checker::check(&events).unwrap();
        for server in self.store.servers(self.group).await.unwrap() {
            for ran in self.hosts.history(server.id) {
                assert_eq!(self.hosts.runs(ran.key), 1, "{} ran twice", ran.key);
            }
        }
    }
}

pub(crate) fn record(size: usize) -> CmdbGroup {
    let servers: Vec<serde_json::Value> = (0..size)
        .map(|place| {
            serde_json::json!({
                "id": format!("s{place}"), "hostname": format!("host-{place:03}"),
                "ip_address": "127.0.0.1", "root": format!("/srv/{place}"),
            })
        })
        .collect();
    serde_json::from_value(serde_json::json!({
        "id": "g", "revision": 1, "name": "g", "port": 80,
        "application": {"id": "a", "name": "a", "bastion": "none"},
        "health_check_url": "http://{ip}:{port}/", "load_balancer": "fake",
        "executors": ["fake", "spare"],
        "servers": servers,
    }))
    .unwrap()
}

pub(crate) async fn draft(
    store: &Store,
    group: GroupId,
    config: ConfigRequest,
    version: &str,
) -> DeploymentId {
    let application = store.group(group).await.unwrap().unwrap().application.id;
    let new = NewPackage {
        application,
        version: version.into(),
        sha256: version.replace('.', "a").repeat(13).chars().take(64).collect(),
        size: None,
        locations: Vec::new(),
        stored: true,
    };
    let (package, _) = store.package_register(new, None).await.unwrap();
    let (set, scripts) = Scripts::new(None).scripts("generic").unwrap();
    store.scripts_put(&scripts).await.unwrap();
    let create = Create {
        package: PackageRef { id: package.id, version: package.version, sha256: package.sha256 },
        bad: None,
        flavor: Flavor::Rollout,
        config,
        seed: None,
        ignore_verify_reason: None,
        plan_hash: None,
        start: false,
        actor: "test".into(),
        scripts: set,
        stale_after: capstan_core::decide::STALE_AFTER,
        without: Vec::new(),
        history: store.history(group).await.unwrap(),
    };
    match store.submit(group, Input::Create(Box::new(create))).await.unwrap() {
        Answer::Created(id) => id,
        answer @ (Answer::Done
        | Answer::NothingToRollBack { .. }
        | Answer::RefreshHeld(_)
        | Answer::ReadAlone) => {
            panic!("{answer:?}")
        }
    }
}

pub(crate) fn success(view: &DeploymentView) -> bool {
    view.status == DeploymentStatus::Success
}
