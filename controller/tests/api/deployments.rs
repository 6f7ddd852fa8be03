//! A release, from the plan to its end, as far as it goes without an engine.

use std::sync::atomic::Ordering;

use axum::http::Method;
use capstan_core::ports::Sight;
use capstan_services::Lines;
use serde_json::json;

use crate::fakes::record;
use crate::world::{World, id};

#[tokio::test]
async fn a_preview_changes_nothing_and_stands_for_the_plan() {
    let (world, ids) = World::with_group().await;
    let before = world.dump().await;
    let path = format!("/api/v1/groups/{}/preview", ids.group);
    let body = json!({"package": "1.1.0", "flavor": "rollout", "config": {"max_unavailable": 20}});
    let plan = world.post(&path, body.clone()).await.expect(200);
    assert_eq!(plan, world.post(&path, body).await.expect(200));
    world.dump().await.assert_is(&before, "a preview");
    for member in [
        "seed",
        "total",
        "b",
        "l",
        "free",
        "out",
        "left_out",
        "batches",
        "estimated_seconds",
        "plan_hash",
    ] {
        assert!(!plan[member].is_null(), "{member}");
    }
    assert_eq!((&plan["total"], &plan["b"]), (&json!(10), &json!(2)));
    assert_eq!(plan["batches"][0]["is_bastion"], true);
    assert_eq!(plan["batches"][0]["servers"][0]["hostname"], "web-1");
}

#[tokio::test]
async fn the_seed_of_a_preview_is_kept_and_gives_the_same_plan() {
    let (world, ids) = World::with_group().await;
    let path = format!("/api/v1/groups/{}/preview", ids.group);
    let plan = async |seed: &str| {
        let plan = world.post(&path, json!({"package": "1.1.0", "seed": seed})).await.expect(200);
        assert_eq!(plan["seed"], seed);
        plan
    };
    let (first, again, other) = (plan("first").await, plan("first").await, plan("other").await);
    assert_eq!(first, again);
    assert_ne!(first["batches"], other["batches"], "another seed, another order");
    // A deployment with that seed and hash is what was seen.
    let body = json!({
        "group": ids.group, "package": "1.1.0", "seed": "first", "plan_hash": first["plan_hash"],
    });
    let made = world.post("/api/v1/deployments", body).await.expect(201);
    assert_eq!((&made["seed"], &made["plan_hash"]), (&first["seed"], &first["plan_hash"]));
    let body = json!({
        "group": ids.group, "package": "1.1.0", "seed": "other", "plan_hash": first["plan_hash"],
    });
    let before = world.dump().await;
    world.post("/api/v1/deployments", body).await.problem(409, "stale_plan");
    world.dump().await.assert_is(&before, "the plan of another seed");
}

#[tokio::test]
async fn a_deployment_is_created_started_braked_and_revoked() {
    let (world, ids) = World::with_group().await;
    let body = json!({"group": ids.group, "package": "1.1.0"});
    let reply = world.post("/api/v1/deployments", body).await;
    let location = reply.header("location").to_owned();
    let draft = reply.expect(201);
    assert_eq!(location, format!("/api/v1/deployments/{}", id(&draft)));
    assert_eq!(draft["status"], "PENDING");
    assert_eq!(draft["created_by"], "admin");
    let act = async |action: &str| world.post(&format!("{location}/{action}"), json!({})).await;
    let started = act("start").await.expect(200);
    assert_eq!(started["status"], "SMOKING");
    assert_eq!(act("brake").await.expect(200)["shown_status"], "SMOKE_BRAKED");
    assert_eq!(act("resume").await.expect(200)["shown_status"], "SMOKING");
    let group = world.get(&format!("/api/v1/groups/{}", ids.group)).await.expect(200);
    assert_eq!(group["running_deployment"], draft["id"]);
    assert_eq!(act("revoke").await.expect(200)["status"], "REVOKED");
    let actions = world.items(&format!("{location}/actions")).await;
    let mut words: Vec<&str> = actions.iter().filter_map(|it| it["action"].as_str()).collect();
    words.sort_unstable();
    assert_eq!(
        words,
        [
            "deployment.brake",
            "deployment.create",
            "deployment.resume",
            "deployment.revoke",
            "deployment.start",
        ]
    );
}

#[tokio::test]
async fn actions_need_no_body() {
    let (world, ids) = World::with_group().await;
    let running = world.start(&ids).await;
    let path = format!("/api/v1/deployments/{}/brake", id(&running));
    let request = world.request(Method::POST, &path).body(axum::body::Body::empty());
    let braked = world.send(request.expect("a request")).await.expect(200);
    assert_eq!(braked["shown_status"], "SMOKE_BRAKED");
}

#[tokio::test]
async fn a_deployment_refreshes_the_group_and_looks_at_its_servers_first() {
    let (world, ids) = World::with_group().await;
    world.cmdb.put(record("web", "web", 12));
    world.balancer.sights.lock().expect("sights").insert("web-3".into(), Sight::Dead);
    let looks = world.balancer.looks.load(Ordering::SeqCst);
    let deployment = world.start(&ids).await;
    assert_eq!(deployment["total"], 12);
    assert!(world.balancer.looks.load(Ordering::SeqCst) > looks);
    let servers = world.items(&format!("/api/v1/groups/{}/servers", ids.group)).await;
    let dead = servers.iter().find(|it| it["hostname"] == "web-3").expect("web-3");
    assert_eq!((&dead["service"], &dead["out_because"]), (&json!("out"), &json!("dead")));
}

#[tokio::test]
async fn a_release_goes_out_from_the_cache_while_cmdb_and_balancer_are_down() {
    let (world, ids) = World::with_group().await;
    world.cmdb.is_down.store(true, Ordering::SeqCst);
    world.balancer.is_down.store(true, Ordering::SeqCst);
    assert_eq!(world.start(&ids).await["total"], 10);
}

#[tokio::test]
async fn a_group_whose_drivers_are_not_configured_cannot_be_released() {
    let (world, ids) = World::with_group().await;
    for (field, code) in
        [("load_balancer", "load_balancer_unknown"), ("executor", "executor_unknown")]
    {
        let mut group = record("web", "web", 10);
        if field == "executor" {
            group.executors = vec!["local".into(), "salt".into()];
        } else {
            group.load_balancer = "f5".into();
        }
        world.cmdb.put(group);
        world.post(&format!("/api/v1/groups/{}/sync", ids.group), json!({})).await.expect(200);
        let body = json!({"group": ids.group, "package": "1.1.0", "start": true});
        let problem = world.post("/api/v1/deployments", body).await.problem(409, code);
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(if field == "executor" { "local" } else { "edge" }), "{detail}");
    }
}

#[tokio::test]
async fn a_bad_package_is_marked_and_refused() {
    let (world, ids) = World::with_group().await;
    let path = "/api/v1/packages/web/1.1.0";
    let mark = json!({"bad": true, "reason": "leaks memory"});
    let marked = world.write(Method::PATCH, path, mark, &[]).await.expect(200);
    assert_eq!(marked["bad"], json!({"by": "admin", "reason": "leaks memory"}));
    let body = json!({"group": ids.group, "package": "1.1.0"});
    let problem = world.post("/api/v1/deployments", body.clone()).await.problem(409, "package_bad");
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("leaks memory")));
    let cleared = world.write(Method::PATCH, path, json!({"bad": false}), &[]).await.expect(200);
    assert_eq!(cleared["bad"], json!(null));
    world.post("/api/v1/deployments", body).await.expect(201);
}

#[tokio::test]
async fn a_server_is_pulled_out_left_out_and_put_back() {
    let (world, ids) = World::with_group().await;
    let servers = world.items(&format!("/api/v1/groups/{}/servers", ids.group)).await;
    let path = format!("/api/v1/servers/{}", id(&servers[4]));
    let pull = json!({"pulled_out": true, "reason": "disk"});
    let server = world.write(Method::PATCH, &path, pull.clone(), &[]).await.expect(200);
    assert_eq!(server["pulled_out"]["reason"], "disk");
    assert_eq!(server["pulled_out"]["by"], "admin");
    let reply = world.write(Method::PATCH, &path, pull, &[]).await;
    reply.problem(409, "already_pulled_out");
    let preview = format!("/api/v1/groups/{}/preview", ids.group);
    let plan = world.post(&preview, json!({"package": "1.1.0"})).await.expect(200);
    assert_eq!(plan["left_out"][0]["server"], servers[4]["id"]);
    let back = json!({"pulled_out": false});
    let server = world.write(Method::PATCH, &path, back, &[]).await.expect(200);
    assert_eq!(server["pulled_out"], json!(null));
}

#[tokio::test]
async fn an_application_is_added_by_hand() {
    let world = World::empty().await;
    let body = json!({"name": "shop", "owner": "bob", "bastion": "none"});
    let reply = world.post("/api/v1/applications", body).await;
    let location = reply.header("location").to_owned();
    let made = reply.expect(201);
    assert_eq!(made["kind"], "generic");
    assert_eq!(world.get(&location).await.expect(200), made);
}

#[tokio::test]
async fn a_load_balancer_that_stays_away_is_told_of_once() {
    let (world, ids) = World::with_group().await;
    let lines = Lines::default();
    let _watched = lines.watch();
    let create = async |version: &str| {
        let body = json!({"group": ids.group, "package": version});
        world.post("/api/v1/deployments", body).await.expect(201);
    };
    world.balancer.is_down.store(true, Ordering::SeqCst);
    for version in ["1.0.0", "1.1.0", "1.0.0"] {
        create(version).await;
    }
    assert_eq!(lines.count("WARN", "servers cannot be looked at"), 1, "{lines:?}");
    world.balancer.is_down.store(false, Ordering::SeqCst);
    create("1.1.0").await;
    create("1.1.0").await;
    assert_eq!(lines.count("INFO", "servers are looked at again"), 1, "{lines:?}");
}
