//! The circuit breaker around calls: when it opens, what it refuses, and how it closes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use capstan_core::ServerId;
use capstan_core::dependency::{BreakerState, Breakers, DependencyKind};
use capstan_core::message::{Inbox, Incoming, Replayed, Verdict, Waiting};
use capstan_core::ports::{Call, DriverError, Endpoint, Executor, LoadBalancer};
use capstan_drivers::breaker::{SILENCE, Settings, Switchboard};
use capstan_drivers::fake::{Act, FakeExecutor, FakeLoadBalancer, Fault};
use capstan_drivers::guard::Guard;
use uuid::Uuid;

const EDGE: &str = "load_balancer.edge";
const HOSTS: &str = "executor.local";
/// Long enough that nothing runs out by itself.
const LONG: Duration = Duration::from_hours(1);

fn settings(open: Duration) -> Settings {
    Settings { window: LONG, threshold: 3, open, probes: 2 }
}

fn server() -> Endpoint {
    Endpoint {
        server: ServerId(Uuid::now_v7()),
        hostname: "web-1".to_owned(),
        instance: String::new(),
        ip_address: "127.0.0.1".to_owned(),
        port: 8080,
        root: "/srv/web".to_owned(),
        idc: "sh".to_owned(),
        health_url: String::new(),
    }
}

struct Edge {
    switches: Switchboard,
    fake: Arc<FakeLoadBalancer>,
    guard: Guard<dyn LoadBalancer>,
    server: Endpoint,
}

fn edge(open: Duration) -> Edge {
    let switches = Switchboard::new(settings(open));
    let fake = Arc::new(FakeLoadBalancer::new());
    let inner = Arc::clone(&fake) as Arc<dyn LoadBalancer>;
    let breaker = switches.breaker(EDGE, DependencyKind::LoadBalancer);
    let guard = Guard::load_balancer("edge", inner).with_breaker(breaker);
    Edge { switches, fake, guard, server: server() }
}

impl Edge {
    async fn drain(&self) -> Result<(), DriverError> {
        self.guard.drain(&self.server).await
    }

    fn state(&self) -> BreakerState {
        self.switches.reports()[0].state
    }

    async fn lose(&self, times: usize) {
        self.fake.fail_all(Act::Drain, Fault::LoseQuestion);
        for _ in 0..times {
            assert!(matches!(self.drain().await, Err(DriverError::Unknown(_))));
        }
    }

    fn drains(&self) -> u32 {
        self.fake.calls(self.server.server).drains
    }
}

#[tokio::test]
async fn it_opens_after_so_many_calls_without_an_answer_and_then_makes_none() {
    let edge = edge(LONG);
    edge.lose(2).await;
    assert_eq!(edge.state(), BreakerState::Closed);
    edge.lose(1).await;
    assert_eq!(edge.state(), BreakerState::Open);
    tokio::time::timeout(LONG, edge.switches.changed()).await.expect("the change is told");
    assert_eq!(edge.switches.reports()[0].error.as_deref(), Some("the test lost the question"));
    edge.fake.fail_all(Act::Drain, Fault::None);
    let refused = edge.drain().await.expect_err("it is open");
    assert!(matches!(&refused, DriverError::Busy(text) if text.contains(EDGE)), "{refused}");
    assert_eq!(edge.drains(), 0, "no call was made");
}

#[tokio::test]
async fn refusals_and_busy_answers_say_nothing_of_a_broken_dependency() {
    let edge = edge(LONG);
    for fault in [Fault::Refuse, Fault::Busy] {
        edge.fake.fail_all(Act::Drain, fault);
        for _ in 0..10 {
            assert!(edge.drain().await.is_err());
        }
    }
    assert_eq!(edge.state(), BreakerState::Closed);
}

#[tokio::test]
async fn it_stays_closed_while_more_calls_are_answered_than_not() {
    let edge = edge(LONG);
    for _ in 0..40 {
        edge.drain().await.expect("it answers");
    }
    for _ in 0..4 {
        edge.lose(2).await;
        edge.fake.fail_all(Act::Drain, Fault::None);
        edge.drain().await.expect("it answers");
    }
    assert_eq!(edge.state(), BreakerState::Closed);
    edge.lose(3).await;
    assert_eq!(edge.state(), BreakerState::Closed, "it answered just before");
    let since = Instant::now();
    while edge.state() == BreakerState::Closed {
        assert!(since.elapsed() < SILENCE * 2, "nothing was heard for long");
        edge.lose(1).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn probes_close_it_and_one_that_is_lost_opens_it_again() {
    let edge = edge(Duration::ZERO);
    edge.lose(3).await;
    edge.lose(1).await;
    assert_eq!(edge.state(), BreakerState::Open, "the probe was lost");
    edge.fake.fail_all(Act::Drain, Fault::None);
    edge.drain().await.expect("a probe");
    assert_eq!(edge.state(), BreakerState::HalfOpen);
    edge.drain().await.expect("a probe");
    assert_eq!(edge.state(), BreakerState::Closed);
    edge.lose(2).await;
    assert_eq!(edge.state(), BreakerState::Closed, "what was counted before is forgotten");
}

#[tokio::test]
async fn no_more_probes_are_under_way_than_are_needed() {
    let edge = edge(Duration::ZERO);
    edge.lose(3).await;
    edge.fake.fail_all(Act::Drain, Fault::Delay(Duration::from_millis(200)));
    let (first, second, third) = tokio::join!(edge.drain(), edge.drain(), edge.drain());
    assert!(first.is_ok() && second.is_ok());
    assert!(matches!(third, Err(DriverError::Busy(_))), "{third:?}");
    assert_eq!(edge.state(), BreakerState::Closed);
}

#[tokio::test]
async fn a_probe_that_nobody_waits_for_any_more_makes_room_for_the_next() {
    let edge = edge(Duration::ZERO);
    edge.lose(3).await;
    edge.fake.fail_all(Act::Drain, Fault::Delay(LONG));
    for _ in 0..2 {
        let given_up = tokio::time::timeout(Duration::from_millis(20), edge.drain()).await;
        assert!(given_up.is_err());
    }
    edge.fake.fail_all(Act::Drain, Fault::None);
    edge.drain().await.expect("a probe");
}

#[tokio::test]
async fn who_is_cut_off_is_not_called_and_a_closed_breaker_is_as_it_was_afterwards() {
    let edge = edge(LONG);
    edge.switches.cut_off(&BTreeSet::from([EDGE.to_owned()]));
    let refused = edge.drain().await.expect_err("it is cut off");
    assert!(matches!(&refused, DriverError::Busy(text) if text.contains("cut off")), "{refused}");
    assert_eq!(edge.drains(), 0);
    edge.switches.cut_off(&BTreeSet::new());
    edge.drain().await.expect("it is called again");
}

#[tokio::test]
async fn one_dead_host_is_no_broken_executor() {
    let switches = Switchboard::new(settings(LONG));
    let fake = Arc::new(FakeExecutor::new());
    let breaker = switches.breaker(HOSTS, DependencyKind::Executor);
    let inner = Arc::clone(&fake) as Arc<dyn Executor>;
    let guard = Guard::executor("local", inner).with_breaker(breaker);
    let servers: Vec<Endpoint> = (0..3).map(|_| server()).collect();
    let key = capstan_core::OrderKey(Uuid::now_v7());
    for server in &servers {
        fake.cut_off(server.server);
        for _ in 0..5 {
            assert_eq!(switches.reports()[0].state, BreakerState::Closed);
            let lost = guard.look(server, key, 0).await;
            assert!(matches!(lost, Err(DriverError::Unknown(_))), "{lost:?}");
            if switches.reports()[0].state == BreakerState::Open {
                break;
            }
        }
    }
    assert_eq!(switches.reports()[0].state, BreakerState::Open, "three hosts do not answer");
}

/// An inbox whose connection cannot be made.
#[derive(Default)]
struct Unreachable(AtomicU32);

impl Inbox for Unreachable {
    fn next(&self) -> Call<'_, Incoming> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Err(DriverError::Unknown("scripted: no connection".to_owned())) })
    }

    fn settle(&self, _: u64, _: Verdict) -> Call<'_, ()> {
        Box::pin(async { Err(DriverError::Unknown("scripted: no connection".to_owned())) })
    }

    fn close(&self) -> Call<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn waiting(&self) -> Call<'_, Waiting> {
        Box::pin(async { Ok(Waiting::default()) })
    }

    fn replay(&self, _: u32) -> Call<'_, Replayed> {
        Box::pin(async { Ok(Replayed::default()) })
    }
}

#[tokio::test]
async fn a_broken_broker_is_not_asked_for_messages_before_the_next_probe_is_due() {
    let open = Duration::from_millis(400);
    let switches = Switchboard::new(settings(open));
    let inbox = Arc::new(Unreachable::default());
    let breaker = switches.breaker("broker", DependencyKind::Broker);
    let inner = Arc::clone(&inbox) as Arc<dyn Inbox>;
    let guard = Guard::inbox("amqp", inner).with_breaker(breaker);
    for _ in 0..3 {
        assert!(guard.settle(1, Verdict::Done).await.is_err());
    }
    let began = std::time::Instant::now();
    assert_eq!(switches.reports()[0].state, BreakerState::Open);
    assert!(guard.next().await.is_err());
    assert_eq!(inbox.0.load(Ordering::SeqCst), 1, "asked once");
    assert!(began.elapsed() >= open / 2, "{:?}", began.elapsed());
}
