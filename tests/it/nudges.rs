//! A controller and two engines over one database, with a Redis that is used, lost and found again.

use std::time::{Duration, Instant};

use capstan_core::dependency::BreakerState;
use capstan_core::view::{DependencyView, Page};
use capstan_services::Redis;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::crash::assert_keys_ran_once;
use crate::harness::{Demo, PATIENCE};
use crate::many::{Process, assert_rules, create, drive, sum, until_under_way};

const LOOK_EVERY: Duration = Duration::from_millis(50);
const RECEIVED: &str = "capstan_nudges_received_total";
const SENT: &str = "capstan_nudges_sent_total{outcome=\"sent\"}";
/// How long Redis hangs: longer than anybody waits for one of its answers.
const HANGS: Duration = Duration::from_secs(30);

/// All processes over one Redis.
struct Fleet {
    demo: Demo,
    engines: Vec<Process>,
}

impl Fleet {
    async fn start(url: &str, hosts: u16) -> Self {
        let demo = Demo::start_without_engine_with(hosts, &[("CAPSTAN_DEMO_QUEUE", url)]).await;
        let environment = [
            ("CAPSTAN__QUEUE__URL", url),
            ("CAPSTAN__BREAKER__THRESHOLD", "2"),
            ("CAPSTAN__BREAKER__WINDOW_SECONDS", "3"),
            ("CAPSTAN__BREAKER__OPEN_SECONDS", "1"),
        ];
        let engines = (0..2).map(|_| Process::engine_with(&demo, &environment)).collect();
        Self { demo, engines }
    }

    async fn queue(&self) -> Option<DependencyView> {
        let all: Page<DependencyView> = self.demo.get("dependencies").await;
        all.items.into_iter().find(|it| it.name == "queue")
    }

    /// Waits until the page of dependencies shows the queue so.
    async fn shows(&self, state: BreakerState) -> DependencyView {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = self.queue().await;
            if let Some(view) = view.clone().filter(|view| view.state == state) {
                return view;
            }
            assert!(Instant::now() < deadline, "{view:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until every process calls Redis: each has a breaker of its own.
    async fn is_used_by_all(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut states = vec![state_in(&self.demo.metrics().await)];
            for engine in &self.engines {
                states.push(state_in(&engine.metrics().await));
            }
            if states.iter().all(|state| *state == Some(0.0)) {
                return;
            }
            assert!(Instant::now() < deadline, "{states:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The nudges of the controller that Redis took.
    async fn sent(&self) -> f64 {
        sum(&self.demo.metrics().await, SENT)
    }

    /// Drives a release to its end: every instance runs the version, and nothing was done twice.
    async fn ends_well(&self, deployment: &str, version: &str) {
        drive(&self.demo, deployment).await;
        self.demo.assert_all_run(version).await;
        assert_rules(&self.demo.events(deployment).await);
        assert_keys_ran_once(&self.demo.data(), version);
    }

    async fn received(&self) -> f64 {
        let mut received = 0.0;
        for engine in &self.engines {
            received += sum(&engine.metrics().await, RECEIVED);
        }
        received
    }

    /// Waits until an engine was woken by a nudge more than before.
    async fn is_nudged(&self, before: f64) {
        let deadline = Instant::now() + PATIENCE;
        while self.received().await <= before {
            assert!(Instant::now() < deadline, "no nudge is received: {}", self.engines[0].log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// What a process does with calls to Redis: 0, it makes them.
fn state_in(metrics: &str) -> Option<f64> {
    let state = "capstan_dependency_state{dependency=\"queue\"} ";
    metrics.lines().find_map(|line| line.strip_prefix(state)?.parse().ok())
}

/// Whatever becomes of Redis, a release goes on and keeps the rules, and Redis is used again when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn releases_go_on_whatever_becomes_of_redis() {
    let mut redis = Redis::start();
    let fleet = Fleet::start(&redis.url(), 4).await;
    fleet.is_used_by_all().await;
    let deployment = create(&fleet.demo, "1.1.0").await;
    fleet.is_nudged(0.0).await;
    redis.command(&["FLUSHALL"]);
    until_under_way(&fleet.demo, &deployment).await;
    redis.kill();
    redis.run();
    drive(&fleet.demo, &deployment).await;
    assert_rules(&fleet.demo.events(&deployment).await);
    fleet.demo.assert_all_run("1.1.0").await;

    redis.freeze();
    let broken = fleet.shows(BreakerState::Open).await;
    assert!(broken.last_error.is_some(), "{broken:?}");
    assert_eq!(fleet.demo.ready().await.0, StatusCode::OK, "nothing that is needed is missing");
    let deployment = create(&fleet.demo, "1.0.0").await;
    until_under_way(&fleet.demo, &deployment).await;
    redis.kill();
    drive(&fleet.demo, &deployment).await;
    assert_rules(&fleet.demo.events(&deployment).await);

    redis.run();
    fleet.is_used_by_all().await;
    let before = fleet.received().await;
    create(&fleet.demo, "1.1.0").await;
    fleet.is_nudged(before).await;
}

/// A Redis that hangs in the middle of a release and goes on after half a minute: releases go on by the database
/// meanwhile, and its nudges count again afterwards, as do those that it kept, without anything done twice.
#[tokio::test(flavor = "multi_thread")]
async fn releases_go_on_while_redis_hangs_and_it_is_used_when_it_goes_on() {
    let redis = Redis::start();
    let fleet = Fleet::start(&redis.url(), 4).await;
    fleet.is_used_by_all().await;
    let mut versions = ["1.1.0", "1.0.0"].into_iter().cycle();
    let mut version = versions.next().unwrap();
    let mut deployment = create(&fleet.demo, version).await;
    fleet.is_nudged(0.0).await;
    until_under_way(&fleet.demo, &deployment).await;

    redis.freeze();
    let frozen = Instant::now();
    let broken = fleet.shows(BreakerState::Open).await;
    assert!(broken.last_error.is_some(), "{broken:?}");
    let mut releases = 0;
    loop {
        fleet.ends_well(&deployment, version).await;
        releases += 1;
        if frozen.elapsed() >= HANGS {
            break;
        }
        version = versions.next().unwrap();
        deployment = create(&fleet.demo, version).await;
    }
    let still = fleet.queue().await.unwrap();
    assert_ne!(still.state, BreakerState::Closed, "{still:?}");
    println!("{releases} releases while Redis hung for {:?}", frozen.elapsed());

    redis.go_on();
    fleet.is_used_by_all().await;
    // What Redis had kept comes now; so a nudge must also have been sent since.
    let (sent, received) = (fleet.sent().await, fleet.received().await);
    version = versions.next().unwrap();
    deployment = create(&fleet.demo, version).await;
    fleet.is_nudged(received).await;
    fleet.ends_well(&deployment, version).await;
    assert!(fleet.sent().await > sent, "no nudge is sent");
}

/// Processes start without it, say so, and show no password; a person cuts it off, and nothing is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_lets_nobody_in_is_told_and_done_without() {
    let redis = Redis::start_with_password("hunter2");
    let url = redis.url().replace("hunter2", "hunter3");
    let fleet = Fleet::start(&url, 2).await;
    let broken = fleet.shows(BreakerState::Open).await;
    assert!(
        broken.last_error.as_ref().is_some_and(|it| it.contains("uthentication")),
        "{broken:?}"
    );
    let deployment = create(&fleet.demo, "1.1.0").await;
    drive(&fleet.demo, &deployment).await;
    assert_rules(&fleet.demo.events(&deployment).await);

    let cut = json!({"cut_off": true, "reason": "ticket 17"});
    let (status, answer) = fleet.demo.call(Method::PUT, "dependencies/queue", Some(cut)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    redis.command(&["CONFIG", "SET", "requirepass", "hunter3"]);
    let restored = json!({"cut_off": false});
    let (status, answer) = fleet.demo.call(Method::PUT, "dependencies/queue", Some(restored)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    fleet.is_used_by_all().await;
    create(&fleet.demo, "1.0.0").await;
    fleet.is_nudged(0.0).await;
    assert!(fleet.sent().await > 0.0, "{}", fleet.demo.metrics().await);
    for engine in &fleet.engines {
        let log = engine.log();
        assert!(
            log.contains("work is looked for in the database") && !log.contains("hunter"),
            "{log}"
        );
    }
}
