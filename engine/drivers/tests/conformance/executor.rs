//! What every executor must do, whatever brings its orders to the hosts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capstan_core::order::hex;
use capstan_core::ports::{Endpoint, Executor, Look, Order, OrderState, Script};
use capstan_core::{OrderKey, ServerId};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// What the script of an order does.
#[derive(Debug, Clone)]
pub(crate) enum Behaviour {
    /// Prints this and ends with this code.
    Exit(&'static str, i32),
    /// Prints this many bytes `x`.
    Print(usize),
    /// Runs for a minute.
    Linger,
}

/// An executor under test and the hosts behind it.
pub(crate) trait Subject {
    /// The executor.
    fn executor(&self) -> Arc<dyn Executor>;
    /// A host that has never had an order.
    fn fresh(&self) -> Endpoint;
    /// The script and the stage that make an order behave so.
    fn script(&self, server: &Endpoint, key: OrderKey, behaviour: Behaviour) -> (String, String);
    /// How often the script of this key ran.
    fn runs(&self, server: &Endpoint, key: OrderKey) -> usize;
    /// Kills the order under way without leaving an exit code.
    fn lose(&self, server: &Endpoint, key: OrderKey);
}

pub(crate) fn new_key() -> OrderKey {
    OrderKey(Uuid::now_v7())
}

pub(crate) fn endpoint(root: &str) -> Endpoint {
    Endpoint {
        server: ServerId(Uuid::now_v7()),
        hostname: "web-1".to_owned(),
        instance: String::new(),
        ip_address: "127.0.0.1".to_owned(),
        port: 8080,
        root: root.to_owned(),
        idc: "sh".to_owned(),
        health_url: "http://127.0.0.1:8080/healthz".to_owned(),
    }
}

pub(crate) fn script(body: &str) -> Script {
    Script { sha256: hex(&Sha256::digest(body)), body: body.to_owned() }
}

/// One host of a subject.
struct Bench<'a> {
    subject: &'a dyn Subject,
    executor: Arc<dyn Executor>,
    server: Endpoint,
}

impl<'a> Bench<'a> {
    fn new(subject: &'a dyn Subject) -> Self {
        Self { subject, executor: subject.executor(), server: subject.fresh() }
    }

    fn order(&self, fence: i64, behaviour: Behaviour) -> Order {
        let key = new_key();
        let (body, stage) = self.subject.script(&self.server, key, behaviour);
        let environment = [
            ("CAPSTAN_STAGE", stage),
            ("CAPSTAN_ROOT", self.server.root.clone()),
            ("CAPSTAN_KEY", key.to_string()),
            ("CAPSTAN_TIMEOUT_SECONDS", "30".to_owned()),
        ];
        Order {
            key,
            fence,
            time_limit: Duration::from_secs(35),
            script: Arc::new(script(&body)),
            environment: environment
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    async fn start(&self, order: &Order) -> OrderState {
        self.executor.start(&self.server, order).await.expect("start answers")
    }

    async fn look(&self, order: &Order, offset: u64) -> Look {
        self.executor.look(&self.server, order.key, offset).await.expect("look answers")
    }

    async fn cancel(&self, order: &Order, fence: i64) -> OrderState {
        self.executor.cancel(&self.server, order.key, fence).await.expect("cancel answers")
    }

    /// Waits until the order no longer runs.
    async fn end(&self, order: &Order) -> OrderState {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let state = self.look(order, 0).await.state;
            if state != OrderState::Running {
                return state;
            }
            assert!(Instant::now() < deadline, "the order still runs");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the script of an order that lingers has begun.
    async fn begun(&self, order: &Order) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.subject.runs(&self.server, order.key) == 0 {
            assert!(Instant::now() < deadline, "the script does not begin");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Runs the whole suite.
pub(crate) async fn suite(subject: &dyn Subject) {
    unknown_key(subject).await;
    runs_to_its_end(subject).await;
    output_by_offset(subject).await;
    known_key_runs_nothing(subject).await;
    started_many_times_at_once(subject).await;
    newer_order_ends_the_older(subject).await;
    older_fence_is_stale(subject).await;
    cancel(subject).await;
    cancel_of_what_does_not_run(subject).await;
    lost(subject).await;
    time_limit(subject).await;
    nothing_to_report(subject).await;
}

async fn unknown_key(subject: &dyn Subject) {
    let bench = Bench::new(subject);
    let order = bench.order(1, Behaviour::Exit("", 0));
    let look = bench.look(&order, 0).await;
    assert_eq!(look, Look { state: OrderState::Unknown, output: Vec::new() });
    assert_eq!(bench.look(&order, 1000).await.output, Vec::<u8>::new());
}

async fn runs_to_its_end(subject: &dyn Subject) {
    let bench = Bench::new(subject);
    for (fence, code) in [(1, 0), (2, 10), (3, 20), (4, 1)] {
        let order = bench.order(fence, Behaviour::Exit("done", code));
        let state = bench.start(&order).await;
        assert!(matches!(state, OrderState::Running | OrderState::Ended(_)), "{state:?}");
        assert_eq!(bench.end(&order).await, OrderState::Ended(code));
        assert_eq!(bench.look(&order, 0).await.output, b"done\n");
        assert_eq!(subject.runs(&bench.server, order.key), 1);
    }
}

async fn output_by_offset(subject: &dyn Subject) {
    let bench = Bench::new(subject);
    let order = bench.order(1, Behaviour::Print(150_000));
    bench.start(&order).await;
    assert_eq!(bench.end(&order).await, OrderState::Ended(0));
    let mut read = Vec::new();
    loop {
        let look = bench.look(&order, read.len() as u64).await;
        assert_eq!(look.state, OrderState::Ended(0));
        assert!(look.output.len() <= 64 * 1024);
        if look.output.is_empty() {
            break;
        }
        read.extend(look.output);
    }
    assert_eq!(read.len(), 150_000);
    assert!(read.iter().all(|byte| *byte == b'x'));
    assert_eq!(bench.look(&order, 149_990).await.output.len(), 10);
    assert_eq!(bench.look(&order, 1_000_000).await.output.len(), 0);
}

async fn known_key_runs_nothing(subject: &dyn Subject) {
    let bench = Bench::new(subject);
    let ended = bench.order(1, Behaviour::Exit("", 7));
    bench.start(&ended).await;
    assert_eq!(bench.end(&ended).await, OrderState::Ended(7));
    assert_eq!(bench.start(&ended).await, OrderState::Ended(7));

    let under_way = bench.order(2, Behaviour::Linger);
    assert_eq!(bench.start(&under_way).await, OrderState::Running);
    bench.begun(&under_way).await;
    assert_eq!(bench.start(&under_way).await, OrderState::Running);
    // The old key answers as before, and does not disturb what runs.
    assert_eq!(bench.start(&ended).await, OrderState::Ended(7));
    assert_eq!(bench.look(&under_way, 0).await.state, OrderState::Running);
    for order in [&ended, &under_way] {
        assert_eq!(subject.runs(&bench.server, order.key), 1);
    }
    bench.cancel(&under_way, 3).await;
}

async fn started_many_times_at_once(subject: &dyn Subject) {
    let bench = Bench::new(subject);
    let order = bench.order(1, Behaviour::Exit("once", 0));
    let starts = (0..5).map(|_| bench.executor.start(&bench.server, &order));
    // A call may find the host busy with another one; none may make it run twice.
    for answer in futures::future::join_all(starts).await.into_iter().flatten() {
        assert!(matches!(answer, OrderState::Running | OrderState::Ended(0)), "{answer:?}");
    }
    assert_eq!(bench.end(&order).await, OrderState::Ended(0));
    assert_eq!(subject.runs(&bench.server, order.key), 1);
}

async fn newer_order_ends_the_older(subject: &dyn Subject) {
    let bench = Bench::new(subject);
    let old = bench.order(1, Behaviour::Linger);
    bench.start(&old).await;
    bench.begun(&old).await;
    let new = bench.order(2, Behaviour::Exit("new", 0));
    bench.start(&new).await;
    assert_eq!(bench.look(&old, 0).await.state, OrderState::Cancelled);
    assert_eq!(bench.end(&new).await, OrderState::Ended(0));
    assert_eq!(bench.start(&old).await, OrderState::Cancelled);
    assert_eq!(subject.runs(&bench.server, old.key), 1);
}

async fn older_fence_is_stale(subject: &dyn Subject) {
    let bench = Bench::new(subject);
    let new = bench.order(5, Behaviour::Exit("", 0));
    bench.start(&new).await;
    assert_eq!(bench.end(&new).await, OrderState::Ended(0));
    let old = bench.order(4, Behaviour::Exit("", 0));
    assert_eq!(bench.start(&old).await, OrderState::Stale(5));
    assert_eq!(bench.look(&old, 0).await.state, OrderState::Unknown);
    assert_eq!(bench.cancel(&new, 4).await, OrderState::Stale(5));
    assert_eq!(subject.runs(&bench.server, old.key), 0);
}

async fn cancel(subject: &dyn Subject) {
    let bench = Bench::new(subject);
    let order = bench.order(1, Behaviour::Linger);
    bench.start(&order).await;
    bench.begun(&order).await;
    assert_eq!(bench.cancel(&order, 2).await, OrderState::Cancelled);
    assert_eq!(bench.look(&order, 0).await.state, OrderState::Cancelled);
    assert_eq!(bench.cancel(&order, 2).await, OrderState::Cancelled);
    let late = bench.order(1, Behaviour::Exit("", 0));
    assert_eq!(bench.start(&late).await, OrderState::Stale(2));
}

async fn cancel_of_what_does_not_run(subject: &dyn Subject) {
    let bench = Bench::new(subject);
    let ended = bench.order(1, Behaviour::Exit("", 3));
    bench.start(&ended).await;
    assert_eq!(bench.end(&ended).await, OrderState::Ended(3));
    assert_eq!(bench.cancel(&ended, 1).await, OrderState::Ended(3));
    // A key that is cancelled before it comes never runs.
    let on_its_way = bench.order(2, Behaviour::Exit("", 0));
    assert_eq!(bench.cancel(&on_its_way, 2).await, OrderState::Cancelled);
    assert_eq!(bench.start(&on_its_way).await, OrderState::Cancelled);
    assert_eq!(subject.runs(&bench.server, on_its_way.key), 0);
}

async fn lost(subject: &dyn Subject) {
    let bench = Bench::new(subject);
    let order = bench.order(1, Behaviour::Linger);
    bench.start(&order).await;
    bench.begun(&order).await;
    subject.lose(&bench.server, order.key);
    assert_eq!(bench.end(&order).await, OrderState::Lost);
    assert_eq!(bench.start(&order).await, OrderState::Lost);
    let next = bench.order(2, Behaviour::Exit("", 0));
    bench.start(&next).await;
    assert_eq!(bench.end(&next).await, OrderState::Ended(0));
}

async fn time_limit(subject: &dyn Subject) {
    let bench = Bench::new(subject);
    let mut order = bench.order(1, Behaviour::Linger);
    order.time_limit = Duration::from_millis(900);
    bench.start(&order).await;
    assert_eq!(bench.end(&order).await, OrderState::Ended(124));
}

async fn nothing_to_report(subject: &dyn Subject) {
    let bench = Bench::new(subject);
    let script = script("exit 3\n");
    let report = bench.executor.report(&bench.server, &script).await.expect("report answers");
    assert_eq!(report, None);
}
