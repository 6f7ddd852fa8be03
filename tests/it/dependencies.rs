//! The hand switch of the load balancer in the whole binary: bypass, debts, and a kill in between.

use capstan_core::view::{DependencyView, Page};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::harness::Demo;

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

async fn switch_packages(demo: &Demo, body: serde_json::Value) {
    let (status, answer) = demo.call(Method::PUT, "dependencies/packages", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

/// S12 for the package store: what hosts have kept goes out, and what they lack stops at its bastion.
#[tokio::test]
async fn without_the_package_store_hosts_use_what_they_have_kept() {
    let demo = Demo::start(4).await;
    let release = demo.create("1.1.0", json!({})).await;
    demo.click_past_the_bastion(&release).await;
    demo.wait_for(&release, "SUCCESS").await;
    switch_packages(&demo, json!({"cut_off": true, "reason": "ticket 18"})).await;

    let rollback = demo.roll_back().await;
    let ended = demo.wait_for(&rollback, "SUCCESS").await;
    demo.assert_all_run("1.0.0").await;
    assert_eq!(ended.ran_without.len(), 1, "{:?}", ended.ran_without);
    assert!(ended.ran_without[0].text.contains("ticket 18"), "{:?}", ended.ran_without);

    let lacking = demo.create("1.2.0", json!({})).await;
    let view = demo.wait_for(&lacking, "SMOKE_FAILURE").await;
    assert_eq!((view.out, view.failed), (1, 1), "no more than its bastion: {view:?}");
    let failed = demo.targets(&lacking).await.into_iter().find(|it| it.cause.is_some()).unwrap();
    assert_eq!(failed.status.word(), "DOWNLOAD_FAILURE", "{failed:?}");

    switch_packages(&demo, json!({"cut_off": false})).await;
    demo.act(&lacking, "retry").await;
    demo.wait_for(&lacking, "SMOKING").await;
    demo.wait_for(&lacking, "SMOKE_FAILURE").await;
    let failed = demo.targets(&lacking).await.into_iter().find(|it| it.cause.is_some()).unwrap();
    assert_eq!(
        failed.status.word(),
        "VERIFY_FAILURE",
        "it was fetched, and is the bad one: {failed:?}"
    );
    for id in [rollback, lacking] {
        capstan_core::checker::check(&demo.events(&id).await).unwrap();
    }
}
