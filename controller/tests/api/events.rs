//! What happened, as a list and as a live stream.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::Method;
use axum::http::header::ACCEPT;
use capstan_controller::Settings;
use futures::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::world::{World, id};

/// A live stream that is read piece by piece.
struct Stream {
    body: BodyDataStream,
    text: String,
}

/// One event of a stream.
#[derive(Debug)]
struct Sent {
    id: Option<i64>,
    kind: String,
    data: Value,
}

impl Stream {
    async fn open(world: &World, path: &str, last: Option<i64>) -> Self {
        let mut request = world.request(Method::GET, path).header(ACCEPT, "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last.to_string());
        }
        let request = request.body(Body::empty()).expect("a request");
        let response = world.router.clone().oneshot(request).await.expect("a router never fails");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next event; none: the stream has ended.
    async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let sent = parse(block);
                self.text = rest.into();
                match sent {
                    Some(sent) => return Some(sent),
                    None => continue,
                }
            }
            let part = tokio::time::timeout(Duration::from_secs(10), self.body.next()).await;
            let part = part.expect("something comes soon")?;
            let part = part.expect("a stream never fails");
            self.text.push_str(std::str::from_utf8(&part).expect("text"));
        }
    }
}

fn parse(block: &str) -> Option<Sent> {
    let field = |name: &str| {
        block
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
    };
    let kind = field("event")?;
    let data = serde_json::from_str(&field("data")?).expect("JSON");
    Some(Sent { id: field("id").map(|id| id.parse().expect("a number")), kind, data })
}

#[tokio::test]
async fn the_list_is_read_page_by_page() {
    let (world, ids) = World::with_group().await;
    let deployment = world.start(&ids).await;
    let path = format!("/api/v1/deployments/{}/events", id(&deployment));
    let all = world.items(&path).await;
    let seqs: Vec<i64> = all.iter().filter_map(|event| event["seq"].as_i64()).collect();
    let expected: Vec<i64> = (1..).take(seqs.len()).collect();
    assert_eq!(seqs, expected, "without gaps, from 1");
    assert_eq!(all[0]["type"], "deployment.created");
    let first = world.get(&format!("{path}?limit=2")).await.expect(200);
    assert_eq!(first["next_cursor"], "2");
    let rest = world.items(&format!("{path}?after=2")).await;
    assert_eq!(rest[..], all[2..]);
}

#[tokio::test]
async fn a_live_stream_misses_nothing_repeats_nothing_and_ends() {
    let (world, ids) = World::with_group().await;
    let deployment = world.start(&ids).await;
    let path = format!("/api/v1/deployments/{}", id(&deployment));
    let mut stream = Stream::open(&world, &format!("{path}/events"), None).await;
    let mut seen = Vec::new();
    let past = world.items(&format!("{path}/events")).await.len();
    for _ in 0..past {
        seen.push(stream.next().await.expect("an event of before"));
    }
    world.post(&format!("{path}/brake"), json!({})).await.expect(200);
    world.post(&format!("{path}/resume"), json!({})).await.expect(200);
    world.post(&format!("{path}/revoke"), json!({})).await.expect(200);
    while let Some(sent) = stream.next().await {
        seen.push(sent);
    }
    let end = seen.pop().expect("an end");
    assert_eq!((end.kind.as_str(), end.id), ("end", None));
    let all = world.items(&format!("{path}/events")).await;
    let sent: Vec<&Value> = seen.iter().map(|sent| &sent.data).collect();
    assert_eq!(sent, all.iter().collect::<Vec<_>>());
    for sent in &seen {
        assert_eq!(sent.id, sent.data["seq"].as_i64());
        assert_eq!(sent.kind, sent.data["type"]);
    }

    // One that comes again goes on where it stopped, and one that has everything ends at once.
    let mut again = Stream::open(&world, &format!("{path}/events?after=1"), Some(3)).await;
    assert_eq!(again.next().await.expect("an event").id, Some(4));
    let last = i64::try_from(all.len()).expect("few events");
    let mut done = Stream::open(&world, &format!("{path}/events"), Some(last)).await;
    assert_eq!(done.next().await.expect("an end").kind, "end");
    assert!(done.next().await.is_none());
}

#[tokio::test]
async fn streams_are_bounded_and_close_on_shutdown() {
    let world = World::with(Settings { max_streams: 1, ..Settings::default() }).await;
    let ids = world.add_group("web", 4).await;
    let deployment = world.start(&ids).await;
    let path = format!("/api/v1/deployments/{}/events", id(&deployment));
    let mut stream = Stream::open(&world, &path, None).await;
    let request = world.request(Method::GET, &path).header(ACCEPT, "text/event-stream");
    let reply = world.send(request.body(Body::empty()).expect("a request")).await;
    assert_eq!(reply.header("retry-after"), "5");
    reply.problem(503, "too_many_streams");
    while stream.next().await.is_some_and(|sent| sent.kind != "batch.status") {}
    world.controller.close_streams();
    while let Some(sent) = stream.next().await {
        assert_ne!(sent.kind, "end", "it has not ended, only this connection does");
    }
    drop(stream);
    Stream::open(&world, &path, None).await;
}

#[tokio::test]
async fn a_place_that_is_no_place_is_refused() {
    let (world, ids) = World::with_group().await;
    let deployment = world.start(&ids).await;
    let path = format!("/api/v1/deployments/{}/events", id(&deployment));
    let request = world
        .request(Method::GET, &path)
        .header(ACCEPT, "text/event-stream")
        .header("last-event-id", "yesterday");
    let reply = world.send(request.body(Body::empty()).expect("a request")).await;
    assert_eq!(reply.problem(422, "invalid")["field"], "Last-Event-ID");
}
