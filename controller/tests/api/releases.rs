//! Releases that an engine carries out: what can be asked of them at each step, and what is refused.

use axum::http::Method;
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::fakes::{record, sha256};
use crate::world::{Ids, World, id};

/// A world whose group was adopted with 1.0.0.
async fn adopted() -> (World, Ids) {
    let world = World::empty().await;
    for number in 1..=10 {
        world.executor.reports(&format!("web-{number}"), "1.0.0", &sha256(b"web 1.0.0"));
    }
    let ids = world.add_group("web", 10).await;
    let path = format!("/api/v1/groups/{}", ids.group);
    world.until(&path, |group| group["version"] == "1.0.0").await;
    (world, ids)
}

/// Creates and starts a deployment, whose batches begin without waits if `mode` is `auto`.
async fn release(world: &World, ids: &Ids, version: &str, mode: &str) -> String {
    let config = json!({"mode": mode, "batch_wait_seconds": 0, "tail_wait_seconds": 0});
    let body = json!({"group": ids.group, "package": version, "config": config, "start": true});
    id(&world.post("/api/v1/deployments", body).await.expect(201)).to_owned()
}

async fn act(world: &World, deployment: &str, action: &str, body: Value) -> Value {
    world.post(&format!("/api/v1/deployments/{deployment}/{action}"), body).await.expect(200)
}

/// Takes a release to its end.
async fn succeed(world: &World, engine: &mut Engine<'_>, deployment: &str) {
    engine.until(deployment, "SMOKE_SUCCESS").await;
    act(world, deployment, "bake", json!({})).await;
    engine.until(deployment, "BAKE_SUCCESS").await;
    act(world, deployment, "rollout", json!({})).await;
    engine.until(deployment, "SUCCESS").await;
}

/// Sends an action that must be refused, and compares; gives the problem.
async fn refused(world: &World, deployment: &str, action: &str, body: Value, code: &str) -> Value {
    let path = format!("/api/v1/deployments/{deployment}");
    let shown = world.get(&path).await.expect(200);
    let before = world.dump().await;
    let problem = world.post(&format!("{path}/{action}"), body).await.problem(409, code);
    world.dump().await.assert_is(&before, action);
    assert_eq!(problem["deployment"], deployment, "{problem}");
    assert_eq!(problem["deployment_status"], shown["status"], "{problem}");
    assert_eq!(problem["allowed_actions"], shown["allowed_actions"], "{problem}");
    problem
}

#[tokio::test]
async fn rollout_names_the_batch_that_is_next_and_no_other() {
    let (world, ids) = adopted().await;
    let mut engine = Engine::start(&world).await;
    let release = release(&world, &ids, "1.1.0", "manual").await;
    engine.until(&release, "SMOKE_SUCCESS").await;
    refused(&world, &release, "rollout", json!({"batch": 2}), "action_not_allowed").await;
    act(&world, &release, "bake", json!({})).await;
    engine.until(&release, "BAKE_SUCCESS").await;
    for batch in [0, 1, 3, 99] {
        let body = json!({ "batch": batch });
        let problem = refused(&world, &release, "rollout", body, "wrong_batch").await;
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(
            detail.contains(&format!("{batch} is not allowed; the next batch is 2")),
            "{detail}"
        );
    }
    let begun = act(&world, &release, "rollout", json!({"batch": 2})).await;
    assert_eq!(begun["status"], "ROLLING_OUT");
    assert_eq!(begun["batches"][1]["status"], "DEPLOYING", "{begun}");
    // While it deploys, none waits; afterwards the third does.
    let early = world.post(&format!("/api/v1/deployments/{release}/rollout"), json!({})).await;
    early.problem(409, "action_not_allowed");
    engine.until_batch(&release, 3, "WAITING").await;
    refused(&world, &release, "rollout", json!({"batch": 2}), "wrong_batch").await;
    let third = act(&world, &release, "rollout", json!({"batch": 3})).await;
    assert_eq!(third["batches"][2]["status"], "DEPLOYING", "{third}");
}

#[tokio::test]
async fn nothing_but_a_rollback_is_left_of_a_release_that_ended() {
    let (world, ids) = adopted().await;
    let mut engine = Engine::start(&world).await;
    let release = release(&world, &ids, "1.1.0", "auto").await;
    act(&world, &release, "brake", json!({})).await;
    refused(&world, &release, "brake", json!({}), "action_not_allowed").await;
    act(&world, &release, "resume", json!({})).await;
    refused(&world, &release, "resume", json!({}), "action_not_allowed").await;
    succeed(&world, &mut engine, &release).await;
    for action in ["start", "bake", "rollout", "retry", "brake", "resume", "revoke", "finish"] {
        let problem = refused(&world, &release, action, json!({}), "action_not_allowed").await;
        assert_eq!(problem["deployment_status"], "SUCCESS");
        assert_eq!(problem["allowed_actions"], json!(["rollback"]));
    }
}

#[tokio::test]
async fn a_failed_bastion_is_retried_or_finished() {
    let (world, ids) = adopted().await;
    let mut engine = Engine::start(&world).await;
    engine.broken.insert("web-1".into());
    let release = release(&world, &ids, "1.1.0", "auto").await;
    let failed = engine.until(&release, "SMOKE_FAILURE").await;
    for action in ["retry", "finish"] {
        assert!(failed["allowed_actions"].as_array().is_some_and(|it| it.contains(&json!(action))));
    }
    refused(&world, &release, "bake", json!({}), "action_not_allowed").await;
    assert_eq!(act(&world, &release, "retry", json!({})).await["status"], "SMOKING");
    engine.until(&release, "SMOKE_FAILURE").await;
    assert_eq!(act(&world, &release, "finish", json!({})).await["status"], "FAILURE");
    refused(&world, &release, "revoke", json!({}), "action_not_allowed").await;
}

#[tokio::test]
async fn targets_are_found_by_status() {
    let (world, ids) = adopted().await;
    let mut engine = Engine::start(&world).await;
    engine.broken.insert("web-1".into());
    let release = release(&world, &ids, "1.1.0", "auto").await;
    engine.until(&release, "SMOKE_FAILURE").await;
    let path = format!("/api/v1/deployments/{release}/targets");
    let failed = world.items(&format!("{path}?status=VERIFY_FAILURE")).await;
    assert_eq!(failed.len(), 1);
    assert_eq!((&failed[0]["hostname"], &failed[0]["batch"]), (&json!("web-1"), &json!(1)));
    assert_eq!((&failed[0]["cause"], &failed[0]["attempt"]), (&json!("failed"), &json!(1)));
    let pending = world.items(&format!("{path}?status=PENDING")).await;
    assert_eq!(pending.len(), 9);
    assert!(pending.iter().all(|target| target["status"] == "PENDING"));
    let second = world.items(&format!("{path}?status=PENDING&batch=2")).await;
    assert!(!second.is_empty() && second.iter().all(|target| target["batch"] == 2));
    assert_eq!(world.items(&format!("{path}?status=SUCCESS")).await.len(), 0);
    let problem = world.get(&format!("{path}?status=failed")).await.problem(422, "invalid");
    assert!(problem["allowed"].as_str().is_some_and(|text| text.contains("VERIFY_FAILURE")));
}

#[tokio::test]
async fn a_rollback_goes_to_what_is_proven_and_to_nothing_else() {
    let (world, ids) = adopted().await;
    let mut engine = Engine::start(&world).await;
    let first = id(&world.items("/api/v1/deployments").await[0]).to_owned();
    let draft = json!({"group": ids.group, "package": "1.1.0"});
    let draft = world.post("/api/v1/deployments", draft).await.expect(201);
    let revoked = release(&world, &ids, "1.1.0", "auto").await;
    act(&world, &revoked, "revoke", json!({})).await;
    let path = format!("/api/v1/groups/{}/rollback", ids.group);
    let before = world.dump().await;
    let to = |to: &str| json!({ "to": to });
    world.post(&path, to(&revoked)).await.problem(409, "package_not_proven");
    world.post(&path, to(id(&draft))).await.problem(404, "deployment_unknown");
    world.post(&path, to("1.0.0")).await.problem(422, "invalid");
    let verify = json!({"to": first, "config": {"ignore_verify": true}});
    world.post(&path, verify).await.problem(422, "invalid");
    world.dump().await.assert_is(&before, "refused rollbacks");

    let release = release(&world, &ids, "1.1.0", "auto").await;
    succeed(&world, &mut engine, &release).await;
    let nothing = world.post(&path, to(&release)).await.expect(200);
    assert_eq!(nothing, json!({"answer": "nothing_to_roll_back", "revoked": null}));
    let reply = world.post(&path, to(&first)).await;
    let location = reply.header("location").to_owned();
    let rollback = reply.expect(201);
    assert_eq!(location, format!("/api/v1/deployments/{}", id(&rollback)));
    assert_eq!((&rollback["flavor"], &rollback["total"]), (&json!("rollback"), &json!(10)));
    assert_eq!(rollback["package"]["version"], "1.0.0");
    engine.until(id(&rollback), "SUCCESS").await;
    let bad = json!({"bad": true, "reason": "it leaks"});
    world.write(Method::PATCH, "/api/v1/packages/web/1.1.0", bad, &[]).await.expect(200);
    let before = world.dump().await;
    world.post(&path, to(&release)).await.problem(409, "package_bad");
    world.dump().await.assert_is(&before, "a rollback to a bad package");
}

#[tokio::test]
async fn a_scaleout_takes_what_the_group_runs_to_its_new_servers() {
    let (world, ids) = World::with_group().await;
    let scaleout = |version: &str| json!({"group": ids.group, "package": version, "flavor": "scaleout", "start": true});
    let path = "/api/v1/deployments";
    let before = world.dump().await;
    let problem = world.post(path, scaleout("1.1.0")).await.problem(409, "package_not_proven");
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("use a rollout")));
    world.dump().await.assert_is(&before, "a scaleout of a group that runs nothing");

    let mut engine = Engine::start(&world).await;
    let release = release(&world, &ids, "1.1.0", "auto").await;
    succeed(&world, &mut engine, &release).await;
    world.cmdb.put(record("web", "web", 12));
    world.post(&format!("/api/v1/groups/{}/sync", ids.group), json!({})).await.expect(200);
    // The first call looks at the new servers and finds that they serve: that is seen, not asked for.
    world.post(path, scaleout("1.0.0")).await.problem(409, "package_not_proven");
    let before = world.dump().await;
    let problem = world.post(path, scaleout("1.0.0")).await.problem(409, "package_not_proven");
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("1.1.0")), "{problem}");
    world.dump().await.assert_is(&before, "a scaleout of another version");
    let scaled = world.post(path, scaleout("1.1.0")).await.expect(201);
    assert_eq!(
        (&scaled["flavor"], &scaled["counts"]),
        (&json!("scaleout"), &json!({"MARKDOWN_RUNNING": 2}))
    );
    let ended = engine.until(id(&scaled), "SUCCESS").await;
    assert_eq!(ended["counts"], json!({"SUCCESS": 2}));
}

#[tokio::test]
async fn the_audit_of_a_deployment_is_read_page_by_page() {
    let (world, ids) = World::with_group().await;
    let deployment = id(&world.start(&ids).await).to_owned();
    for action in ["brake", "resume", "brake"] {
        act(&world, &deployment, action, json!({})).await;
    }
    let path = format!("/api/v1/deployments/{deployment}/actions");
    let all = world.items(&path).await;
    assert_eq!(all.len(), 4);
    let mut read = Vec::new();
    let mut next = format!("{path}?limit=3");
    loop {
        let page = world.get(&next).await.expect(200);
        let items = page["items"].as_array().expect("items");
        assert!((1..=3).contains(&items.len()), "{page}");
        read.extend(items.clone());
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        next = format!("{path}?limit=3&cursor={cursor}");
    }
    assert_eq!(read, all);
}
