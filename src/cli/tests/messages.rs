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
async fn messages_are_counted_and_put_back() {
    let fake = Fake::start(|asked, _| match asked.method {
        Method::GET => json!({"queued": 1, "dead": 2}).to_string().into_response(),
        _ if asked.body.is_empty() => problem(StatusCode::CONFLICT, "no_broker"),
        _ => json!({"replayed": 2}).to_string().into_response(),
    })
    .await;
    assert_eq!(fake.run("message show").await, 0);
    assert_eq!(fake.run("message replay --limit 2").await, 0);
    let asked = fake.asked();
    assert_eq!(asked[1].path, "/api/v1/messages/replay");
    let body: Value = serde_json::from_slice(&asked[1].body).expect("JSON");
    assert_eq!(body, json!({"limit": 2}));
}
