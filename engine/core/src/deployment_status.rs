//! The status of a deployment: one table, and nothing else decides it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::transitions::transitions;

/// Where a deployment stands.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DeploymentStatus {
    /// Planned and not started.
    Pending,
    /// The bastion batch runs up to Verify.
    Smoking,
    /// Every bastion verified; a person looks before production traffic comes.
    SmokeSuccess,
    /// A bastion failed, or none is left.
    SmokeFailure,
    /// The bastions go into production traffic.
    Baking,
    /// The bastions serve; the other batches wait for a click.
    BakeSuccess,
    /// A bastion could not be brought into traffic.
    BakeFailure,
    /// The normal batches run.
    RollingOut,
    /// Every batch ended, some target failed.
    RolloutFailure,
    /// Final: everything that is left in the deployment serves the package.
    Success,
    /// Final: ended without success.
    Failure,
    /// Final: ended by a person, or replaced by a rollback.
    Revoked,
}

transitions! {
    DeploymentStatus,
    /// What moves a deployment on.
    DeploymentEvent {
        /// A person starts a plan that has a bastion batch.
        StartedWithBastion,
        /// A person starts a plan without one.
        StartedWithoutBastion,
        /// Bastions settled: at least one, and each verified or serving.
        BastionsVerified,
        /// Bastions settled: some failed, or none is left.
        BastionsFailed,
        /// A person asks for production traffic on the bastions.
        BakeAsked,
        /// A person asks for another attempt.
        RetryAsked,
        /// Every bastion serves, and other targets are left.
        BastionsServe,
        /// Bastions settled, and all that failed failed in Markup.
        MarkupsFailed,
        /// Nothing failed, something serves, nothing is left to do.
        AllServe,
        /// A person asks for the next batch.
        RolloutAsked,
        /// Every batch settled, some target failed.
        SomeFailed,
        /// No target is left, all are set aside.
        NoTargetLeft,
        /// A person ends a failed deployment.
        FinishAsked,
        /// A person, or the rollback that replaces it, ends the deployment.
        RevokeAsked,
    }

    Pending        + StartedWithBastion    => Smoking
    Pending        + StartedWithoutBastion => RollingOut
    Pending        + RevokeAsked           => Revoked

    Smoking        + BastionsVerified      => SmokeSuccess
    Smoking        + BastionsFailed        => SmokeFailure
    Smoking        + NoTargetLeft          => Failure
    Smoking        + RevokeAsked           => Revoked

    SmokeSuccess   + BastionsFailed        => SmokeFailure
    SmokeSuccess   + BakeAsked             => Baking
    SmokeSuccess   + NoTargetLeft          => Failure
    SmokeSuccess   + RevokeAsked           => Revoked

    SmokeFailure   + RetryAsked            => Smoking
    SmokeFailure   + FinishAsked           => Failure
    SmokeFailure   + NoTargetLeft          => Failure
    SmokeFailure   + RevokeAsked           => Revoked

    Baking         + BastionsServe         => BakeSuccess
    Baking         + AllServe              => Success
    Baking         + MarkupsFailed         => BakeFailure
    Baking         + BastionsFailed        => SmokeFailure
    Baking         + NoTargetLeft          => Failure
    Baking         + RevokeAsked           => Revoked

    BakeFailure    + RetryAsked            => Baking
    BakeFailure    + BastionsServe         => BakeSuccess
    BakeFailure    + AllServe              => Success
    BakeFailure    + BastionsFailed        => SmokeFailure
    BakeFailure    + FinishAsked           => Failure
    BakeFailure    + NoTargetLeft          => Failure
    BakeFailure    + RevokeAsked           => Revoked

    BakeSuccess    + BastionsFailed        => SmokeFailure
    BakeSuccess    + AllServe              => Success
    BakeSuccess    + RolloutAsked          => RollingOut
    BakeSuccess    + NoTargetLeft          => Failure
    BakeSuccess    + RevokeAsked           => Revoked

    RollingOut     + RolloutAsked          => RollingOut
    RollingOut     + RetryAsked            => RollingOut
    RollingOut     + AllServe              => Success
    RollingOut     + SomeFailed            => RolloutFailure
    RollingOut     + NoTargetLeft          => Failure
    RollingOut     + FinishAsked           => Failure
    RollingOut     + RevokeAsked           => Revoked

    RolloutFailure + RetryAsked            => RollingOut
    RolloutFailure + AllServe              => Success
    RolloutFailure + FinishAsked           => Failure
    RolloutFailure + NoTargetLeft          => Failure
    RolloutFailure + RevokeAsked           => Revoked
}

impl DeploymentStatus {
    /// Every status, in the order of a release.
    pub const ALL: [Self; 12] = [
        Self::Pending,
        Self::Smoking,
        Self::SmokeSuccess,
        Self::SmokeFailure,
        Self::Baking,
        Self::BakeSuccess,
        Self::BakeFailure,
        Self::RollingOut,
        Self::RolloutFailure,
        Self::Success,
        Self::Failure,
        Self::Revoked,
    ];

    /// Whether this status never changes again (S9).
    pub fn is_final(self) -> bool {
        matches!(self, Self::Success | Self::Failure | Self::Revoked)
    }

    /// Whether the deployment holds its group: neither PENDING nor final (S6).
    pub fn is_running(self) -> bool {
        self != Self::Pending && !self.is_final()
    }

    /// The word of the table, as in the API and the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Smoking => "SMOKING",
            Self::SmokeSuccess => "SMOKE_SUCCESS",
            Self::SmokeFailure => "SMOKE_FAILURE",
            Self::Baking => "BAKING",
            Self::BakeSuccess => "BAKE_SUCCESS",
            Self::BakeFailure => "BAKE_FAILURE",
            Self::RollingOut => "ROLLING_OUT",
            Self::RolloutFailure => "ROLLOUT_FAILURE",
            Self::Success => "SUCCESS",
            Self::Failure => "FAILURE",
            Self::Revoked => "REVOKED",
        }
    }

    /// The status with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.word() == word)
    }

    /// What people are shown: the status, marked when the deployment is braked.
    pub fn shown(self, braked: bool) -> String {
        match (self, braked) {
            (status, false) => status.word().to_owned(),
            (Self::Smoking, true) => "SMOKE_BRAKED".to_owned(),
            (Self::Baking, true) => "BAKE_BRAKED".to_owned(),
            (Self::RollingOut, true) => "ROLLOUT_BRAKED".to_owned(),
            (other, true) => format!("{}_BRAKED", other.word()),
        }
    }
}

impl std::fmt::Display for DeploymentStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_statuses_have_no_way_out_and_all_others_can_be_revoked() {
        for status in DeploymentStatus::ALL {
            let out = DeploymentStatus::EDGES.iter().filter(|(from, ..)| *from == status).count();
            assert_eq!(out == 0, status.is_final(), "{status}");
            assert_eq!(status.on(DeploymentEvent::RevokeAsked).is_some(), !status.is_final());
        }
    }

    #[test]
    fn words_are_unique_and_match_serde() {
        for status in DeploymentStatus::ALL {
            assert_eq!(DeploymentStatus::from_word(status.word()), Some(status));
            let json = serde_json::to_value(status).expect("a status can be written");
            assert_eq!(json, status.word());
        }
    }
}
