//! The cache of the CMDB.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::Method;
use capstan_controller::Settings;
use capstan_core::share::Share;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fakes::record;
use crate::world::{World, id};

/// Syncs all the time.
struct Syncing {
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Syncing {
    /// Starts, and waits for the only group, which has four servers. Gives its path.
    async fn start(world: &World) -> (String, Self) {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(&world.controller).run_sync(shutdown.clone()));
        let is_there = |page: &Value| page["items"][0]["in_service"] == 4;
        let groups = world.until("/api/v1/groups", is_there).await;
        (format!("/api/v1/groups/{}", id(&groups["items"][0])), Self { shutdown, task })
    }

    async fn end(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(5), self.task).await;
        ended.expect("it ends soon").expect("without a panic");
    }
}

#[tokio::test]
async fn all_groups_are_synced_at_the_start_and_when_something_changes() {
    let world = World::empty().await;
    world.cmdb.put(record("web", "web", 4));
    let (path, syncing) = Syncing::start(&world).await;
    world.cmdb.put(record("web", "web", 5));
    world.cmdb.put(record("shop", "shop", 2));
    world.cmdb.change.notify_one();
    world.until("/api/v1/groups", |page| page["items"].as_array().map(Vec::len) == Some(2)).await;
    world.until(&path, |group| group["total"] == 5).await;
    syncing.end().await;
}

/// An old list brings back nothing that was replaced since it was read, and a new one brings what is new.
#[tokio::test]
async fn without_revisions_what_a_list_says_is_asked_for_again() {
    let world = World::empty().await;
    world.cmdb.put_bare(record("web", "web", 4));
    let (path, syncing) = Syncing::start(&world).await;
    let old = world.cmdb.groups.lock().expect("no test has panicked").clone();
    world.cmdb.put_bare(record("web", "web", 6));
    let asked = world.cmdb.calls.load(Ordering::SeqCst);
    world.cmdb.change.notify_one();
    world.until(&path, |group| group["total"] == 6).await;
    world.cmdb.until_asked(asked + 2).await;

    *world.cmdb.old_list.lock().expect("no test has panicked") = Some(old);
    let before = world.get(&path).await.expect(200);
    world.cmdb.change.notify_one();
    let after = world.until(&path, |group| group["synced_at"] != before["synced_at"]).await;
    assert_eq!((&after["total"], &after["cmdb_revision"]), (&json!(6), &json!(0)));
    syncing.end().await;
}

/// A confirmed refresh that asked before a change does not come to write after one that asked later.
#[tokio::test]
async fn a_confirmed_refresh_waits_for_its_turn_and_is_waited_for() {
    let world = World::empty().await;
    world.cmdb.put_bare(record("web", "web", 4));
    let (path, syncing) = Syncing::start(&world).await;
    let before = world.cmdb.calls.load(Ordering::SeqCst);
    world.cmdb.hold("web");
    let sync_path = format!("{path}/sync");
    let confirmed = world.post(&sync_path, json!({"confirm": true}));
    let later = async {
        world.cmdb.until_asked(before + 1).await;
        world.cmdb.put_bare(record("web", "web", 6));
        let later = world.post(&sync_path, json!({}));
        let let_go = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(world.cmdb.calls.load(Ordering::SeqCst), before + 1, "it has its turn");
            world.cmdb.let_go("web");
        };
        futures::join!(later, let_go).0
    };
    let (confirmed, later) = futures::join!(confirmed, later);
    confirmed.expect(200);
    assert_eq!(later.expect(200)["total"], 6);
    assert_eq!(world.get(&path).await.expect(200)["total"], 6);
    syncing.end().await;
}

#[tokio::test]
async fn refreshes_that_are_asked_for_while_one_is_under_way_share_the_next_one() {
    let (world, ids) = World::with_group().await;
    let path = format!("/api/v1/groups/{}/sync", ids.group);
    let before = world.cmdb.calls.load(Ordering::SeqCst);
    world.cmdb.hold("web");
    let sync = async || world.post(&path, json!({})).await.expect(200);
    let others = async {
        world.cmdb.until_asked(before + 1).await;
        // The call under way does not know of this.
        world.cmdb.put(record("web", "web", 11));
        let all = futures::future::join_all((0..199).map(|_| sync()));
        let let_go = async {
            // Long enough that all have come.
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.cmdb.let_go("web");
        };
        futures::join!(all, let_go).0
    };
    let (_, others) = futures::join!(sync(), others);
    for other in others {
        assert_eq!((&other["total"], &other["cmdb_revision"]), (&json!(11), &json!(2)));
    }
    assert_eq!(world.cmdb.calls.load(Ordering::SeqCst) - before, 2);
}

#[tokio::test]
async fn a_release_is_not_started_with_a_record_that_was_asked_for_before() {
    let (world, ids) = World::with_group().await;
    let body = json!({"group": ids.group, "package": "1.1.0", "start": false});
    let made = world.post("/api/v1/deployments", body).await.expect(201);
    let before = world.cmdb.calls.load(Ordering::SeqCst);
    world.cmdb.hold("web");
    let path = format!("/api/v1/groups/{}/sync", ids.group);
    let early = world.post(&path, json!({}));
    let start = async {
        world.cmdb.until_asked(before + 1).await;
        world.cmdb.put(record("web", "web", 11));
        let path = format!("/api/v1/deployments/{}/start", id(&made));
        let start = world.post(&path, json!({}));
        let let_go = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            world.cmdb.let_go("web");
        };
        futures::join!(start, let_go).0.expect(200)
    };
    let (early, started) = futures::join!(early, start);
    early.expect(200);
    let targets = |status: &str| started["counts"][status].as_u64().expect("a count");
    assert_eq!(targets("MARKDOWN_RUNNING") + targets("PENDING"), 11, "{started}");
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
async fn the_settings_say_how_many_servers_may_leave_without_a_persons_word() {
    for (share, servers, is_held) in [(20, 7, true), (20, 8, false), (100, 1, false)] {
        let hold_above = Share::percent(share);
        let world = World::with(Settings { hold_above, ..Settings::default() }).await;
        let ids = world.add_group("web", 10).await;
        world.cmdb.put(record("web", "web", servers));
        let path = format!("/api/v1/groups/{}/sync", ids.group);
        let group = world.post(&path, json!({})).await.expect(200);
        assert_eq!(group["refresh_held"].is_string(), is_held, "{group}");
        assert_eq!(group["total"], if is_held { 10 } else { servers }, "{group}");
    }
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
