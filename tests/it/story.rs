//! The whole story by the API: a good release, a bad one, a brake, a retry, a rollback.

use std::time::Instant;

use capstan_core::record::{Cause, Flavor};
use capstan_core::view::DeploymentView;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Demo, LOOK_EVERY, PATIENCE};

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

    let body = json!({"pulled_out": true, "reason": "again"});
    let (status, answer) = demo.call(Method::PATCH, &path, Some(body)).await;
    assert_eq!((status, &answer["code"]), (StatusCode::CONFLICT, &json!("already_pulled_out")));
}

/// One click undoes a braked release: every touched host goes back by a switch of folders.
#[tokio::test]
async fn a_braked_release_is_rolled_back_in_one_click_without_a_download() {
    let demo = Demo::start(4).await;
    for place in 2..=4 {
        std::fs::write(demo.root(place).join("fault"), "").unwrap();
    }
    let deployment = demo.create("1.1.0", json!({})).await;
    demo.click_past_the_bastion(&deployment).await;
    let braked = demo.wait_for(&deployment, "ROLLOUT_BRAKED").await;
    assert_eq!((braked.counts["SUCCESS"], braked.counts["VERIFY_FAILURE"]), (1, 1));
    for place in 2..=4 {
        std::fs::remove_file(demo.root(place).join("fault")).unwrap();
    }
    let back = demo.roll_back().await;
    let ended = demo.wait_for(&back, "SUCCESS").await;
    assert_eq!(demo.deployment(&deployment).await.shown_status, "REVOKED");
    assert_eq!(ended.counts["SUCCESS"], 2, "the bastion and the server that failed");
    demo.assert_all_run("1.0.0").await;
    for target in demo.targets(&back).await {
        let log: Value = demo.get(&format!("targets/{}/log", target.id)).await;
        let text = log.to_string();
        assert!(text.contains("is unpacked already"), "{text}");
    }
}

/// A retry leaves alone what already runs the package.
#[tokio::test]
async fn a_retry_skips_hosts_that_already_run_the_version() {
    let demo = Demo::start(4).await;
    std::fs::write(demo.root(3).join("fault"), "").unwrap();
    let config = json!({"max_unavailable": 50, "max_failure": 100});
    let first = demo.create("1.1.0", config.clone()).await;
    demo.click_past_the_bastion(&first).await;
    demo.wait_for(&first, "ROLLOUT_FAILURE").await;
    demo.act(&first, "finish").await;
    std::fs::remove_file(demo.root(3).join("fault")).unwrap();
    let restarts = demo.restarts().await;

    let second = demo.create("1.1.0", config).await;
    demo.click_past_the_bastion(&second).await;
    demo.wait_for(&second, "SUCCESS").await;
    let skipped: Vec<bool> =
        demo.targets(&second).await.iter().map(|target| target.skipped).collect();
    assert_eq!(skipped.iter().filter(|skipped| **skipped).count(), 3, "{skipped:?}");
    assert_eq!(demo.restarts().await, restarts, "nothing had to be installed again");
}

/// A server that dies after its success counts as failed and stops the release.
#[tokio::test]
async fn a_server_that_dies_after_its_success_stops_the_release() {
    let demo = Demo::start(4).await;
    let deployment = demo.create("1.1.0", json!({"mode": "manual"})).await;
    demo.click_past_the_bastion(&deployment).await;
    let served = |view: &DeploymentView| view.counts.get("SUCCESS") == Some(&2);
    demo.wait_until(&deployment, served).await;
    let targets = demo.targets(&deployment).await;
    let normal = targets.iter().find(|row| row.batch == 2).unwrap();
    demo.kill_instance(&normal.hostname);
    let braked = demo.wait_for(&deployment, "ROLLOUT_BRAKED").await;
    assert_eq!(braked.counts["VERIFY_FAILURE"], 1);
    let targets = demo.targets(&deployment).await;
    let relapsed = targets.iter().find(|row| row.status.is_failure()).unwrap();
    assert_eq!((&relapsed.hostname, relapsed.cause), (&normal.hostname, Some(Cause::Relapsed)));
    let events = demo.events(&deployment).await;
    capstan_core::checker::check(&events).unwrap();
}

/// Servers appear and vanish in the inventory while a release runs.
#[tokio::test]
async fn a_server_that_appears_gets_the_version_and_one_that_vanishes_is_no_failure() {
    let demo = Demo::start(4).await;
    demo.settle_for(1).await;
    let last = demo.remove_from_inventory("web-04").await;
    let deployment = demo.create("1.1.0", json!({"mode": "manual"})).await;
    demo.click_past_the_bastion(&deployment).await;
    demo.wait_until(&deployment, |view| view.counts.get("SUCCESS") == Some(&2)).await;

    demo.add_to_inventory(last).await;
    let targets = demo.targets(&deployment).await;
    let waiting = targets.iter().find(|row| row.batch == 3).unwrap();
    demo.remove_from_inventory(&waiting.hostname).await;
    let deadline = Instant::now() + PATIENCE;
    while demo.deployment(&deployment).await.shown_status != "SUCCESS" {
        assert!(Instant::now() < deadline, "{:?}", demo.deployment(&deployment).await);
        let view = demo.deployment(&deployment).await;
        if view.allowed_actions.iter().any(|action| action.word() == "rollout") {
            demo.act(&deployment, "rollout").await;
        }
    }
    let targets = demo.targets(&deployment).await;
    assert_eq!(targets.len(), 4);
    let of = |hostname: &str| targets.iter().find(|row| row.hostname == hostname).unwrap();
    assert_eq!(of("web-04").status.word(), "SUCCESS");
    assert_eq!(of(&waiting.hostname).status.word(), "SET_ASIDE");
}

#[tokio::test]
async fn a_group_that_may_grows_by_itself_whenever_a_server_appears() {
    let demo = Demo::start(4).await;
    demo.settle_for(1).await;
    let mut new = Vec::new();
    for hostname in ["web-03", "web-04"] {
        // It was never there under its new name.
        let mut server = demo.remove_from_inventory(hostname).await;
        (server["id"], server["hostname"]) =
            (json!(format!("new-{hostname}")), json!(format!("new-{hostname}")));
        new.push(server);
    }
    let deployment = demo.create("1.1.0", json!({"max_unavailable": 50})).await;
    demo.click_past_the_bastion(&deployment).await;
    demo.wait_for(&deployment, "SUCCESS").await;
    demo.scale_out_by_itself();
    for server in new {
        let last = demo.newest().await.id;
        demo.add_to_inventory(server).await;
        let deadline = Instant::now() + PATIENCE;
        while demo.newest().await.id == last {
            assert!(Instant::now() < deadline, "no scaleout was started");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let newest = demo.newest().await;
        assert_eq!(newest.flavor, Flavor::Scaleout);
        demo.wait_for(&newest.id.to_string(), "SUCCESS").await;
        let log = demo.events(&newest.id.to_string()).await;
        capstan_core::checker::check(&log).unwrap();
        assert_eq!(demo.targets(&newest.id.to_string()).await.len(), 1, "new servers alone");
    }
    demo.assert_all_run("1.1.0").await;
}

#[tokio::test]
async fn ctrl_c_leaves_no_process_behind_and_the_next_start_goes_on() {
    let mut demo = Demo::start(2).await;
    assert_eq!(demo.fleet_processes().len(), 2);
    demo.interrupt().await;
    assert_eq!(demo.fleet_processes(), Vec::<u32>::new());
    demo.hosts = 3;
    demo.run(&[]).await;
    assert!(demo.told.contains("--hosts 3 does not count"), "{}", demo.told);
    assert!(demo.told.contains("2 instances of the application"), "{}", demo.told);
    demo.assert_all_run("1.0.0").await;
    assert_eq!(demo.newest().await.shown_status, "SUCCESS");
}
