//! Several processes over one database: a controller, and engines that come and go.

use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use capstan_core::event::Event;
use capstan_core::view::DeploymentView;
use serde_json::json;

use crate::chaos::clock::Clock;
use crate::harness::{Demo, PATIENCE, client};

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What others were doing goes on within this time after they were killed, on a machine that is not busy.
const RESUME_WITHIN: Duration = Duration::from_secs(5);

/// A process beside the demo's, over the same database.
pub(crate) struct Process {
    child: Child,
    folder: tempfile::TempDir,
}

impl Process {
    /// An engine.
    pub(crate) fn engine(demo: &Demo) -> Self {
        Self::engine_with(demo, &[])
    }

    /// The same with more in its environment.
    pub(crate) fn engine_with(demo: &Demo, environment: &[(&str, &str)]) -> Self {
        Self::with_roles(demo, "engine", environment)
    }

    /// One that has these roles.
    pub(crate) fn with_roles(demo: &Demo, roles: &str, environment: &[(&str, &str)]) -> Self {
        Self::of(Path::new(env!("CARGO_BIN_EXE_capstan")), demo, roles, environment)
    }

    /// The same of another binary.
    pub(crate) fn of(
        program: &Path,
        demo: &Demo,
        roles: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(program)
            .args(["serve", "--roles", roles])
            .current_dir(folder.path())
            .env("CAPSTAN__SERVER__LISTEN", "127.0.0.1:0")
            .env("CAPSTAN__SERVER__PUBLIC_URL", &demo.url)
            .env("CAPSTAN__DATABASE__URL", demo.database())
            .env("CAPSTAN__EXECUTOR__LOCAL__ROOTS", demo.data().join("host"))
            .envs(environment.iter().copied())
            .stdout(std::fs::File::create(folder.path().join("told")).unwrap())
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    /// Where it answers, without a slash at the end; none: it has not said so yet.
    fn address(&self) -> Option<String> {
        let told = std::fs::read_to_string(self.folder.path().join("told")).unwrap_or_default();
        // Half a line may be there already.
        let lines = told.split_inclusive('\n').filter_map(|line| line.strip_suffix("/\n"));
        lines.filter_map(|line| line.strip_prefix("portal: ")).map(str::to_owned).next()
    }

    /// Waits until it answers, and gives where.
    pub(crate) async fn url(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(url) = self.address() {
                return url;
            }
            assert!(Instant::now() < deadline, "it does not start: {}", self.log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Its metrics; empty before it answers.
    pub(crate) async fn metrics(&self) -> String {
        let Some(url) = self.address() else { return String::new() };
        match client().get(format!("{url}/metrics")).send().await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Waits until it has ended by itself, and gives how.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it goes on: {}", self.log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) fn log(&self) -> String {
        let path: &Path = self.folder.path();
        std::fs::read_to_string(path.join("log")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The sum of a counter over its labels.
pub(crate) fn sum(metrics: &str, name: &str) -> f64 {
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

pub(crate) async fn create(demo: &Demo, version: &str) -> String {
    demo.create(version, json!({"max_unavailable": 50, "batch_pattern": "50%+50%"})).await
}

/// Clicks what a person would, until it has ended.
pub(crate) async fn drive(demo: &Demo, deployment: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let view = click(demo, deployment).await;
        if view.status.is_final() {
            assert_eq!(view.shown_status, "SUCCESS", "{:?}", view.counts);
            return;
        }
        assert!(Instant::now() < deadline, "{}: {:?}", view.shown_status, view.waiting_for);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Clicks what a person would to let it go on, and gives how it was before.
pub(crate) async fn click(demo: &Demo, deployment: &str) -> DeploymentView {
    let view = demo.deployment(deployment).await;
    for action in ["bake", "rollout"] {
        if view.allowed_actions.iter().any(|allowed| allowed.word() == action) {
            demo.act(deployment, action).await;
        }
    }
    view
}

pub(crate) fn assert_rules(events: &[Event]) {
    if let Err(violations) = capstan_core::checker::check(events) {
        panic!("{violations:#?}");
    }
}

/// Waits for the next event of a deployment, and gives how long it took.
pub(crate) async fn until_next_event(demo: &Demo, deployment: &str, seen: usize) -> Duration {
    let begun = Instant::now();
    while demo.events(deployment).await.len() <= seen {
        assert!(begun.elapsed() < PATIENCE, "nothing goes on");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    begun.elapsed()
}

/// Waits until an engine has done something and is at it.
pub(crate) async fn until_under_way(demo: &Demo, deployment: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let events = demo.events(deployment).await;
        let is_done = |event: &Event| {
            event.target.is_some()
                && event.data.to.as_ref().is_some_and(|it| it.ends_with("_SUCCESS"))
        };
        let counts = demo.deployment(deployment).await.counts;
        if events.iter().any(is_done) && counts.keys().any(|it| it.ends_with("_RUNNING")) {
            return;
        }
        assert!(Instant::now() < deadline, "nothing begins: {counts:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_killed_engines_were_doing_goes_on_in_others() {
    let demo = Demo::start_without_engine(6).await;
    let deployment = create(&demo, "1.1.0").await;
    let mut engines = vec![Process::engine(&demo), Process::engine(&demo)];
    let mut times = Vec::new();
    for _ in 0..4 {
        until_under_way(&demo, &deployment).await;
        let seen = demo.events(&deployment).await.len();
        let killed = engines.remove(0);
        killed.signal("-KILL");
        times.push(until_next_event(&demo, &deployment, seen).await);
        engines.push(Process::engine(&demo));
        if demo.deployment(&deployment).await.allowed_actions.iter().any(|it| it.word() == "bake") {
            demo.act(&deployment, "bake").await;
        }
    }
    drive(&demo, &deployment).await;
    times.sort_unstable();
    println!("killed engine to next event: {times:?}");
    demo.assert_all_run("1.1.0").await;
    assert_rules(&demo.events(&deployment).await);
    // The machine may be busy, and an engine that had nothing is not missed.
    assert!(times[0] < RESUME_WITHIN && times[2] < 2 * RESUME_WITHIN, "{times:?}");
}

/// An engine that was frozen for longer than its lease has lost its work, and knows it when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_engine_ends_when_it_comes_back_and_does_nothing_twice() {
    let demo = Demo::start_without_engine(4).await;
    let deployment = create(&demo, "1.1.0").await;
    let mut frozen = Process::engine(&demo);
    until_under_way(&demo, &deployment).await;
    frozen.signal("-STOP");
    let _other = Process::engine(&demo);
    drive(&demo, &deployment).await;
    frozen.signal("-CONT");
    assert_eq!(frozen.ended().await.code(), Some(75), "{}", frozen.log());
    assert!(frozen.log().contains("others took its work over"), "{}", frozen.log());
    demo.assert_all_run("1.1.0").await;
    assert_rules(&demo.events(&deployment).await);
}

/// A stop is no crash: nobody waits for a lease.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_stopped_hands_over_at_once() {
    let demo = Demo::start_without_engine(4).await;
    let deployment = create(&demo, "1.1.0").await;
    let mut engine = Process::engine(&demo);
    until_under_way(&demo, &deployment).await;
    let other = Process::engine(&demo);
    engine.signal("-TERM");
    assert!(engine.ended().await.success(), "{}", engine.log());
    drive(&demo, &deployment).await;
    assert!(!other.log().contains("took over from a silent process"), "{}", other.log());
    let metrics = demo.metrics().await;
    assert!(metrics.contains("capstan_commit_seconds"), "{metrics}");
    assert!(!metrics.contains("capstan_processes_taken_over_total"), "{metrics}");
    assert_rules(&demo.events(&deployment).await);
}

/// Machines may disagree about the time of day: what is written has the database's.
#[tokio::test(flavor = "multi_thread")]
async fn engines_whose_clocks_are_ahead_write_the_time_of_the_database() {
    let demo = Demo::start_without_engine(4).await;
    let clock = Clock::make(demo.folder());
    let ahead = clock.ahead(60);
    let ahead = ahead.each_ref().map(|(name, value)| (*name, value.as_str()));
    let engines = [0; 3].map(|_| Process::engine_with(&demo, &ahead));
    let deployment = create(&demo, "1.1.0").await;
    drive(&demo, &deployment).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(10);
    let events = demo.events(&deployment).await;
    for event in &events {
        let at = u128::try_from(event.at.as_micros()).unwrap();
        assert!(at < now.as_micros(), "{event:?}: {}", engines[0].log());
    }
    assert_rules(&events);
}
