//! Drives a deployment to the end that its script says. Whoever drives it looks at it and clicks, like a
//! person.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use capstan_core::action::Action;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::record::{HoldReason, Service};
use capstan_core::view::{DeploymentView, ServerView, TargetView};
use fastrand::Rng;
use serde_json::{Value, json};

use super::api::Api;
use super::fleet::{Fleet, place};
use super::script::{Ended, Script};

const LOOK_EVERY: Duration = Duration::from_millis(150);
/// More retries of one deployment than chaos makes necessary. What is killed, frozen or cut off makes stages fail that
/// no script broke: an answer is lost for too long, a proof grows old, a host has no time. A person retries then, and a
/// retry takes all with it that has failed. In ten minutes of chaos over groups of up to 500 it took 3 at most. Whoever
/// needs so many fails again and again for a reason of its own.
const MOST_UNASKED: usize = 20;

/// One deployment of a group, being driven.
pub(crate) struct Drive<'a> {
    pub(crate) api: &'a Api,
    pub(crate) fleet: &'a Fleet,
    /// The place of the group in the fleet.
    pub(crate) group: usize,
    /// Its id.
    pub(crate) id: &'a str,
    pub(crate) script: Script,
    /// When it must have ended.
    pub(crate) by: Instant,
    /// Retries of what no script of ours broke.
    pub(crate) unasked: usize,
}

impl Drive<'_> {
    /// Releases this version, and drives it to its end.
    pub(crate) async fn run(mut self, version: &str, rng: &mut Rng) -> Ended {
        let fleet = self.fleet;
        if self.script == Script::GivenUp {
            (0..fleet.size(self.group)).for_each(|place| fleet.break_host(self.group, place));
        }
        let deployment = self.create(version, rng).await;
        let before = self.past_the_bastion(&deployment).await;
        if self.script == Script::GivenUp {
            return self.give_up(deployment).await;
        }
        let broken = self.break_some(&before, rng).await;
        self.act(&deployment, Action::Rollout).await;
        match self.script {
            Script::Good | Script::GivenUp => {}
            Script::Repaired => self.repair(&deployment, &broken).await,
            Script::Paused => self.pause(&deployment).await,
            Script::Broken | Script::CalledBack => return self.back(deployment, &broken).await,
            Script::PulledOut => return self.pull_out(deployment, broken, version).await,
        }
        self.ends(&deployment, DeploymentStatus::Success).await;
        self.ended(vec![(deployment, DeploymentStatus::Success)], Some(version))
    }

    fn ended(&self, deployments: Vec<(String, DeploymentStatus)>, runs: Option<&str>) -> Ended {
        let runs = runs.map(str::to_owned);
        Ended { deployments, runs, exempt: BTreeSet::new(), unasked: self.unasked }
    }

    async fn create(&self, version: &str, rng: &mut Rng) -> String {
        let share = [25, 34, 50][rng.usize(0..3)];
        let mut config = json!({
            "max_unavailable": share, "max_failure": share, "startup_timeout_seconds": 20,
        });
        if self.script == Script::CalledBack {
            config["mode"] = json!("manual");
        }
        let body = json!({"group": self.id, "package": version, "config": config, "start": true});
        let (status, answer) = self.api.post("deployments", &body).await;
        assert!(status.is_success(), "{:?} of {version}: {status} {answer}", self.script);
        answer["id"].as_str().unwrap().to_owned()
    }

    /// To `BAKE_SUCCESS`, or to `SMOKE_FAILURE` if that is what the script is about.
    async fn past_the_bastion(&mut self, deployment: &str) -> DeploymentView {
        loop {
            let view = self.look(deployment).await;
            assert!(!view.status.is_final(), "{:?}: it ended as {}", self.script, view.status);
            let is_baked = view.status == DeploymentStatus::BakeSuccess && view.holds.is_empty();
            let is_lost = view.status == DeploymentStatus::SmokeFailure;
            if is_baked || is_lost && self.script == Script::GivenUp {
                return view;
            }
            self.put_right(&view).await;
        }
    }

    async fn give_up(&mut self, deployment: String) -> Ended {
        self.act(&deployment, Action::Finish).await;
        self.ends(&deployment, DeploymentStatus::Failure).await;
        self.fleet.repair(self.group);
        let targets = self.targets(&deployment).await;
        let touched = targets.iter().filter(|row| row.batch == 1);
        let exempt = touched.map(|row| place(&row.hostname)).collect();
        let deployments = vec![(deployment, DeploymentStatus::Failure)];
        Ended { exempt, ..self.ended(deployments, None) }
    }

    /// Breaks hosts that the deployment has not touched yet.
    async fn break_some(&self, view: &DeploymentView, rng: &mut Rng) -> Vec<TargetView> {
        let targets = self.targets(&view.id.to_string()).await;
        let mut waiting: Vec<_> =
            targets.into_iter().filter(|row| row.status.word() == "PENDING").collect();
        rng.shuffle(&mut waiting);
        waiting.truncate(match self.script {
            Script::Good | Script::GivenUp | Script::Paused | Script::CalledBack => 0,
            Script::Repaired => rng.usize(1..=waiting.len()),
            Script::Broken => waiting.len(),
            Script::PulledOut => 1,
        });
        for target in &waiting {
            self.fleet.break_host(self.group, place(&target.hostname));
        }
        waiting
    }

    /// Waits until one of the broken hosts has failed and nothing goes on any more, repairs and retries.
    async fn repair(&mut self, deployment: &str, broken: &[TargetView]) {
        self.until_stuck(deployment, broken).await;
        self.fleet.repair(self.group);
        self.act(deployment, Action::Retry).await;
    }

    async fn pull_out(mut self, id: String, broken: Vec<TargetView>, version: &str) -> Ended {
        self.until_stuck(&id, &broken).await;
        let server = &broken[0].server;
        let path = format!("servers/{server}");
        let body = json!({"pulled_out": true, "reason": "chaos"});
        let (status, answer) = self.api.patch(&path, &body).await;
        assert!(status.is_success(), "{status} {answer}");
        self.ends(&id, DeploymentStatus::Success).await;
        self.fleet.repair(self.group);
        let (status, answer) = self.api.patch(&path, &json!({"pulled_out": false})).await;
        assert!(status.is_success(), "{status} {answer}");
        // It runs the version and proves it, so it comes in.
        loop {
            let servers: Vec<ServerView> =
                self.api.all(&format!("groups/{}/servers", self.id)).await;
            let row = servers.iter().find(|row| row.id == *server).unwrap();
            if row.service == Service::In {
                break;
            }
            assert!(Instant::now() < self.by, "it was put back and stays out: {row:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.ended(vec![(id, DeploymentStatus::Success)], Some(version))
    }

    async fn pause(&mut self, deployment: &str) {
        self.act(deployment, Action::Brake).await;
        loop {
            let view = self.look(deployment).await;
            let holds = view.holds.iter().any(|hold| hold.reason == HoldReason::User);
            if view.status.is_final() || !holds {
                return;
            }
            if !is_busy(&view) {
                self.act(deployment, Action::Resume).await;
            }
        }
    }

    /// Waits until it is braked or called back, and rolls back to what was there before.
    async fn back(mut self, deployment: String, broken: &[TargetView]) -> Ended {
        if self.script == Script::Broken {
            self.until_stuck(&deployment, broken).await;
        } else {
            // The first batch has ended, and the second waits for a click.
            while self
                .look(&deployment)
                .await
                .batches
                .iter()
                .all(|row| row.status.word() != "WAITING")
            {
                let view = self.look(&deployment).await;
                self.put_right(&view).await;
            }
        }
        self.fleet.repair(self.group);
        let path = format!("groups/{}/rollback", self.id);
        let (status, answer) = self.api.post(&path, &json!({})).await;
        assert!(status.is_success(), "{:?}: {status} {answer}", self.script);
        let back = answer["id"].as_str().unwrap().to_owned();
        let restored = self.api.deployment(&back).await.package.version;
        self.ends(&back, DeploymentStatus::Success).await;
        self.ends(&deployment, DeploymentStatus::Revoked).await;
        let ends = [(deployment, DeploymentStatus::Revoked), (back, DeploymentStatus::Success)];
        self.ended(ends.to_vec(), Some(&restored))
    }

    /// Waits until broken hosts have failed and the deployment does not go on by itself.
    async fn until_stuck(&mut self, deployment: &str, broken: &[TargetView]) -> DeploymentView {
        loop {
            let view = self.look(deployment).await;
            assert!(!view.status.is_final(), "{:?}: it ended as {}", self.script, view.status);
            if is_stuck(&view) {
                let targets = self.targets(deployment).await;
                let failed = |row: &TargetView| {
                    row.status.is_failure() && broken.iter().any(|it| it.server == row.server)
                };
                if targets.iter().any(failed) {
                    return view;
                }
            }
            self.put_right(&view).await;
        }
    }

    async fn ends(&mut self, deployment: &str, wanted: DeploymentStatus) {
        loop {
            let view = self.look(deployment).await;
            if view.status.is_final() {
                assert_eq!(view.status, wanted, "{:?}: {:?}", self.script, view.counts);
                return;
            }
            self.put_right(&view).await;
        }
    }

    /// What a person does who finds that it waits for them, for a reason that is not part of the script.
    async fn put_right(&mut self, view: &DeploymentView) {
        let action = if view.status == DeploymentStatus::SmokeSuccess {
            Action::Bake
        } else if view.status == DeploymentStatus::BakeSuccess {
            Action::Rollout
        } else if !is_stuck(view) {
            return;
        } else if has_failed(view) {
            Action::Retry
        } else {
            Action::Resume
        };
        if !view.allowed_actions.contains(&action) {
            return;
        }
        let deployment = view.id.to_string();
        if action == Action::Retry && self.unasked == MOST_UNASKED {
            let targets = self.targets(&deployment).await;
            let failed = targets.iter().filter(|row| row.status.is_failure());
            let failed: Vec<_> =
                failed.map(|row| (&row.hostname, row.status, row.cause, &row.message)).collect();
            panic!(
                "{:?} of group {}: {MOST_UNASKED} retries that no script asked for, and it fails \
                 again: {failed:#?} {:?}",
                self.script, self.group, view.holds
            );
        }
        let is_done = self.act(&deployment, action).await;
        self.unasked += usize::from(is_done && action == Action::Retry);
    }

    /// Clicks; whether that was allowed. A refusal means that things have changed since; whoever clicked looks
    /// again.
    async fn act(&self, deployment: &str, action: Action) -> bool {
        let path = format!("deployments/{deployment}/{}", action.word());
        let (status, answer) = self.api.post(&path, &json!({})).await;
        let is_refused = answer["allowed_actions"] != Value::Null;
        assert!(status.is_success() || is_refused, "{action:?}: {status} {answer}");
        status.is_success()
    }

    async fn look(&self, deployment: &str) -> DeploymentView {
        tokio::time::sleep(LOOK_EVERY).await;
        let view = self.api.deployment(deployment).await;
        assert!(
            Instant::now() < self.by,
            "{:?} of group {} is {}, and not ended: {:?} {:?}",
            self.script,
            self.group,
            view.shown_status,
            view.counts,
            view.waiting_for
        );
        view
    }

    async fn targets(&self, deployment: &str) -> Vec<TargetView> {
        self.api.all(&format!("deployments/{deployment}/targets")).await
    }
}

/// Whether a stage or a Check is under way.
fn is_busy(view: &DeploymentView) -> bool {
    view.counts.keys().any(|status| status.ends_with("_RUNNING"))
}

fn has_failed(view: &DeploymentView) -> bool {
    view.counts.keys().any(|status| status.ends_with("_FAILURE"))
}

/// Whether something failed and nothing goes on by itself.
fn is_stuck(view: &DeploymentView) -> bool {
    let brakes = view.holds.iter().any(|hold| hold.reason == HoldReason::Failures);
    let waits = !view.holds.is_empty()
        || matches!(
            view.status,
            DeploymentStatus::SmokeFailure
                | DeploymentStatus::BakeFailure
                | DeploymentStatus::RolloutFailure
        );
    (brakes || has_failed(view) && waits) && !is_busy(view)
}
