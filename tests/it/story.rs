//! The whole story by the API: a good release, a bad one, a brake, a retry, a rollback.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::harness::Demo;

#[tokio::test]
async fn a_good_version_goes_out_and_a_bad_one_stops_at_the_bastion() {
    let demo = Demo::start(4).await;
    demo.assert_all_run("1.0.0").await;

    let good = demo.create("1.1.0", json!({})).await;
    let smoked = demo.wait_for(&good, "SMOKE_SUCCESS").await;
    assert_eq!(smoked.counts["VERIFY_SUCCESS"], 1);
    demo.act(&good, "bake").await;
    demo.wait_for(&good, "BAKE_SUCCESS").await;
    demo.act(&good, "rollout").await;
    let ended = demo.wait_for(&good, "SUCCESS").await;
    assert!(ended.waiting_for.is_empty());
    demo.assert_all_run("1.1.0").await;

    let bad = demo.create("1.2.0", json!({})).await;
    let stopped = demo.wait_for(&bad, "SMOKE_FAILURE").await;
    assert_eq!(stopped.counts["VERIFY_FAILURE"], 1);
    assert_eq!(stopped.counts["PENDING"], 3);
    let targets = demo.targets(&bad).await;
    let failed = targets.iter().find(|target| target.message.is_some()).unwrap();
    assert!(failed.message.as_ref().unwrap().contains("health"), "{:?}", failed.message);

    let back = demo.roll_back().await;
    demo.wait_for(&back, "SUCCESS").await;
    assert_eq!(demo.deployment(&bad).await.shown_status, "REVOKED");
    demo.assert_all_run("1.1.0").await;
}

#[tokio::test]
async fn a_fleet_that_fails_brakes_and_is_repaired_by_retry_and_pulling_out() {
    let demo = Demo::start(6).await;
    for place in 2..=6 {
        std::fs::write(demo.root(place).join("fault"), "").unwrap();
    }
    let deployment = demo.create("1.1.0", json!({"max_unavailable": 34})).await;
    demo.wait_for(&deployment, "SMOKE_SUCCESS").await;
    demo.act(&deployment, "bake").await;
    demo.wait_for(&deployment, "BAKE_SUCCESS").await;
    demo.act(&deployment, "rollout").await;
    let braked = demo.wait_for(&deployment, "ROLLOUT_BRAKED").await;
    assert!(braked.out <= braked.l, "{} out, {} allowed", braked.out, braked.l);
    assert_eq!(braked.counts["VERIFY_FAILURE"], 2);
    assert_eq!(braked.counts["PENDING"], 3);

    let broken = demo.targets(&deployment).await;
    let broken = broken.iter().find(|target| target.status.is_failure()).unwrap();
    for place in 2..=6 {
        let root = demo.root(place);
        if !root.ends_with(&broken.hostname) {
            std::fs::remove_file(root.join("fault")).unwrap();
        }
    }
    let path = format!("servers/{}", broken.server);
    let body = json!({"pulled_out": true, "reason": "disk"});
    let (status, answer) = demo.call(Method::PATCH, &path, Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    demo.act(&deployment, "retry").await;
    let ended = demo.wait_for(&deployment, "SUCCESS").await;
    assert_eq!(ended.counts["SET_ASIDE"], 1);
    assert_eq!(ended.counts["SUCCESS"], 5);

    std::fs::remove_file(demo.root(1).join("nothing")).unwrap_err();
    let body = json!({"pulled_out": true, "reason": "again"});
    let (status, answer) = demo.call(Method::PATCH, &path, Some(body)).await;
    assert_eq!((status, &answer["code"]), (StatusCode::CONFLICT, &json!("already_pulled_out")));
}

#[tokio::test]
async fn ctrl_c_leaves_no_process_behind_and_the_next_start_goes_on() {
    let mut demo = Demo::start(2).await;
    assert_eq!(demo.fleet_processes().len(), 2);
    demo.interrupt().await;
    assert_eq!(demo.fleet_processes(), Vec::<u32>::new());
    demo.run(&[]).await;
    demo.assert_all_run("1.0.0").await;
    assert_eq!(demo.newest().await.shown_status, "SUCCESS");
}
