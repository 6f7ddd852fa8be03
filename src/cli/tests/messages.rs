//! Webhooks and messages on the command line.

use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::{Fake, ID, problem};

#[tokio::test]
async fn a_webhook_is_found_by_its_name_and_steered() {
    let view = json!({
        "id": ID, "name": "chat", "url": "https://chat.example/hook", "events": "deployment.*",
        "enabled": false, "disabled_because": "it answered 503", "created_by": "ann",
        "created_at": "2023-11-14T22:13:20Z", "failing_since": "2023-11-14T22:13:20Z",
        "failures": 7, "next_try_at": null, "delivered_at": null,
    });
    let call = json!({
        "event": format!("{ID}/3"), "type": "deployment.status", "attempt": 2,
        "at": "2023-11-14T22:13:20Z", "status": 503, "error": "it answered 503", "took_ms": 12,
    });
    let fake = Fake::start(move |asked, _| match (&asked.method, asked.path.as_str()) {
        (&Method::GET, "/api/v1/webhooks") => {
            json!({"items": [&view], "next_cursor": null}).to_string().into_response()
        }
        (&Method::GET, path) if path.ends_with("/deliveries") => {
            json!({"items": [&call], "next_cursor": null}).to_string().into_response()
        }
        (&Method::DELETE, _) => StatusCode::NO_CONTENT.into_response(),
        _ => view.to_string().into_response(),
    })
    .await;
    for command in [
        "webhook list",
        "webhook create chat --url https://chat.example/hook",
        "webhook show chat",
        "webhook enable chat",
        "webhook deliveries chat",
        "webhook delete chat",
    ] {
        assert_eq!(fake.run(command).await, 0, "{command}");
    }
    let replay = format!("webhook replay {ID} {ID} --after 4");
    assert_eq!(fake.run(&replay).await, 0);
    assert_ne!(fake.run("webhook show mail").await, 0, "there is none");
    let asked = fake.asked();
    let of = |method: Method| asked.iter().filter(move |it| it.method == method);
    let body = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
    let one = format!("/api/v1/webhooks/{ID}");
    let patch = of(Method::PATCH).next().expect("one is changed");
    assert_eq!((patch.path.as_str(), body(&patch.body)), (&*one, json!({"enabled": true})));
    assert_eq!(of(Method::DELETE).next().expect("one is removed").path, one);
    let replay = of(Method::POST).last().expect("one is sent again");
    assert_eq!(replay.path, format!("{one}/replay"));
    assert_eq!(body(&replay.body), json!({"deployment": ID, "after": 4}));
}

#[tokio::test]
async fn messages_are_counted_and_put_back_call_by_call() {
    // Each call puts back at most 700 of the 2,000 that are there, and one comes back at once.
    let dead = std::sync::atomic::AtomicU32::new(2_000);
    let fake = Fake::start(move |asked, _| {
        if asked.method == Method::GET {
            return json!({"queued": 1, "dead": 2}).to_string().into_response();
        }
        let body: Value = serde_json::from_slice(&asked.body).expect("JSON");
        let limit = body["limit"].as_u64().and_then(|it| u32::try_from(it).ok()).expect("a limit");
        let there = dead.load(std::sync::atomic::Ordering::SeqCst);
        let moved = limit.min(there).min(700);
        dead.store(there - moved + 1, std::sync::atomic::Ordering::SeqCst);
        json!({"replayed": moved, "left": there - moved}).to_string().into_response()
    })
    .await;
    assert_eq!(fake.run("message show").await, 0);
    assert_eq!(fake.run("message replay --limit 2").await, 0);
    assert_eq!(fake.run("message replay").await, 0);
    let asked = fake.asked();
    let limits: Vec<u64> = asked[1..]
        .iter()
        .map(|call| {
            assert_eq!(call.path, "/api/v1/messages/replay");
            let body: Value = serde_json::from_slice(&call.body).expect("JSON");
            body["limit"].as_u64().expect("a limit")
        })
        .collect();
    // 1,999 are there then: those that come back meanwhile are not asked for.
    assert_eq!(limits, [2, 10_000, 1_299, 599]);
}

#[tokio::test]
async fn a_replay_without_a_broker_is_told() {
    let fake = Fake::start(|_, _| problem(StatusCode::CONFLICT, "no_broker")).await;
    assert_ne!(fake.run("message replay").await, 0);
}
