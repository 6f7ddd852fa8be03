//! The engine over a real store and scripted hosts: the traps of a job queue, each with a test that
//! would catch it.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test says what is wrong by failing")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use capstan_core::action::Action;
use capstan_core::checker;
use capstan_core::config::ConfigRequest;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::input::{Act, Answer, Create, Input};
use capstan_core::ports::{CmdbGroup, Executor, LoadBalancer, ScriptSource, Sight};
use capstan_core::record::{Flavor, PackageRef};
use capstan_core::rollback::History;
use capstan_core::view::DeploymentView;
use capstan_core::{DeploymentId, GroupId};
use capstan_drivers::fake::{Asked, FakeExecutor, FakeLoadBalancer, Fault, Outcome};
use capstan_drivers::scripts::Scripts;
use capstan_runner::{Engine, Ports, Settings};
use capstan_store::{NewPackage, Store};

/// Far below the rescuer's interval: what only the rescuer finds is too late.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    folder: tempfile::TempDir,
    store: Store,
    group: GroupId,
    deployment: DeploymentId,
    hosts: Arc<FakeExecutor>,
    balancer: Arc<FakeLoadBalancer>,
}

impl World {
    /// A group of `size` servers and a draft of a rollout to it.
    async fn new(
        size: usize,
        config: ConfigRequest,
        rule: impl Fn(&Asked<'_>) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("capstan.db").display());
        let settings = capstan_store::Settings { url, stale_after: PATIENCE };
        let store = Store::open(&settings).await.unwrap();
        let (group, _) = store.sync_group(record(size), false).await.unwrap();
        let servers = store.servers(group).await.unwrap();
        let seen = servers.iter().map(|server| (server.id, Sight::Serving)).collect();
        let observed = Input::Observed { deployment: None, seen, can_drain: true };
        store.submit(group, observed).await.unwrap();
        let deployment = draft(&store, group, config).await;
        Self {
            folder,
            store,
            group,
            deployment,
            hosts: Arc::new(FakeExecutor::with_rule(rule)),
            balancer: Arc::new(FakeLoadBalancer::new()),
        }
    }

    fn engine(&self, slots: usize) -> Engine {
        let balancer: Arc<dyn LoadBalancer> = Arc::clone(&self.balancer) as Arc<dyn LoadBalancer>;
        let hosts: Arc<dyn Executor> = Arc::clone(&self.hosts) as Arc<dyn Executor>;
        let ports = Ports {
            load_balancers: BTreeMap::from([("fake".to_owned(), balancer)]),
            executors: BTreeMap::from([("fake".to_owned(), hosts)]),
            scripts: Arc::new(Scripts::new(None)),
        };
        Engine::start(self.store.clone(), ports, Settings { slots, ..Settings::default() })
    }

    async fn act(&self, action: Action) {
        let act = Act {
            deployment: self.deployment,
            action,
            batch: None,
            actor: "test".into(),
            history: History::default(),
        };
        self.store.submit(self.group, Input::Act(Box::new(act))).await.unwrap();
    }

    async fn view(&self) -> DeploymentView {
        self.store.deployment_view(self.deployment).await.unwrap().unwrap()
    }

    /// Waits, awake with every commit, until the view is as wanted.
    async fn wait(&self, wanted: impl Fn(&DeploymentView) -> bool) -> DeploymentView {
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

    /// The log keeps every rule, and no host ran a key twice.
    async fn assert_right(&self) {
        let events = self.store.events(self.deployment, 0, 100_000).await.unwrap();
        checker::check(&events).unwrap();
        for server in self.store.servers(self.group).await.unwrap() {
            for ran in self.hosts.history(server.id) {
                assert_eq!(self.hosts.runs(ran.key), 1, "{} ran twice", ran.key);
            }
        }
    }
}

fn record(size: usize) -> CmdbGroup {
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
        "health_check_url": "http://{ip}:{port}/", "load_balancer": "fake", "executor": "fake",
        "servers": servers,
    }))
    .unwrap()
}

async fn draft(store: &Store, group: GroupId, config: ConfigRequest) -> DeploymentId {
    let application = store.group(group).await.unwrap().unwrap().application.id;
    let new = NewPackage {
        application,
        version: "1.1.0".into(),
        sha256: "ab".repeat(32),
        size: None,
        locations: Vec::new(),
        stored: true,
    };
    let (package, _) = store.package_register(new).await.unwrap();
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
        history: History::default(),
    };
    match store.submit(group, Input::Create(Box::new(create))).await.unwrap() {
        Answer::Created(id) => id,
        answer @ (Answer::Done | Answer::NothingToRollBack { .. } | Answer::RefreshHeld(_)) => {
            panic!("{answer:?}")
        }
    }
}

fn success(view: &DeploymentView) -> bool {
    view.status == DeploymentStatus::Success
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_with_a_balancer_that_drains_comes_to_success() {
    let world = World::new(60, ConfigRequest::default(), |_| Outcome::exit(0)).await;
    let engine = world.engine(64);
    world.act(Action::Start).await;
    world.wait(success).await;
    world.assert_right().await;
    assert_eq!(world.hosts.total_runs(), 60 * 3, "download, install and verify of each");
    engine.stop().await;
}

/// Hosts that work longer than there are slots for: nothing is claimed twice, nothing starves.
#[tokio::test(flavor = "multi_thread")]
async fn long_stages_on_few_slots_run_once() {
    let slow = |_: &Asked<'_>| Outcome::exit(0).after(Duration::from_millis(300));
    let world = World::new(24, ConfigRequest::default(), slow).await;
    let engine = world.engine(2);
    world.act(Action::Start).await;
    world.wait(success).await;
    world.assert_right().await;
    assert_eq!(world.hosts.total_runs(), 24 * 3);
    engine.stop().await;
}

/// A timer with nothing else going on: the engine wakes for it by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_between_batches_ends_without_a_lost_wake_up() {
    let config = ConfigRequest { batch_wait_seconds: Some(1), ..ConfigRequest::default() };
    let world = World::new(8, config, |_| Outcome::exit(0)).await;
    let engine = world.engine(8);
    world.act(Action::Start).await;
    let view = world.wait(success).await;
    let took = view.ended_at.unwrap().since(view.started_at.unwrap());
    assert!(took >= Duration::from_secs(3), "three waits of a second, it took {took:?}");
    world.assert_right().await;
    engine.stop().await;
}

/// A graceful stop in the middle, and another engine in the same process.
#[tokio::test(flavor = "multi_thread")]
async fn another_engine_goes_on_where_the_first_stopped() {
    let slow = |_: &Asked<'_>| Outcome::exit(0).after(Duration::from_millis(200));
    let world = World::new(16, ConfigRequest::default(), slow).await;
    let engine = world.engine(4);
    world.act(Action::Start).await;
    world.wait(|view| view.counts.contains_key("INSTALL_RUNNING")).await;
    engine.stop().await;
    let engine = world.engine(4);
    world.wait(success).await;
    world.assert_right().await;
    engine.stop().await;
}

/// A driver that panics ends one step of one job, and no worker.
#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_panics_costs_a_moment() {
    let panicked = AtomicBool::new(false);
    let once = move |asked: &Asked<'_>| {
        let first = asked.stage == "INSTALL" && !panicked.swap(true, Ordering::SeqCst);
        assert!(!first, "a bug in a driver");
        Outcome::exit(0)
    };
    let world = World::new(4, ConfigRequest::default(), once).await;
    let engine = world.engine(4);
    world.act(Action::Start).await;
    world.wait(success).await;
    engine.stop().await;
}

/// Answers are lost, and the order did or did not arrive: it is asked for by its key.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_asked_for_by_key() {
    let lossy = |asked: &Asked<'_>| {
        let mut outcome = Outcome::exit(0);
        outcome.fault = match (asked.stage, asked.nth) {
            ("DOWNLOAD", 1) => Fault::LoseAnswer,
            ("INSTALL", 1) => Fault::LoseQuestion,
            _ => Fault::None,
        };
        outcome
    };
    // An unknown target counts as failed (S2); here nothing shall brake.
    let config = ConfigRequest { max_failure: Some(100), ..ConfigRequest::default() };
    let world = World::new(6, config, lossy).await;
    let engine = world.engine(8);
    world.act(Action::Start).await;
    world.wait(success).await;
    world.assert_right().await;
    engine.stop().await;
}

/// A host that is set up anew under another id is the same instance, with the fence that it has seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_comes_back_under_a_new_id_keeps_its_row() {
    let world = World::new(3, ConfigRequest::default(), |_| Outcome::exit(0)).await;
    let before = world.store.servers(world.group).await.unwrap();
    let mut again = record(3);
    again.revision = 2;
    again.servers[0].id = "s0-new".into();
    world.store.sync_group(again, false).await.unwrap();
    let after = world.store.servers(world.group).await.unwrap();
    let ids = |rows: &[capstan_core::view::ServerView]| {
        rows.iter().map(|row| row.id).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(ids(&before), ids(&after));
    assert!(after.iter().all(|row| !row.retired), "{after:#?}");
}

/// Two instances swap their names in the CMDB: names are unique, also for an instant.
#[tokio::test(flavor = "multi_thread")]
async fn two_servers_may_swap_their_names() {
    let world = World::new(3, ConfigRequest::default(), |_| Outcome::exit(0)).await;
    let mut swapped = record(3);
    swapped.revision = 2;
    swapped.servers[0].hostname = "host-001".into();
    swapped.servers[1].hostname = "host-000".into();
    world.store.sync_group(swapped, false).await.unwrap();
    let servers = world.store.servers(world.group).await.unwrap();
    let name =
        |root: &str| servers.iter().find(|row| row.root == root).map(|row| row.hostname.as_str());
    assert_eq!(name("/srv/0"), Some("host-001"));
    assert_eq!(name("/srv/1"), Some("host-000"));
    assert_eq!(name("/srv/2"), Some("host-002"));
}

/// A second process on the same file would take over what the first is doing.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_in_use_is_not_opened_again() {
    let world = World::new(1, ConfigRequest::default(), |_| Outcome::exit(0)).await;
    let url = format!("sqlite://{}", world.folder.path().join("capstan.db").display());
    let settings = capstan_store::Settings { url, stale_after: PATIENCE };
    let refused = Store::open(&settings).await.unwrap_err().to_string();
    assert!(refused.contains("another Capstan runs on this database"), "{refused}");
}
