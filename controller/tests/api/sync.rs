//! The cache of the CMDB.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::Method;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::fakes::record;
use crate::world::{World, id};

#[tokio::test]
async fn all_groups_are_synced_at_the_start_and_when_something_changes() {
    let world = World::empty().await;
    world.cmdb.put(record("web", "web", 4));
    let shutdown = CancellationToken::new();
    let sync = tokio::spawn(Arc::clone(&world.controller).run_sync(shutdown.clone()));
    let groups = world.until("/api/v1/groups", |page| page["items"][0]["in_service"] == 4).await;
    let group = id(&groups["items"][0]).to_owned();
    world.cmdb.put(record("web", "web", 5));
    world.cmdb.put(record("shop", "shop", 2));
    world.cmdb.change.notify_one();
    world.until("/api/v1/groups", |page| page["items"].as_array().map(Vec::len) == Some(2)).await;
    world.until(&format!("/api/v1/groups/{group}"), |group| group["total"] == 5).await;
    shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), sync).await;
    ended.expect("it ends soon").expect("without a panic");
}

#[tokio::test]
async fn refreshes_at_the_same_time_are_merged() {
    let (world, ids) = World::with_group().await;
    let path = format!("/api/v1/groups/{}/sync", ids.group);
    let before = world.cmdb.calls.load(Ordering::SeqCst);
    let sync = || world.post(&path, json!({}));
    let replies = tokio::join!(sync(), sync(), sync(), sync());
    for reply in [replies.0, replies.1, replies.2, replies.3] {
        reply.expect(200);
    }
    assert_eq!(world.cmdb.calls.load(Ordering::SeqCst) - before, 1);
}

#[tokio::test]
async fn a_refresh_that_would_remove_many_servers_waits_for_a_persons_word() {
    let (world, ids) = World::with_group().await;
    world.cmdb.put(record("web", "web", 1));
    let path = format!("/api/v1/groups/{}/sync", ids.group);
    let held = world.post(&path, json!({})).await.expect(200);
    assert_eq!(held["total"], 10);
    assert!(held["refresh_held"].is_string(), "{held}");
    let confirmed = world.post(&path, json!({"confirm": true})).await.expect(200);
    assert_eq!((&confirmed["total"], &confirmed["refresh_held"]), (&json!(1), &json!(null)));
}

#[tokio::test]
async fn a_refresh_without_the_cmdb_is_503_and_without_the_group_409() {
    let (world, ids) = World::with_group().await;
    let path = format!("/api/v1/groups/{}/sync", ids.group);
    world.cmdb.is_down.store(true, Ordering::SeqCst);
    let reply = world.post(&path, json!({})).await;
    assert_eq!(reply.header("retry-after"), "1");
    reply.problem(503, "cmdb_unavailable");
    world.cmdb.is_down.store(false, Ordering::SeqCst);
    world.cmdb.groups.lock().expect("groups").clear();
    world.cmdb.faults.lock().expect("faults").push("web.yaml:3: port: 0 is no port".into());
    let reply = world.write(Method::POST, &path, json!({}), &[]).await;
    let problem = reply.problem(409, "group_unknown_to_cmdb");
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("web.yaml:3")));
}
