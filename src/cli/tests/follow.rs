//! Following: the live stream, its ends and its interruptions; output that grows.

use serde_json::{Value, json};

use super::*;

fn event(seq: i64, to: &str) -> String {
    let event = json!({
        "seq": seq, "at": "2023-11-14T22:13:20Z", "type": "deployment.status", "group": ID,
        "deployment": ID, "actor": "capstan", "data": {"from": "SMOKING", "to": to}
    });
    format!("id: {seq}\nevent: deployment.status\ndata: {event}\n\n")
}

/// A deployment whose log ends with `last_seq`.
fn deployment(status: &str, last_seq: i64, waits: &Value) -> Response {
    let mut view = sample(status, status);
    view["last_seq"] = last_seq.into();
    view["waiting_for"] = waits.clone();
    axum::Json(view).into_response()
}

fn click() -> Value {
    json!([{"what": "click", "on": "bake", "since": "2023-11-14T22:13:20Z", "who": "ann",
        "until": null, "text": "Look at them, then bake."}])
}

fn stream(text: String) -> Response {
    ([("content-type", "text/event-stream")], text).into_response()
}

/// A stream that stays open after `text`.
fn open_stream(text: String) -> Response {
    use futures::StreamExt;
    let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(text))]);
    let body = Body::from_stream(first.chain(futures::stream::pending()));
    ([("content-type", "text/event-stream")], body).into_response()
}

fn no_targets() -> Response {
    axum::Json(json!({"items": [], "next_cursor": null})).into_response()
}

#[tokio::test]
async fn a_watch_goes_on_where_the_stream_broke_off_and_ends_with_the_deployment() {
    for (status, code) in [("SUCCESS", 0), ("FAILURE", 1), ("REVOKED", 2)] {
        let fake = Fake::start(move |asked, before| match asked.path.rsplit('/').next() {
            Some("targets") => no_targets(),
            Some("events") => match before {
                0 => open_broken(event(1, "SMOKING")),
                1 => problem(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams"),
                2 => stream(event(2, "SMOKE_SUCCESS")),
                _ => open_stream(event(3, status) + "event: end\ndata: {}\n\n"),
            },
            _ if before == 0 => deployment("SMOKING", 1, &json!([])),
            _ => deployment(status, 3, &json!([])),
        })
        .await;
        let line = format!("deployment watch {ID} --from-start");
        assert_eq!(fake.run(&line).await, code, "{status}");
        let asked = fake.asked();
        let streams = asked.iter().filter(|asked| asked.path.ends_with("/events"));
        let places: Vec<&str> = streams.map(|asked| asked.header("last-event-id")).collect();
        assert_eq!(places, ["0", "1", "1", "2"]);
    }
}

fn open_broken(text: String) -> Response {
    let parts = [Ok(Bytes::from(text)), Err(std::io::Error::other("gone"))];
    let slow = futures::StreamExt::then(futures::stream::iter(parts), async |part| {
        // The first part must have left before the connection breaks.
        if part.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        part
    });
    ([("content-type", "text/event-stream")], Body::from_stream(slow)).into_response()
}

#[tokio::test]
async fn a_watch_until_a_click_ends_when_a_person_must_decide() {
    let fake = Fake::start(move |asked, before| match asked.path.rsplit('/').next() {
        Some("targets") => no_targets(),
        Some("events") => open_stream(event(2, "SMOKE_SUCCESS")),
        _ if before == 0 => deployment("SMOKING", 1, &json!([])),
        _ => deployment("SMOKE_SUCCESS", 2, &click()),
    })
    .await;
    assert_eq!(fake.run(&format!("deployment watch {ID} --until-click")).await, 3);
}

#[tokio::test]
async fn what_ended_before_is_not_waited_for() {
    let fake = Fake::start(move |asked, _| match asked.path.rsplit('/').next() {
        Some("targets") => no_targets(),
        _ => deployment("REVOKED", 9, &json!([])),
    })
    .await;
    assert_eq!(fake.run(&format!("deployment watch {ID}")).await, 2);
    assert!(fake.asked().iter().all(|asked| !asked.path.ends_with("/events")));
}

#[tokio::test]
async fn a_watch_of_nothing_is_an_error() {
    let fake = Fake::start(|_, _| problem(StatusCode::NOT_FOUND, "deployment_unknown")).await;
    assert_eq!(fake.run(&format!("deployment watch {ID}")).await, 4);
}

#[tokio::test]
async fn output_is_followed_by_bytes_until_the_target_is_at_rest() {
    let target = |status: &str| {
        let target = json!({
            "id": ID, "deployment": ID, "batch": 1, "place": 1, "server": ID, "hostname": "web-1",
            "instance": "", "ip_address": "10.0.0.1", "status": status,
            "status_since": "2023-11-14T22:13:20Z", "attempt": 1, "cause": null, "message": null,
            "unknown_since": null, "skipped": false, "unverified": false, "order_digest": null
        });
        axum::Json(target).into_response()
    };
    let part = |text: &str, bytes: u64| {
        let item = json!({"stage": "install", "attempt": 1, "key": ID, "text": text,
            "at": "2023-11-14T22:13:20Z", "bytes": bytes});
        axum::Json(json!({"items": [item], "offset": 0, "limit": 9})).into_response()
    };
    let fake = Fake::start(move |asked, before| match (asked.path.ends_with("/log"), before) {
        (false, 0) => target("INSTALL_RUNNING"),
        (false, _) => target("INSTALL_FAILURE"),
        // One byte that is no UTF-8 is three in the text.
        (true, 0) => part("a\u{fffd}", 2),
        (true, _) => part("bc", 4),
    })
    .await;
    assert_eq!(fake.run(&format!("target log {ID} --follow")).await, 0);
    let asked = fake.asked();
    let logs = asked.iter().filter(|asked| asked.path.ends_with("/log"));
    let queries: Vec<&str> = logs.map(|asked| asked.query.as_str()).collect();
    assert_eq!(queries, ["offset=0&limit=1048576", "offset=2&limit=1048576"]);
}
