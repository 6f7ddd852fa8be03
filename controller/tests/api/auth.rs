//! Who may call.

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{Method, Request};
use capstan_controller::Settings;

use crate::world::World;

#[tokio::test]
async fn nobody_reads_or_writes_without_a_token() {
    let (world, ids) = World::with_group().await;
    let before = world.dump().await;
    let deployments = "/api/v1/deployments".to_owned();
    for (method, path) in [
        (Method::GET, "/api/v1/groups".to_owned()),
        (Method::GET, format!("/api/v1/groups/{}", ids.group)),
        (Method::POST, deployments.clone()),
        (Method::POST, format!("/api/v1/groups/{}/rollback", ids.group)),
        (Method::PUT, "/api/v1/packages/web/3.0.0".to_owned()),
        (Method::PATCH, "/api/v1/packages/web/1.0.0".to_owned()),
    ] {
        for token in [None, Some("Bearer cap_wrong"), Some("Bearer"), Some("Basic eDp5")] {
            let mut request = Request::builder().method(method.clone()).uri(&path);
            if let Some(token) = token {
                request = request.header(AUTHORIZATION, token);
            }
            let reply = world.send(request.body(Body::from("{}")).expect("a request")).await;
            assert!(reply.header("www-authenticate").starts_with("Bearer"), "{path}");
            reply.problem(401, "unauthorized");
        }
    }
    world.dump().await.assert_is(&before, "a refused call");
}

#[tokio::test]
async fn the_administrators_token_is_made_once() {
    let world = World::empty().await;
    assert!(world.token.starts_with("cap_") && world.token.len() > 60);
    let again = world.controller.ensure_admin_token(|_| Ok(())).await.expect("a store");
    assert_eq!(again, None);
}

#[tokio::test]
async fn every_response_carries_the_headers_that_protect() {
    let world = World::empty().await;
    for path in ["/api/v1/groups", "/nothing", "/login", "/healthz", "/assets/portal.css"] {
        let reply = world.get(path).await;
        let policy = reply.header("content-security-policy");
        assert!(policy.contains("default-src 'none'"), "{path}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(reply.header("referrer-policy"), "same-origin", "{path}");
        assert!(!reply.header("cache-control").is_empty(), "{path}");
    }
}

#[tokio::test]
async fn only_the_hosts_of_the_settings_are_answered_for() {
    let settings =
        Settings { allowed_hosts: vec!["capstan.example".into()], ..Settings::default() };
    let world = World::with(settings).await;
    let ask = async |host: &str| {
        let request = Request::get("/api/openapi.json").header(HOST, host).body(Body::empty());
        world.send(request.expect("a request")).await
    };
    ask("capstan.example:8080").await.expect(200);
    ask("evil.example").await.problem(421, "wrong_host");
}
