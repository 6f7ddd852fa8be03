//! A CMDB over HTTP whose groups change all the time. It tells of each change by two messages, which come late and out
//! of order.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use capstan_services::{Change, Changes};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Messages per second.
const RATE: u32 = 20;
const EXCHANGE: &str = "cmdb";
/// Where controllers take messages from.
pub(crate) const QUEUE: &str = "capstan.cmdb";
const PERSISTENT: u8 = 2;
/// How long the broker may take to let somebody in and to take a message.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What the CMDB says now.
#[derive(Debug)]
pub(crate) struct Cmdb {
    pub(crate) url: String,
    groups: Arc<Mutex<Vec<Value>>>,
}

impl Cmdb {
    /// Answers from now on, on a thread of its own, so that a busy test does not look like a dead CMDB.
    pub(crate) fn start(groups: Vec<Value>) -> Self {
        let groups = Arc::new(Mutex::new(groups));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}/api", listener.local_addr().unwrap());
        let router = axum::Router::new()
            .route("/api/groups", get(all))
            .route("/api/groups/{id}", get(one))
            .with_state(Arc::clone(&groups));
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, router).await
            })
        });
        Self { url, groups }
    }

    /// The revision and the virtual path that a group has now.
    pub(crate) fn newest(&self, group: usize) -> (i64, String) {
        let groups = self.groups.lock().unwrap();
        let (revision, path) = (&groups[group]["revision"], &groups[group]["virtual_path"]);
        (revision.as_i64().unwrap(), path.as_str().unwrap().to_owned())
    }

    /// Each revision says something else.
    fn change(&self, group: usize, revision: i64) {
        let mut groups = self.groups.lock().unwrap();
        groups[group]["revision"] = json!(revision);
        groups[group]["virtual_path"] = json!(format!("/r{revision}"));
    }

    fn id(&self, group: usize) -> String {
        self.groups.lock().unwrap()[group]["id"].as_str().unwrap().to_owned()
    }

    fn count(&self) -> usize {
        self.groups.lock().unwrap().len()
    }
}

async fn all(State(groups): State<Arc<Mutex<Vec<Value>>>>) -> Response {
    json!({ "groups": *groups.lock().unwrap() }).to_string().into_response()
}

async fn one(State(groups): State<Arc<Mutex<Vec<Value>>>>, Path(id): Path<String>) -> Response {
    let groups = groups.lock().unwrap();
    let found = groups.iter().find(|group| group["id"] == id);
    found.map_or(StatusCode::NOT_FOUND.into_response(), |group| group.to_string().into_response())
}

/// Changes the CMDB and tells of it, until it is ended.
#[derive(Debug)]
pub(crate) struct Teller {
    stop: CancellationToken,
    task: JoinHandle<usize>,
}

impl Teller {
    pub(crate) fn start(cmdb: Arc<Cmdb>, broker: &str, seed: u64) -> Self {
        let (stop, broker) = (CancellationToken::new(), broker.to_owned());
        let until = stop.clone();
        Self { stop, task: tokio::spawn(async move { tell(&cmdb, &broker, seed, &until).await }) }
    }

    /// Makes no more changes, and tells what is still to be told. Gives how many messages it were.
    pub(crate) async fn end(self) -> usize {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}

async fn tell(cmdb: &Cmdb, broker: &str, seed: u64, until: &CancellationToken) -> usize {
    let mut changes = Changes::new(cmdb.count(), usize::MAX, seed);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    // What could not be told while the broker was away is not told in a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut link, mut count) = (None, 0);
    loop {
        if until.is_cancelled() {
            changes.end();
        } else {
            ticks.tick().await;
        }
        match changes.next() {
            // The first is what all have begun with.
            Some(Change::Made(group, revision)) => cmdb.change(group, revision + 1),
            Some(Change::Told(group, revision)) => {
                let id = cmdb.id(group);
                while !is_taken(&mut link, broker, &id, revision + 1).await {
                    link = None;
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                count += 1;
            }
            None => return count,
        }
    }
}

type Link = Option<(Connection, Channel)>;

/// Whether the broker has a message for sure; else it may have it, and is told again.
async fn is_taken(link: &mut Link, broker: &str, group: &str, revision: i64) -> bool {
    let taken = tokio::time::timeout(ANSWERS_WITHIN, async {
        let (_, channel) = match link {
            Some(link) => link,
            none => none.insert(connect(broker).await?),
        };
        send(channel, group, revision).await
    });
    matches!(taken.await, Ok(Ok(true)))
}

async fn connect(url: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok((connection, channel))
}

/// One that no queue is there for is not taken.
async fn send(channel: &Channel, group: &str, revision: i64) -> lapin::Result<bool> {
    let body = json!({
        "specversion": "1.0", "id": format!("{group}/{revision}"), "source": "chaos",
        "type": "group.changed", "data": {"group": group, "revision": revision},
    });
    let (body, key) = (body.to_string(), format!("group.changed.{group}"));
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let (exchange, key) = (EXCHANGE.into(), key.into());
    let sent = channel.basic_publish(exchange, key, options, body.as_bytes(), properties).await?;
    let confirmation = sent.await?;
    Ok(confirmation.is_ack() && confirmation.take_message().is_none())
}
