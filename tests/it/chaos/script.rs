//! How a deployment shall end.

use std::collections::BTreeSet;

use capstan_core::deployment_status::DeploymentStatus;
use fastrand::Rng;

/// What happens to a deployment, and so how it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Script {
    /// Nothing is wrong: SUCCESS.
    Good,
    /// Some hosts fail Verify, are repaired, and a retry puts them right: SUCCESS.
    Repaired,
    /// All hosts fail: the brake stops it, and a rollback brings the old version back: REVOKED, SUCCESS.
    Broken,
    /// The bastion fails, and it is given up: FAILURE.
    GivenUp,
    /// A person brakes it and lets it go on: SUCCESS.
    Paused,
    /// A person calls it back midway: REVOKED, and a rollback with SUCCESS.
    CalledBack,
    /// One host stays broken and is pulled out: SUCCESS without it. Then it is put back.
    PulledOut,
}

const SCRIPTS: [Script; 7] = [
    Script::Good,
    Script::Repaired,
    Script::Broken,
    Script::GivenUp,
    Script::Paused,
    Script::CalledBack,
    Script::PulledOut,
];

/// Draws scripts so that each comes up before one comes up again.
#[derive(Debug)]
pub(crate) struct Scripts {
    rng: Rng,
    left: Vec<Script>,
}

impl Scripts {
    pub(crate) fn new(rng: Rng) -> Self {
        Self { rng, left: Vec::new() }
    }

    pub(crate) fn draw(&mut self) -> Script {
        if self.left.is_empty() {
            self.left = SCRIPTS.to_vec();
            self.rng.shuffle(&mut self.left);
        }
        self.left.pop().expect("it was filled just now")
    }
}

/// How a script ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The deployment, and the rollback after it.
    pub(crate) deployments: Vec<(String, DeploymentStatus)>,
    /// What a whole group runs now; none: what it ran before, but for these hosts.
    pub(crate) runs: Option<String>,
    pub(crate) exempt: BTreeSet<usize>,
    pub(crate) unasked: usize,
}
