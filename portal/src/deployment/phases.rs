//! The phase bar: Smoke, Bake, Rollout, Done.

use capstan_core::batch_status::BatchStatus;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::view::{BatchView, DeploymentView, Tally};
use maud::{Markup, html};

/// How far a phase is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Done,
    Running,
    /// The one before is done; this one waits for a person.
    Next,
    Braked,
    Failed,
    /// The deployment ended here.
    Stopped,
    Todo,
    /// The deployment ended before.
    Skipped,
}

impl State {
    fn class(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Running => "current",
            Self::Next => "next",
            Self::Braked => "braked",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Todo => "todo",
            Self::Skipped => "skipped",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Running => "under way",
            Self::Next => "waits for a click",
            Self::Braked => "braked",
            Self::Failed => "failed",
            Self::Stopped => "ended here",
            Self::Todo => "to do",
            Self::Skipped => "not reached",
        }
    }

    fn is_here(self) -> bool {
        matches!(self, Self::Running | Self::Next | Self::Braked | Self::Failed)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Smoke,
    Bake,
    Rollout,
    Done,
}

pub(super) fn bar(view: &DeploymentView) -> Markup {
    html! {
        ol.phases {
            @for phase in phases(view) {
                @let state = state(view, phase);
                li.(state.class()) aria-current=[state.is_here().then_some("step")] {
                    span.dot aria-hidden="true" {}
                    span.name { (name(view, phase)) }
                    span.note {
                        span.unseen[phase == Phase::Done && state == State::Done] { (state.words()) }
                        @if let Some(count) = count(view, phase) { span.count { (count) } }
                    }
                }
            }
        }
    }
}

fn phases(view: &DeploymentView) -> Vec<Phase> {
    let bastion = view.batches.iter().any(|batch| batch.is_bastion);
    let normal = view.batches.iter().any(|batch| !batch.is_bastion);
    let mut phases = Vec::new();
    if bastion {
        phases.extend([Phase::Smoke, Phase::Bake]);
    }
    if normal || !bastion {
        phases.push(Phase::Rollout);
    }
    phases.push(Phase::Done);
    phases
}

fn state(view: &DeploymentView, phase: Phase) -> State {
    let (here, state) = match view.status {
        DeploymentStatus::Pending => return State::Todo,
        DeploymentStatus::Smoking => (Phase::Smoke, State::Running),
        DeploymentStatus::SmokeSuccess => (Phase::Bake, State::Next),
        DeploymentStatus::SmokeFailure => (Phase::Smoke, State::Failed),
        DeploymentStatus::Baking => (Phase::Bake, State::Running),
        DeploymentStatus::BakeSuccess => (Phase::Rollout, State::Next),
        DeploymentStatus::BakeFailure => (Phase::Bake, State::Failed),
        DeploymentStatus::RollingOut => (Phase::Rollout, State::Running),
        DeploymentStatus::RolloutFailure => (Phase::Rollout, State::Failed),
        DeploymentStatus::Success => return State::Done,
        DeploymentStatus::Failure | DeploymentStatus::Revoked => return ended(view, phase),
    };
    match phase.cmp(&here) {
        std::cmp::Ordering::Less => State::Done,
        std::cmp::Ordering::Greater => State::Todo,
        std::cmp::Ordering::Equal if view.holds.is_empty() || state == State::Failed => state,
        std::cmp::Ordering::Equal => State::Braked,
    }
}

/// How far a deployment came that ended without success, read from its batches.
fn ended(view: &DeploymentView, phase: Phase) -> State {
    let ran = |batch: &BatchView| {
        let tally = Tally::of(&batch.counts);
        matches!(batch.status, BatchStatus::Success | BatchStatus::Failure)
            || tally.serving + tally.failed > 0
    };
    let rolled_out = view.batches.iter().any(|batch| !batch.is_bastion && ran(batch));
    let baked = rolled_out
        || view
            .batches
            .iter()
            .any(|batch| batch.is_bastion && batch.status == BatchStatus::Success);
    match phase {
        Phase::Done if view.status == DeploymentStatus::Failure => State::Failed,
        Phase::Done => State::Stopped,
        Phase::Rollout if rolled_out => State::Stopped,
        Phase::Smoke | Phase::Bake if baked => State::Done,
        Phase::Smoke if view.started_at.is_some() => State::Stopped,
        Phase::Smoke | Phase::Bake | Phase::Rollout => State::Skipped,
    }
}

fn name(view: &DeploymentView, phase: Phase) -> &'static str {
    match (phase, view.status) {
        (Phase::Smoke, _) => "Smoke",
        (Phase::Bake, _) => "Bake",
        (Phase::Rollout, _) => "Rollout",
        (Phase::Done, DeploymentStatus::Failure) => "Failure",
        (Phase::Done, DeploymentStatus::Revoked) => "Revoked",
        (Phase::Done, _) => "Done",
    }
}

fn count(view: &DeploymentView, phase: Phase) -> Option<String> {
    let of = |wanted: bool| view.batches.iter().filter(move |batch| batch.is_bastion == wanted);
    match phase {
        Phase::Smoke => {
            let (mut verified, mut all) = (0, 0);
            for batch in of(true) {
                all += Tally::of(&batch.counts).of_interest();
                verified += proven(batch);
            }
            Some(format!("{verified} of {all} verified"))
        }
        Phase::Bake => {
            let tallies = of(true).map(|batch| Tally::of(&batch.counts));
            let (serving, all) = tallies.fold((0, 0), |(serving, all), tally| {
                (serving + tally.serving, all + tally.of_interest())
            });
            Some(format!("{serving} of {all} serving"))
        }
        Phase::Rollout => {
            let ended = of(false).filter(|batch| batch.status == BatchStatus::Success).count();
            Some(format!("{ended} of {} batches", of(false).count()))
        }
        Phase::Done => None,
    }
}

/// Targets of a batch that proved the package in this attempt.
fn proven(batch: &BatchView) -> u32 {
    ["VERIFY_SUCCESS", "MARKUP_RUNNING", "MARKUP_FAILURE", "SUCCESS"]
        .iter()
        .filter_map(|word| batch.counts.get(*word))
        .sum()
}
