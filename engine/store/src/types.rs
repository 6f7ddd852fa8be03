//! What goes into the store and comes out of it, besides the records and views of core.

use std::time::Duration;

use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::record::Location;
use capstan_core::stage::Stage;
use capstan_core::target_status::TargetStatus;
use capstan_core::{ApplicationId, DeploymentId, GroupId, OrderKey, TargetId, Timestamp, TokenId};

/// How the store is opened.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `sqlite:///absolute/path/capstan.db`, `postgres://…` or `mysql://…`.
    pub url: String,
    /// After how long without a refresh a group is shown as stale.
    pub stale_after: Duration,
    /// After how long a silence others take over what a process is doing. A file has one process, and
    /// no others.
    pub lease: Duration,
}

impl Settings {
    /// The usual settings for the database of `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            stale_after: Duration::from_hours(1),
            lease: Duration::from_secs(3),
        }
    }
}

/// Which page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// How many items, 1 to 500; more or fewer are taken as the nearest of these.
    pub limit: u32,
    /// `next_cursor` of the page before; none: the first page.
    pub cursor: Option<String>,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: 100, cursor: None }
    }
}

impl PageRequest {
    pub(crate) fn size(&self) -> u64 {
        u64::from(self.limit.clamp(1, 500))
    }
}

/// A package to register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPackage {
    /// The application that it is a version of.
    pub application: ApplicationId,
    /// The version.
    pub version: String,
    /// SHA-256 of the archive, lower-case hexadecimal.
    pub sha256: String,
    /// Bytes of the archive, if known.
    pub size: Option<u64>,
    /// Where it can be fetched, besides Capstan's own store.
    pub locations: Vec<Location>,
    /// Whether Capstan's own store holds the archive.
    pub stored: bool,
}

/// What came of registering a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// It is new.
    Created,
    /// It was known with the same digest; new locations were added.
    Same,
    /// The version is known with another digest; nothing was changed.
    OtherDigest,
}

/// Which deployments are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeploymentFilter {
    /// Of this group only.
    pub group: Option<GroupId>,
    /// In this status only.
    pub status: Option<DeploymentStatus>,
    /// Only those that hold their group: neither PENDING nor final.
    pub running: bool,
}

/// Which targets are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TargetFilter {
    /// In this status only.
    pub status: Option<TargetStatus>,
    /// Of this batch only.
    pub batch: Option<u32>,
}

/// An entry for the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAudit {
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// Kind of the subject, for example `deployment`.
    pub subject_kind: &'static str,
    /// On what: an id or a name.
    pub subject: String,
    /// The deployment concerned, if one.
    pub deployment: Option<DeploymentId>,
    /// `accepted`, or the code of the refusal.
    pub answer: String,
    /// Details, for people.
    pub detail: String,
}

/// An access token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its id.
    pub id: TokenId,
    /// Whose it is.
    pub name: String,
}

/// A browser that is logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// The token that it was opened with.
    pub token: TokenRow,
    /// What forms must carry.
    pub csrf: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// What is known of a request that may have come before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Idempotency {
    /// It is new, and marked as under way from now on.
    Fresh,
    /// The same request is under way.
    Running,
    /// It was done; this was the answer.
    Replay {
        /// HTTP status.
        status: u16,
        /// Content type.
        content_type: String,
        /// Body.
        body: Vec<u8>,
    },
    /// It made this deployment, or was a click on it, and the process ended before the answer was kept.
    Made(DeploymentId),
    /// The key was used for a request with another body.
    OtherBody,
}

/// A request that must not be done twice: what [`Store::idempotency_begin`] marked as under way.
///
/// [`Store::idempotency_begin`]: crate::Store::idempotency_begin
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKey {
    /// Whose it is.
    pub token: TokenId,
    /// Path and query.
    pub path: String,
    /// The caller's key.
    pub key: String,
}

/// Who asked for an input: written in the transaction that follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// The request, if it must not be done twice.
    pub request: Option<RequestKey>,
    /// The entry of the audit, if the input is accepted. The deployment that it makes is filled in.
    pub audit: Option<NewAudit>,
}

/// A part of the output of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputChunk {
    /// The target.
    pub target: TargetId,
    /// Key of the order.
    pub key: OrderKey,
    /// The stage.
    pub stage: Stage,
    /// Attempt of the target.
    pub attempt: u32,
    /// Bytes of the order's output before this part.
    pub offset: u64,
    /// The part.
    pub bytes: Vec<u8>,
}

/// How much is due.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct QueueMetrics {
    /// Effects that are due and that nobody has.
    pub effects_due: u64,
    /// How long the oldest of them has been due.
    pub oldest_due_seconds: f64,
}
