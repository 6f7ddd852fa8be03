//! A deployment as it is given out: its holds, batches, targets, and what it waits for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::PackageBrief;
use crate::action::{Action, ActionState};
use crate::batch_status::BatchStatus;
use crate::config::DeploymentConfig;
use crate::dependency::Without;
use crate::deployment_status::DeploymentStatus;
use crate::record::{Cause, Flavor, HoldReason};
use crate::target_status::TargetStatus;
use crate::{DeploymentId, GroupId, ServerId, TargetId, Timestamp};

/// A hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HoldView {
    /// Why.
    pub reason: HoldReason,
    /// Who set it.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// What happened, for people.
    pub detail: String,
    /// Who or what clears it.
    pub clears: String,
}

/// A batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchView {
    /// Its place, from 1.
    pub index: u32,
    /// Whether it is the bastion batch.
    pub is_bastion: bool,
    /// Where it stands.
    pub status: BatchStatus,
    /// While it waits: when it starts by itself.
    pub wait_until: Option<Timestamp>,
    /// How many targets have which status.
    pub counts: BTreeMap<String, u32>,
}

/// What a deployment waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitKind {
    /// A person.
    Click,
    /// A slot (S1).
    Slot,
    /// Time.
    Timer,
    /// A host.
    Host,
    /// An outside dependency.
    Dependency,
    /// Something that comes before.
    Predecessor,
}

/// One thing that a deployment waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitingFor {
    /// Of which kind.
    pub what: WaitKind,
    /// On what exactly.
    pub on: String,
    /// Since when.
    pub since: Timestamp,
    /// Who can clear it.
    pub who: String,
    /// When it clears by itself.
    pub until: Option<Timestamp>,
    /// A sentence.
    pub text: String,
}

/// What [`WaitingFor::on`] begins with when it is a hold.
pub(crate) const HOLD: &str = "hold ";

impl WaitingFor {
    /// Whether it waits for a hold to go. The deployment's `holds` say more of it.
    pub fn is_hold(&self) -> bool {
        self.on.starts_with(HOLD)
    }
}

/// A deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentView {
    /// Its id.
    pub id: DeploymentId,
    /// The group.
    pub group: GroupId,
    /// The group's name when it was created.
    pub group_name: String,
    /// The application's name.
    pub application: String,
    /// The package.
    pub package: PackageBrief,
    /// What it is for.
    pub flavor: Flavor,
    /// Where it stands.
    pub status: DeploymentStatus,
    /// The status, marked when it is braked.
    pub shown_status: String,
    /// Since when.
    pub status_since: Timestamp,
    /// Why it is braked.
    pub holds: Vec<HoldView>,
    /// Of which every share is a share.
    pub total: u32,
    /// How many servers the strategy allows to be out.
    pub b: u32,
    /// How many may be out when a server in service is taken.
    pub l: u32,
    /// How many are out now.
    pub out: u32,
    /// How many may be taken now.
    pub free: u32,
    /// How many targets failed or are unknown.
    pub failed: u32,
    /// How many failed targets brake.
    pub failure_limit: u32,
    /// How many targets have which status.
    pub counts: BTreeMap<String, u32>,
    /// Its batches.
    pub batches: Vec<BatchView>,
    /// The strategy.
    pub config: DeploymentConfig,
    /// Seed of the order of servers.
    pub seed: String,
    /// Digest of the plan.
    pub plan_hash: String,
    /// The newest SUCCESS of the group before it.
    pub parent: Option<DeploymentId>,
    /// For a rollback: the deployment that it undoes.
    pub origin: Option<DeploymentId>,
    /// For a rollback: the deployment whose package it brings back.
    pub restores: Option<DeploymentId>,
    /// The rollback that replaced it.
    pub superseded_by: Option<DeploymentId>,
    /// Who created it.
    pub created_by: String,
    /// Why a failed health answer is forgiven.
    pub ignore_verify_reason: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Sequence number of its last event.
    pub last_seq: i64,
    /// What can be asked of it now.
    pub allowed_actions: Vec<Action>,
    /// Every action, and why it is not allowed now.
    pub actions: Vec<ActionState>,
    /// What it waits for.
    pub waiting_for: Vec<WaitingFor>,
    /// What it does or did without.
    #[serde(default)]
    pub ran_without: Vec<Without>,
    /// While its load balancer is bypassed: how many servers may be out by us (S12).
    #[serde(default)]
    pub most_ours: Option<u32>,
    /// Servers that it released and whose Markup is owed.
    #[serde(default)]
    pub owed: Vec<OwedView>,
}

/// A server that was released while its load balancer was bypassed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OwedView {
    /// The server.
    pub server: ServerId,
    /// Its host name (and instance).
    pub hostname: String,
    /// Whether it was drained before: then it gets no traffic, and is out. Else it gets traffic as far as
    /// the load balancer gives it, and has not been seen to.
    pub is_drained: bool,
    /// Since when.
    pub since: Timestamp,
}

/// A deployment in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentBrief {
    /// Its id.
    pub id: DeploymentId,
    /// The group.
    pub group: GroupId,
    /// The group's name.
    pub group_name: String,
    /// The package.
    pub package: PackageBrief,
    /// What it is for.
    pub flavor: Flavor,
    /// Where it stands.
    pub status: DeploymentStatus,
    /// The status, marked when it is braked.
    pub shown_status: String,
    /// Who created it.
    pub created_by: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// A target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TargetView {
    /// Its id.
    pub id: TargetId,
    /// The deployment.
    pub deployment: DeploymentId,
    /// The batch that it runs in.
    pub batch: u32,
    /// Its place in the plan.
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
    /// Attempt, from 1.
    pub attempt: u32,
    /// Why its last stage failed.
    pub cause: Option<Cause>,
    /// What happened, for people.
    pub message: Option<String>,
    /// Since when the answer of its stage is lost.
    pub unknown_since: Option<Timestamp>,
    /// It already ran the package; nothing was done.
    pub skipped: bool,
    /// A failed health answer was forgiven.
    pub unverified: bool,
    /// The load balancer was not asked for its last stage (S12).
    #[serde(default)]
    pub bypassed: bool,
    /// Digest of script and environment of its last order.
    pub order_digest: Option<String>,
}
