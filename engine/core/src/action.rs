//! What a person can ask of a deployment.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One button, one REST call, one command of the command line.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Starts a planned deployment.
    Start,
    /// Brings the bastions into production traffic.
    Bake,
    /// Starts the next batch.
    Rollout,
    /// Runs what failed once more.
    Retry,
    /// Stops starting anything.
    Brake,
    /// Goes on after a brake.
    Resume,
    /// Ends the deployment as REVOKED.
    Revoke,
    /// Ends a failed deployment as FAILURE.
    Finish,
    /// Replaces the deployment by a rollback of its group.
    Rollback,
}

impl Action {
    /// Every action, in the order of the buttons.
    pub const ALL: [Self; 9] = [
        Self::Start,
        Self::Bake,
        Self::Rollout,
        Self::Retry,
        Self::Brake,
        Self::Resume,
        Self::Finish,
        Self::Revoke,
        Self::Rollback,
    ];

    /// The word in the API and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Bake => "bake",
            Self::Rollout => "rollout",
            Self::Retry => "retry",
            Self::Brake => "brake",
            Self::Resume => "resume",
            Self::Revoke => "revoke",
            Self::Finish => "finish",
            Self::Rollback => "rollback",
        }
    }

    /// The action with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.word() == word)
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// Whether an action is allowed now, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActionState {
    /// The action.
    pub action: Action,
    /// None: it is allowed.
    pub refused_because: Option<String>,
}
