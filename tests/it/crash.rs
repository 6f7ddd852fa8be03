//! The real binary is killed with kill -9, at every numbered point and at random, and the rollout
//! comes to the same end.

use std::path::Path;
use std::time::{Duration, Instant};

use capstan_core::record::Service;
use capstan_core::view::DeploymentView;
use capstan_store::crash::{ANSWER_POINT, CLAIM_POINTS, SERVER_POINTS, STAGE_POINTS};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Demo, PATIENCE};

pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A killed engine's work goes on within this time after the process is back.
const RESUME_WITHIN: Duration = Duration::from_secs(5);

/// Creates a rollout and drives it to SUCCESS, however often the process dies. Gives its id.
pub(crate) async fn drive(demo: &mut Demo, version: &str) -> String {
    drive_within(demo, version, PATIENCE).await
}

/// The same where it may take longer.
pub(crate) async fn drive_within(demo: &mut Demo, version: &str, patience: Duration) -> String {
    let deadline = Instant::now() + patience;
    loop {
        if Instant::now() > deadline {
            let newest = demo.newest().await.id.to_string();
            let view = demo.wait_for(&newest, "SUCCESS").await;
            panic!("{version} was never created; the newest is {}", view.package.version);
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
        click_if_allowed(demo, view, action).await;
    }
}

async fn click_if_allowed(demo: &Demo, view: &DeploymentView, action: &str) {
    let path = format!("deployments/{}/{action}", view.id);
    if view.allowed_actions.iter().any(|allowed| allowed.word() == action) {
        // A refusal means that somebody (an earlier try of ours) was faster.
        demo.try_call(Method::POST, &path, Some(json!({}))).await;
    }
}

/// Every instance runs the version, the log keeps every rule, and no key ran twice on a host.
pub(crate) async fn assert_right(demo: &Demo, deployment: &str, version: &str, what: &str) {
    demo.assert_all_run(version).await;
    let events = demo.events(deployment).await;
    if let Err(violations) = capstan_core::checker::check(&events) {
        panic!("{what}: {violations:#?}");
    }
    let page: Value = demo.get(&format!("deployments/{deployment}")).await;
    let batches = page["batches"].as_array().unwrap();
    assert!(batches.iter().all(|batch| batch["status"] == "SUCCESS"), "{what}: {batches:?}");
    let counts = page["counts"].as_object().unwrap();
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["SUCCESS"], "{what}");
    assert_keys_ran_once(&demo.data(), what);
}

/// Each order was begun once, whatever its script, and the restart hook of none ran twice.
pub(crate) fn assert_keys_ran_once(data: &Path, what: &str) {
    for root in std::fs::read_dir(data.join("host")).unwrap().flatten() {
        let orders: Vec<_> =
            std::fs::read_dir(root.path().join(".capstan/orders")).unwrap().flatten().collect();
        assert!(!orders.is_empty(), "{what}: {} got no orders", root.path().display());
        for order in orders {
            // An order that was cancelled in advance was never begun.
            let runs = std::fs::read_to_string(order.path().join("runs")).unwrap_or_default();
            assert!(runs.lines().count() <= 1, "{what}: {} ran twice", order.path().display());
        }
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

/// Starts the process so that it dies when it passes a point while a file is there.
pub(crate) async fn arm(demo: &mut Demo, what: &str) -> std::path::PathBuf {
    let armed = demo.data().join("armed");
    demo.kill();
    let when = armed.to_str().unwrap().to_owned();
    demo.run(&[("CAPSTAN_CRASH_AT", what), ("CAPSTAN_CRASH_WHEN", &when)]).await;
    std::fs::write(&armed, "").unwrap();
    demo.deaths = 0;
    armed
}

#[tokio::test]
async fn killed_at_every_point_a_rollout_comes_to_the_same_end() {
    let mut demo = Demo::start(3).await;
    demo.settle_for(1).await;
    let mut versions = ["1.1.0", "1.0.0"].into_iter().cycle();
    for point in STAGE_POINTS {
        for pass in [1, 11] {
            let what = format!("{point}:{pass}");
            let version = versions.next().unwrap();
            let armed = arm(&mut demo, &what).await;
            let deployment = drive(&mut demo, version).await;
            assert!(demo.deaths > 0, "{what} was never passed");
            std::fs::remove_file(&armed).unwrap();
            assert_right(&demo, &deployment, version, &what).await;
        }
    }
}

/// A release that brakes, is repaired, retried and rolled back.
#[tokio::test]
async fn killed_while_braked_retried_and_rolled_back_it_comes_to_the_same_end() {
    for what in ["commit.written:17", "driver.after:9", "look.after:12", "outcome.sent:14"] {
        let mut demo = Demo::start(4).await;
        demo.settle_for(1).await;
        for place in 2..=4 {
            std::fs::write(demo.root(place).join("fault"), "").unwrap();
        }
        let armed = arm(&mut demo, what).await;
        let deployment = drive_past_the_brake(&mut demo).await;
        assert_right(&demo, &deployment, "1.1.0", what).await;

        let path = format!("groups/{}/rollback", demo.group().await.id);
        demo.try_call(Method::POST, &path, Some(json!({}))).await;
        let back = drive(&mut demo, "1.0.0").await;
        assert_right(&demo, &back, "1.0.0", what).await;
        assert!(demo.deaths > 0, "{what} was never passed");
        std::fs::remove_file(&armed).unwrap();
    }
}

/// Drives the release of 1.1.0 to its brake, takes the faults away, and drives it to its end.
async fn drive_past_the_brake(demo: &mut Demo) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "it did not brake: {:?}", demo.newest().await);
        if !demo.is_alive() {
            demo.run(&[]).await;
        }
        if let Some(view) = under_way_or_done(demo, "1.1.0").await {
            if view.shown_status == "ROLLOUT_BRAKED" && view.counts.contains_key("VERIFY_FAILURE") {
                for place in 2..=4 {
                    std::fs::remove_file(demo.root(place).join("fault")).unwrap();
                }
                break;
            }
            click(demo, &view).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    loop {
        assert!(Instant::now() < deadline, "it was not retried: {:?}", demo.newest().await);
        if !demo.is_alive() {
            demo.run(&[]).await;
        }
        let Some(view) = under_way_or_done(demo, "1.1.0").await else { continue };
        if view.shown_status != "ROLLOUT_BRAKED" {
            return drive(demo, "1.1.0").await;
        }
        click_if_allowed(demo, &view, "retry").await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What is done to a server outside any release.
#[tokio::test]
async fn killed_while_a_server_is_pulled_out_or_put_back_it_is_done_all_the_same() {
    let mut demo = Demo::start(2).await;
    let server = demo.servers().await.swap_remove(0).id;
    let path = format!("servers/{server}");
    for point in SERVER_POINTS {
        for pulled_out in [true, false] {
            let what = format!("{point}:1");
            let armed = arm(&mut demo, &what).await;
            let body = if pulled_out {
                json!({"pulled_out": true, "reason": "a test"})
            } else {
                json!({"pulled_out": false})
            };
            demo.try_call(Method::PATCH, &path, Some(body)).await;
            demo.wait_until_dead().await;
            std::fs::remove_file(&armed).unwrap();
            demo.run(&[]).await;
            let deadline = Instant::now() + PATIENCE;
            loop {
                let servers = demo.servers().await;
                let row = servers.iter().find(|row| row.id == server).unwrap();
                assert_eq!(row.pulled_out.is_some(), pulled_out, "{what}");
                if (row.service == Service::Out) == pulled_out {
                    break;
                }
                assert!(Instant::now() < deadline, "{what}: it stays {:?}", row.service);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

/// The process dies between the commit of a request and its answer: whoever repeats the request gets what
/// it made, and nothing is made twice.
#[tokio::test]
async fn killed_before_the_answer_a_repeated_request_makes_nothing_twice() {
    let mut demo = Demo::start(2).await;
    let armed = arm(&mut demo, &format!("{ANSWER_POINT}:1")).await;
    let group = demo.group().await.id;
    let body = json!({"group": group, "package": "1.1.0", "config": {}, "start": false});
    assert!(demo.post_once("deployments", "a key", &body).await.is_none(), "it was answered");
    demo.wait_until_dead().await;
    std::fs::remove_file(&armed).unwrap();
    demo.run(&[]).await;
    let mut answers = Vec::new();
    for _ in 0..2 {
        let (status, answer) = demo.repeat("deployments", "a key", &body).await;
        assert_eq!(status, reqwest::StatusCode::CREATED, "{answer}");
        answers.push(answer["id"].clone());
    }
    assert_eq!(answers[0], answers[1]);
    let page: Value = demo.get("deployments?limit=100").await;
    let made = page["items"].as_array().unwrap();
    let made = made.iter().filter(|row| row["package"]["version"] == "1.1.0").count();
    assert_eq!(made, 1, "{page}");
}

/// The same for a click: its repeat is not refused because it was done already.
#[tokio::test]
async fn killed_before_the_answer_a_repeated_click_is_answered() {
    let mut demo = Demo::start(2).await;
    let deployment = demo.create("1.1.0", json!({})).await;
    demo.wait_for(&deployment, "SMOKE_SUCCESS").await;
    let armed = arm(&mut demo, &format!("{ANSWER_POINT}:1")).await;
    let path = format!("deployments/{deployment}/bake");
    assert!(demo.post_once(&path, "a key", &json!({})).await.is_none(), "it was answered");
    demo.wait_until_dead().await;
    std::fs::remove_file(&armed).unwrap();
    demo.run(&[]).await;
    demo.wait_for(&deployment, "BAKE_SUCCESS").await;
    for _ in 0..2 {
        let (status, answer) = demo.repeat(&path, "a key", &json!({})).await;
        assert_eq!(status, reqwest::StatusCode::OK, "{answer}");
        assert_eq!(answer["id"], deployment.as_str());
    }
    // Without the key it is another click, and too late.
    let (status, answer) = demo.call(Method::POST, &path, Some(json!({}))).await;
    assert_eq!(status, reqwest::StatusCode::CONFLICT, "{answer}");
}

/// An engine dies, and the one that takes its orders over dies as well.
#[tokio::test]
async fn killed_while_taking_over_the_next_one_takes_over() {
    let mut demo = Demo::start(2).await;
    demo.settle_for(1).await;
    let mut versions = ["1.1.0", "1.0.0"].into_iter().cycle();
    for point in CLAIM_POINTS {
        let version = versions.next().unwrap();
        let deployment = demo.create(version, json!({})).await;
        let deadline = Instant::now() + PATIENCE;
        while !demo.deployment(&deployment).await.counts.contains_key("VERIFY_RUNNING") {
            assert!(Instant::now() < deadline, "{point}: it does not come to Verify");
        }
        demo.kill();
        drop(demo.spawn(&[("CAPSTAN_CRASH_AT", point)]));
        demo.wait_until_dead().await;
        let deployment = drive(&mut demo, version).await;
        assert_right(&demo, &deployment, version, point).await;
    }
}

/// Fifty kills, of which each finds a rollout under way and leaves it so. When a rollout comes to its end
/// all the same, the next one begins.
#[tokio::test]
async fn killed_at_random_while_rolling_out_nothing_is_lost() {
    let mut demo = Demo::start(4).await;
    demo.settle_for(1).await;
    let mut versions = ["1.1.0", "1.0.0"].into_iter().cycle();
    let mut version = versions.next().unwrap();
    let mut kills = 0;
    let deadline = Instant::now() + 5 * PATIENCE;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    while kills < 50 {
        assert!(Instant::now() < deadline, "only {kills} kills hit a rollout that ran");
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let pause = Duration::from_millis(seed % 500);
        let end = Instant::now() + pause;
        while Instant::now() < end {
            if let Some(view) = under_way_or_done(&demo, version).await {
                click(&demo, &view).await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let before = under_way_or_done(&demo, version).await;
        demo.kill();
        demo.run(&[]).await;
        let after = under_way_or_done(&demo, version).await;
        let is_running = |view: &DeploymentView| view.status.is_running();
        if before.as_ref().is_some_and(is_running) && after.as_ref().is_some_and(is_running) {
            kills += 1;
        } else if let Some(ended) = after.filter(|view| view.status.is_final()) {
            assert_right(&demo, &ended.id.to_string(), version, "random kills").await;
            version = versions.next().unwrap();
        }
    }
    let deployment = drive(&mut demo, version).await;
    assert_right(&demo, &deployment, version, "random kills").await;
}

async fn goes_on_within(demo: &mut Demo, deployment: &str, time: Duration) -> bool {
    let before = demo.events(deployment).await.len();
    demo.kill();
    demo.run(&[]).await;
    let back = Instant::now();
    while demo.events(deployment).await.len() == before {
        if back.elapsed() > time {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    true
}

#[tokio::test]
async fn work_goes_on_by_itself_after_kill_9() {
    let mut demo = Demo::start(2).await;
    let deployment = demo.create("1.1.0", json!({})).await;
    // Once more for a machine that was busy.
    let quickly = goes_on_within(&mut demo, &deployment, RESUME_WITHIN).await
        || goes_on_within(&mut demo, &deployment, RESUME_WITHIN).await;
    assert!(quickly, "it does not go on by itself");
    demo.wait_for(&deployment, "SMOKE_SUCCESS").await;
}
