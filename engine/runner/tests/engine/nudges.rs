//! Two processes over one database: one takes clicks, and one has the engine and does not look by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use capstan_core::action::Action;
use capstan_core::config::ConfigRequest;
use capstan_core::dependency::{DependencyKind, QUEUE};
use capstan_core::input::{Act, Input};
use capstan_core::ports::{LoadBalancer, Queue, Sight};
use capstan_core::rollback::History;
use capstan_drivers::breaker::{self, Switchboard};
use capstan_drivers::fake::{FakeExecutor, FakeLoadBalancer, Outcome};
use capstan_drivers::nudges::{Nudges, Settings};
use capstan_drivers::scripts::Scripts;
use capstan_runner::{Engine, Ports};
use capstan_services::{Database, Redis};
use capstan_store::Store;

use super::world::{PATIENCE, draft, record, success};

/// Longer than the test: what is not told is not found. Nobody claims what is another's meanwhile.
const NEVER: Duration = Duration::from_hours(1);

async fn open(database: &Database, nudges: &Arc<Nudges>) -> Store {
    let settings = capstan_store::Settings::new(&database.url);
    Store::open_on(&settings, Arc::clone(nudges) as Arc<dyn Queue>).await.unwrap()
}

async fn hears(nudges: &Nudges) {
    let heard = async {
        while nudges.look_every().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.unwrap();
}

/// Every step of the release that a click begins is found by its nudge: nothing else would find it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_click_elsewhere_makes_due_is_done_since_a_nudge_tells_of_it() {
    let (database, redis) = (Database::shared(), Redis::start());
    let switches = Arc::new(Switchboard::new(breaker::Settings::default()));
    let start = |receives| {
        let breaker = switches.breaker(QUEUE, DependencyKind::Queue);
        let settings = Settings { look_every: NEVER, ..Settings::new(redis.url(), receives) };
        Nudges::start(&settings, breaker).unwrap()
    };
    let (told, tells) = (start(true), start(false));
    let clicks = open(&database, &tells).await;
    let works = open(&database, &told).await;
    let (group, _) = clicks.sync_group(record(4), false).await.unwrap();
    let servers = clicks.servers(group).await.unwrap();
    let seen = servers.iter().map(|server| (server.id, Sight::Serving)).collect();
    let answering = Vec::new();
    let observed = Input::Observed { deployment: None, seen, can_drain: true, answering };
    clicks.submit(group, observed).await.unwrap();

    hears(&told).await;
    let hosts = Arc::new(FakeExecutor::with_rule(|_| Outcome::exit(0)));
    let balancer: Arc<dyn LoadBalancer> = Arc::new(FakeLoadBalancer::new());
    let ports = Ports {
        health: Arc::clone(&balancer),
        load_balancers: BTreeMap::from([("fake".to_owned(), balancer)]),
        executors: BTreeMap::from([(
            "fake".to_owned(),
            hosts as Arc<dyn capstan_core::ports::Executor>,
        )]),
        scripts: Arc::new(Scripts::new(None)),
        breakers: switches,
    };
    let engine = Engine::start(works, ports, capstan_runner::Settings::default());
    let deployment = draft(&clicks, group, ConfigRequest::default(), "1.1.0").await;
    let act = Act {
        deployment,
        action: Action::Start,
        batch: None,
        without: Vec::new(),
        actor: "test".into(),
        history: History::default(),
    };
    clicks.submit(group, Input::Act(Box::new(act))).await.unwrap();
    let mut watch = clicks.watch(deployment);
    let ended = tokio::time::timeout(PATIENCE, async {
        while !success(&clicks.deployment_view(deployment).await.unwrap().unwrap()) {
            watch.changed().await.unwrap();
        }
    });
    ended.await.expect("the engine is told");
    assert_eq!(told.look_every(), Some(NEVER), "it never fell back to looking");
    engine.stop().await;
}
