//! The queue `redis` over a real Redis that is flushed, killed, frozen, cut off and filled.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apalis_core::backend::TaskSink;
use apalis_redis::{Config, RedisStorage};
use capstan_core::dependency::{BreakerState, Breakers, DependencyKind, QUEUE};
use capstan_core::ports::Queue;
use capstan_core::{GroupId, Timestamp};
use capstan_drivers::breaker::{self, Switchboard};
use capstan_drivers::nudges::{Nudges, Settings};
use capstan_services::Redis;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(30);
/// More than a mailbox holds, and more than apalis' own way into a queue can stand.
const MANY: i64 = 20_000;

/// One process.
struct Process {
    nudges: Arc<Nudges>,
    switches: Switchboard,
}

impl Process {
    fn start(url: &str, receives: bool) -> Self {
        let switches = Switchboard::new(breaker::Settings {
            window: Duration::from_secs(5),
            threshold: 2,
            open: Duration::from_millis(200),
            probes: 1,
        });
        let breaker = switches.breaker(QUEUE, DependencyKind::Queue);
        let nudges = Nudges::start(&Settings::new(url, receives), breaker).expect("it starts");
        Self { nudges, switches }
    }

    /// One with an engine that hears from Redis, and that has looked for work as at every start.
    async fn engine(url: &str) -> Self {
        let process = Self::start(url, true);
        process.hears().await;
        process
    }

    async fn hears(&self) {
        until("nudges are heard", async || self.nudges.look_every().is_some()).await;
        self.woken().await;
    }

    async fn woken(&self) {
        tokio::time::timeout(PATIENCE, self.nudges.woken()).await.expect("it is woken");
    }

    /// Whether it was woken and nobody has waited for it.
    async fn was_woken(&self) -> bool {
        tokio::time::timeout(Duration::ZERO, self.nudges.woken()).await.is_ok()
    }

    fn nudge(&self, number: i64) {
        let at = Timestamp::from_micros(number + 1);
        self.nudges.nudge(Some(GroupId(Uuid::now_v7())), at);
    }

    fn state(&self) -> BreakerState {
        self.switches.reports()[0].state
    }

    async fn is(&self, state: BreakerState) {
        until(state.word(), async || self.state() == state).await;
    }
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Nudges until the other is woken: the first may be lost with what was broken.
async fn reaches(sender: &Process, receiver: &Process) {
    receiver.hears().await;
    let deadline = Instant::now() + PATIENCE;
    for number in 0.. {
        sender.nudge(number);
        let woken = receiver.nudges.woken();
        if tokio::time::timeout(Duration::from_millis(200), woken).await.is_ok() {
            return;
        }
        assert!(Instant::now() < deadline, "no nudge comes through");
    }
}

fn mailboxes(redis: &Redis) -> Vec<String> {
    let names = redis.command(&["ZRANGE", "capstan:engines", "0", "-1"]);
    names.lines().filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nudge_wakes_every_other_engine_and_leaves_nothing_behind() {
    let redis = Redis::start();
    let url = redis.url();
    let controller = Process::start(&url, false);
    let (one, two) = (Process::engine(&url).await, Process::engine(&url).await);
    assert_eq!(controller.nudges.look_every(), None, "it has no engine");
    controller.nudge(1);
    one.woken().await;
    two.woken().await;
    one.nudge(2);
    two.woken().await;
    assert!(!one.was_woken().await, "it knows already");
    let rows = async || {
        let lengths = mailboxes(&redis).into_iter().map(|name| {
            let rows = redis.command(&["HLEN", &format!("{name}:data")]);
            (rows, redis.command(&["KEYS", &format!("{name}:meta:*")]))
        });
        lengths.collect::<BTreeSet<_>>() == BTreeSet::from([("0".to_owned(), String::new())])
    };
    until("what was received is forgotten", rows).await;
    // One that was killed long ago.
    for row in [
        ["ZADD", "capstan:engines", "1", "dead"],
        ["ZADD", "dead:workers", "1", "dead-1"],
        ["ZADD", "core:apalis:queues:list", "1", "dead:workers"],
        ["HSET", "dead:workers:metadata:dead-1", "service", "x"],
    ] {
        redis.command(&row);
    }
    controller.nudge(3);
    one.woken().await;
    two.woken().await;
    for process in [controller, one, two] {
        process.nudges.stop().await;
    }
    let left = redis.command(&["KEYS", "*"]);
    assert_eq!(left, "", "nothing is left of processes that have stopped or died");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_sends_what_waits() {
    let redis = Redis::start();
    let (leaves, stays) =
        (Process::start(&redis.url(), false), Process::engine(&redis.url()).await);
    leaves.nudge(1);
    leaves.nudges.stop().await;
    stays.woken().await;
}

/// Nothing in Redis grows with what happens, and the trap of apalis' own queue is none.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_nudges_wedge_nothing() {
    let redis = Redis::start();
    let (sender, engine) =
        (Process::start(&redis.url(), false), Process::engine(&redis.url()).await);
    let mailbox = mailboxes(&redis).remove(0);
    let waits = |list: &str| -> i64 {
        redis.command(&["LLEN", &format!("{mailbox}:{list}")]).parse().expect("a length")
    };
    let mut most = 0;
    for number in 0..MANY {
        sender.nudge(number);
        if number % 500 == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            most = most.max(waits("active"));
        }
    }
    assert!(most <= 16, "{most} wait");
    engine.woken().await;

    // The same number by apalis' own way, which its fetch cannot stand: the worker ends, and the next one
    // begins with an empty mailbox.
    let client = redis::Client::open(redis.url()).expect("a client");
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    let connection = client.get_multiplexed_async_connection_with_config(&patient).await;
    let connection = connection.expect("connected");
    let config = Config::default().queue(&mailbox);
    let mut storage = RedisStorage::new(connection).with_config(config);
    let all = (0..MANY).map(|_| serde_json::json!({"id": "x", "group": null})).collect();
    storage.push_bulk(all).await.expect("pushed");
    until("they are gone", async || {
        redis.command(&["ZCARD", &format!("{mailbox}:scheduled")]) == "0" && waits("active") == 0
    })
    .await;
    reaches(&sender, &engine).await;
    let worker = redis.command(&["ZRANGE", &format!("{mailbox}:workers"), "0", "-1"]);
    assert!(!worker.ends_with("-1"), "the first worker was wedged: {worker}");
    engine.is(BreakerState::Closed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_flushed_or_restarted_is_used_again() {
    let mut redis = Redis::start();
    let (sender, engine) =
        (Process::start(&redis.url(), false), Process::engine(&redis.url()).await);
    redis.command(&["FLUSHALL"]);
    reaches(&sender, &engine).await;

    redis.kill();
    until("nothing is heard", async || engine.nudges.look_every().is_none()).await;
    for process in [&sender, &engine] {
        process.is(BreakerState::Open).await;
    }
    let error = engine.switches.reports()[0].error.clone().expect("why");
    assert!(["refused", "broken pipe"].iter().any(|why| error.contains(why)), "{error}");
    redis.run();
    reaches(&sender, &engine).await;
    for process in [&sender, &engine] {
        process.is(BreakerState::Closed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_holds_nobody_up_and_is_used_again() {
    let redis = Redis::start();
    let (sender, engine) =
        (Process::start(&redis.url(), false), Process::engine(&redis.url()).await);
    redis.freeze();
    let began = Instant::now();
    for number in 0..MANY {
        sender.nudge(number);
    }
    assert!(began.elapsed() < Duration::from_secs(1), "a commit would wait: {:?}", began.elapsed());
    until("nothing is heard", async || engine.nudges.look_every().is_none()).await;
    engine.is(BreakerState::Open).await;
    redis.go_on();
    reaches(&sender, &engine).await;
    engine.is(BreakerState::Closed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_off_is_not_called() {
    let redis = Redis::start();
    let (sender, engine) =
        (Process::start(&redis.url(), false), Process::engine(&redis.url()).await);
    let cut = |names: &BTreeSet<String>| {
        for process in [&sender, &engine] {
            process.switches.cut_off(names);
        }
    };
    cut(&BTreeSet::from([QUEUE.to_owned()]));
    // redis-cli itself is one.
    let clients = async || redis.command(&["CLIENT", "LIST"]).lines().count() == 1;
    until("every connection is closed", clients).await;
    let connections = || -> u32 {
        let info = redis.command(&["INFO", "stats"]);
        let count = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.expect("a count").trim().parse().expect("a number")
    };
    let before = connections();
    sender.nudge(1);
    until("nothing is heard", async || engine.nudges.look_every().is_none()).await;
    assert_eq!(connections(), before + 1, "only redis-cli came");
    cut(&BTreeSet::new());
    reaches(&sender, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_not_there_yet_or_lets_nobody_in_is_used_when_it_does() {
    let mut redis = Redis::absent();
    let (sender, engine) =
        (Process::start(&redis.url(), false), Process::start(&redis.url(), true));
    for process in [&sender, &engine] {
        process.is(BreakerState::Open).await;
    }
    assert_eq!(engine.nudges.look_every(), None);
    redis.run();
    reaches(&sender, &engine).await;

    let strict = Redis::start_with_password("hunter2");
    let url = strict.url().replace("hunter2", "hunter3");
    let (sender, engine) = (Process::start(&url, false), Process::start(&url, true));
    for process in [&sender, &engine] {
        process.is(BreakerState::Open).await;
        let error = process.switches.reports()[0].error.clone().expect("why");
        assert!(error.contains("uthentication") && !error.contains("hunter"), "{error}");
    }
    // The password becomes right by itself, and nothing has to be started anew.
    strict.command(&["CONFIG", "SET", "requirepass", "hunter3"]);
    reaches(&sender, &engine).await;
}
