//! The real binary is killed with kill -9, at every numbered point and at random, and the rollout
//! comes to the same end.

use std::path::Path;
use std::time::{Duration, Instant};

use capstan_core::view::DeploymentView;
use capstan_store::crash::POINTS;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Demo, PATIENCE};

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A killed engine's work goes on within this time after the process is back.
const RESUME_WITHIN: Duration = Duration::from_secs(5);

/// Creates a rollout and drives it to SUCCESS, however often the process dies. Gives its id.
async fn drive(demo: &mut Demo, version: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if Instant::now() > deadline {
            let newest = demo.newest().await.id.to_string();
            demo.wait_for(&newest, "SUCCESS").await;
        }
        if !demo.is_alive() {
            demo.run(&[]).await;
        }
        if let Some(view) = under_way_or_done(demo, version).await {
            if view.status.is_final() {
                assert_eq!(view.shown_status, "SUCCESS", "{:?}", view.counts);
                return view.id.to_string();
            }
            click(demo, &view).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The newest deployment if it is of this version; else it is created, as a person would who does
/// not see it in the list. `None`: the process does not answer.
async fn under_way_or_done(demo: &Demo, version: &str) -> Option<DeploymentView> {
    let (_, page) = demo.try_call(Method::GET, "deployments?limit=1", None).await?;
    let newest = &page["items"][0];
    if newest["package"]["version"] != version {
        let (_, groups) = demo.try_call(Method::GET, "groups", None).await?;
        let group = &groups["items"][0]["id"];
        let body = json!({"group": group, "package": version, "config": {}, "start": true});
        demo.try_call(Method::POST, "deployments", Some(body)).await?;
        return None;
    }
    let path = format!("deployments/{}", newest["id"].as_str()?);
    let (_, view) = demo.try_call(Method::GET, &path, None).await?;
    serde_json::from_value(view).ok()
}

async fn click(demo: &Demo, view: &DeploymentView) {
    for action in ["bake", "rollout"] {
        let path = format!("deployments/{}/{action}", view.id);
        if view.allowed_actions.iter().any(|allowed| allowed.word() == action) {
            // A refusal means that somebody (an earlier try of ours) was faster.
            demo.try_call(Method::POST, &path, Some(json!({}))).await;
        }
    }
}

/// Every instance runs the version, the log keeps every rule, and no key ran twice on a host.
async fn assert_right(demo: &Demo, deployment: &str, version: &str, what: &str) {
    demo.assert_all_run(version).await;
    let events = demo.events(deployment).await;
    if let Err(violations) = capstan_core::checker::check(&events) {
        panic!("{what}: {violations:#?}");
    }
    let page: Value = demo.get(&format!("deployments/{deployment}")).await;
    let batches = page["batches"].as_array().unwrap();
    assert!(batches.iter().all(|batch| batch["status"] == "SUCCESS"), "{what}: {batches:?}");
    assert_keys_ran_once(&demo.data(), what);
}

/// The restart hook notes the key of its order: an order that ran twice would show twice.
fn assert_keys_ran_once(data: &Path, what: &str) {
    for root in std::fs::read_dir(data.join("host")).unwrap().flatten() {
        let path = root.path().join("shared/restarts.log");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut keys: Vec<&str> = text.lines().collect();
        let all = keys.len();
        assert!(all > 1, "{what}: nothing was restarted on {}", path.display());
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), all, "{what}: a key ran twice on {}", path.display());
    }
}

#[tokio::test]
async fn killed_at_every_point_a_rollout_comes_to_the_same_end() {
    let mut demo = Demo::start(3).await;
    demo.settle_for(1).await;
    let armed = demo.data().join("armed");
    let mut versions = ["1.1.0", "1.0.0"].into_iter().cycle();
    for point in POINTS {
        for pass in [1, 5, 14] {
            let what = format!("{point}:{pass}");
            let version = versions.next().unwrap();
            demo.kill();
            demo.run(&[
                ("CAPSTAN_CRASH_AT", what.as_str()),
                ("CAPSTAN_CRASH_WHEN", armed.to_str().unwrap()),
            ])
            .await;
            std::fs::write(&armed, "").unwrap();
            let deployment = drive(&mut demo, version).await;
            assert!(demo.deaths > 0, "{what} was never passed");
            demo.deaths = 0;
            std::fs::remove_file(&armed).unwrap();
            assert_right(&demo, &deployment, version, &what).await;
        }
    }
}

#[tokio::test]
async fn killed_at_random_during_one_rollout_nothing_is_lost() {
    let mut demo = Demo::start(4).await;
    demo.settle_for(1).await;
    let kills = 50;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..kills {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let pause = Duration::from_millis(seed % 500);
        let end = Instant::now() + pause;
        while Instant::now() < end {
            if let Some(view) = under_way_or_done(&demo, "1.1.0").await {
                click(&demo, &view).await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        demo.kill();
        demo.run(&[]).await;
    }
    let deployment = drive(&mut demo, "1.1.0").await;
    assert_right(&demo, &deployment, "1.1.0", "random kills").await;
}

#[tokio::test]
async fn work_goes_on_within_seconds_after_kill_9() {
    let mut demo = Demo::start(2).await;
    let deployment = demo.create("1.1.0", json!({})).await;
    let before = demo.events(&deployment).await.len();
    demo.kill();
    demo.run(&[]).await;
    let back = Instant::now();
    while demo.events(&deployment).await.len() == before {
        assert!(back.elapsed() < RESUME_WITHIN, "nothing went on");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    demo.wait_for(&deployment, "SMOKE_SUCCESS").await;
}
