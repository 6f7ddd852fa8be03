//! Webhooks against a real HTTP server.

use std::time::{Duration, Instant};

use axum::http::Method;
use capstan_controller::Settings;
use capstan_drivers::webhooks::{EVENT, SIGNATURE, signature};
use sea_orm::{ConnectionTrait, Database, DbBackend, Statement};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::receiver::{Got, PATIENCE, Receiver};
use crate::world::{DATABASE, Ids, World, id};

const HOOKS: &str = "/api/v1/webhooks";

/// A world that sends, and stops when the test is over.
struct Sending {
    world: World,
    ids: Ids,
    stop: CancellationToken,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Sending {
    async fn start(patience: Duration) -> Self {
        let settings = Settings {
            webhook_first_wait: Duration::from_millis(20),
            webhook_patience: patience,
            ..Settings::default()
        };
        let world = World::with(settings).await;
        let ids = world.add_group("web", 4).await;
        let stop = CancellationToken::new();
        tokio::spawn(world.controller.clone().run_messages(stop.clone()));
        Self { world, ids, stop }
    }

    async fn hook(&self, name: &str, url: &str, events: &str) -> Value {
        let body = json!({"name": name, "url": url, "events": events});
        self.world.post(HOOKS, body).await.expect(201)
    }

    /// Starts a release; gives the ids of its events, in their order.
    async fn release(&self) -> (String, Vec<String>) {
        let made = self.world.start(&self.ids).await;
        let deployment = id(&made).to_owned();
        (deployment.clone(), self.events(&deployment).await)
    }

    async fn events(&self, deployment: &str) -> Vec<String> {
        let path = format!("/api/v1/deployments/{deployment}/events?limit=500");
        let events = self.world.items(&path).await;
        events.iter().map(|event| format!("{deployment}/{}", event["seq"])).collect()
    }

    async fn view(&self, hook: &Value) -> Value {
        self.world.get(&format!("{HOOKS}/{}", id(hook))).await.expect(200)
    }

    /// What the audit says of webhooks that were switched off by themselves: who did it, to what, and why.
    async fn audit_of_disabled(&self) -> Vec<String> {
        let url = format!("sqlite://{}?mode=ro", self.world.folder().join(DATABASE).display());
        let database = Database::connect(url).await.expect("the database opens once more");
        let text = "SELECT actor || ' ' || subject || ' ' || answer || ': ' || detail FROM actions \
                    WHERE action = 'webhook.disable'";
        let end = Instant::now() + PATIENCE;
        loop {
            let statement = Statement::from_string(DbBackend::Sqlite, text);
            let rows = database.query_all_raw(statement).await.expect("the database answers");
            if !rows.is_empty() || Instant::now() > end {
                return rows.iter().map(|row| row.try_get_by_index(0).expect("a text")).collect();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn change(&self, hook: &Value, body: Value) -> Value {
        let path = format!("{HOOKS}/{}", id(hook));
        self.world.write(Method::PATCH, &path, body, &[]).await.expect(200)
    }
}

/// The calls about one deployment.
fn about(ids: &[String], deployment: &str) -> Vec<String> {
    ids.iter().filter(|id| id.starts_with(deployment)).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_comes_once_in_order_and_signed() {
    let (sending, receiver) = (Sending::start(PATIENCE).await, Receiver::default());
    let hook = sending.hook("chat", &receiver.start().await, "*").await;
    let secret = hook["secret"].as_str().expect("it is shown once").to_owned();
    let (deployment, events) = sending.release().await;
    assert!(events.len() >= 4, "{events:?}");
    let all = |got: &[Got]| got.iter().filter(|it| it.id().starts_with(&deployment)).count();
    receiver.until("all come", |got| all(got) >= events.len()).await;
    assert_eq!(about(&receiver.ids(), &deployment), events, "in their order, and once");
    for got in receiver.got() {
        let header = |name: &str| got.headers[name].to_str().expect("text").to_owned();
        assert_eq!(header("content-type"), "application/cloudevents+json");
        assert_eq!(header(EVENT), got.id());
        let signed = header(SIGNATURE);
        let (time, digest) = signed.split_once(",v1=").expect("two parts");
        let seconds: u64 = time.strip_prefix("t=").expect("a time").parse().expect("seconds");
        assert_eq!(digest, signature(&secret, seconds, &got.body));
    }
    let shown = sending.view(&hook).await;
    assert!(shown["secret"].is_null(), "it is not shown again");
    assert!(!shown["delivered_at"].is_null() || sending.view(&hook).await["failures"] == 0);
    let path = format!("{HOOKS}/{}/deliveries", id(&hook));
    let calls = sending
        .world
        .until(&path, |it| it["items"].as_array().is_some_and(|items| items.len() >= events.len()));
    let calls = calls.await;
    let first = calls["items"].as_array().expect("a list").last().expect("one").clone();
    assert_eq!((&first["attempt"], &first["status"]), (&json!(1), &json!(200)));
    assert!(first["error"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_failed_is_made_again_before_what_follows() {
    let (sending, receiver) = (Sending::start(PATIENCE).await, Receiver::default());
    let url = receiver.start().await;
    // The last of these would lead elsewhere; and an answer that never comes counts after its time.
    receiver.will_answer(&[500, 404, 302, 0]);
    let hook = sending.hook("chat", &url, "deployment.*").await;
    let (deployment, _) = sending.release().await;
    receiver.until("it is called again", |got| got.len() >= 6).await;
    let ids = receiver.ids();
    assert!(ids[..5].iter().all(|it| *it == ids[0]), "{ids:?}");
    assert_eq!(ids[0], format!("{deployment}/1"));
    assert_ne!(ids[5], ids[0], "it goes on");
    assert!(receiver.got().iter().all(|got| got.path == "/hook"), "no redirect is followed");
    let bodies: Vec<String> = receiver.got().iter().map(|got| got.body.clone()).collect();
    assert!(bodies[..5].iter().all(|it| *it == bodies[0]), "a repeat is the same");
    let path = format!("{HOOKS}/{}/deliveries?limit=500", id(&hook));
    let calls = sending
        .world
        .until(&path, |it| it["items"].as_array().is_some_and(|items| items.len() >= 6));
    let mut calls = calls.await["items"].as_array().expect("a list").clone();
    calls.reverse();
    let told: Vec<(u64, Option<u64>)> = calls[..5]
        .iter()
        .map(|call| (call["attempt"].as_u64().expect("a number"), call["status"].as_u64()))
        .collect();
    let expected = [(1, Some(500)), (2, Some(404)), (3, Some(302)), (4, None), (5, Some(200))];
    assert_eq!(told, expected);
    assert!(calls[3]["error"].as_str().is_some_and(|why| why.contains("no answer")));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_keeps_nobody_else_waiting() {
    let sending = Sending::start(PATIENCE).await;
    let (slow, quick) = (Receiver::default(), Receiver::default());
    slow.answers_always(Some(0));
    sending.hook("slow", &slow.start().await, "*").await;
    sending.hook("quick", &quick.start().await, "*").await;
    let (deployment, events) = sending.release().await;
    slow.until("it is called", |got| !got.is_empty()).await;
    quick.until("the other gets all", |got| got.len() >= events.len()).await;
    assert_eq!(about(&quick.ids(), &deployment), events);
    let first = slow.ids()[0].clone();
    assert!(slow.ids().iter().all(|it| *it == first), "what follows waits: {:?}", slow.ids());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_refused_for_good_holds_up_its_own_log_alone() {
    let patience = Duration::from_secs(4);
    let (sending, receiver) = (Sending::start(patience).await, Receiver::default());
    let hook = sending.hook("chat", &receiver.start().await, "deployment.*").await;
    let (stuck, _) = sending.release().await;
    receiver.refuses(&["capstan.deployment.hold_set", &stuck]);
    let brake = format!("/api/v1/deployments/{stuck}/brake");
    sending.world.post(&brake, json!({})).await.expect(200);
    let refused = async |count: usize| {
        let is_it = |got: &Got| got.body.contains("hold_set") && got.id().starts_with(&stuck);
        receiver
            .until("it is refused", |got| got.iter().filter(|it| is_it(it)).count() >= count)
            .await;
    };
    // Its waits are seconds by now.
    refused(8).await;
    let other = sending.world.add_group("shop", 4).await;
    let made = sending.world.start(&other).await;
    let going = id(&made).to_owned();
    let began = std::time::Instant::now();
    let wanted = format!("{going}/1");
    receiver.until("the other comes", |got| got.iter().any(|it| it.id() == wanted)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // As long as something is taken the webhook stays on, however long that one is refused.
    let end = std::time::Instant::now() + patience + Duration::from_secs(2);
    while std::time::Instant::now() < end {
        for action in ["brake", "resume"] {
            let path = format!("/api/v1/deployments/{going}/{action}");
            sending.world.post(&path, json!({})).await.expect(200);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let view = sending.view(&hook).await;
    assert_eq!(view["enabled"], true, "{view}");
    receiver.refuses(&[]);
    let events = sending.events(&stuck).await;
    let last = events.last().expect("there are some").clone();
    receiver.until("all of it comes", |got| got.iter().any(|it| it.id() == last)).await;
    let mut came = about(&receiver.ids(), &stuck);
    came.dedup();
    assert!(came.iter().all(|it| events.contains(it)), "{came:?}");
    let order: Vec<usize> =
        came.iter().filter_map(|it| events.iter().position(|event| event == it)).collect();
    assert!(order.is_sorted(), "{came:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_for_too_long_is_switched_off_and_misses_nothing() {
    let sending = Sending::start(Duration::from_millis(300)).await;
    let receiver = Receiver::default();
    receiver.answers_always(Some(503));
    let hook = sending.hook("chat", &receiver.start().await, "*").await;
    let (deployment, events) = sending.release().await;
    let path = format!("{HOOKS}/{}", id(&hook));
    let off = sending.world.until(&path, |it| it["enabled"] == false).await;
    assert_eq!(off["disabled_because"], "it answered 503");
    assert!(off["failures"].as_u64().is_some_and(|count| count > 1), "{off}");
    // Whoever was about to call it may do so once more.
    tokio::time::timeout(PATIENCE, async {
        let mut calls = usize::MAX;
        while std::mem::replace(&mut calls, receiver.got().len()) != receiver.got().len() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
    .await
    .expect("it is called no more");
    let told = sending.audit_of_disabled().await;
    let expected = format!("capstan {} accepted: it failed for 0 s: it answered 503", id(&hook));
    assert_eq!(told, [expected], "once");
    receiver.answers_always(None);
    let before = receiver.got().len();
    let on = sending.change(&hook, json!({"enabled": true})).await;
    assert!(on["disabled_because"].is_null() && on["failing_since"].is_null(), "{on}");
    receiver.until("it gets what it missed", |got| got.len() >= before + events.len()).await;
    assert_eq!(about(&receiver.ids()[before..], &deployment), events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_sent_again_with_the_same_ids() {
    let (sending, receiver) = (Sending::start(PATIENCE).await, Receiver::default());
    let hook = sending.hook("chat", &receiver.start().await, "*").await;
    let (deployment, events) = sending.release().await;
    receiver.until("all come", |got| got.len() >= events.len()).await;
    let before = receiver.got().len();
    let path = format!("{HOOKS}/{}/replay", id(&hook));
    let body = json!({"deployment": deployment, "after": 2});
    sending.world.post(&path, body).await.expect(202);
    let again = events.len() - 2;
    // More than was asked for comes again if it was not noted yet that it had come.
    receiver
        .until("the last comes again", |got| {
            let ids: Vec<String> = got[before..].iter().map(Got::id).collect();
            let ids = about(&ids, &deployment);
            ids.len() >= again && events.ends_with(&ids)
        })
        .await;
    let nobody = json!({"deployment": "0193a5c0-0000-7000-8000-00000000dead"});
    sending.world.post(&path, nobody).await.problem(404, "deployment_unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_wanted_is_called_and_nothing_once_it_is_off() {
    let (sending, receiver) = (Sending::start(PATIENCE).await, Receiver::default());
    let url = receiver.start().await;
    let hook = sending.hook("chat", &url, "deployment.status").await;
    let (deployment, _) = sending.release().await;
    receiver.until("the status comes", |got| !got.is_empty()).await;
    for got in receiver.got() {
        let body: Value = serde_json::from_str(&got.body).expect("JSON");
        assert_eq!(body["type"], "capstan.deployment.status");
    }
    assert!(receiver.ids()[0].starts_with(&deployment));
    let off = sending.change(&hook, json!({"enabled": false})).await;
    assert_eq!((&off["enabled"], &off["disabled_because"]), (&json!(false), &Value::Null));
    let path = format!("{HOOKS}/{}", id(&hook));
    let gone = sending.world.write(Method::DELETE, &path, json!({}), &[]).await;
    assert_eq!(gone.status, 204, "{}", gone.text());
    sending.world.get(&path).await.problem(404, "webhook_unknown");
    assert!(sending.world.items(HOOKS).await.is_empty());
}

#[tokio::test]
async fn what_reaches_inward_or_makes_no_sense_is_refused() {
    let world = World::empty().await;
    let good = json!({"name": "chat", "url": "https://example.com/hook"});
    let made = world.post(HOOKS, good.clone()).await;
    let place = made.header("location").to_owned();
    let made = made.expect(201);
    assert_eq!(place, format!("{HOOKS}/{}", id(&made)));
    assert_eq!(made["events"], "deployment.*");
    world.post(HOOKS, good).await.problem(409, "webhook_exists");
    let path = format!("{HOOKS}/{}", id(&made));
    for url in [
        "http://localhost.localdomain:x/",
        "http://127.0.0.2/",
        "http://[::1]/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest",
        "http://[fd00::1]/",
        "http://[::ffff:192.168.0.1]/",
        "ftp://example.com/",
        "https://ada:secret@example.com/",
    ] {
        let body = json!({"name": "other", "url": url});
        let problem = world.post(HOOKS, body).await.problem(422, "invalid");
        assert_eq!(problem["field"], "url", "{url}");
        let change = world.write(Method::PATCH, &path, json!({"url": url}), &[]).await;
        assert_eq!(change.problem(422, "invalid")["field"], "url", "{url}");
    }
    for (body, field) in [
        (json!({"name": " ", "url": "https://example.com/"}), "name"),
        (json!({"name": "x", "url": "https://example.com/", "events": "moon.*"}), "events"),
    ] {
        assert_eq!(world.post(HOOKS, body).await.problem(422, "invalid")["field"], field);
    }
    let nothing = world.write(Method::PATCH, &path, json!({}), &[]).await;
    nothing.problem(422, "invalid");
    let all = world.items(HOOKS).await;
    assert_eq!(all.len(), 1);
    world.get("/api/v1/messages").await.problem(409, "no_broker");
    world.post("/api/v1/messages/replay", json!({})).await.problem(409, "no_broker");
}
