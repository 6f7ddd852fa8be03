//! Events through a real message broker, while it and the process that sends them are killed.

use std::collections::{BTreeMap, VecDeque};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use capstan_core::event::Event;
use capstan_core::view::{DependencyView, Page};
use capstan_services::RabbitMq;
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Demo, PATIENCE};

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the broker may take to let somebody in.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);
const EXCHANGE: &str = "capstan.events";
const QUEUE: &str = "mine";

/// A message as it came.
struct Got {
    key: String,
    id: String,
    body: String,
    event: Event,
}

async fn connect(url: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

pub(crate) async fn channel(url: &str) -> (Connection, Channel) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The client may wait for ever for an answer that died with the broker.
        let connected = tokio::time::timeout(CONNECTS_WITHIN, connect(url)).await;
        if let Ok(Ok(connected)) = connected {
            return connected;
        }
        assert!(Instant::now() < deadline, "the broker does not answer");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What the broker answers on such a connection.
pub(crate) async fn answered<T>(call: impl Future<Output = lapin::Result<T>>) -> T {
    tokio::time::timeout(PATIENCE, call).await.expect("the broker answers").unwrap()
}

/// A queue that keeps everything, before anything is sent.
async fn listen(url: &str) {
    let (_connection, channel) = channel(url).await;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let none = FieldTable::default();
    let made = channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, durable, none);
    answered(made).await;
    let (durable, none) = (QueueDeclareOptions::durable(), FieldTable::default());
    answered(channel.queue_declare(QUEUE.into(), durable, none.clone())).await;
    let options = QueueBindOptions::default();
    let bound = channel.queue_bind(QUEUE.into(), EXCHANGE.into(), "#".into(), options, none);
    answered(bound).await;
}

/// Takes messages until `is_last`.
async fn take(url: &str, is_last: impl Fn(&Got) -> bool) -> Vec<Got> {
    let (_connection, channel) = channel(url).await;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume(QUEUE.into(), "".into(), options, none);
    let mut consumer = answered(consumer).await;
    let mut all: Vec<Got> = Vec::new();
    loop {
        let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
        let delivery = next.expect("the last message comes").unwrap().unwrap();
        answered(delivery.acker.ack(BasicAckOptions::default())).await;
        let body = String::from_utf8(delivery.data).unwrap();
        let cloud: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(cloud["specversion"], "1.0");
        let got = Got {
            key: delivery.routing_key.to_string(),
            id: cloud["id"].as_str().unwrap().to_owned(),
            event: serde_json::from_value(cloud["data"].clone()).unwrap(),
            body,
        };
        let ends = is_last(&got);
        all.push(got);
        if ends {
            return all;
        }
    }
}

/// Nothing is missing, each log comes in its order, and what comes again is the same.
fn assert_all_came(all: &[Got], deployment: &str, log: &[Event]) {
    let mut ends: BTreeMap<String, i64> = BTreeMap::new();
    let mut bodies: BTreeMap<&str, &str> = BTreeMap::new();
    for got in all {
        let (stream, seq) = got.id.rsplit_once('/').unwrap();
        let seq: i64 = seq.parse().unwrap();
        assert_eq!(seq, got.event.seq);
        let end = ends.entry(stream.to_owned()).or_default();
        assert!(seq <= *end + 1, "{} comes after {end}", got.id);
        *end = seq.max(*end);
        let body = bodies.entry(&got.id).or_insert(&got.body);
        assert_eq!(*body, got.body, "a repeat is the same");
    }
    assert_eq!(ends[deployment], log.last().unwrap().seq);
    for event in log {
        let id = format!("{deployment}/{}", event.seq);
        let got = all.iter().find(|got| got.id == id).unwrap();
        assert_eq!(got.event, *event);
    }
}

async fn drive(demo: &Demo, deployment: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let view = demo.deployment(deployment).await;
        if view.status.is_final() {
            assert_eq!(view.shown_status, "SUCCESS", "{:?}", view.counts);
            return;
        }
        assert!(Instant::now() < deadline, "{}", view.shown_status);
        for action in ["bake", "rollout"] {
            if view.allowed_actions.iter().any(|allowed| allowed.word() == action) {
                demo.act(deployment, action).await;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn until_broker(demo: &Demo, what: &str, is_so: impl Fn(&DependencyView) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page: Page<DependencyView> = demo.get("dependencies").await;
        let broker = page.items.into_iter().find(|it| it.name == "broker");
        if broker.as_ref().is_some_and(&is_so) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {broker:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_told_whole_and_in_order_though_broker_and_process_are_killed() {
    let mut rabbit = tokio::task::spawn_blocking(RabbitMq::start).await.unwrap();
    let url = rabbit.vhost();
    listen(&url).await;
    let environment = [("CAPSTAN_DEMO_BROKER", url.as_str())];
    let mut demo = Demo::start_with(6, &environment).await;
    let config = json!({"max_unavailable": 50, "batch_pattern": "50%+50%"});
    let deployment = demo.create("1.1.0", config).await;
    demo.wait_for(&deployment, "SMOKE_SUCCESS").await;
    demo.kill();
    demo.run(&environment).await;
    rabbit.kill();
    demo.act(&deployment, "bake").await;
    demo.wait_for(&deployment, "BAKE_SUCCESS").await;
    // The release goes on without the broker, and so does a process that starts without it.
    demo.kill();
    demo.run(&environment).await;
    demo.act(&deployment, "rollout").await;
    rabbit.resume();
    let is_busy = |count: &String| count.ends_with("_RUNNING");
    demo.wait_until(&deployment, |view| view.counts.keys().any(is_busy)).await;
    demo.kill();
    demo.run(&environment).await;
    drive(&demo, &deployment).await;
    let all = take(&url, |got| {
        got.key == "deployment.SUCCESS"
            && got.event.deployment.is_some_and(|id| id.to_string() == deployment)
    });
    let all = all.await;
    let mut log = demo.events(&deployment).await;
    // What follows its end, if anything does, may still be on its way.
    let last = all.last().map_or(0, |got| got.event.seq);
    log.truncate(usize::try_from(last).unwrap());
    assert_all_came(&all, &deployment, &log);
    let keys: Vec<&str> = all.iter().map(|got| got.key.as_str()).collect();
    for key in
        ["deployment.created", "deployment.SMOKING", "target.MARKDOWN_RUNNING", "batch.SUCCESS"]
    {
        assert!(keys.contains(&key), "{key} is not among {keys:?}");
    }
}

/// A process with some roles over the demo's database.
struct Process(Child);

impl Process {
    fn start(demo: &Demo, roles: &str, broker: &str) -> Self {
        let folder = demo.folder().join(format!("process-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_capstan"))
            .args(["serve", "--roles", roles])
            .current_dir(&folder)
            .env("CAPSTAN__SERVER__LISTEN", "127.0.0.1:0")
            .env("CAPSTAN__SERVER__PUBLIC_URL", &demo.url)
            .env("CAPSTAN__DATABASE__URL", demo.database())
            .env("CAPSTAN__EXECUTOR__LOCAL__ROOTS", demo.data().join("host"))
            .env("CAPSTAN__CMDB__PATH", demo.data().join("inventory.yaml"))
            .env("CAPSTAN__BROKER__URL", broker)
            .env("CAPSTAN__BROKER__BEGIN", "first")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Process {
    /// kill -9.
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Whichever process sends, when it is killed another one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_was_sending_is_sent_by_another() {
    let url = tokio::task::spawn_blocking(|| RabbitMq::shared().vhost()).await.unwrap();
    listen(&url).await;
    let demo = Demo::start_without_engine(6).await;
    let _engine = Process::start(&demo, "engine", "none");
    let mut senders = VecDeque::from([
        Process::start(&demo, "controller", &url),
        Process::start(&demo, "controller", &url),
    ]);
    let config = json!({"max_unavailable": 50, "batch_pattern": "50%+50%"});
    let deployment = demo.create("1.1.0", config).await;
    for (shown, action) in [("SMOKE_SUCCESS", "bake"), ("BAKE_SUCCESS", "rollout")] {
        demo.wait_for(&deployment, shown).await;
        // One of the two sends, and both are killed in the end.
        drop(senders.pop_front());
        senders.push_back(Process::start(&demo, "controller", &url));
        demo.act(&deployment, action).await;
    }
    drive(&demo, &deployment).await;
    drop(senders.pop_front());
    let all = take(&url, |got| {
        got.key == "deployment.SUCCESS"
            && got.event.deployment.is_some_and(|id| id.to_string() == deployment)
    });
    let all = all.await;
    let mut log = demo.events(&deployment).await;
    let last = all.last().map_or(0, |got| got.event.seq);
    log.truncate(usize::try_from(last).unwrap());
    assert_all_came(&all, &deployment, &log);
    until_broker(&demo, "who has no engine tells of its breaker", |it| it.cut_off.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_wait_while_the_broker_is_cut_off() {
    let url = tokio::task::spawn_blocking(|| RabbitMq::shared().vhost()).await.unwrap();
    listen(&url).await;
    let demo = Demo::start_with(4, &[("CAPSTAN_DEMO_BROKER", &url)]).await;
    until_broker(&demo, "it is listed", |it| it.cut_off.is_none()).await;
    let cut = json!({"cut_off": true, "reason": "a test"});
    let (status, answer) = demo.call(Method::PUT, "dependencies/broker", Some(cut)).await;
    assert!(status.is_success(), "{answer}");
    until_broker(&demo, "it is cut off", |it| it.cut_off.is_some()).await;
    let deadline = Instant::now() + PATIENCE;
    while !demo.metrics().await.contains("capstan_dependency_state{dependency=\"broker\"} 3") {
        assert!(Instant::now() < deadline, "its breaker does not hear of it");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let deployment = demo.create("1.1.0", json!({"max_unavailable": 50})).await;
    demo.wait_for(&deployment, "SMOKE_SUCCESS").await;
    let (_connection, channel) = channel(&url).await;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(QUEUE.into(), passive, FieldTable::default());
    let before = answered(queue).await.message_count();
    let (status, answer) =
        demo.call(Method::PUT, "dependencies/broker", Some(json!({"cut_off": false}))).await;
    assert!(status.is_success(), "{answer}");
    let all = take(&url, |got| got.key == "deployment.SMOKE_SUCCESS").await;
    let ours = |got: &&Got| got.id.starts_with(&deployment);
    let late = all.iter().skip(before as usize).filter(ours).count();
    let of_it = all.iter().filter(ours).count();
    assert_eq!(late, of_it, "nothing of the release was sent while it was cut off");
}
