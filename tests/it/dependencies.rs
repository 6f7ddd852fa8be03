//! The hand switch of the load balancer in the whole binary: bypass, debts, and a kill in between.

use capstan_core::dependency::DependencyKind;
use capstan_core::view::{DependencyView, Page};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::harness::{Demo, LOOK_EVERY, PATIENCE};

const NONE: &str = "dependencies/load_balancer.none";

#[tokio::test]
async fn a_cut_outlives_a_kill_and_what_was_released_meanwhile_is_brought_in_afterwards() {
    let mut demo = Demo::start(4).await;
    let deployment = demo.create("1.1.0", json!({})).await;
    demo.wait_for(&deployment, "SMOKE_SUCCESS").await;
    let cut = json!({"cut_off": true, "reason": "ticket 17"});
    let (status, answer) = demo.call(Method::PUT, NONE, Some(cut)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    demo.act(&deployment, "bake").await;
    let bastion = demo.wait_for(&deployment, "BAKE_SUCCESS").await;
    assert_eq!((bastion.out, bastion.owed.len(), bastion.most_ours), (1, 1, Some(1)));
    demo.act(&deployment, "rollout").await;
    let braked = demo.wait_for(&deployment, "ROLLOUT_BRAKED").await;
    assert!(braked.holds[0].detail.contains("bypassed"), "{:?}", braked.holds);

    demo.kill();
    demo.run(&[]).await;
    let all: Page<DependencyView> = demo.get("dependencies").await;
    let cut = all.items.iter().find(|it| it.name == "load_balancer.none").unwrap();
    assert_eq!(cut.cut_off.as_ref().map(|cut| cut.reason.as_str()), Some("ticket 17"));
    assert_eq!(demo.deployment(&deployment).await.owed.len(), 1);

    let (status, answer) = demo.call(Method::PUT, NONE, Some(json!({"cut_off": false}))).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let ended = demo.wait_for(&deployment, "SUCCESS").await;
    assert!(ended.owed.is_empty() && ended.out == 0, "{ended:?}");
    assert_eq!(ended.ran_without[0].dependency, "load_balancer.none");
    demo.assert_all_run("1.1.0").await;
    capstan_core::checker::check(&demo.events(&deployment).await).unwrap();
}

/// Everything that can be cut off and is not a host or a package is cut off.
async fn cut_everything_off(demo: &Demo, is_cut: bool) {
    let all: Page<DependencyView> = demo.get("dependencies").await;
    let kept = [DependencyKind::Executor, DependencyKind::PackageStore];
    for dependency in all.items.iter().filter(|it| !kept.contains(&it.kind)) {
        let mut body = json!({"cut_off": is_cut});
        if is_cut {
            body["reason"] = json!("all is down");
        }
        let path = format!("dependencies/{}", dependency.name);
        let (status, answer) = demo.call(Method::PUT, &path, Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
}

#[tokio::test]
async fn a_rollback_goes_out_from_the_database_and_the_packages_alone() {
    let demo = Demo::start(20).await;
    demo.settle_for(1).await;
    let config = json!({"max_unavailable": 50, "batch_pattern": "50%+50%"});
    let release = demo.create("1.1.0", config).await;
    demo.click_past_the_bastion(&release).await;
    demo.wait_for(&release, "SUCCESS").await;

    cut_everything_off(&demo, true).await;
    let rollback = demo.roll_back().await;
    let ended = demo.wait_for(&rollback, "SUCCESS").await;
    demo.assert_all_run("1.0.0").await;
    assert_eq!((ended.out, ended.owed.len()), (0, 20), "nobody was drained, and nobody was seen");
    let without: Vec<&str> = ended.ran_without.iter().map(|it| it.dependency.as_str()).collect();
    assert_eq!(without, ["load_balancer.none"], "a rollback never asks the CMDB");
    let most = demo.events(&rollback).await.iter().filter_map(|event| event.data.out_count).max();
    assert!(most <= Some(5), "at most B / 2 at a time, B is ten: {most:?}");
    capstan_core::checker::check(&demo.events(&rollback).await).unwrap();

    cut_everything_off(&demo, false).await;
    let paid = tokio::time::timeout(PATIENCE, async {
        while !demo.deployment(&rollback).await.owed.is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    paid.await.expect("all that was owed is paid");
}
