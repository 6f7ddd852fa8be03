//! Groups that grow by themselves.

use std::sync::Arc;
use std::time::Duration;

use capstan_core::ports::{CmdbGroup, Sight};
use capstan_core::record::ScaleOut;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fakes::{record, sha256};
use crate::world::{World, id};

fn automatic(servers: usize) -> CmdbGroup {
    CmdbGroup { scale_out: ScaleOut::Automatic, ..record("web", "web", servers) }
}

/// A group of four that runs 1.0.0, whose fifth and sixth server will not serve yet.
async fn group_of_four(world: &World) -> String {
    let ids = world.add_group("web", 4).await;
    for number in 1..=4 {
        world.executor.reports(&format!("web-{number}"), "1.0.0", &sha256(b"web 1.0.0"));
    }
    for number in 5..=6 {
        world
            .balancer
            .sights
            .lock()
            .expect("nobody panicked")
            .insert(format!("web-{number}"), Sight::Dead);
    }
    let path = format!("/api/v1/groups/{}", ids.group);
    world.post(&format!("{path}/sync"), json!({})).await.expect(200);
    world.until(&path, |group| group["version"] == "1.0.0").await;
    path
}

async fn end(shutdown: &CancellationToken, sync: JoinHandle<()>) {
    shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(30), sync).await;
    ended.expect("it ends in time").expect("it ends without a panic");
}

fn newest(page: &Value) -> &Value {
    &page["items"][0]
}

#[tokio::test]
async fn new_servers_of_an_automatic_group_get_its_version_once() {
    let world = World::empty().await;
    let path = group_of_four(&world).await;
    let shutdown = CancellationToken::new();
    let sync = tokio::spawn(Arc::clone(&world.controller).run_sync(shutdown.clone()));
    world.cmdb.put(automatic(6));
    world.cmdb.change.notify_one();
    let all = "/api/v1/deployments";
    let page = world.until(all, |page| newest(page)["flavor"] == "scaleout").await;
    let scaleout = world.get(&format!("{all}/{}", id(newest(&page)))).await.expect(200);
    assert_eq!(scaleout["package"]["version"], "1.0.0");
    assert_eq!(scaleout["created_by"], "capstan");
    let targets = world.items(&format!("{all}/{}/targets", id(&scaleout))).await;
    let mut hosts: Vec<&str> = targets.iter().filter_map(|it| it["hostname"].as_str()).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["web-5", "web-6"]);
    let audit = world.items(&format!("{all}/{}/actions", id(&scaleout))).await;
    assert_eq!(audit[0]["actor"], "capstan", "{audit:?}");

    // Who was taken once is left to people.
    world.post(&format!("{all}/{}/revoke", id(&scaleout)), json!({})).await.expect(200);
    world.cmdb.put(automatic(6));
    let revision = world.get(&path).await.json()["cmdb_revision"].as_i64().expect("a number");
    world.cmdb.change.notify_one();
    world.until(&path, |group| group["cmdb_revision"].as_i64() > Some(revision)).await;
    end(&shutdown, sync).await;
    // What the sync left to be done in the background has a turn before the next one.
    world.post(&format!("{path}/sync"), json!({})).await.expect(200);
    let page = world.get(all).await.json();
    assert_eq!(id(newest(&page)), id(&scaleout), "{page}");
}

#[tokio::test]
async fn a_group_that_is_not_all_of_one_version_waits_for_a_person() {
    let world = World::empty().await;
    let path = group_of_four(&world).await;
    // Whatever a release left behind: one server runs something else by the record.
    world.execute("UPDATE server_states SET running_proven_at = NULL WHERE service = 'in'").await;
    let shutdown = CancellationToken::new();
    let sync = tokio::spawn(Arc::clone(&world.controller).run_sync(shutdown.clone()));
    world.cmdb.put(automatic(6));
    world.cmdb.change.notify_one();
    world.until(&path, |group| group["total"] == 6).await;
    end(&shutdown, sync).await;
    let page = world.get("/api/v1/deployments").await.json();
    assert_eq!(newest(&page)["flavor"], "adopted");
}

#[tokio::test]
async fn new_servers_of_another_group_wait_for_a_person() {
    let world = World::empty().await;
    let path = group_of_four(&world).await;
    let shutdown = CancellationToken::new();
    let sync = tokio::spawn(Arc::clone(&world.controller).run_sync(shutdown.clone()));
    world.cmdb.put(record("web", "web", 6));
    world.cmdb.change.notify_one();
    world.until(&path, |group| group["total"] == 6).await;
    end(&shutdown, sync).await;
    let page = world.get("/api/v1/deployments").await.json();
    assert_eq!(newest(&page)["flavor"], "adopted");
}
