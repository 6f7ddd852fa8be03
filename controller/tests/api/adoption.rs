//! Groups that came with a version running.

use serde_json::json;

use crate::fakes::{record, sha256};
use crate::world::{World, id};

#[tokio::test]
async fn what_the_hosts_report_becomes_the_groups_first_deployment() {
    let (world, ids) = World::with_group().await;
    for number in 1..=8 {
        world.executor.reports(&format!("web-{number}"), "1.0.0", &sha256(b"web 1.0.0"));
    }
    let path = format!("/api/v1/groups/{}", ids.group);
    world.post(&format!("{path}/sync"), json!({})).await.expect(200);
    let group = world.until(&path, |group| group["version"] == "1.0.0").await;
    assert_eq!(group["running_deployment"], json!(null));
    let adopted = world.items("/api/v1/deployments").await;
    assert_eq!(
        (&adopted[0]["flavor"], &adopted[0]["status"]),
        (&json!("adopted"), &json!("SUCCESS"))
    );
    let versions = world.items(&format!("{path}/versions")).await;
    let running = versions.iter().find(|it| it["version"] == "1.0.0").expect("1.0.0");
    assert_eq!((&running["servers"], &running["proven"]), (&json!(8), &json!(8)));

    // The first release can be rolled back, and the rollback revokes it.
    let release = world.start(&ids).await;
    let reply = world.post(&format!("{path}/rollback"), json!({})).await;
    let location = reply.header("location").to_owned();
    let rollback = reply.expect(201);
    assert_eq!(location, format!("/api/v1/deployments/{}", id(&rollback)));
    assert_eq!(rollback["flavor"], "rollback");
    assert_eq!(rollback["package"]["version"], "1.0.0");
    let revoked = world.get(&format!("/api/v1/deployments/{}", id(&release))).await.expect(200);
    assert_eq!(revoked["status"], "REVOKED");
    assert_eq!(revoked["superseded_by"], rollback["id"]);
}

#[tokio::test]
async fn a_package_that_is_registered_later_is_adopted_then() {
    let (world, ids) = World::with_group().await;
    world.executor.reports("web-1", "0.9.0", &sha256(b"web 0.9.0"));
    let body = json!({
        "application": "web", "version": "0.9.0", "sha256": sha256(b"web 0.9.0"),
        "location": "http://pkg.example/web-0.9.0.tar.gz",
    });
    world.post("/api/v1/packages", body).await.expect(201);
    let path = format!("/api/v1/groups/{}", ids.group);
    world.until(&path, |group| group["version"] == "0.9.0").await;
}

#[tokio::test]
async fn the_first_release_waits_for_the_adoption() {
    let (world, ids) = World::with_group().await;
    world.executor.reports("web-1", "1.0.0", &sha256(b"web 1.0.0"));
    let release = world.start(&ids).await;
    assert!(release["parent"].is_string(), "{release}");
    assert_eq!(world.items("/api/v1/deployments").await.len(), 2);
}

#[tokio::test]
async fn reports_that_differ_or_are_of_another_content_are_not_adopted() {
    let world = World::empty().await;
    for (name, reports) in [
        (
            "differ",
            vec![("differ-1", "1.0.0", "differ 1.0.0"), ("differ-2", "1.1.0", "differ 1.1.0")],
        ),
        ("other", vec![("other-1", "1.0.0", "something else")]),
        ("silent", vec![]),
    ] {
        for (hostname, version, content) in reports {
            world.executor.reports(hostname, version, &sha256(content.as_bytes()));
        }
        let ids = world.add_group(name, 3).await;
        world.cmdb.put(record(name, name, 3));
        let release = world.start(&ids).await;
        assert_eq!(release["parent"], json!(null), "{name}");
    }
}
