//! The emergency: a rollback of a large group while everything but the hosts is away.

use std::collections::BTreeSet;

use capstan_core::dependency::{BreakerState, DependencyKind};
use capstan_core::view::{DependencyView, Page};
use capstan_services::{RabbitMq, Redis};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Demo, LOOK_EVERY, PATIENCE};

/// Instances of the large group, 100 in the long form. Each is a process.
const HOSTS: &str = "CAPSTAN_TEST_EMERGENCY_HOSTS";
const USUAL_HOSTS: u16 = 20;

/// What a rollback cannot be without.
const KEPT: [DependencyKind; 2] = [DependencyKind::Executor, DependencyKind::PackageStore];

/// Waits until something is so.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_so().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

async fn dependencies(demo: &Demo) -> Vec<DependencyView> {
    let all: Page<DependencyView> = demo.get("dependencies").await;
    all.items.into_iter().filter(|it| !KEPT.contains(&it.kind)).collect()
}

/// Waits until each of the four was called and answered.
async fn all_answer(demo: &Demo) {
    let four = [
        DependencyKind::LoadBalancer,
        DependencyKind::Cmdb,
        DependencyKind::Queue,
        DependencyKind::Broker,
    ];
    until("all four answer", async || {
        let known = dependencies(demo).await;
        four.iter()
            .all(|kind| known.iter().any(|it| it.kind == *kind && it.state == BreakerState::Closed))
    })
    .await;
}

async fn cut_everything_off(demo: &Demo, is_cut: bool) {
    for dependency in dependencies(demo).await {
        let mut body = json!({"cut_off": is_cut});
        if is_cut {
            body["reason"] = json!("all is down");
        }
        let path = format!("dependencies/{}", dependency.name);
        let (status, answer) = demo.call(Method::PUT, &path, Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
}

/// A demo over a Redis and a broker of its own.
async fn start(hosts: u16) -> (Demo, Redis, RabbitMq) {
    let services = tokio::task::spawn_blocking(|| {
        let (redis, broker) = (Redis::start(), RabbitMq::start());
        let url = broker.vhost();
        (redis, broker, url)
    });
    let (redis, broker, url) = services.await.unwrap();
    let environment = [("CAPSTAN_DEMO_QUEUE", redis.url()), ("CAPSTAN_DEMO_BROKER", url)];
    let environment = environment.each_ref().map(|(name, url)| (*name, url.as_str()));
    let demo = Demo::start_on_server_with(hosts, &environment).await;
    // A busy machine does not answer for seconds, which is no relapse.
    demo.settle_for(5).await;
    let config = json!({"max_unavailable": 50, "batch_pattern": "50%+50%"});
    let release = demo.create("1.1.0", config).await;
    demo.click_past_the_bastion(&release).await;
    demo.wait_for(&release, "SUCCESS").await;
    all_answer(&demo).await;
    (demo, redis, broker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_group_rolls_back_from_the_database_and_the_packages_alone() {
    let hosts = std::env::var(HOSTS).map_or(USUAL_HOSTS, |text| text.parse().expect(HOSTS));
    let (demo, _redis, _broker) = start(hosts).await;
    // Half of them have to fetch what they go back to.
    for place in (1..=usize::from(hosts)).step_by(2) {
        for kept in ["releases/1.0.0", "packages"] {
            std::fs::remove_dir_all(demo.root(place).join(kept)).unwrap();
        }
    }
    cut_everything_off(&demo, true).await;
    let rollback = demo.roll_back().await;
    let ended = demo.wait_for(&rollback, "SUCCESS").await;
    demo.assert_all_run("1.0.0").await;
    let owed = usize::from(hosts);
    assert_eq!((ended.out, ended.owed.len()), (0, owed), "nobody was drained, and nobody was seen");
    let without: BTreeSet<&str> =
        ended.ran_without.iter().map(|it| it.dependency.as_str()).collect();
    let four = BTreeSet::from(["broker", "cmdb", "load_balancer.none", "queue"]);
    assert_eq!(without, four, "its page says so");
    let most = demo.events(&rollback).await.iter().filter_map(|event| event.data.out_count).max();
    let is_bounded = most.is_some_and(|most| most <= u32::from(hosts) / 4);
    assert!(is_bounded, "B is half, and half of B at a time: {most:?}");
    capstan_core::checker::check(&demo.events(&rollback).await).unwrap();

    cut_everything_off(&demo, false).await;
    until("all that was owed is paid", async || demo.deployment(&rollback).await.owed.is_empty())
        .await;
    all_answer(&demo).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_needs_no_queue_broker_or_cmdb_that_answers() {
    let (demo, mut redis, mut broker) = start(8).await;
    tokio::task::spawn_blocking(move || {
        redis.kill();
        broker.kill();
    })
    .await
    .unwrap();
    std::fs::write(demo.data().join("inventory.yaml"), "nobody can read: [this").unwrap();
    until("the CMDB cannot be read", async || {
        let (_, told) = demo.ready().await;
        told["warnings"].as_array().unwrap().iter().any(|it| it.as_str().unwrap().contains("cmdb"))
    })
    .await;
    let rollback = demo.roll_back().await;
    let ended = demo.wait_for(&rollback, "SUCCESS").await;
    demo.assert_all_run("1.0.0").await;
    assert!(ended.owed.is_empty(), "{ended:?}");
    let without: Vec<&str> = ended.ran_without.iter().map(|it| it.dependency.as_str()).collect();
    assert!(!without.contains(&"load_balancer.none"), "it answered: {without:?}");
    capstan_core::checker::check(&demo.events(&rollback).await).unwrap();
    until("it is told what does not answer", async || {
        let known = dependencies(&demo).await;
        [DependencyKind::Queue, DependencyKind::Broker]
            .iter()
            .all(|kind| known.iter().any(|it| it.kind == *kind && it.state != BreakerState::Closed))
    })
    .await;
}
