//! Messages about changes in the CMDB, through a real `RabbitMQ`.

mod many;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use capstan_controller::Settings;
use capstan_core::message::Inbox;
use capstan_drivers::amqp::{self, AmqpInbox, CMDB, Topology};
use capstan_drivers::guard::Guard;
use capstan_services::RabbitMq;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fakes::record;
use crate::world::World;

const PATIENCE: Duration = Duration::from_mins(1);
/// How long the broker may take to let somebody in.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);
const MESSAGES: &str = "/api/v1/messages";

/// A world that takes messages of a virtual host of its own.
struct Listening {
    world: World,
    url: String,
    channel: Channel,
    _connection: Connection,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Listening {
    async fn start(url: String) -> Self {
        let inbox = inbox(&url);
        Self::with(url, Arc::new(inbox)).await
    }

    async fn with(url: String, inbox: Arc<dyn Inbox>) -> Self {
        let world = World::with_inbox(Settings::default(), Some(inbox)).await;
        let (connection, channel) = channel(&url).await;
        let stop = CancellationToken::new();
        let mut this = Self { world, url, channel, _connection: connection, stop, task: None };
        this.run();
        // From here on there is a queue for what is told.
        this.until_waiting(0, 0).await;
        this
    }

    fn run(&mut self) {
        self.stop = CancellationToken::new();
        let run = self.world.controller.clone().run_messages(self.stop.clone());
        self.task = Some(tokio::spawn(run));
    }

    async fn end(&mut self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.task.take().expect("it runs")).await;
        ended.expect("all are settled").expect("it ends well");
    }

    async fn tell(&self, group: &str, revision: i64) {
        let body = json!({
            "specversion": "1.0", "id": "1", "source": "cmdb", "type": "group.changed",
            "time": "2026-01-02T03:04:05Z", "data": {"group": group, "revision": revision},
        });
        self.tell_text(&format!("group.changed.{group}"), &body.to_string()).await;
    }

    async fn tell_text(&self, key: &str, body: &str) {
        publish(&self.channel, key, body).await;
    }

    async fn until_waiting(&self, queued: u32, dead: u32) {
        let wanted = json!({"queued": queued, "dead": dead});
        let came = tokio::time::timeout(PATIENCE, async {
            loop {
                let reply = self.world.get(MESSAGES).await;
                if reply.status == 200 && reply.json() == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(came.await.is_ok(), "{} is not {wanted}", self.world.get(MESSAGES).await.text());
    }

    async fn until_revision(&self, group: &str, revision: i64) {
        let came = tokio::time::timeout(PATIENCE, async {
            while self.revision(group).await != Some(revision) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(came.await.is_ok(), "{:?} is not {revision}", self.revision(group).await);
    }

    async fn revision(&self, group: &str) -> Option<i64> {
        self.world.store.group_revision(group).await.expect("read")
    }

    fn calls(&self) -> u32 {
        self.world.cmdb.calls.load(Ordering::SeqCst)
    }
}

/// As the binary makes it.
fn inbox(url: &str) -> Guard<dyn Inbox> {
    let settings = amqp::Settings { url: url.to_owned(), topology: Topology::Declared };
    Guard::inbox("amqp", Arc::new(AmqpInbox::new(settings)))
}

async fn connect(url: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// A connection to a broker that is there, or comes back.
async fn channel(url: &str) -> (Connection, Channel) {
    let connected = tokio::time::timeout(PATIENCE, async {
        loop {
            // The client may wait for ever for an answer that died with the broker.
            let connected = tokio::time::timeout(CONNECTS_WITHIN, connect(url)).await;
            if let Ok(Ok(connected)) = connected {
                return connected;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    connected.await.expect("it is there")
}

async fn publish(channel: &Channel, key: &str, body: &str) {
    let (options, plain) = (BasicPublishOptions::default(), BasicProperties::default());
    let sent = async {
        let sent = channel.basic_publish(CMDB.into(), key.into(), options, body.as_bytes(), plain);
        sent.await.expect("sent").await.expect("it is there");
    };
    tokio::time::timeout(PATIENCE, sent).await.expect("in time");
}

async fn vhost() -> String {
    tokio::task::spawn_blocking(|| RabbitMq::shared().vhost()).await.expect("a vhost")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_refreshes_its_group_once_whatever_comes_again_or_out_of_order() {
    let mut listening = Listening::start(vhost().await).await;
    let cmdb = &listening.world.cmdb;
    // It is new, and its id has a dot.
    cmdb.put(record("web.prod", "web", 2));
    listening.tell("web.prod", 1).await;
    listening.until_revision("web.prod", 1).await;
    for _ in 0..4 {
        cmdb.put(record("web.prod", "web", 3));
    }
    listening.tell("web.prod", 5).await;
    listening.until_revision("web.prod", 5).await;
    let calls = listening.calls();
    for revision in [2, 5, 1, 4, 5, 3, 5] {
        listening.tell("web.prod", revision).await;
    }
    listening.tell_text("group.changed.x", "no JSON").await;
    // What comes after it says that all of them were taken.
    listening.until_waiting(0, 1).await;
    listening.end().await;
    listening.until_waiting(0, 1).await;
    assert_eq!(listening.calls(), calls, "what is known is not asked for");
    assert_eq!(listening.revision("web.prod").await, Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_laid_aside_and_can_be_replayed_when_its_cause_is_gone() {
    let listening = Listening::start(vhost().await).await;
    for poison in ["", "{}", r#"{"specversion": "1.0", "data": {"group": "a", "revision": "x"}}"#] {
        listening.tell_text("group.changed.a", poison).await;
    }
    listening.tell("late", 1).await;
    listening.until_waiting(0, 4).await;
    listening.world.cmdb.put(record("late", "late", 2));
    let replayed = listening.world.post(&format!("{MESSAGES}/replay"), json!({})).await.expect(200);
    assert_eq!((&replayed["replayed"], &replayed["left"]), (&json!(4), &json!(0)));
    listening.until_revision("late", 1).await;
    listening.until_waiting(0, 3).await;
    let one = listening.world.post(&format!("{MESSAGES}/replay"), json!({"limit": 1})).await;
    let one = one.expect(200);
    assert_eq!((&one["replayed"], &one["left"]), (&json!(1), &json!(2)));
    let wrong = listening.world.post(&format!("{MESSAGES}/replay"), json!({"limit": 0})).await;
    assert_eq!(wrong.problem(422, "invalid")["field"], "limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_while_the_cmdb_is_down_and_come_to_another_run() {
    let mut listening = Listening::start(vhost().await).await;
    let cmdb = listening.world.cmdb.clone();
    cmdb.put(record("web", "web", 2));
    cmdb.is_down.store(true, Ordering::SeqCst);
    listening.tell("web", 1).await;
    let asked = tokio::time::timeout(PATIENCE, async {
        while listening.calls() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    asked.await.expect("it is asked again");
    assert_eq!(listening.revision("web").await, None);
    listening.end().await;
    listening.until_waiting(1, 0).await;
    cmdb.is_down.store(false, Ordering::SeqCst);
    listening.run();
    listening.until_revision("web", 1).await;
    listening.until_waiting(0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cmdb_that_shows_less_than_it_told_of_is_not_believed() {
    let listening = Listening::start(vhost().await).await;
    listening.world.cmdb.put(record("web", "web", 2));
    listening.tell("web", 7).await;
    listening.until_waiting(0, 1).await;
    assert_eq!(listening.revision("web").await, Some(1), "what it shows is taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_died_is_listened_to_again() {
    let mut rabbit = tokio::task::spawn_blocking(RabbitMq::start).await.expect("it starts");
    let listening = Listening::start(rabbit.vhost()).await;
    listening.world.cmdb.put(record("web", "web", 2));
    rabbit.kill();
    listening.world.get(MESSAGES).await.problem(503, "broker_unavailable");
    rabbit.resume();
    let (_connection, channel) = channel(&listening.url).await;
    let body = json!({"specversion": "1.0", "data": {"group": "web", "revision": 1}});
    publish(&channel, "group.changed.web", &body.to_string()).await;
    listening.until_revision("web", 1).await;
}
