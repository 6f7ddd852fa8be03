//! Messages of a CMDB through a real broker, to several controllers that take them from one queue.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use capstan_core::Timestamp;
use capstan_core::view::GroupView;
use capstan_services::{Database, RabbitMq};
use capstan_store::crash::MESSAGE_POINTS;
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use serde_json::{Value, json};

use crate::cli::capstan_at;
use crate::cmdb::{Serving, group};
use crate::harness::{LOOK_EVERY, PATIENCE, client};
use crate::messages::{answered, channel};

const EXCHANGE: &str = "cmdb";
const QUEUE: &str = "capstan.cmdb";
const GROUPS: u32 = 6;
const HOUR: Duration = Duration::from_hours(1);

/// A CMDB that counts how it is asked. All of its groups have the same revision.
#[derive(Debug, Default)]
struct Cmdb {
    revision: AtomicI64,
    /// How often all groups were asked for at once.
    lists: AtomicUsize,
}

/// When everything that is told has happened.
fn an_hour_ago() -> Timestamp {
    let since = (SystemTime::now() - HOUR).duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap())
}

fn name(place: u32) -> String {
    format!("web-{place}")
}

impl Cmdb {
    fn record(&self, place: u32) -> Value {
        let name = name(place);
        let mut record = group(self.revision.load(Ordering::SeqCst), 2);
        record["id"] = json!(name);
        record["name"] = json!(name);
        record["port"] = json!(place + 1);
        record["doc_base"] = json!(format!("/srv/{name}"));
        for server in record["servers"].as_array_mut().unwrap() {
            let own = format!("{name}-{}", server["id"].as_str().unwrap());
            (server["id"], server["hostname"]) = (json!(own), json!(own));
        }
        record
    }

    fn answer(&self, path: &str) -> Response {
        if path == "/api/groups" {
            self.lists.fetch_add(1, Ordering::SeqCst);
            let all: Vec<Value> = (0..GROUPS).map(|place| self.record(place)).collect();
            return json!({ "groups": all }).to_string().into_response();
        }
        let asked = path.trim_start_matches("/api/groups/");
        let found = (0..GROUPS).find(|place| name(*place) == asked);
        found.map_or(StatusCode::NOT_FOUND.into_response(), |place| {
            self.record(place).to_string().into_response()
        })
    }
}

async fn serve(cmdb: &Arc<Cmdb>) -> String {
    let cmdb = Arc::clone(cmdb);
    let answer = async move |request: axum::extract::Request| cmdb.answer(request.uri().path());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/api", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    url
}

/// Controllers over one database, one CMDB and one queue.
struct World {
    folder: tempfile::TempDir,
    database: Database,
    cmdb: Arc<Cmdb>,
    cmdb_url: String,
    broker: String,
    channel: Channel,
    _connection: lapin::Connection,
}

impl World {
    async fn start() -> Self {
        let cmdb = Arc::<Cmdb>::default();
        cmdb.revision.store(1, Ordering::SeqCst);
        let cmdb_url = serve(&cmdb).await;
        let broker = tokio::task::spawn_blocking(|| RabbitMq::shared().vhost()).await.unwrap();
        let (connection, channel) = channel(&broker).await;
        Self {
            folder: tempfile::tempdir().unwrap(),
            database: Database::shared(),
            cmdb,
            cmdb_url,
            broker,
            channel,
            _connection: connection,
        }
    }

    /// Starts a controller. It asks for all groups once, and not again before the test is over.
    async fn controller(&self, environment: &[(&str, &str)]) -> Serving {
        let own = [
            ("CAPSTAN__DATABASE__URL", self.database.url.as_str()),
            ("CAPSTAN__ROLES", "controller"),
            ("CAPSTAN__BROKER__URL", &self.broker),
            ("CAPSTAN__CMDB__POLL_SECONDS", "3600"),
            ("CAPSTAN__CMDB__STALE_AFTER_SECONDS", "7200"),
        ];
        let (folder, lists): (&Path, _) = (self.folder.path(), self.lists());
        let environment = [&own[..], environment].concat();
        let serving = Serving::start_with(folder, "http", &self.cmdb_url, &environment);
        let deadline = Instant::now() + PATIENCE;
        while self.lists() == lists {
            assert!(Instant::now() < deadline, "it does not ask the CMDB");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        serving
    }

    fn lists(&self) -> usize {
        self.cmdb.lists.load(Ordering::SeqCst)
    }

    /// Waits until so many controllers take messages.
    async fn until_listeners(&self, count: u32) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
            let queue = self.channel.queue_declare(QUEUE.into(), passive, FieldTable::default());
            let listeners = answered(queue).await.consumer_count();
            if listeners == count {
                return;
            }
            assert!(Instant::now() < deadline, "{listeners} take messages, and not {count}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn publish(&self, key: &str, body: &str) {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let properties = properties.with_delivery_mode(2);
        let (to, key, body) = (EXCHANGE.into(), key.into(), body.as_bytes());
        let sent = self.channel.basic_publish(to, key, options, body, properties);
        answered(async { sent.await?.await }).await;
    }

    async fn tell(&self, group: &str, revision: i64) {
        let body = json!({
            "specversion": "1.0", "id": "1", "source": "cmdb", "type": "group.changed",
            "time": an_hour_ago(), "data": {"group": group, "revision": revision},
        });
        self.publish(&format!("group.changed.{group}"), &body.to_string()).await;
    }

    /// Changes every group, and tells of each change twice, of the one before in between.
    async fn change(&self) -> i64 {
        let revision = self.cmdb.revision.fetch_add(1, Ordering::SeqCst) + 1;
        for told in [revision, revision - 1, revision] {
            for place in 0..GROUPS {
                self.tell(&name(place), told).await;
            }
        }
        revision
    }
}

async fn until_waiting(controller: &Serving, wanted: &Value) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let waiting: Value = controller.get("/api/v1/messages").await;
        if waiting == *wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{waiting} is not {wanted}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn all_have(revision: i64) -> impl Fn(&[GroupView]) -> bool {
    move |groups| {
        groups.len() == GROUPS as usize
            && groups.iter().all(|group| group.cmdb_revision == revision)
    }
}

/// Before it asks, before it acknowledges, and after that: what it had is done by the other one, which nobody
/// starts anew and which asks for no list.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_controller_had_taken_is_done_by_another() {
    let world = World::start().await;
    let stays = world.controller(&[]).await;
    stays.until("all groups are there", all_have(1)).await;
    for point in MESSAGE_POINTS {
        let mut dies = world.controller(&[("CAPSTAN_CRASH_AT", point)]).await;
        world.until_listeners(2).await;
        let lists = world.lists();
        let revision = world.change().await;
        dies.died().await;
        stays.until(point, all_have(revision)).await;
        until_waiting(&stays, &json!({"queued": 0, "dead": 0})).await;
        assert_eq!(world.lists(), lists, "{point}: messages alone brought it");
        world.until_listeners(1).await;
    }
}

/// What a number is in the metrics of a controller.
async fn metric(controller: &Serving, name: &str) -> Option<f64> {
    let text = client().get(format!("{}/metrics", controller.url)).send().await.unwrap();
    let text = text.text().await.unwrap();
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(told, _)| *told == name).map(|(_, value)| value.parse().unwrap())
}

async fn until_metric(controller: &Serving, name: &str, is_so: impl Fn(f64) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let value = metric(controller, name).await;
        if value.is_some_and(&is_so) {
            return;
        }
        assert!(Instant::now() < deadline, "{name} is {value:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How far behind it is, and what was laid aside, can be seen; and what was laid aside comes back by a command.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_what_was_laid_aside_is_counted_and_comes_back_by_command() {
    let world = World::start().await;
    let controller = world.controller(&[]).await;
    controller.until("all groups are there", all_have(1)).await;
    world.until_listeners(1).await;
    let capstan = async |words: &[&str]| {
        let output = capstan_at(&controller.url, &controller.token, words).await;
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{words:?}: {told}{:?}", output.stderr);
        told
    };
    for _ in 0..3 {
        world.publish("group.changed.web-1", "this is no JSON").await;
    }
    let told = world.change().await;
    controller.until("they are no obstacle", all_have(told)).await;
    until_waiting(&controller, &json!({"queued": 0, "dead": 3})).await;
    assert_eq!(capstan(&["message", "show"]).await, "0 wait, 3 were laid aside\n");
    let replayed = capstan(&["message", "replay", "--limit", "2"]).await;
    assert!(replayed.starts_with("2 are in the queue again"), "{replayed}");
    // They are as bad as they were.
    until_waiting(&controller, &json!({"queued": 0, "dead": 3})).await;

    until_metric(&controller, "capstan_cmdb_messages_dead", |count| count >= 3.0).await;
    until_metric(&controller, "capstan_cmdb_messages_waiting", |count| count < 1.0).await;
    let poison = "capstan_cmdb_messages_total{outcome=\"poison\"}";
    until_metric(&controller, poison, |count| count >= 5.0).await;
    // Of each message that was told with its time, from then until its record was stored.
    let lags = metric(&controller, "capstan_cmdb_message_age_seconds_count").await;
    let lag = metric(&controller, "capstan_cmdb_message_age_seconds_sum").await;
    assert_eq!(lags, Some(f64::from(3 * GROUPS)));
    let (lag, hour) = (lag.unwrap() / lags.unwrap(), HOUR.as_secs_f64());
    assert!((hour..hour + PATIENCE.as_secs_f64()).contains(&lag), "{lag} s, and not an hour");
}
