//! Ready or not, and the numbers for Prometheus.

use std::net::SocketAddr;
use std::sync::OnceLock;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::http::header::AUTHORIZATION;
use capstan_controller::Settings;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::json;

use crate::engine::Engine;
use crate::world::{PACKAGES, Reply, World, id};

/// The recorder of this process: there can be one.
fn recorder() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let install = || PrometheusBuilder::new().install_recorder().expect("the only recorder");
    HANDLE.get_or_init(install).clone()
}

async fn ask(world: &World, path: &str) -> Reply {
    world.send(Request::get(path).body(Body::empty()).expect("a request")).await
}

#[tokio::test]
async fn a_database_that_cannot_be_written_is_missing() {
    let world = World::empty().await;
    assert_eq!(ask(&world, "/readyz").await.expect(200)["ready"], true);
    let refuse = "CREATE TRIGGER no_writes BEFORE UPDATE ON seaql_migrations \
                  BEGIN SELECT RAISE(ABORT, 'scripted: no write'); END";
    world.execute(refuse).await;
    let ready = ask(&world, "/readyz").await.expect(503);
    assert_eq!(ready["ready"], false);
    assert_eq!(ready["missing"].as_array().map(Vec::len), Some(1));
    assert_eq!(ready["missing"][0]["what"], "database");
    let reason = ready["missing"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("written"), "{reason}");
    assert_eq!(ask(&world, "/healthz").await.expect(200)["live"], true);
    world.execute("DROP TRIGGER no_writes").await;
    assert_eq!(ask(&world, "/readyz").await.expect(200)["ready"], true);
}

#[tokio::test]
async fn a_package_folder_that_cannot_be_used_is_named_and_does_no_harm() {
    let world = World::empty().await;
    let ready = ask(&world, "/readyz").await.expect(200);
    assert_eq!(ready["warnings"], json!([]));
    let folder = world.folder().join(PACKAGES);
    std::fs::remove_dir_all(&folder).expect("it goes");
    std::fs::write(&folder, "no folder").expect("a file in its place");
    let ready = ask(&world, "/readyz").await.expect(200);
    assert_eq!(ready["ready"], true, "it can still brake and roll back");
    let warning = ready["warnings"][0].as_str().expect("a warning");
    assert!(warning.starts_with("packages: nothing can be uploaded"), "{warning}");
    std::fs::remove_file(&folder).expect("it goes");
    std::fs::create_dir_all(folder.join("incoming")).expect("the folder is back");
    assert_eq!(ask(&world, "/readyz").await.expect(200)["warnings"], json!([]));

    // Who does not answer the API stores no packages.
    std::fs::remove_dir_all(&folder).expect("it goes");
    let settings = Settings { serves_api: false, serves_pages: false, ..Settings::default() };
    let engine = World::with(settings).await;
    std::fs::remove_dir_all(engine.folder().join(PACKAGES)).expect("it goes");
    assert_eq!(ask(&engine, "/readyz").await.expect(200)["warnings"], json!([]));
}

#[tokio::test]
async fn the_numbers_tell_of_a_release() {
    let settings = Settings { metrics: Some(recorder()), ..Settings::default() };
    let world = World::with(settings).await;
    let ids = world.add_group("web", 4).await;
    let mut engine = Engine::start(&world).await;
    let release = world.start(&ids).await;
    engine.until(id(&release), "SMOKE_SUCCESS").await;
    let reply = ask(&world, "/metrics").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = reply.text();
    for name in [
        "capstan_effects_due",
        "capstan_oldest_effect_due_seconds",
        "capstan_commit_seconds_count",
        "capstan_store_operation_seconds_count{operation=\"package_register\"}",
        "capstan_store_operation_seconds_count{operation=\"token_find\"}",
    ] {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value: f64 =
            value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect(name);
        assert!(value >= 0.0 && (!name.contains("_count") || value >= 1.0), "{name} {value}");
    }
}

#[tokio::test]
async fn requests_are_counted_by_route_and_nothing_that_a_caller_chooses() {
    let settings = Settings { metrics: Some(recorder()), ..Settings::default() };
    let world = World::with(settings).await;
    let send = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).body(Body::empty());
        world.send(request.expect("a request")).await
    };
    let nobody = "0193a5c0-0000-7000-8000-00000000dead";
    let before = ask(&world, "/metrics").await.text();
    send("PATCH", &format!("/api/v1/servers/{nobody}")).await.problem(401, "unauthorized");
    send("PATCH", "/no/such-path").await.problem(404, "unknown_path");
    send("PATCH", "/healthz").await.problem(405, "unknown_method");
    send("BREW", "/healthz").await.problem(405, "unknown_method");
    let after = ask(&world, "/metrics").await.text();
    let counted = |text: &str, labels: &str| -> u64 {
        let name = format!("capstan_http_request_seconds_count{{{labels}}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |count| count.parse().expect("a count"))
    };
    for labels in [
        r#"method="PATCH",route="/api/v1/servers/{id}",status="4xx""#,
        r#"method="PATCH",route="none",status="4xx""#,
        r#"method="PATCH",route="/healthz",status="4xx""#,
        r#"method="other",route="/healthz",status="4xx""#,
    ] {
        assert!(counted(&after, labels) > counted(&before, labels), "{labels}: {after}");
    }
    assert!(counted(&after, r#"method="GET",route="/metrics",status="2xx""#) > 0);
    for choice in [nobody, "such-path", "BREW"] {
        assert!(!after.contains(choice), "{choice}");
    }
}

#[tokio::test]
async fn the_numbers_are_told_to_another_machine_for_a_token_only() {
    let settings = Settings { metrics: Some(recorder()), ..Settings::default() };
    let world = World::with(settings).await;
    let ask = async |peer: &str, token: Option<&str>| {
        let mut request = Request::get("/metrics");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let peer: SocketAddr = peer.parse().expect("an address");
        let request = request.extension(ConnectInfo(peer)).body(Body::empty());
        world.send(request.expect("a request")).await
    };
    for near in ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
        assert_eq!(ask(near, None).await.status, 200, "{near}");
    }
    for far in ["10.0.0.9:9", "[2001:db8::9]:9", "[::ffff:10.0.0.9]:9"] {
        for token in [None, Some("cap_wrong")] {
            let reply = ask(far, token).await;
            assert!(reply.header("www-authenticate").starts_with("Bearer"), "{far}");
            let problem = reply.problem(401, "unauthorized");
            assert!(!problem.to_string().contains("effects_due"));
        }
        assert_eq!(ask(far, Some(&world.token)).await.status, 200, "{far}");
    }
}

#[tokio::test]
async fn without_a_recorder_there_are_no_numbers() {
    let world = World::empty().await;
    let problem = ask(&world, "/metrics").await.problem(501, "not_implemented");
    assert_eq!(problem["status"], json!(501));
}

/// Takes ten seconds: as long as the store waits, for the write and for the audit of its refusal.
#[tokio::test]
async fn a_write_that_the_database_does_not_take_is_to_be_tried_again() {
    let (world, _) = World::with_group().await;
    let before = world.dump().await;
    let lock = world.lock().await;
    let shop = json!({"name": "shop"});
    let reply = world.post("/api/v1/applications", shop.clone()).await;
    assert_eq!(reply.header("retry-after"), "1");
    reply.problem(503, "database_unavailable");
    assert_eq!(world.items("/api/v1/applications").await.len(), 1, "reads go on");
    lock.rollback().await.expect("it lets go");
    world.dump().await.assert_is(&before, "a write that could not be");
    world.post("/api/v1/applications", shop).await.expect(201);
}
