//! The records of a release: a deployment with its batches and targets.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Binding, PackageRef, Server};
use crate::batch_status::BatchStatus;
use crate::config::DeploymentConfig;
use crate::dependency::Without;
use crate::deployment_status::DeploymentStatus;
use crate::order::ScriptSet;
use crate::target_status::TargetStatus;
use crate::{DeploymentId, GroupId, OrderKey, ServerId, TargetId, Timestamp};

/// What a deployment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Flavor {
    /// A release of a package to the whole group.
    #[default]
    Rollout,
    /// Back to an earlier package.
    Rollback,
    /// The group's version to the servers whose record does not prove it.
    Scaleout,
    /// What a group already ran when it came to Capstan.
    Adopted,
}

impl Flavor {
    /// The word in the API and the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rollout => "rollout",
            Self::Rollback => "rollback",
            Self::Scaleout => "scaleout",
            Self::Adopted => "adopted",
        }
    }

    /// The flavor with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Rollout, Self::Rollback, Self::Scaleout, Self::Adopted]
            .into_iter()
            .find(|flavor| flavor.word() == word)
    }
}

/// Why a deployment is braked.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// A person braked.
    User,
    /// Too many targets failed (S2).
    Failures,
    /// Targets wait and no slot can come free (S2).
    Slots,
    /// An outside dependency is not to be trusted.
    Dependency,
}

impl HoldReason {
    /// The word in the API and the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Failures => "failures",
            Self::Slots => "slots",
            Self::Dependency => "dependency",
        }
    }

    /// Who or what clears it, for people.
    pub fn clears(self) -> &'static str {
        match self {
            Self::User => "resume or retry",
            Self::Failures => "retry; resume once fewer targets fail than the limit",
            Self::Slots => {
                "itself, when a slot is free: put a pulled-out server back, retire it in the \
                 CMDB, or allow the group to go dark"
            }
            Self::Dependency => {
                "itself, when the dependency answers again or is restored; a load balancer also \
                 when it is cut off"
            }
        }
    }
}

/// One reason why nothing new starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hold {
    /// Why.
    pub reason: HoldReason,
    /// Who set it; `capstan` for the engine.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// What happened, for people.
    pub detail: String,
    /// For [`HoldReason::Dependency`]: servers that were drained again and were not seen to stay out
    /// since. Looks at a large group are split, so it is kept which servers are still awaited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubted: Vec<ServerId>,
    /// For [`HoldReason::Failures`]: acts at the load balancer whose answers were lost made one failure too many,
    /// and not what a host did.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_lost_acts: bool,
}

impl Hold {
    /// A hold with nothing more to say.
    pub fn new(reason: HoldReason, by: String, since: Timestamp) -> Self {
        let (detail, doubted) = (String::new(), Vec::new());
        Self { reason, by, since, detail, doubted, by_lost_acts: false }
    }

    /// Who or what clears it, for people.
    pub fn clears(&self) -> &'static str {
        if self.by_lost_acts {
            return "retry; resume once fewer targets fail than the limit; or cut off the load balancer that \
                    does not answer";
        }
        self.reason.clears()
    }
}

/// One release of one package to one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// The group.
    pub group: GroupId,
    /// The package.
    pub package: PackageRef,
    /// The strategy.
    pub config: DeploymentConfig,
    /// What it is for.
    pub flavor: Flavor,
    /// Where it stands.
    pub status: DeploymentStatus,
    /// Why it is braked; at most one hold per reason.
    pub holds: Vec<Hold>,
    /// Failed and unknown targets that a retry passed over although they reach the limit: one more
    /// brakes again (S2). Zero as long as they are below the limit.
    pub failed_seen: u32,
    /// Members when the plan was made.
    pub total: u32,
    /// The group's fields when it was created.
    pub frozen: Binding,
    /// The scripts that its hosts run (T5).
    pub scripts: ScriptSet,
    /// The newest SUCCESS of the group before it.
    pub parent: Option<DeploymentId>,
    /// For a rollback: the deployment that it undoes.
    pub origin: Option<DeploymentId>,
    /// For a rollback: the deployment whose package it brings back.
    pub restores: Option<DeploymentId>,
    /// The bastions serve; later bastion targets run through like any other.
    pub baked: bool,
    /// The rollback that replaced it.
    pub superseded_by: Option<DeploymentId>,
    /// Who created it.
    pub created_by: String,
    /// Why a failed health answer is forgiven.
    pub ignore_verify_reason: Option<String>,
    /// Seed of the order of its servers.
    pub seed: String,
    /// Digest of the plan.
    pub plan_hash: String,
    /// Sequence number of its last event.
    pub seq: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When its status last changed.
    pub status_since: Timestamp,
    /// It has waited for a person for longer than [`Binding::stale_after`], and that was said.
    pub stale: bool,
    /// What it did without, at most one entry per dependency.
    pub ran_without: Vec<Without>,
}

impl Deployment {
    /// Whether anything holds it.
    pub fn is_braked(&self) -> bool {
        !self.holds.is_empty()
    }

    /// The hold with this reason.
    pub fn hold(&self, reason: HoldReason) -> Option<&Hold> {
        self.holds.iter().find(|hold| hold.reason == reason)
    }
}

/// Targets that go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Its place, from 1.
    pub index: u32,
    /// Whether it is the bastion batch.
    pub is_bastion: bool,
    /// Where it stands.
    pub status: BatchStatus,
    /// While it waits: when it starts by itself; none: on a click.
    pub wait_until: Option<Timestamp>,
    /// When it last ended.
    pub ended_at: Option<Timestamp>,
}

/// Why a stage failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The script or the driver said so.
    Failed,
    /// It took longer than its limit.
    Timeout,
    /// No answer until the limit and the grace had passed (S11).
    Unreachable,
    /// The host or the driver refuses the order.
    Refused,
    /// It served and died, or does not prove its package when it is put back.
    Relapsed,
}

impl Cause {
    /// The word in the API and the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Relapsed => "relapsed",
        }
    }

    /// The cause with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Failed, Self::Timeout, Self::Unreachable, Self::Refused, Self::Relapsed]
            .into_iter()
            .find(|cause| cause.word() == word)
    }
}

/// One server in one deployment.
#[expect(clippy::struct_excessive_bools, reason = "a row: each is a fact of its own")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its id.
    pub id: TargetId,
    /// The deployment.
    pub deployment: DeploymentId,
    /// The batch that it runs in.
    pub batch: u32,
    /// Its place in the plan, from 0; one place per target.
    pub place: u32,
    /// The server.
    pub server: ServerId,
    /// Host name when it was planned.
    pub hostname: String,
    /// Instance when it was planned.
    pub instance: String,
    /// Address when it was planned.
    pub ip_address: String,
    /// Where it stands.
    pub status: TargetStatus,
    /// Since when.
    pub status_since: Timestamp,
    /// Attempt, from 1; raised by each retry.
    pub attempt: u32,
    /// Acts ordered for it so far, over all attempts; numbers the keys.
    pub orders: u32,
    /// Automatic tries that the stage under way has had after its first.
    pub tries: u32,
    /// Key of the act under way or last done.
    pub order: Option<OrderKey>,
    /// Digest of script and environment of the last order (T5).
    pub order_digest: Option<String>,
    /// When the stage under way must have ended.
    pub deadline_at: Option<Timestamp>,
    /// Since when the answer of the stage under way is lost (S11).
    pub unknown_since: Option<Timestamp>,
    /// The Check of this attempt is done and proved nothing.
    pub checked: bool,
    /// When the package was last proven on it.
    pub verified_at: Option<Timestamp>,
    /// A failed health answer was forgiven.
    pub unverified: bool,
    /// It already ran the package; nothing was done.
    pub skipped: bool,
    /// Its Markdown took a server that was in service, and has not succeeded yet.
    pub took: bool,
    /// Its server left while a stage was under way; it is set aside when that ends.
    pub leaving: bool,
    /// The stage under way or last done was recorded as bypassed: the load balancer was not asked.
    pub bypassed: bool,
    /// Why its last stage failed.
    pub cause: Option<Cause>,
    /// What happened, for people.
    pub message: Option<String>,
}

impl Target {
    /// A target that has not begun.
    pub fn new(
        id: TargetId,
        deployment: DeploymentId,
        batch: u32,
        place: u32,
        server: &Server,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            deployment,
            batch,
            place,
            server: server.id,
            hostname: server.hostname.clone(),
            instance: server.instance.clone(),
            ip_address: server.ip_address.clone(),
            status: TargetStatus::Pending,
            status_since: now,
            attempt: 1,
            orders: 0,
            tries: 0,
            order: None,
            order_digest: None,
            deadline_at: None,
            unknown_since: None,
            checked: false,
            verified_at: None,
            unverified: false,
            skipped: false,
            took: false,
            leaving: false,
            bypassed: false,
            cause: None,
            message: None,
        }
    }
}
