//! A write that is sent again.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::json;

use crate::fakes::sha256;
use crate::world::World;

const KEY: &str = "idempotency-key";

#[tokio::test]
async fn the_same_key_and_body_give_the_first_answer_again() {
    let (world, ids) = World::with_group().await;
    let body = json!({"group": ids.group, "package": "1.1.0"});
    let path = "/api/v1/deployments";
    let first = world.write(Method::POST, path, body.clone(), &[(KEY, "one")]).await;
    let again = world.write(Method::POST, path, body.clone(), &[(KEY, "one")]).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(first.header("idempotency-replayed"), "");
    assert_eq!(first.expect(201), again.expect(201));
    assert_eq!(world.items(path).await.len(), 1);

    let other = json!({"group": ids.group, "package": "1.0.0"});
    let reply = world.write(Method::POST, path, other, &[(KEY, "one")]).await;
    reply.problem(422, "idempotency_other_body");
    world.write(Method::POST, path, body, &[(KEY, "two")]).await.expect(201);
    assert_eq!(world.items(path).await.len(), 2);
}

#[tokio::test]
async fn a_refusal_is_an_answer_too() {
    let (world, ids) = World::with_group().await;
    let body = json!({"group": ids.group, "package": "9.9"});
    for _ in 0..2 {
        let reply =
            world.write(Method::POST, "/api/v1/deployments", body.clone(), &[(KEY, "x")]).await;
        reply.problem(422, "package_unknown");
    }
}

#[tokio::test]
async fn requests_with_one_key_at_the_same_time_are_done_once() {
    let (world, ids) = World::with_group().await;
    let body = json!({"group": ids.group, "package": "1.1.0"});
    let send = || world.write(Method::POST, "/api/v1/deployments", body.clone(), &[(KEY, "k")]);
    let replies = tokio::join!(send(), send(), send());
    for reply in [replies.0, replies.1, replies.2] {
        if reply.status == 409 {
            assert_eq!(reply.header("retry-after"), "1");
            reply.problem(409, "idempotency_running");
        } else {
            reply.expect(201);
        }
    }
    assert_eq!(world.items("/api/v1/deployments").await.len(), 1);
}

#[tokio::test]
async fn failures_of_ours_are_forgotten() {
    let (world, ids) = World::with_group().await;
    let path = format!("/api/v1/groups/{}/sync", ids.group);
    world.cmdb.is_down.store(true, std::sync::atomic::Ordering::SeqCst);
    let reply = world.write(Method::POST, &path, json!({}), &[(KEY, "s")]).await;
    reply.problem(503, "cmdb_unavailable");
    world.cmdb.is_down.store(false, std::sync::atomic::Ordering::SeqCst);
    world.write(Method::POST, &path, json!({}), &[(KEY, "s")]).await.expect(200);
}

#[tokio::test]
async fn a_key_that_is_no_key_is_refused() {
    let (world, ids) = World::with_group().await;
    let body = json!({"group": ids.group, "package": "1.1.0"});
    let key = "k".repeat(256);
    for key in ["", key.as_str()] {
        let reply =
            world.write(Method::POST, "/api/v1/deployments", body.clone(), &[(KEY, key)]).await;
        reply.problem(422, "invalid");
    }
    assert_eq!(world.items("/api/v1/deployments").await.len(), 0);
}

#[tokio::test]
async fn a_request_that_breaks_off_does_not_take_its_key() {
    let (world, ids) = World::with_group().await;
    let body = json!({"group": ids.group, "package": "1.1.0"});
    let before = world.dump().await;
    let parts = [Ok(body.to_string().into_bytes()), Err(std::io::Error::other("scripted: gone"))];
    let request = world
        .request(Method::POST, "/api/v1/deployments")
        .header("content-type", "application/json")
        .header(KEY, "one");
    let broken = request.body(Body::from_stream(futures::stream::iter(parts)));
    world.send(broken.expect("a request")).await.problem(400, "body_unreadable");
    world.dump().await.assert_is(&before, "a request that broke off");
    let whole = world.write(Method::POST, "/api/v1/deployments", body, &[(KEY, "one")]).await;
    assert_eq!(whole.header("idempotency-replayed"), "");
    whole.expect(201);
}

#[tokio::test]
async fn a_key_belongs_to_its_token_and_path() {
    let (world, ids) = World::with_group().await;
    let hash = sha256(b"cap_other");
    world.store.token_create("other", &hash).await.expect("a store");
    let path = format!("/api/v1/groups/{}/preview", ids.group);
    let send = async |token: &str, path: &str| {
        let request = Request::post(path)
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .header(KEY, "one");
        let body = json!({"package": "1.1.0"}).to_string();
        world.send(request.body(Body::from(body)).expect("a request")).await
    };
    let other = world.add_group("shop", 2).await;
    let elsewhere = format!("/api/v1/groups/{}/preview", other.group);
    for (token, path) in
        [(world.token.as_str(), &path), ("cap_other", &path), ("cap_other", &elsewhere)]
    {
        for replayed in ["", "true"] {
            let reply = send(token, path).await;
            assert_eq!(reply.header("idempotency-replayed"), replayed, "{path}");
            reply.expect(200);
        }
    }
}
