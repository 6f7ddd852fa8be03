//! Which colour a state has. Colour means state and nothing else; words always say the same.

use capstan_core::batch_status::BatchStatus;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::target_status::TargetStatus;
use maud::{Markup, html};

/// The colour of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tone {
    /// It went well.
    Good,
    /// It is under way.
    Running,
    /// A person should look.
    Warning,
    /// It failed.
    Bad,
    /// Nothing is going on.
    Idle,
}

impl Tone {
    /// The class in the style sheet.
    pub fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Running => "running",
            Self::Warning => "warning",
            Self::Bad => "bad",
            Self::Idle => "idle",
        }
    }

    pub(crate) fn of_deployment(status: DeploymentStatus) -> Self {
        match status {
            DeploymentStatus::Smoking | DeploymentStatus::Baking | DeploymentStatus::RollingOut => {
                Self::Running
            }
            DeploymentStatus::SmokeSuccess | DeploymentStatus::BakeSuccess => Self::Warning,
            DeploymentStatus::SmokeFailure
            | DeploymentStatus::BakeFailure
            | DeploymentStatus::RolloutFailure
            | DeploymentStatus::Failure => Self::Bad,
            DeploymentStatus::Success => Self::Good,
            DeploymentStatus::Pending | DeploymentStatus::Revoked => Self::Idle,
        }
    }

    pub(crate) fn of_batch(status: BatchStatus) -> Self {
        match status {
            BatchStatus::Deploying => Self::Running,
            BatchStatus::Waiting => Self::Warning,
            BatchStatus::Success => Self::Good,
            BatchStatus::Failure => Self::Bad,
            BatchStatus::Pending | BatchStatus::Revoked => Self::Idle,
        }
    }

    pub(crate) fn of_target(status: TargetStatus) -> Self {
        match status {
            TargetStatus::Success => Self::Good,
            TargetStatus::Pending | TargetStatus::SetAside | TargetStatus::Revoked => Self::Idle,
            TargetStatus::MarkdownFailure
            | TargetStatus::DownloadFailure
            | TargetStatus::InstallFailure
            | TargetStatus::VerifyFailure
            | TargetStatus::MarkupFailure => Self::Bad,
            TargetStatus::CheckRunning
            | TargetStatus::MarkdownRunning
            | TargetStatus::MarkdownSuccess
            | TargetStatus::DownloadRunning
            | TargetStatus::DownloadSuccess
            | TargetStatus::InstallRunning
            | TargetStatus::InstallSuccess
            | TargetStatus::VerifyRunning
            | TargetStatus::VerifySuccess
            | TargetStatus::MarkupRunning => Self::Running,
        }
    }

    /// The tone of a status word; `X_BRAKED` is a warning, and so is what nobody knows.
    pub(crate) fn of_word(word: &str) -> Self {
        if word.ends_with("_BRAKED") {
            return Self::Warning;
        }
        DeploymentStatus::from_word(word)
            .map(Self::of_deployment)
            .or_else(|| BatchStatus::from_word(word).map(Self::of_batch))
            .or_else(|| TargetStatus::from_word(word).map(Self::of_target))
            .unwrap_or(Self::Warning)
    }
}

/// A state as a word with its colour.
pub(crate) fn badge(tone: Tone, word: &str) -> Markup {
    html! { span.badge.(tone.class()) { (word) } }
}

/// The badge of a status word.
pub(crate) fn status_badge(word: &str) -> Markup {
    badge(Tone::of_word(word), word)
}
