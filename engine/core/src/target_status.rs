//! The status of a target: the chain of five stages, and the Check that may stand for it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::stage::Stage;
use crate::transitions::transitions;

/// Where a target stands.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TargetStatus {
    /// Its turn has not come, or it waits for a slot.
    Pending,
    /// The host is asked whether it already runs the package.
    CheckRunning,
    /// The server is being taken out of traffic.
    MarkdownRunning,
    /// The server is out of traffic.
    MarkdownSuccess,
    /// The server could not be taken out of traffic.
    MarkdownFailure,
    /// The host fetches the package.
    DownloadRunning,
    /// The host has the package.
    DownloadSuccess,
    /// The host could not fetch the package.
    DownloadFailure,
    /// The host unpacks and restarts.
    InstallRunning,
    /// The package is unpacked and restarted.
    InstallSuccess,
    /// The package could not be unpacked or restarted.
    InstallFailure,
    /// The host proves that the package runs.
    VerifyRunning,
    /// The host proved that exactly this package runs.
    VerifySuccess,
    /// The host did not prove it, or the server died afterwards.
    VerifyFailure,
    /// The server is being put back into traffic.
    MarkupRunning,
    /// The server could not be put back into traffic.
    MarkupFailure,
    /// The server serves the package.
    Success,
    /// Pulled out, retired or vanished: counts for nothing.
    SetAside,
    /// The deployment ended first.
    Revoked,
}

transitions! {
    TargetStatus,
    /// What moves a target on.
    TargetEvent {
        /// Its turn: a Check comes first.
        CheckStarted,
        /// The Check proved the package, and the server is in service.
        CheckedInService,
        /// The Check proved the package, and the server is out.
        CheckedOut,
        /// The Check proved nothing; the chain follows.
        CheckedNothing,
        /// The Check proved nothing while baking, where nothing may be installed.
        CheckFailed,
        /// Its turn: the next stage of the chain starts.
        StageStarted,
        /// The stage under way succeeded.
        StageSucceeded,
        /// The stage under way failed.
        StageFailed,
        /// Markup is due and the proof is too old.
        ProofExpired,
        /// A person asks for another attempt.
        Retried,
        /// The server died after SUCCESS, or does not prove the package when it is put back.
        Relapsed,
        /// Its server vanished, was retired or was pulled out.
        ServerLeft,
        /// Its server is back.
        ServerReturned,
        /// The deployment ended.
        Ended,
    }

    Pending         + CheckStarted     => CheckRunning
    Pending         + StageStarted     => MarkdownRunning
    Pending         + ServerLeft       => SetAside
    Pending         + Ended            => Revoked

    CheckRunning    + CheckedInService => Success
    CheckRunning    + CheckedOut       => VerifySuccess
    CheckRunning    + CheckedNothing   => Pending
    CheckRunning    + CheckFailed      => VerifyFailure
    CheckRunning    + ServerLeft       => SetAside
    CheckRunning    + Ended            => Revoked

    MarkdownRunning + StageSucceeded   => MarkdownSuccess
    MarkdownRunning + StageFailed      => MarkdownFailure
    MarkdownRunning + ServerLeft       => SetAside
    MarkdownRunning + Ended            => Revoked
    MarkdownSuccess + StageStarted     => DownloadRunning
    MarkdownSuccess + ServerLeft       => SetAside
    MarkdownSuccess + Ended            => Revoked
    MarkdownFailure + Retried          => Pending
    MarkdownFailure + ServerLeft       => SetAside

    DownloadRunning + StageSucceeded   => DownloadSuccess
    DownloadRunning + StageFailed      => DownloadFailure
    DownloadRunning + ServerLeft       => SetAside
    DownloadRunning + Ended            => Revoked
    DownloadSuccess + StageStarted     => InstallRunning
    DownloadSuccess + ServerLeft       => SetAside
    DownloadSuccess + Ended            => Revoked
    DownloadFailure + Retried          => Pending
    DownloadFailure + ServerLeft       => SetAside

    InstallRunning  + StageSucceeded   => InstallSuccess
    InstallRunning  + StageFailed      => InstallFailure
    InstallRunning  + ServerLeft       => SetAside
    InstallRunning  + Ended            => Revoked
    InstallSuccess  + StageStarted     => VerifyRunning
    InstallSuccess  + ServerLeft       => SetAside
    InstallSuccess  + Ended            => Revoked
    InstallFailure  + Retried          => Pending
    InstallFailure  + ServerLeft       => SetAside

    VerifyRunning   + StageSucceeded   => VerifySuccess
    VerifyRunning   + StageFailed      => VerifyFailure
    VerifyRunning   + ServerLeft       => SetAside
    VerifyRunning   + Ended            => Revoked
    VerifySuccess   + StageStarted     => MarkupRunning
    VerifySuccess   + ProofExpired     => VerifyRunning
    VerifySuccess   + ServerLeft       => SetAside
    VerifySuccess   + Ended            => Revoked
    VerifyFailure   + Retried          => Pending
    VerifyFailure   + ServerLeft       => SetAside

    MarkupRunning   + StageSucceeded   => Success
    MarkupRunning   + StageFailed      => MarkupFailure
    MarkupRunning   + ServerLeft       => SetAside
    MarkupRunning   + Ended            => Revoked
    MarkupRunning   + ProofExpired     => VerifyRunning
    MarkupFailure   + Retried          => Pending
    MarkupFailure   + ServerLeft       => SetAside

    Success         + Relapsed         => VerifyFailure
    SetAside        + ServerReturned   => Pending
}

impl TargetStatus {
    /// Every status, in the order of a target's life.
    pub const ALL: [Self; 19] = [
        Self::Pending,
        Self::CheckRunning,
        Self::MarkdownRunning,
        Self::MarkdownSuccess,
        Self::MarkdownFailure,
        Self::DownloadRunning,
        Self::DownloadSuccess,
        Self::DownloadFailure,
        Self::InstallRunning,
        Self::InstallSuccess,
        Self::InstallFailure,
        Self::VerifyRunning,
        Self::VerifySuccess,
        Self::VerifyFailure,
        Self::MarkupRunning,
        Self::MarkupFailure,
        Self::Success,
        Self::SetAside,
        Self::Revoked,
    ];

    /// The stage under way, if one is.
    pub fn running(self) -> Option<Stage> {
        match self {
            Self::CheckRunning => Some(Stage::Check),
            Self::MarkdownRunning => Some(Stage::Markdown),
            Self::DownloadRunning => Some(Stage::Download),
            Self::InstallRunning => Some(Stage::Install),
            Self::VerifyRunning => Some(Stage::Verify),
            Self::MarkupRunning => Some(Stage::Markup),
            Self::Pending
            | Self::MarkdownSuccess
            | Self::MarkdownFailure
            | Self::DownloadSuccess
            | Self::DownloadFailure
            | Self::InstallSuccess
            | Self::InstallFailure
            | Self::VerifySuccess
            | Self::VerifyFailure
            | Self::MarkupFailure
            | Self::Success
            | Self::SetAside
            | Self::Revoked => None,
        }
    }

    /// Whether a stage failed and nothing follows by itself.
    pub fn is_failure(self) -> bool {
        matches!(
            self,
            Self::MarkdownFailure
                | Self::DownloadFailure
                | Self::InstallFailure
                | Self::VerifyFailure
                | Self::MarkupFailure
        )
    }

    /// Whether a stage succeeded and the next one of the chain follows.
    pub fn is_between_stages(self) -> bool {
        matches!(
            self,
            Self::MarkdownSuccess
                | Self::DownloadSuccess
                | Self::InstallSuccess
                | Self::VerifySuccess
        )
    }

    /// Whether nothing follows by itself, whatever the deployment's status. (A bastion's
    /// `VERIFY_SUCCESS` also rests while the deployment smokes; the deployment knows that.)
    pub fn is_at_rest(self) -> bool {
        self.is_failure() || matches!(self, Self::Success | Self::SetAside | Self::Revoked)
    }

    /// The word of the table, as in the API and the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::CheckRunning => "CHECK_RUNNING",
            Self::MarkdownRunning => "MARKDOWN_RUNNING",
            Self::MarkdownSuccess => "MARKDOWN_SUCCESS",
            Self::MarkdownFailure => "MARKDOWN_FAILURE",
            Self::DownloadRunning => "DOWNLOAD_RUNNING",
            Self::DownloadSuccess => "DOWNLOAD_SUCCESS",
            Self::DownloadFailure => "DOWNLOAD_FAILURE",
            Self::InstallRunning => "INSTALL_RUNNING",
            Self::InstallSuccess => "INSTALL_SUCCESS",
            Self::InstallFailure => "INSTALL_FAILURE",
            Self::VerifyRunning => "VERIFY_RUNNING",
            Self::VerifySuccess => "VERIFY_SUCCESS",
            Self::VerifyFailure => "VERIFY_FAILURE",
            Self::MarkupRunning => "MARKUP_RUNNING",
            Self::MarkupFailure => "MARKUP_FAILURE",
            Self::Success => "SUCCESS",
            Self::SetAside => "SET_ASIDE",
            Self::Revoked => "REVOKED",
        }
    }

    /// The status with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.word() == word)
    }

    /// Its place in [`Self::ALL`], for tables of counts.
    pub fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for TargetStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_match_serde_and_places() {
        for (place, status) in TargetStatus::ALL.into_iter().enumerate() {
            assert_eq!(status.index(), place);
            assert_eq!(TargetStatus::from_word(status.word()), Some(status));
            let json = serde_json::to_value(status).expect("a status can be written");
            assert_eq!(json, status.word());
        }
    }

    #[test]
    fn every_stage_that_runs_can_end_and_every_failure_can_be_retried() {
        for status in TargetStatus::ALL {
            if status.running().is_some() {
                assert!(status.on(TargetEvent::ServerLeft).is_some(), "{status}");
                assert!(status.on(TargetEvent::Ended).is_some(), "{status}");
            }
            assert_eq!(status.on(TargetEvent::Retried).is_some(), status.is_failure());
        }
    }
}
