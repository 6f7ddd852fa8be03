//! A rolling upgrade: processes of a release before and of this one over one database.
//!
//! The binary of the release before is built from the history, which takes minutes: `make long` does it.

use std::path::PathBuf;

use serde_json::json;

use crate::crash::assert_keys_ran_once;
use crate::harness::Demo;
use crate::many::{Process, assert_rules, drive, until_under_way};

/// Names the binary of the release before.
const OLDER: &str = "CAPSTAN_TEST_OLDER";
const HOSTS: u16 = 8;
/// How often each controller brakes a release that the other one lets go on.
const TURNS: usize = 4;

/// Everything is of the release before: a controller, and two engines that work on a release.
struct Fleet {
    demo: Demo,
    older: PathBuf,
    engines: Vec<Process>,
}

impl Fleet {
    async fn start() -> Self {
        let older = std::env::var_os(OLDER).map(PathBuf::from);
        let older =
            older.unwrap_or_else(|| panic!("{OLDER} is to name a binary: `make long` does it"));
        let mut demo = Demo::prepare_without_engine(HOSTS);
        demo.program.clone_from(&older);
        demo.run(&[]).await;
        let engine = || Process::of(&older, &demo, "engine", &[]);
        let engines = vec![engine(), engine()];
        Self { demo, older, engines }
    }

    /// Brakes a release through one controller and lets it go on through the other, which both write the group that
    /// the engine is at.
    async fn brake_and_resume(&mut self, deployment: &str, newer: &str) {
        for turn in 0..TURNS * 2 {
            let older = self.demo.url.clone();
            let (brakes, resumes) =
                if turn % 2 == 0 { (older.as_str(), newer) } else { (newer, older.as_str()) };
            brakes.clone_into(&mut self.demo.url);
            self.demo.act(deployment, "brake").await;
            resumes.clone_into(&mut self.demo.url);
            self.demo.act(deployment, "resume").await;
            self.demo.url = older;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the binary of the release before: make long"]
async fn a_release_goes_on_while_its_processes_are_replaced() {
    let mut fleet = Fleet::start().await;
    let config = json!({"max_unavailable": 25, "batch_pattern": "25%"});
    let deployment = fleet.demo.create("1.1.0", config.clone()).await;
    until_under_way(&fleet.demo, &deployment).await;

    // The first new process is a controller. It brings the schema up to date under the old ones.
    let data = fleet.demo.data();
    let (inventory, packages) = (data.join("inventory.yaml"), data.join("packages"));
    let environment = [
        ("CAPSTAN__CMDB__PATH", inventory.to_str().unwrap()),
        ("CAPSTAN__PACKAGES__PATH", packages.to_str().unwrap()),
    ];
    let controller = Process::with_roles(&fleet.demo, "controller,portal", &environment);
    let newer = controller.url().await;
    fleet.brake_and_resume(&deployment, &newer).await;

    // An old engine goes on with what an old one did, a new one with that, beside an old one.
    fleet.engines.remove(0).signal("-KILL");
    until_more(&fleet.demo, &deployment).await;
    let engine = Process::engine(&fleet.demo);
    fleet.brake_and_resume(&deployment, &newer).await;
    until_more(&fleet.demo, &deployment).await;
    fleet.engines.remove(0).signal("-KILL");
    drive(&fleet.demo, &deployment).await;
    fleet.demo.assert_all_run("1.1.0").await;

    // A release that a new controller made is driven through the old one, which shows the same log.
    let older = std::mem::replace(&mut fleet.demo.url, newer);
    let back = fleet.demo.create("1.0.0", config).await;
    let newer = std::mem::replace(&mut fleet.demo.url, older);
    fleet.brake_and_resume(&back, &newer).await;
    drive(&fleet.demo, &back).await;
    fleet.demo.assert_all_run("1.0.0").await;
    let logs = [fleet.demo.events(&deployment).await, fleet.demo.events(&back).await];
    fleet.demo.url = newer;
    for (id, log) in [&deployment, &back].into_iter().zip(logs) {
        assert_rules(&log);
        assert_eq!(fleet.demo.events(id).await, log);
    }
    assert_keys_ran_once(&data, "upgrade");
    assert!(!engine.log().contains("ERROR"), "{}", engine.log());
    assert!(!controller.log().contains("ERROR"), "{}", controller.log());

    // There is no way back.
    let mut late = Process::of(&fleet.older, &fleet.demo, "engine", &[]);
    assert!(!late.ended().await.success(), "{}", late.log());
    assert!(late.log().contains("newer"), "{}", late.log());
}

/// Waits until the log is longer.
async fn until_more(demo: &Demo, deployment: &str) {
    let seen = demo.events(deployment).await.len();
    crate::many::until_next_event(demo, deployment, seen).await;
}
