//! The hand switch of dependencies: what it answers, and what follows for groups and deployments.

use axum::http::Method;
use serde_json::{Value, json};

use crate::bad_input::{case, refused};
use crate::world::{Reply, World, id};

const EDGE: &str = "/api/v1/dependencies/load_balancer.edge";

async fn put(world: &World, path: &str, body: Value) -> Reply {
    world.write(Method::PUT, path, body, &[]).await
}

#[tokio::test]
async fn every_dependency_is_listed_with_its_breaker_and_its_switch() {
    let (world, _) = World::with_group().await;
    let all = world.items("/api/v1/dependencies").await;
    let names: Vec<&str> = all.iter().filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(names, ["cmdb", "executor.local", "load_balancer.edge", "packages"]);
    assert!(all.iter().all(|it| it["state"] == "closed" && it["cut_off"].is_null()), "{all:?}");
    assert!(all.iter().all(|it| it["groups"] == 1), "one group is there");
    let first = world.get("/api/v1/dependencies?limit=3").await.expect(200);
    let cursor = first["next_cursor"].as_str().expect("there are more");
    let rest = world.items(&format!("/api/v1/dependencies?limit=3&cursor={cursor}")).await;
    assert_eq!(rest.len(), 1);
}

#[tokio::test]
async fn a_cut_says_who_and_why_and_until_when_and_is_taken_back() {
    let (world, _) = World::with_group().await;
    let until = "2999-01-01T00:00:00Z";
    let body = json!({"cut_off": true, "reason": "ticket 17", "expires_at": until});
    let view = put(&world, EDGE, body).await.expect(200);
    let cut = &view["cut_off"];
    assert_eq!((&cut["by"], &cut["reason"]), (&json!("admin"), &json!("ticket 17")));
    assert_eq!(cut["expires_at"], until);
    let listed = world.items("/api/v1/dependencies").await;
    assert_eq!(listed.iter().filter(|it| !it["cut_off"].is_null()).count(), 1);
    let view = put(&world, EDGE, json!({"cut_off": false})).await.expect(200);
    assert!(view["cut_off"].is_null(), "{view}");
    put(&world, EDGE, json!({"cut_off": false, "reason": "it works"})).await.expect(200);
}

#[tokio::test]
async fn a_deployment_under_a_cut_balancer_says_what_it_does_without() {
    let (world, ids) = World::with_group().await;
    put(&world, EDGE, json!({"cut_off": true, "reason": "ticket 17"})).await.expect(200);
    let body = json!({"package": "1.1.0"});
    let path = format!("/api/v1/groups/{}/preview", ids.group);
    let plan = world.post(&path, body).await.expect(200);
    assert!(plan["notes"][0].as_str().is_some_and(|it| it.contains("ticket 17")), "{plan}");
    let view = world.start(&ids).await;
    assert_eq!(view["ran_without"][0]["dependency"], "load_balancer.edge", "{view}");
    assert_eq!(view["most_ours"], 1);
    put(&world, EDGE, json!({"cut_off": false})).await.expect(200);
    let view = world.get(&format!("/api/v1/deployments/{}", id(&view))).await.expect(200);
    assert!(view["most_ours"].is_null(), "{view}");
}

#[tokio::test]
async fn what_is_cut_off_is_a_warning_and_no_reason_to_be_away() {
    let (world, _) = World::with_group().await;
    let cut = json!({"cut_off": true, "reason": "ticket 17"});
    put(&world, EDGE, cut).await.expect(200);
    let ready = world.get("/readyz").await.expect(200);
    assert_eq!(ready["warnings"], json!(["load_balancer.edge: cut off"]), "no token, no reason");
    put(&world, EDGE, json!({"cut_off": false})).await.expect(200);
    assert_eq!(world.get("/readyz").await.expect(200)["warnings"], json!([]));
}

#[tokio::test]
async fn a_cut_executor_holds_the_deployment_until_it_is_restored() {
    let (world, ids) = World::with_group().await;
    let path = "/api/v1/dependencies/executor.local";
    put(&world, path, json!({"cut_off": true, "reason": "ticket 18"})).await.expect(200);
    let view = world.start(&ids).await;
    assert_eq!(view["holds"][0]["reason"], "dependency", "{view}");
    assert!(view["holds"][0]["detail"].as_str().is_some_and(|it| it.contains("ticket 18")));
    put(&world, path, json!({"cut_off": false})).await.expect(200);
    let view = world.get(&format!("/api/v1/deployments/{}", id(&view))).await.expect(200);
    assert_eq!(view["holds"], json!([]));
}

#[tokio::test]
async fn a_release_goes_out_from_the_cache_while_the_cmdb_is_away_and_says_how_old_it_is() {
    let (world, ids) = World::with_group().await;
    world.cmdb.is_down.store(true, std::sync::atomic::Ordering::SeqCst);
    let view = world.start(&ids).await;
    let without = &view["ran_without"][0];
    assert_eq!(without["dependency"], "cmdb", "{view}");
    let text = without["text"].as_str().expect("a sentence");
    assert!(text.contains("no answer") && text.contains(" s old"), "{text}");
}

#[tokio::test]
async fn a_draft_that_is_started_from_the_cache_says_so() {
    let (world, ids) = World::with_group().await;
    let body = json!({"group": ids.group, "package": "1.1.0", "start": false});
    let draft = world.post("/api/v1/deployments", body).await.expect(201);
    assert_eq!(draft["ran_without"], json!([]));
    world.cmdb.is_down.store(true, std::sync::atomic::Ordering::SeqCst);
    let path = format!("/api/v1/deployments/{}/start", id(&draft));
    let started = world.post(&path, json!({})).await.expect(200);
    assert_eq!(started["ran_without"][0]["dependency"], "cmdb", "{started}");
}

#[tokio::test]
async fn a_hand_switch_is_set_with_a_reason_for_a_known_dependency_only() {
    let (world, _) = World::with_group().await;
    let invalid = (422, "invalid");
    let put = |body: Value, refusal: (u16, &'static str), says: &'static str| {
        case(Method::PUT, "/api/v1/dependencies/cmdb", body, refusal, says)
    };
    let cut = |with: (&str, Value)| {
        let mut body = json!({"cut_off": true, "reason": "it is slow"});
        body[with.0] = with.1;
        body
    };
    refused(
        &world,
        vec![
            put(json!({}), invalid, "cut_off"),
            put(json!({"cut_off": true}), invalid, "reason"),
            put(json!({"cut_off": "yes", "reason": "x"}), invalid, "cut_off"),
            put(cut(("reason", json!(" "))), invalid, "reason"),
            put(cut(("reason", json!("x".repeat(501)))), invalid, "500"),
            put(cut(("why", json!("y"))), invalid, "why"),
            put(cut(("expires_at", json!("soon"))), invalid, "expires_at"),
            put(cut(("expires_at", json!("2020-01-01T00:00:00Z"))), invalid, "still to come"),
            put(
                json!({"cut_off": false, "expires_at": "2999-01-01T00:00:00Z"}),
                invalid,
                "expires_at",
            ),
            case(
                Method::PUT,
                "/api/v1/dependencies/load_balancer.mars",
                json!({"cut_off": true, "reason": "x"}),
                (404, "dependency_unknown"),
                "load_balancer.edge",
            ),
        ],
    )
    .await;
}
