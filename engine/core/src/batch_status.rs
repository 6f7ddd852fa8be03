//! The status of a batch.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::transitions::transitions;

/// Where a batch stands.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BatchStatus {
    /// Its turn has not come.
    Pending,
    /// It is the next one: its wait runs, or it waits for a click.
    Waiting,
    /// Its targets run, or wait for a slot.
    Deploying,
    /// Every target that is left in it succeeded.
    Success,
    /// Every target is at rest and some failed.
    Failure,
    /// The deployment ended before this batch succeeded.
    Revoked,
}

transitions! {
    BatchStatus,
    /// What moves a batch on.
    BatchEvent {
        /// It is the next batch and must wait.
        Queued,
        /// It starts.
        Started,
        /// All its targets are at rest, none failed.
        Succeeded,
        /// All its targets are at rest, some failed.
        Failed,
        /// One of its targets went back to PENDING.
        Reopened,
        /// The deployment ended.
        Ended,
    }

    Pending   + Queued    => Waiting
    Pending   + Started   => Deploying
    Pending   + Succeeded => Success
    Pending   + Ended     => Revoked
    Waiting   + Started   => Deploying
    Waiting   + Succeeded => Success
    Waiting   + Ended     => Revoked
    Deploying + Succeeded => Success
    Deploying + Failed    => Failure
    Deploying + Ended     => Revoked
    Success   + Reopened  => Deploying
    Success   + Failed    => Failure
    Failure   + Reopened  => Deploying
    Failure   + Succeeded => Success
    Failure   + Ended     => Revoked
}

impl BatchStatus {
    /// Every status, in the order of a batch's life.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Waiting,
        Self::Deploying,
        Self::Success,
        Self::Failure,
        Self::Revoked,
    ];

    /// The word of the table, as in the API and the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Waiting => "WAITING",
            Self::Deploying => "DEPLOYING",
            Self::Success => "SUCCESS",
            Self::Failure => "FAILURE",
            Self::Revoked => "REVOKED",
        }
    }

    /// The status with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.word() == word)
    }
}

impl std::fmt::Display for BatchStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}
