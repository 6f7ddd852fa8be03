//! The stages of a target's chain, and how long each may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One step on one target. `Check` stands outside the chain: it changes nothing on the host.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Stage {
    /// Looks whether the server already runs exactly this package.
    Check,
    /// Takes the server out of traffic and waits until its requests are done.
    Markdown,
    /// Fetches the package to the host.
    Download,
    /// Unpacks it, switches `current` and restarts.
    Install,
    /// Proves that exactly this package runs and stays healthy.
    Verify,
    /// Puts the server back into traffic.
    Markup,
}

/// How long a drain waits for requests under way before Markdown goes on.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// How old a Verify success may be when Markup starts (S5).
pub const VERIFY_FRESH: Duration = Duration::from_mins(1);
/// How long after a stage's limit a host is still asked for a lost answer (S11).
pub const UNKNOWN_GRACE: Duration = Duration::from_mins(2);
/// Waits before the automatic tries of a stage; as many tries as there are entries follow the first.
pub const TRY_WAITS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(8)];

impl Stage {
    /// Every stage; the chain's five are in their order.
    pub const ALL: [Self; 6] =
        [Self::Check, Self::Markdown, Self::Download, Self::Install, Self::Verify, Self::Markup];

    /// How long the stage may take, from its start, all tries included.
    pub fn limit(self, startup_timeout: Duration, settle_time: Duration) -> Duration {
        match self {
            Self::Markdown | Self::Markup => Duration::from_mins(1),
            Self::Download => Duration::from_mins(10),
            Self::Install => Duration::from_mins(5),
            Self::Verify => startup_timeout.max(settle_time),
            Self::Check => settle_time + Duration::from_secs(10),
        }
    }

    /// Whether the stage is an order to the host; the others are acts on the load balancer.
    pub fn is_order(self) -> bool {
        !matches!(self, Self::Markdown | Self::Markup)
    }

    /// The name in statuses, logs and the environment of host scripts.
    pub fn word(self) -> &'static str {
        match self {
            Self::Check => "CHECK",
            Self::Markdown => "MARKDOWN",
            Self::Download => "DOWNLOAD",
            Self::Install => "INSTALL",
            Self::Verify => "VERIFY",
            Self::Markup => "MARKUP",
        }
    }

    /// The stage with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.word() == word)
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}
