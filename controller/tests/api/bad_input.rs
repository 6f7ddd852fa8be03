//! A refused call says why and changes nothing.

use axum::body::Body;
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::fakes::sha256;
use crate::world::{World, id};

const NOBODY: &str = "0193a5c0-0000-7000-8000-00000000dead";

/// A call, and how it is refused.
pub(crate) struct Case {
    method: Method,
    path: String,
    body: Value,
    status: u16,
    code: &'static str,
    says: &'static str,
}

pub(crate) fn case(
    method: Method,
    path: impl Into<String>,
    body: Value,
    (status, code): (u16, &'static str),
    says: &'static str,
) -> Case {
    Case { method, path: path.into(), body, status, code, says }
}

/// Sends every case and compares everything that is kept, before and after.
pub(crate) async fn refused(world: &World, cases: Vec<Case>) {
    let before = world.dump().await;
    for case in cases {
        let label = format!("{} {} {}", case.method, case.path, case.body);
        let reply = world.write(case.method, &case.path, case.body, &[]).await;
        assert_eq!(reply.status, case.status, "{label}: {}", reply.text());
        let problem = reply.problem(case.status, case.code);
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(case.says), "{label}: {detail}");
        world.dump().await.assert_is(&before, &label);
    }
}

#[tokio::test]
async fn a_bad_deployment_changes_nothing() {
    let (world, ids) = World::with_group().await;
    let (group, path) = (ids.group.as_str(), "/api/v1/deployments");
    let with = |name: &str, value: Value| {
        let mut body = json!({"group": group, "package": "1.1.0"});
        body[name] = value;
        body
    };
    let config = |name: &str, value: Value| with("config", json!({ name: value }));
    let invalid = (422, "invalid");
    let create = |body: Value, refusal: (u16, &'static str), says: &'static str| {
        case(Method::POST, path, body, refusal, says)
    };
    refused(
        &world,
        vec![
            create(json!({}), invalid, "group"),
            create(json!({"group": group}), invalid, "package"),
            create(json!([1]), invalid, "[0]"),
            create(json!([group, "1.1.0"]), invalid, "a JSON object"),
            create(with("config", json!([25])), invalid, "config: [25] is not allowed"),
            create(with("group", json!("web")), invalid, "UUID"),
            create(with("group", json!(7)), invalid, "group"),
            create(with("group", json!(NOBODY)), (422, "group_unknown"), NOBODY),
            create(with("package", json!("9.9")), (422, "package_unknown"), "9.9"),
            create(with("package", json!(NOBODY)), (422, "package_unknown"), NOBODY),
            create(with("package", json!(true)), invalid, "package"),
            create(with("flavor", json!("rollback")), invalid, "rollout or scaleout"),
            create(with("flavor", json!("fast")), invalid, "unknown variant `fast`"),
            create(with("colour", json!("red")), invalid, "unknown field `colour`"),
            create(with("start", json!("yes")), invalid, "start"),
            create(with("seed", json!("")), invalid, "seed"),
            create(with("queue", json!(true)), (501, "not_implemented"), "queue"),
            create(with("ignore_verify_reason", json!("x")), invalid, "ignore_verify"),
            create(config("max_unavailable", json!(51)), invalid, "1 to 50"),
            create(config("max_unavailable", json!(0)), invalid, "max_unavailable: 0"),
            create(config("max_unavailable", json!(100)), invalid, "go dark"),
            create(config("max_unavailable", json!(300)), invalid, "max_unavailable"),
            create(config("max_unavailable", json!("25")), invalid, "config.max_unavailable"),
            create(config("max_failure", json!(101)), invalid, "0 to 100"),
            create(config("batch_pattern", json!("10%+20%")), invalid, "sum up to 30%"),
            create(config("batch_pattern", json!("50%+50%")), invalid, "max_unavailable, 25%"),
            create(config("batch_pattern", json!("ten")), invalid, "write shares like"),
            create(config("mode", json!("fast")), invalid, "config.mode"),
            create(config("batch_wait_seconds", json!(1801)), invalid, "0 to 1800"),
            create(config("startup_timeout_seconds", json!(2)), invalid, "3 to 10800"),
            create(config("ignore_verify", json!(true)), invalid, "ignore_verify_reason"),
            create(config("speed", json!(9)), invalid, "unknown field `speed`"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_stale_plan_is_refused_with_the_fresh_one() {
    let (world, ids) = World::with_group().await;
    let preview = format!("/api/v1/groups/{}/preview", ids.group);
    let seen = world.post(&preview, json!({"package": "1.1.0"})).await.expect(200);
    let before = world.dump().await;
    let body = json!({"group": ids.group, "package": "1.1.0", "plan_hash": "0".repeat(64)});
    let problem = world.post("/api/v1/deployments", body).await.problem(409, "stale_plan");
    assert_eq!(problem["plan"]["plan_hash"], seen["plan_hash"]);
    world.dump().await.assert_is(&before, "a refused call");
    let hash = &seen["plan_hash"];
    let body = json!({"group": ids.group, "package": "1.1.0", "plan_hash": hash});
    let created = world.post("/api/v1/deployments", body).await.expect(201);
    assert_eq!(created["plan_hash"], *hash);
}

#[tokio::test]
async fn a_busy_group_and_actions_that_are_not_allowed_are_refused() {
    let (world, ids) = World::with_group().await;
    let running = world.start(&ids).await;
    let path = format!("/api/v1/deployments/{}", id(&running));
    let before = world.dump().await;
    let body = json!({"group": ids.group, "package": "1.0.0", "start": true});
    let problem = world.post("/api/v1/deployments", body).await.problem(409, "deployment_running");
    assert_eq!(problem["deployment"], running["id"]);
    assert_eq!(problem["deployment_status"], "SMOKING");
    assert!(problem["allowed_actions"].as_array().is_some_and(|it| it.contains(&json!("brake"))));
    for action in ["start", "bake", "rollout", "retry", "resume", "finish"] {
        let reply = world.post(&format!("{path}/{action}"), json!({})).await;
        let problem = reply.problem(
            409,
            if action == "start" { "deployment_running" } else { "action_not_allowed" },
        );
        assert_eq!(problem["deployment_status"], "SMOKING");
        assert!(problem["allowed_actions"].as_array().is_some_and(|it| !it.is_empty()));
    }
    world.dump().await.assert_is(&before, "a refused call");
    refused(
        &world,
        vec![
            case(
                Method::POST,
                format!("{path}/explode"),
                json!({}),
                (404, "action_unknown"),
                "bake",
            ),
            case(
                Method::POST,
                format!("{path}/rollback"),
                json!({}),
                (404, "action_unknown"),
                "bake",
            ),
            case(
                Method::POST,
                format!("{path}/brake"),
                json!({"batch": 1}),
                (422, "invalid"),
                "batch",
            ),
            case(Method::POST, format!("{path}/brake"), json!({"why": 1}), (422, "invalid"), "why"),
            case(
                Method::POST,
                format!("/api/v1/deployments/{NOBODY}/brake"),
                json!({}),
                (404, "deployment_unknown"),
                NOBODY,
            ),
            case(
                Method::POST,
                "/api/v1/deployments/x/brake",
                json!({}),
                (400, "invalid_id"),
                "UUID",
            ),
        ],
    )
    .await;
    // Refused ones are in the audit.
    let actions = world.items(&format!("{path}/actions")).await;
    let answers: Vec<&str> = actions.iter().filter_map(|it| it["answer"].as_str()).collect();
    assert!(answers.contains(&"action_not_allowed") && answers.contains(&"invalid"), "{answers:?}");
}

#[tokio::test]
async fn bad_words_about_a_server_change_nothing() {
    let (world, ids) = World::with_group().await;
    let servers = world.items(&format!("/api/v1/groups/{}/servers", ids.group)).await;
    let path = format!("/api/v1/servers/{}", id(&servers[0]));
    let invalid = (422, "invalid");
    let change = |body: Value, refusal: (u16, &'static str), says: &'static str| {
        case(Method::PATCH, &path, body, refusal, says)
    };
    let nobody = json!({"pulled_out": true, "reason": "disk"});
    refused(
        &world,
        vec![
            change(json!({}), invalid, "pulled_out"),
            change(json!({"pulled_out": true}), invalid, "reason"),
            change(json!({"pulled_out": true, "reason": " "}), invalid, "reason"),
            change(json!({"pulled_out": true, "reason": "x".repeat(501)}), invalid, "500"),
            change(json!({"pulled_out": "yes", "reason": "x"}), invalid, "pulled_out"),
            change(json!({"pulled_out": false}), (409, "not_pulled_out"), "nobody"),
            change(json!({"pulled_out": false, "reason": "x"}), invalid, "reason"),
            case(
                Method::PATCH,
                format!("/api/v1/servers/{NOBODY}"),
                nobody,
                (404, "server_unknown"),
                NOBODY,
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn bad_words_about_a_group_change_nothing() {
    let (world, ids) = World::with_group().await;
    let invalid = (422, "invalid");
    let ask = |call: &str, body: Value, refusal: (u16, &'static str), says: &'static str| {
        case(Method::POST, format!("/api/v1/groups/{}/{call}", ids.group), body, refusal, says)
    };
    let nobody = |call: &str, body: Value| {
        let path = format!("/api/v1/groups/{NOBODY}/{call}");
        case(Method::POST, path, body, (404, "group_unknown"), NOBODY)
    };
    let older = (409, "no_older_version");
    refused(
        &world,
        vec![
            ask("rollback", json!({}), older, "older"),
            ask("rollback", json!({"to": "x"}), invalid, "to"),
            ask("rollback", json!({"to": NOBODY}), (404, "deployment_unknown"), NOBODY),
            ask("rollback", json!({"config": {"max_unavailable": 99}}), invalid, "99"),
            ask("rollback", json!({"flavor": "rollback"}), invalid, "flavor"),
            nobody("rollback", json!({})),
            ask("sync", json!({"confirm": 1}), invalid, "confirm"),
            nobody("sync", json!({})),
            nobody("preview", json!({"package": "1.1.0"})),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_bad_preview_changes_nothing() {
    let (world, ids) = World::with_group().await;
    let path = format!("/api/v1/groups/{}/preview", ids.group);
    let invalid = (422, "invalid");
    let ask = |name: &str, value: Value, refusal: (u16, &'static str), says: &'static str| {
        let mut body = json!({"package": "1.1.0"});
        body[name] = value;
        case(Method::POST, &path, body, refusal, says)
    };
    let config = |name: &str, value: Value, says: &'static str| {
        ask("config", json!({ name: value }), invalid, says)
    };
    refused(
        &world,
        vec![
            case(Method::POST, &path, json!({}), invalid, "package"),
            ask("package", json!("9.9"), (422, "package_unknown"), "9.9"),
            ask("package", json!(NOBODY), (422, "package_unknown"), NOBODY),
            ask("flavor", json!("rollback"), invalid, "POST /groups/{id}/rollback"),
            ask("flavor", json!("adopted"), invalid, "rollout or scaleout"),
            ask("flavor", json!("ROLLOUT"), invalid, "unknown variant `ROLLOUT`"),
            ask("seed", json!(""), invalid, "1 to 128 bytes"),
            ask("seed", json!("x".repeat(129)), invalid, "1 to 128 bytes"),
            ask("plan_hash", json!("x"), invalid, "unknown field `plan_hash`"),
            config("max_unavailable", json!(77), "max_unavailable: 77"),
            config("max_unavailable", json!(0), "1 to 50"),
            config("max_unavailable", json!(-1), "max_unavailable"),
            config("max_unavailable", json!(2.5), "max_unavailable"),
            config("max_failure", json!(101), "0 to 100"),
            config("batch_pattern", json!("10%+20%"), "sum up to 30%"),
            config("batch_pattern", json!("60%+60%"), "sum up to 120%"),
            config("batch_pattern", json!("0%+100%"), "batch_pattern"),
            config("batch_pattern", json!(""), "batch_pattern"),
            config("batch_pattern", json!("50%+50%"), "max_unavailable, 25%"),
            config("mode", json!(1), "config.mode: 1 is not allowed"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_bad_application_changes_nothing() {
    let (world, _) = World::with_group().await;
    let invalid = (422, "invalid");
    let with = |name: &str, value: Value, says: &'static str| {
        let mut body = json!({"name": "shop"});
        body[name] = value;
        case(Method::POST, "/api/v1/applications", body, invalid, says)
    };
    let taken = json!({"name": "web"});
    refused(
        &world,
        vec![
            with("name", json!(""), "name"),
            with("name", json!("a b"), "name"),
            with("name", json!("x".repeat(65)), "name"),
            with("name", json!(7), "name: invalid type: integer `7`"),
            with("kind", json!("cobol"), "known is generic"),
            with("kind", json!(false), "kind: invalid type: boolean `false`"),
            with("owner", json!("x".repeat(101)), "at most 100"),
            with("environment", json!("ä".repeat(101)), "at most 100"),
            with("bastion", json!("two"), "unknown variant `two`, expected `one` or `none`"),
            with("bastion", json!(true), "bastion: true is not allowed"),
            with("colour", json!("red"), "unknown field `colour`"),
            with("id", json!(NOBODY), "unknown field `id`"),
            case(Method::POST, "/api/v1/applications", taken, (409, "application_exists"), "web"),
        ],
    )
    .await;
}

#[tokio::test]
async fn bad_packages_change_nothing() {
    let (world, ids) = World::with_group().await;
    let digest = sha256(b"2.0.0");
    let with = |name: &str, value: Value| {
        let mut body = json!({
            "application": ids.application, "version": "2.0.0", "sha256": digest,
            "location": "https://pkg.example/web.tar.gz",
        });
        body[name] = value;
        body
    };
    let register = |body: Value, refusal: (u16, &'static str), says: &'static str| {
        case(Method::POST, "/api/v1/packages", body, refusal, says)
    };
    let invalid = (422, "invalid");
    let package = "/api/v1/packages/web/1.0.0";
    refused(
        &world,
        vec![
            register(with("version", json!("../etc")), invalid, "version"),
            register(with("version", json!(".2")), invalid, "version"),
            register(with("version", json!(2)), invalid, "version"),
            register(with("sha256", json!("abc")), invalid, "64 lower-case"),
            register(with("sha256", json!(digest.to_uppercase())), invalid, "64 lower-case"),
            register(with("location", json!("ftp://pkg.example/x")), invalid, "http://"),
            register(with("location", json!("http:///x")), invalid, "host"),
            register(with("location", Value::Null), invalid, "location"),
            register(with("application", json!(NOBODY)), (422, "application_unknown"), NOBODY),
            register(with("size", json!(3)), invalid, "unknown field `size`"),
            register(with("version", json!("1.0.0")), (409, "version_exists"), "never changes"),
            case(Method::PATCH, package, json!({"bad": true}), invalid, "reason"),
            case(Method::PATCH, package, json!({"bad": 1, "reason": "x"}), invalid, "bad"),
            case(
                Method::PATCH,
                package,
                json!({"bad": true, "reason": "x", "by": "eve"}),
                invalid,
                "unknown field `by`",
            ),
            case(Method::PATCH, package, json!({"sha256": digest}), invalid, "sha256"),
            case(Method::PATCH, package, json!({}), invalid, "bad"),
            case(Method::PATCH, package, json!({"bad": false, "reason": "x"}), invalid, "reason"),
            case(
                Method::PATCH,
                "/api/v1/packages/web/9.9",
                json!({"bad": true, "reason": "x"}),
                (404, "package_unknown"),
                "9.9",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn bodies_that_are_no_json_or_too_large_are_refused() {
    let (world, _) = World::with_group().await;
    let before = world.dump().await;
    let path = "/api/v1/deployments";
    let send = async |kind: &str, body: String| {
        let request = world.request(Method::POST, path).header(CONTENT_TYPE, kind);
        world.send(request.body(Body::from(body)).expect("a request")).await
    };
    send("application/json", "{\"group\":".into()).await.problem(400, "invalid_json");
    send("application/json", String::new()).await.problem(400, "invalid_json");
    send("text/plain", "{}".into()).await.problem(415, "not_json");
    let large = json!({"group": "x".repeat(2 * 1024 * 1024)}).to_string();
    send("application/json", large.clone()).await.problem(413, "body_too_large");
    let request = world
        .request(Method::POST, path)
        .header(CONTENT_TYPE, "application/json")
        .header("idempotency-key", "large");
    let reply = world.send(request.body(Body::from(large)).expect("a request")).await;
    reply.problem(413, "body_too_large");
    world.dump().await.assert_is(&before, "a refused call");
}
