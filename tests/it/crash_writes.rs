//! The real binary is killed with kill -9 around writes that belong to no stage: a first start, an
//! upload, the audit, a refresh from the CMDB.

use std::path::PathBuf;
use std::time::Instant;

use capstan_core::view::{AuditView, PackageView, Page};
use capstan_store::crash::{AUDIT_POINTS, PACKAGE_POINTS, START_POINTS};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::crash::{LOOK_EVERY, arm};
use crate::harness::{Demo, PATIENCE};

/// Every first start dies a little later than the one before.
#[tokio::test]
async fn killed_during_the_first_start_the_next_one_has_a_token_and_a_group() {
    let mut demo = Demo::prepare(2);
    for point in START_POINTS {
        drop(demo.spawn(&[("CAPSTAN_CRASH_AT", point)]));
        demo.wait_until_dead().await;
    }
    demo.run(&[]).await;
    let group = demo.group().await;
    assert_eq!(group.name, "web-demo");
    let servers = demo.servers().await;
    assert_eq!(servers.iter().filter(|row| !row.retired).count(), 2, "{servers:#?}");
    demo.assert_all_run("1.0.0").await;
}

#[tokio::test]
async fn killed_during_an_upload_it_leaves_nothing_half_done_and_can_be_repeated() {
    let mut demo = Demo::start(1).await;
    for (place, point) in PACKAGE_POINTS.into_iter().enumerate() {
        let version = format!("9.{place}.0");
        let bytes = format!("the archive of {version}").into_bytes();
        let armed = arm(&mut demo, &format!("{point}:1")).await;
        assert_eq!(demo.upload(&version, bytes.clone()).await, None, "{point}: it was answered");
        demo.wait_until_dead().await;
        std::fs::remove_file(&armed).unwrap();
        demo.run(&[]).await;
        assert_eq!(incoming(&demo), Vec::<PathBuf>::new(), "{point}");
        let known = package(&demo, &version).await;
        let is_durable = point == "package.done";
        assert_eq!(known.is_some(), is_durable, "{point}: {known:?}");
        let again = demo.upload(&version, bytes.clone()).await;
        let expected = if is_durable { StatusCode::OK } else { StatusCode::CREATED };
        assert_eq!(again, Some(expected), "{point}");
        let package = package(&demo, &version).await.unwrap();
        let folder = demo.data().join("packages").join(&package.sha256[..2]);
        let kept = std::fs::read(folder.join(format!("{}.tar.gz", package.sha256))).unwrap();
        assert_eq!(kept, bytes, "{point}");
        // A version never changes, whatever became of its first upload.
        let other = demo.upload(&version, b"something else".to_vec()).await;
        assert_eq!(other, Some(StatusCode::CONFLICT), "{point}");
        assert_eq!(incoming(&demo), Vec::<PathBuf>::new(), "{point}");
    }
}

fn incoming(demo: &Demo) -> Vec<PathBuf> {
    let folder = demo.data().join("packages/incoming");
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

async fn package(demo: &Demo, version: &str) -> Option<PackageView> {
    let path = format!("packages/web/{version}");
    let (status, body) = demo.call(Method::GET, &path, None).await;
    (status != StatusCode::NOT_FOUND).then(|| serde_json::from_value(body).unwrap())
}

/// The audit says once what was done, wherever the process dies: both are written together.
#[tokio::test]
async fn killed_around_the_audit_it_says_what_was_done() {
    let mut demo = Demo::start(1).await;
    for point in AUDIT_POINTS {
        let armed = arm(&mut demo, &format!("{point}:1")).await;
        let group = demo.group().await.id;
        let body = json!({"group": group, "package": "1.1.0", "config": {}, "start": false});
        assert!(demo.post_once("deployments", point, &body).await.is_none(), "it was answered");
        demo.wait_until_dead().await;
        std::fs::remove_file(&armed).unwrap();
        demo.run(&[]).await;
        let (status, answer) = demo.repeat("deployments", point, &body).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        let id = demo.newest().await.id.to_string();
        assert_eq!(answer["id"].as_str(), Some(id.as_str()), "{point}: it was made twice");
        let events = demo.events(&id).await;
        assert!(events.iter().any(|event| event.actor != "capstan"), "{point}: {events:#?}");
        let page: Page<AuditView> = demo.get(&format!("deployments/{id}/actions")).await;
        let told: Vec<_> = page.items.iter().map(|row| (&row.action, &row.answer)).collect();
        assert_eq!(told.len(), 1, "{point}: {told:?}");
        demo.act(&id, "revoke").await;
    }
}

/// A refresh of a group that is known is a commit like any other.
#[tokio::test]
async fn killed_during_a_refresh_the_next_start_has_the_record() {
    let mut demo = Demo::start(1).await;
    for (seconds, point) in (2..).zip(["commit.begin", "commit.written", "commit.done"]) {
        let armed = arm(&mut demo, &format!("{point}:1")).await;
        demo.edit_settle_time(seconds);
        demo.wait_until_dead().await;
        std::fs::remove_file(&armed).unwrap();
        demo.run(&[]).await;
        let deadline = Instant::now() + PATIENCE;
        while demo.group().await.settle_seconds != seconds {
            assert!(Instant::now() < deadline, "{point}: {:#?}", demo.group().await);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let group: Value = demo.get("groups").await;
        assert_eq!(group["items"].as_array().unwrap().len(), 1, "{point}");
    }
}
