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
