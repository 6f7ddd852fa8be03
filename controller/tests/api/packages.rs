//! Archives: up, down, and never another content.

use std::future::IntoFuture;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{IF_RANGE, RANGE};
use axum::http::{Method, Request};
use capstan_controller::Settings;
use futures::StreamExt;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::dump::Dump;
use crate::fakes::sha256;
use crate::world::{PACKAGES, World};

const BYTES: &[u8] = b"an archive of some bytes";

#[tokio::test]
async fn an_archive_goes_up_and_comes_down() {
    let (world, _) = World::with_group().await;
    let path = "/api/v1/packages/web/2.0.0";
    let digest = sha256(BYTES);
    let reply = world.upload(path, BYTES, Some(&digest)).await;
    assert!(reply.header("location").ends_with("/2.0.0"));
    let made = reply.expect(201);
    assert_eq!((&made["sha256"], &made["size"]), (&json!(digest), &json!(BYTES.len())));
    assert_eq!(made["stored"], true);
    let again = world.upload(path, BYTES, None).await.expect(200);
    assert_eq!(again["id"], made["id"]);
    let archive = world.get(&format!("{path}/archive")).await;
    assert_eq!(archive.body, BYTES);

    // A host fetches it without a token, by digest.
    let get = async |range: Option<&str>, tag: Option<&str>| {
        let mut request = Request::get(format!("/packages/{digest}.tar.gz"));
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        if let Some(tag) = tag {
            request = request.header(IF_RANGE, tag);
        }
        world.send(request.body(Body::empty()).expect("a request")).await
    };
    let whole = get(None, None).await;
    assert_eq!((whole.status.as_u16(), whole.body.as_slice()), (200, BYTES));
    assert_eq!(whole.header("accept-ranges"), "bytes");
    let part = get(Some("bytes=3-9"), None).await;
    assert_eq!((part.status.as_u16(), part.body.as_slice()), (206, &BYTES[3..=9]));
    assert_eq!(part.header("content-range"), format!("bytes 3-9/{}", BYTES.len()));
    let rest = get(Some("bytes=20-"), None).await;
    assert_eq!((rest.status.as_u16(), rest.body.as_slice()), (206, &BYTES[20..]));
    let other = get(Some("bytes=3-9"), Some("\"another\"")).await;
    assert_eq!((other.status.as_u16(), other.body.as_slice()), (200, BYTES));
    let beyond = get(Some("bytes=900-"), None).await;
    assert_eq!(beyond.header("content-range"), format!("bytes */{}", BYTES.len()));
    beyond.problem(416, "range_not_satisfiable");
}

#[tokio::test]
async fn another_content_or_digest_is_refused_and_not_kept() {
    let (world, _) = World::with_group().await;
    let path = "/api/v1/packages/web/2.0.0";
    world.upload(path, BYTES, None).await.expect(201);
    let before = world.dump().await;
    world.upload(path, b"other", None).await.problem(409, "version_exists");
    let digest = sha256(b"other");
    world.upload(path, b"other", Some(&digest)).await.problem(409, "version_exists");
    let next = "/api/v1/packages/web/2.0.1";
    world.upload(next, BYTES, Some(&digest)).await.problem(422, "digest_mismatch");
    world.upload(next, BYTES, Some("abc")).await.problem(422, "invalid");
    world.upload(next, b"", None).await.problem(422, "empty_archive");
    world.upload("/api/v1/packages/web/.x", BYTES, None).await.problem(422, "invalid");
    world
        .upload("/api/v1/packages/no/2.0.1", BYTES, None)
        .await
        .problem(404, "application_unknown");
    world.dump().await.assert_is(&before, "refused uploads");
}

#[tokio::test]
async fn an_archive_beyond_the_limit_is_413() {
    let world = World::with(Settings { max_package_bytes: 10, ..Settings::default() }).await;
    let ids = world.add_group("web", 2).await;
    let path = format!("/api/v1/packages/{}/2.0.0", ids.application);
    let before = world.dump().await;
    world.upload(&path, b"12345678901", None).await.problem(413, "body_too_large");
    world.dump().await.assert_is(&before, "an archive beyond the limit");
    world.upload(&path, b"1234567890", None).await.expect(201);
}

#[tokio::test]
async fn an_archive_whose_sender_goes_away_is_not_kept() {
    let (world, _) = World::with_group().await;
    let before = world.dump().await;
    let path = "/api/v1/packages/web/2.0.0";
    // What a server's connection gives to the handler when it breaks.
    let parts = [Ok(BYTES.to_vec()), Err(std::io::Error::other("scripted: gone"))];
    let body = Body::from_stream(futures::stream::iter(parts));
    let request = world.request(Method::PUT, path).body(body).expect("a request");
    world.send(request).await.problem(400, "body_unreadable");
    world.dump().await.assert_is(&before, "a body that broke off");

    // And a connection that is really closed in the middle.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serving = tokio::spawn(axum::serve(listener, world.router.clone()).into_future());
    let mut connection = TcpStream::connect(address).await.expect("a connection");
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Length: 1000000\r\n\r\n",
        world.token
    );
    connection.write_all(head.as_bytes()).await.expect("it is sent");
    connection.write_all(&[7; 5000]).await.expect("it is sent");
    let is_under_way = |dump: &Dump| dump.count(PACKAGES) > before.count(PACKAGES);
    until(&world, "the upload begins", is_under_way).await;
    drop(connection);
    until(&world, "nothing of it is left", |dump| !is_under_way(dump)).await;
    world.dump().await.assert_is(&before, "a connection that was closed");
    world.get(path).await.problem(404, "package_unknown");
    serving.abort();
}

#[tokio::test]
async fn uploads_are_bounded_and_leave_room_when_they_end() {
    let (world, _) = World::with_group().await;
    let before = world.dump().await;
    let upload = |version: usize, body: Body| {
        let path = format!("/api/v1/packages/web/3.0.{version}");
        let request = world.request(Method::PUT, &path).body(body).expect("a request");
        world.router.clone().oneshot(request)
    };
    let slow = || {
        let first = futures::stream::iter([Ok::<_, std::io::Error>(BYTES.to_vec())]);
        Body::from_stream(first.chain(futures::stream::pending()))
    };
    let mut under_way: JoinSet<_> = (0..32).map(|version| upload(version, slow())).collect();
    let files = |dump: &Dump| dump.count(PACKAGES) - before.count(PACKAGES);
    until(&world, "all uploads are under way", |dump| files(dump) == 32).await;
    let reply = world.upload("/api/v1/packages/web/4.0.0", BYTES, None).await;
    assert_eq!(reply.header("retry-after"), "5");
    reply.problem(503, "too_many_uploads");
    under_way.shutdown().await;
    until(&world, "nothing of them is left", |dump| files(dump) == 0).await;
    world.dump().await.assert_is(&before, "uploads that were given up");
    world.upload("/api/v1/packages/web/4.0.0", BYTES, None).await.expect(201);
}

/// Waits until `wanted` holds of what is kept.
async fn until(world: &World, what: &str, wanted: impl Fn(&Dump) -> bool) {
    let reached = async {
        while !wanted(&world.dump().await) {
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(10);
    assert!(tokio::time::timeout(limit, reached).await.is_ok(), "not within {limit:?}: {what}");
}

#[tokio::test]
async fn an_archive_is_for_those_with_a_token_or_its_digest() {
    let (world, _) = World::with_group().await;
    world.upload("/api/v1/packages/web/2.0.0", BYTES, None).await.expect(201);
    let get = async |path: &str| {
        world.send(Request::get(path).body(Body::empty()).expect("a request")).await
    };
    for version in ["2.0.0", "9.9"] {
        let reply = get(&format!("/api/v1/packages/web/{version}/archive")).await;
        assert_eq!(reply.header("content-range"), "");
        reply.problem(401, "unauthorized");
    }
    assert_eq!(get(&format!("/packages/{}.tar.gz", sha256(BYTES))).await.body, BYTES);
}

#[tokio::test]
async fn an_upload_is_its_own_key() {
    let (world, _) = World::with_group().await;
    let path = "/api/v1/packages/web/2.0.0";
    let send = async |bytes: &[u8]| {
        let request = world.request(Method::PUT, path).header("idempotency-key", "one");
        world.send(request.body(Body::from(bytes.to_vec())).expect("a request")).await
    };
    let first = send(BYTES).await.expect(201);
    let again = send(BYTES).await;
    assert_eq!(again.header("idempotency-replayed"), "");
    assert_eq!(again.expect(200), first);
    send(b"other").await.problem(409, "version_exists");
}

#[tokio::test]
async fn an_upload_is_not_bound_by_the_limit_of_other_bodies() {
    let (world, _) = World::with_group().await;
    let large = vec![7_u8; 3 * 1024 * 1024];
    let made = world.upload("/api/v1/packages/web/3.0.0", &large, None).await.expect(201);
    assert_eq!(made["size"], large.len());
}

#[tokio::test]
async fn registering_again_is_the_same_package() {
    let (world, ids) = World::with_group().await;
    let body = |location: &str| {
        json!({"application": ids.application, "version": "4.0.0", "location": location,
            "sha256": sha256(BYTES)})
    };
    let first = world.post("/api/v1/packages", body("http://a.example/4")).await.expect(201);
    let second = world.post("/api/v1/packages", body("http://b.example/4")).await.expect(200);
    assert_eq!(first["id"], second["id"]);
    assert_eq!(second["locations"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn what_is_not_stored_is_404() {
    let (world, _) = World::with_group().await;
    world.get("/api/v1/packages/web/1.0.0/archive").await.problem(404, "archive_unknown");
    for file in [format!("{}.tar.gz", "0".repeat(64)), "x.tar.gz".into(), "..%2Fetc".into()] {
        let request = Request::builder().method(Method::GET).uri(format!("/packages/{file}"));
        let reply = world.send(request.body(Body::empty()).expect("a request")).await;
        reply.problem(404, "archive_unknown");
    }
}
