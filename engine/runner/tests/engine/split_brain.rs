//! Two engines that each think that a server is theirs: one stood still in the middle of an act.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use capstan_core::action::Action;
use capstan_core::config::{ConfigRequest, Mode};
use capstan_core::dependency::Breakers;
use capstan_core::event::EventType;
use capstan_core::ports::{Call, Endpoint, Executor, LoadBalancer, Seen, Sight};
use capstan_core::{ServerId, view::DeploymentView};
use capstan_drivers::fake::{FakeLoadBalancer, Outcome};
use capstan_drivers::scripts::Scripts;
use capstan_runner::{Engine, Ports, Settings};
use capstan_services::Database;
use capstan_store::Store;

use crate::world::{PATIENCE, World};

const LEASE: Duration = Duration::from_millis(1_200);
/// How soon a late act is put right (S13).
const PUT_RIGHT_WITHIN: Duration = Duration::from_secs(10);

/// A load balancer that takes a drain and does it only when it is told to. Its caller stands still
/// meanwhile, with everything else on its thread.
struct Late {
    inner: Arc<FakeLoadBalancer>,
    asked: Sender<ServerId>,
    go: Mutex<Receiver<()>>,
    done: Sender<()>,
}

impl LoadBalancer for Late {
    fn can_drain(&self) -> bool {
        true
    }

    fn sees_all_at_once(&self) -> bool {
        true
    }

    fn drain<'a>(&'a self, server: &'a Endpoint) -> Call<'a, ()> {
        Box::pin(async move {
            self.asked.send(server.server).unwrap();
            self.go.lock().unwrap().recv().unwrap();
            self.inner.drain(server).await?;
            self.done.send(()).unwrap();
            // Whoever wakes up from here on finds that its lease is lost, and would end this process.
            loop {
                std::thread::park();
            }
        })
    }

    fn admit<'a>(&'a self, server: &'a Endpoint) -> Call<'a, ()> {
        self.inner.admit(server)
    }

    fn observe<'a>(&'a self, servers: &'a [Endpoint]) -> Call<'a, Vec<Seen>> {
        self.inner.observe(servers)
    }
}

/// Runs an engine with a store of its own on one thread: while that stands still, nobody renews its lease.
fn run_apart(world: &World, settings: capstan_store::Settings, balancer: Late) {
    let (hosts, health) = (Arc::clone(&world.hosts), Arc::clone(&world.health));
    let breakers = Arc::clone(&world.switches);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let balancer: Arc<dyn LoadBalancer> = Arc::new(balancer);
            let ports = Ports {
                load_balancers: [("fake".to_owned(), balancer)].into(),
                executors: [("fake".to_owned(), hosts as Arc<dyn Executor>)].into(),
                health,
                scripts: Arc::new(Scripts::new(None)),
                breakers: breakers as Arc<dyn Breakers>,
            };
            let store = Store::open(&settings).await.unwrap();
            let _engine = Engine::start(store, ports, Settings::default());
            std::future::pending::<()>().await;
        });
    });
}

/// An engine freezes while a drain of its own is on its way. Another one takes over, drains, installs and
/// marks up; then the drain of the first one lands on a server in service.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_of_an_engine_that_was_frozen_is_put_right() {
    let database = Database::shared();
    let settings =
        capstan_store::Settings { lease: LEASE, ..capstan_store::Settings::new(&database.url) };
    let config = ConfigRequest { mode: Some(Mode::Manual), ..ConfigRequest::default() };
    let world = World::shared(&settings, 4, config, |_| Outcome::exit(0)).await;
    let (asked, is_asked) = channel();
    let (go, goes) = channel();
    let (done, is_done) = channel();
    let inner = Arc::clone(&world.balancer);
    run_apart(&world, settings, Late { inner, asked, go: Mutex::new(goes), done });
    world.act(Action::Start).await;
    let frozen = tokio::task::spawn_blocking(move || is_asked.recv_timeout(PATIENCE));
    let server = frozen.await.unwrap().expect("the first engine drains a server");
    assert_eq!(world.balancer.calls(server).drains, 0, "its drain is on its way");

    let other = world.engine(8);
    let is_released = |view: &DeploymentView| view.counts.get("SUCCESS") == Some(&1);
    world.wait(is_released).await;
    assert_eq!(world.balancer.sight(server), Sight::Serving, "the other engine released it");
    let drains = world.balancer.calls(server).drains;
    assert!(drains > 0, "the other engine drained it");
    world.wait_for_event(EventType::TargetTakenOver).await;

    go.send(()).unwrap();
    is_done.recv_timeout(PATIENCE).expect("the late drain lands");
    let landed = Instant::now();
    assert_eq!(world.balancer.calls(server).drains, drains + 1);
    world.wait_for_event(EventType::ServerOut).await;
    world.wait_for_event(EventType::ServerIn).await;
    assert!(landed.elapsed() < PUT_RIGHT_WITHIN, "S13: {:?}", landed.elapsed());
    assert_eq!(world.balancer.sight(server), Sight::Serving);
    other.stop().await;
    world.assert_right().await;
}
