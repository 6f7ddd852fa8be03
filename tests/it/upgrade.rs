//! A rolling upgrade: processes of a release before and of this one over one database.
//!
//! The binary of the release before is built from the history, which takes minutes: `make long` does it.

use std::path::PathBuf;
use std::time::Instant;

use capstan_core::view::DeploymentView;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::crash::assert_keys_ran_once;
use crate::harness::{Demo, LOOK_EVERY, PATIENCE};
use crate::many::{Process, assert_rules, click, drive, sum, until_next_event};

/// Names the binary of the release before.
const OLDER: &str = "CAPSTAN_TEST_OLDER";
const HOSTS: u16 = 16;
/// Stages that an engine has done.
const STAGES: &str = "capstan_stage_seconds_count";

/// A controller of either release, and the engine that works.
struct Fleet {
    demo: Demo,
    older: PathBuf,
    /// Where the controller answers that the demo does not ask.
    other: String,
    engine: Process,
    /// Engines that were killed.
    gone: Vec<Process>,
}

impl Fleet {
    /// Everything is of the release before.
    async fn start() -> Self {
        let older = std::env::var_os(OLDER).map(PathBuf::from);
        let older =
            older.unwrap_or_else(|| panic!("{OLDER} is to name a binary: `make long` does it"));
        let mut demo = Demo::prepare_without_engine(HOSTS);
        demo.program.clone_from(&older);
        demo.run(&[]).await;
        let engine = Process::of(&older, &demo, "engine", &[]);
        Self { demo, older, other: String::new(), engine, gone: Vec::new() }
    }

    /// Brakes a release through one controller and lets it go on through the other, which both write the group that
    /// the engine is at; then the same the other way round.
    async fn brake_and_resume(&mut self, deployment: &str) {
        for action in ["brake", "resume", "brake", "resume"] {
            self.act(deployment, action).await;
            if action == "brake" {
                std::mem::swap(&mut self.demo.url, &mut self.other);
            }
        }
    }

    /// Does it as soon as it is allowed: between two batches there is nothing to brake.
    async fn act(&self, deployment: &str, action: &str) {
        let path = format!("deployments/{deployment}/{action}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, answer) = self.demo.call(Method::POST, &path, Some(json!({}))).await;
            if status.is_success() {
                return;
            }
            assert_eq!(status, StatusCode::CONFLICT, "{action}: {answer}");
            assert!(Instant::now() < deadline, "{action}: {answer}");
            click(&self.demo, deployment).await;
        }
    }

    /// Clicks on until the engine has done a stage more and one is under way.
    async fn until_it_works(&self, deployment: &str) {
        let before = sum(&self.engine.metrics().await, STAGES);
        let deadline = Instant::now() + PATIENCE;
        while sum(&self.engine.metrics().await, STAGES) <= before {
            assert!(Instant::now() < deadline, "it does nothing: {}", self.engine.log());
            self.until(deployment, |_| true).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.until(deployment, is_under_way).await;
    }

    /// Clicks on until the release is as wanted.
    async fn until(&self, deployment: &str, is_wanted: impl Fn(&DeploymentView) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = click(&self.demo, deployment).await;
            let log = || self.engine.log();
            assert!(!view.status.is_final(), "{} too early: {}", view.shown_status, log());
            if is_wanted(&view) {
                return;
            }
            assert!(Instant::now() < deadline, "{:?}: {}", view.counts, log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Kills the engine in the middle of a release, of which `next` is the engine from then on.
    async fn kill(&mut self, deployment: &str, next: Process) {
        self.until(deployment, is_under_way).await;
        self.engine.signal("-KILL");
        self.gone.push(std::mem::replace(&mut self.engine, next));
    }
}

fn is_under_way(view: &DeploymentView) -> bool {
    view.counts.keys().any(|it| it.ends_with("_RUNNING"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the binary of the release before: make long"]
async fn a_release_goes_on_while_its_processes_are_replaced() {
    let mut fleet = Fleet::start().await;
    let config = json!({"max_unavailable": 20, "batch_pattern": "20%"});
    let deployment = fleet.demo.create("1.1.0", config.clone()).await;
    fleet.until_it_works(&deployment).await;

    // The first new process is a controller. It brings the schema up to date under the old ones, which work on.
    let old = Process::of(&fleet.older, &fleet.demo, "engine", &[]);
    old.url().await;
    let data = fleet.demo.data();
    let (inventory, packages) = (data.join("inventory.yaml"), data.join("packages"));
    let environment = [
        ("CAPSTAN__CMDB__PATH", inventory.to_str().unwrap()),
        ("CAPSTAN__PACKAGES__PATH", packages.to_str().unwrap()),
    ];
    let controller = Process::with_roles(&fleet.demo, "controller,portal", &environment);
    fleet.other = controller.url().await;
    fleet.brake_and_resume(&deployment).await;

    // Either engine that is left goes on, and the group may go from one to the other whenever it is braked. In the
    // end it is the new one.
    let newer = Process::engine(&fleet.demo);
    newer.url().await;
    fleet.kill(&deployment, old).await;
    let seen = fleet.demo.events(&deployment).await.len();
    until_next_event(&fleet.demo, &deployment, seen).await;
    fleet.brake_and_resume(&deployment).await;
    fleet.kill(&deployment, newer).await;
    fleet.until_it_works(&deployment).await;
    drive(&fleet.demo, &deployment).await;
    fleet.demo.assert_all_run("1.1.0").await;

    // A release that a new controller made is driven through either.
    std::mem::swap(&mut fleet.demo.url, &mut fleet.other);
    let back = fleet.demo.create("1.0.0", config).await;
    for _ in 0..4 {
        fleet.brake_and_resume(&back).await;
    }
    std::mem::swap(&mut fleet.demo.url, &mut fleet.other);
    drive(&fleet.demo, &back).await;
    fleet.demo.assert_all_run("1.0.0").await;

    // Both show the same log.
    let logs = [fleet.demo.events(&deployment).await, fleet.demo.events(&back).await];
    std::mem::swap(&mut fleet.demo.url, &mut fleet.other);
    for (id, log) in [&deployment, &back].into_iter().zip(logs) {
        assert_rules(&log);
        assert_eq!(fleet.demo.events(id).await, log);
    }
    assert_keys_ran_once(&data, "upgrade");
    for log in fleet
        .gone
        .iter()
        .chain([&fleet.engine, &controller])
        .map(Process::log)
        .chain([fleet.demo.logged()])
    {
        assert!(!log.contains("ERROR"), "{log}");
    }

    // There is no way back.
    let mut late = Process::of(&fleet.older, &fleet.demo, "engine", &[]);
    assert!(!late.ended().await.success(), "{}", late.log());
    assert!(late.log().contains("newer"), "{}", late.log());
}
