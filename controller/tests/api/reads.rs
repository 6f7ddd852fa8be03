//! What can be read, and that a bad question is answered with what is allowed.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};

use crate::world::{World, id};

const NOBODY: &str = "0193a5c0-0000-7000-8000-00000000dead";

#[tokio::test]
async fn everything_can_be_read() {
    let (world, ids) = World::with_group().await;
    let group = world.get(&format!("/api/v1/groups/{}", ids.group)).await.expect(200);
    assert_eq!(group["name"], "web");
    assert_eq!(group["total"], 10);
    assert_eq!(group["in_service"], 10, "the first sync looks at servers: {group}");
    assert_eq!(group["stale"], false);
    assert!(group["synced_at"].is_string() && group["cmdb_revision"] == 1);
    let servers = world.items(&format!("/api/v1/groups/{}/servers", ids.group)).await;
    assert_eq!(servers.len(), 10);
    let server = world.get(&format!("/api/v1/servers/{}", id(&servers[0]))).await.expect(200);
    assert_eq!(server, servers[0]);
    let application =
        world.get(&format!("/api/v1/applications/{}", ids.application)).await.expect(200);
    for cached in [&server, &application] {
        assert_eq!((&cached["synced_at"], &cached["stale"]), (&group["synced_at"], &json!(false)));
    }
    // What the CMDB has never given is no cache.
    let shop = world.post("/api/v1/applications", json!({"name": "shop"})).await.expect(201);
    assert_eq!((&shop["synced_at"], &shop["stale"]), (&json!(null), &json!(false)));
    let versions = world.items(&format!("/api/v1/groups/{}/versions", ids.group)).await;
    assert_eq!(versions[0]["servers"], 10);
    let packages = world.items(&format!("/api/v1/applications/{}/packages", ids.application)).await;
    assert_eq!(packages.len(), 2);
    let package = world.get("/api/v1/packages/web/1.0.0").await.expect(200);
    assert_eq!(package["version"], "1.0.0");

    let deployment = world.start(&ids).await;
    let path = format!("/api/v1/deployments/{}", id(&deployment));
    let shown = world.get(&path).await.expect(200);
    for member in [
        "group",
        "package",
        "flavor",
        "status",
        "shown_status",
        "holds",
        "total",
        "b",
        "l",
        "counts",
        "batches",
        "allowed_actions",
        "waiting_for",
    ] {
        assert!(!shown[member].is_null(), "{member}");
    }
    let targets = world.items(&format!("{path}/targets")).await;
    assert_eq!(targets.len(), 10);
    let target = world.get(&format!("/api/v1/targets/{}", id(&targets[0]))).await.expect(200);
    assert_eq!(target["deployment"], deployment["id"]);
    let log = world.get(&format!("/api/v1/targets/{}/log", id(&targets[0]))).await.expect(200);
    assert_eq!(log["items"], json!([]));
    let actions = world.items(&format!("{path}/actions")).await;
    assert_eq!(actions[0]["action"], "deployment.create");
    assert_eq!(actions[0]["actor"], "admin");
    assert_eq!(actions[0]["answer"], "accepted");
}

#[tokio::test]
async fn lists_are_filtered_and_cut_into_pages() {
    let (world, ids) = World::with_group().await;
    world.add_group("shop", 3).await;
    let first = world.get("/api/v1/groups?limit=1").await.expect(200);
    assert_eq!(first["items"].as_array().map(Vec::len), Some(1));
    let cursor = first["next_cursor"].as_str().expect("a second page");
    let second = world.get(&format!("/api/v1/groups?limit=1&cursor={cursor}")).await.expect(200);
    assert_eq!(second["next_cursor"], Value::Null);
    assert_ne!(first["items"][0]["id"], second["items"][0]["id"]);
    let named = world.items("/api/v1/groups?name=web").await;
    assert_eq!(named.len(), 1);
    assert_eq!(id(&named[0]), ids.group);
    let path = format!("/api/v1/groups?application={}", ids.application);
    assert_eq!(world.items(&path).await.len(), 1);
    assert_eq!(world.items("/api/v1/applications?search=sho").await.len(), 1);
    let servers = format!("/api/v1/groups/{}/servers?limit=4", ids.group);
    let page = world.get(&servers).await.expect(200);
    assert_eq!(page["next_cursor"], "4");
    let rest = world.get(&format!("{servers}&cursor=8")).await.expect(200);
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(2));

    let deployment = world.start(&ids).await;
    assert_eq!(world.items("/api/v1/deployments?running=true").await.len(), 1);
    assert_eq!(world.items("/api/v1/deployments?status=SUCCESS").await.len(), 0);
    let path = format!("/api/v1/deployments?group={}&status=SMOKING", ids.group);
    assert_eq!(world.items(&path).await.len(), 1);
    let targets = format!("/api/v1/deployments/{}/targets", id(&deployment));
    assert_eq!(world.items(&format!("{targets}?batch=1")).await.len(), 1);
    assert_eq!(world.items(&format!("{targets}?status=MARKDOWN_RUNNING")).await.len(), 1);
}

#[tokio::test]
async fn what_is_not_there_is_404_and_what_is_no_id_400() {
    let (world, _) = World::with_group().await;
    for (path, code) in [
        (format!("/api/v1/applications/{NOBODY}"), "application_unknown"),
        (format!("/api/v1/applications/{NOBODY}/packages"), "application_unknown"),
        (format!("/api/v1/groups/{NOBODY}"), "group_unknown"),
        (format!("/api/v1/groups/{NOBODY}/servers"), "group_unknown"),
        (format!("/api/v1/groups/{NOBODY}/versions"), "group_unknown"),
        (format!("/api/v1/servers/{NOBODY}"), "server_unknown"),
        (format!("/api/v1/deployments/{NOBODY}"), "deployment_unknown"),
        (format!("/api/v1/deployments/{NOBODY}/targets"), "deployment_unknown"),
        (format!("/api/v1/deployments/{NOBODY}/events"), "deployment_unknown"),
        (format!("/api/v1/deployments/{NOBODY}/actions"), "deployment_unknown"),
        (format!("/api/v1/targets/{NOBODY}"), "target_unknown"),
        (format!("/api/v1/targets/{NOBODY}/log"), "target_unknown"),
        ("/api/v1/packages/web/9.9".to_owned(), "package_unknown"),
        ("/api/v1/packages/nothing/1.0.0".to_owned(), "application_unknown"),
        ("/api/v1/nothing".to_owned(), "unknown_path"),
    ] {
        world.get(&path).await.problem(404, code);
    }
    for path in ["/api/v1/groups/web", "/api/v1/deployments/1", "/api/v1/targets/x/log"] {
        let problem = world.get(path).await.problem(400, "invalid_id");
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains("a UUID")));
    }
}

#[tokio::test]
async fn a_bad_query_names_the_field_the_value_and_what_is_allowed() {
    let (world, ids) = World::with_group().await;
    let deployment = world.start(&ids).await;
    let deployment = format!("/api/v1/deployments/{}", id(&deployment));
    for (path, field, value, allowed) in [
        ("/api/v1/groups?limit=501".to_owned(), "limit", "501", "1 to 500"),
        ("/api/v1/groups?limit=0".to_owned(), "limit", "0", "1 to 500"),
        ("/api/v1/groups?limit=many".to_owned(), "limit", "many", "1 to 500"),
        ("/api/v1/groups?application=web".to_owned(), "application", "web", "UUID"),
        ("/api/v1/deployments?status=DONE".to_owned(), "status", "DONE", "SMOKING"),
        ("/api/v1/deployments?running=maybe".to_owned(), "running", "maybe", "true or false"),
        (format!("{deployment}/targets?batch=x"), "batch", "x", "whole number"),
        (format!("{deployment}/events?after=-1"), "after", "-1", "from 0"),
    ] {
        let problem = world.get(&path).await.problem(422, "invalid");
        assert_eq!(problem["field"], field, "{problem}");
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(value) && detail.contains(allowed), "{detail}");
    }
    let problem = world.get("/api/v1/groups?colour=red").await.problem(422, "invalid");
    assert_eq!(problem["field"], "colour");
    world.get("/api/v1/groups?cursor=%21%21").await.problem(400, "invalid_cursor");
    let servers = format!("/api/v1/groups/{}/servers?cursor=x", ids.group);
    world.get(&servers).await.problem(400, "invalid_cursor");
}

#[tokio::test]
async fn another_method_is_405_with_the_allowed_ones() {
    let world = World::empty().await;
    let request = world.request(Method::DELETE, "/api/v1/groups").body(Body::empty());
    let reply = world.send(request.expect("a request")).await;
    assert!(reply.header("allow").contains("GET"), "{:?}", reply.headers);
    reply.problem(405, "unknown_method");
}

#[tokio::test]
async fn the_interface_describes_itself() {
    let world = World::empty().await;
    let request = Request::get("/api/openapi.json").body(Body::empty()).expect("a request");
    let document = world.send(request).await.expect(200);
    let paths = document["paths"].as_object().expect("paths");
    for path in [
        "/api/v1/applications",
        "/api/v1/applications/{id}",
        "/api/v1/applications/{id}/packages",
        "/api/v1/groups",
        "/api/v1/groups/{id}",
        "/api/v1/groups/{id}/sync",
        "/api/v1/groups/{id}/servers",
        "/api/v1/groups/{id}/versions",
        "/api/v1/groups/{id}/preview",
        "/api/v1/groups/{id}/rollback",
        "/api/v1/servers/{id}",
        "/api/v1/packages",
        "/api/v1/packages/{application}/{version}",
        "/api/v1/packages/{application}/{version}/archive",
        "/api/v1/deployments",
        "/api/v1/deployments/{id}",
        "/api/v1/deployments/{id}/targets",
        "/api/v1/deployments/{id}/actions",
        "/api/v1/deployments/{id}/events",
        "/api/v1/deployments/{id}/{action}",
        "/api/v1/targets/{id}",
        "/api/v1/targets/{id}/log",
        "/api/v1/dependencies",
        "/api/v1/dependencies/{name}",
    ] {
        assert!(paths.contains_key(path), "{path} is not described");
    }
    let operations = paths.values().flat_map(|path| path.as_object().expect("operations").values());
    let mut names: Vec<&str> = operations.filter_map(|it| it["operationId"].as_str()).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "names of operations are unique");
    for schema in ["DeploymentView", "GroupView", "ProblemDocument", "Plan", "Event"] {
        assert!(document["components"]["schemas"][schema].is_object(), "{schema}");
    }
}

#[tokio::test]
async fn health_is_told_to_everybody() {
    let world = World::empty().await;
    let ask = async |path: &str| {
        world.send(Request::get(path).body(Body::empty()).expect("a request")).await
    };
    assert_eq!(ask("/healthz").await.expect(200)["live"], true);
    world.cmdb.faults.lock().expect("faults").push("group web: port: 0 is no port".into());
    let ready = ask("/readyz").await.expect(200);
    assert_eq!(ready["ready"], true);
    assert_eq!(ready["missing"], json!([]));
    assert_eq!(ready["warnings"][0], "cmdb: group web: port: 0 is no port");
    ask("/metrics").await.problem(501, "not_implemented");
}
