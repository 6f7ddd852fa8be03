//! The JSON that the REST API gives out and the portal and the command line read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::action::{Action, ActionState};
use crate::batch_status::BatchStatus;
use crate::config::DeploymentConfig;
use crate::deployment_status::DeploymentStatus;
use crate::record::{
    Bad, BastionRule, Cause, Flavor, HoldReason, Location, OnLbFailure, OutBecause, PulledOut,
    Service,
};
use crate::target_status::TargetStatus;
use crate::{ApplicationId, DeploymentId, GroupId, PackageId, ServerId, TargetId, Timestamp};

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Give this as `cursor` for the next page; null: this is the last.
    pub next_cursor: Option<String>,
}

/// An application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApplicationView {
    /// Its id.
    pub id: ApplicationId,
    /// Its name.
    pub name: String,
    /// Who answers for it.
    pub owner: String,
    /// For example `prod`.
    pub environment: String,
    /// Chooses the host scripts.
    pub kind: String,
    /// Whether its rollouts begin with a bastion batch.
    pub bastion: BastionRule,
}

/// A version that runs on servers of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionView {
    /// The version; null: nothing that Capstan knows of.
    pub version: Option<String>,
    /// Its package.
    pub package: Option<PackageId>,
    /// How many servers.
    pub servers: u32,
    /// How many of those proved it; on the others an Install began and nothing was proven since.
    pub proven: u32,
    /// The oldest proof among them.
    pub oldest_proof_at: Option<Timestamp>,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupView {
    /// Its id.
    pub id: GroupId,
    /// Its id in the CMDB.
    pub external_id: String,
    /// Its name.
    pub name: String,
    /// The application that it serves.
    pub application: ApplicationView,
    /// Site.
    pub site: String,
    /// Virtual path.
    pub virtual_path: String,
    /// Physical path.
    pub doc_base: String,
    /// Default port of its servers.
    pub port: u16,
    /// Health URL with `{ip}` and `{port}`.
    pub health_check_url: String,
    /// Main data centre.
    pub idc: String,
    /// Name of the load-balancer driver.
    pub load_balancer: String,
    /// Name of the executor.
    pub executor: String,
    /// Allows 100 % and taking the last server.
    pub may_go_dark: bool,
    /// What happens when the load balancer does not answer.
    pub on_lb_failure: OnLbFailure,
    /// How long a server must stay healthy, in seconds.
    pub settle_seconds: u32,
    /// Members, retired servers left out.
    pub total: u32,
    /// Members that count as out.
    pub out: u32,
    /// Members in service.
    pub in_service: u32,
    /// Revision of the CMDB record that this is a cache of.
    pub cmdb_revision: i64,
    /// When the cache was last known to be right.
    pub synced_at: Timestamp,
    /// Whether that is longer ago than the configured limit.
    pub stale: bool,
    /// A refresh that would remove too many servers and waits for a person's word.
    pub refresh_held: Option<String>,
    /// The version that the group runs: that of its newest SUCCESS.
    pub version: Option<String>,
    /// The deployment that runs now.
    pub running_deployment: Option<DeploymentId>,
    /// Its shown status.
    pub running_status: Option<String>,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerView {
    /// Its id.
    pub id: ServerId,
    /// The group.
    pub group: GroupId,
    /// Host name.
    pub hostname: String,
    /// Instance on the host.
    pub instance: String,
    /// Address.
    pub ip_address: String,
    /// Port.
    pub port: u16,
    /// Folder of the instance on the host.
    pub root: String,
    /// Data centre.
    pub idc: String,
    /// Pool.
    pub pool: String,
    /// Marked as bastion.
    pub is_bastion: bool,
    /// No part of the group any more.
    pub retired: bool,
    /// Pulled out by hand.
    pub pulled_out: Option<PulledOut>,
    /// Whether it gets traffic.
    pub service: Service,
    /// Why it is out.
    pub out_because: Option<OutBecause>,
    /// When its service was last seen to change.
    pub observed_at: Option<Timestamp>,
    /// The version that it runs, as far as is known.
    pub version: Option<String>,
    /// When that was last proven; null with a version: an Install began and nothing was proven since.
    pub proven_at: Option<Timestamp>,
}

/// A package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PackageView {
    /// Its id.
    pub id: PackageId,
    /// The application that it is a version of.
    pub application: ApplicationId,
    /// The version.
    pub version: String,
    /// SHA-256 of the archive.
    pub sha256: String,
    /// Bytes.
    pub size: Option<u64>,
    /// Where it can be fetched, besides Capstan's own store.
    pub locations: Vec<Location>,
    /// Whether Capstan's own store holds it.
    pub stored: bool,
    /// Marked as bad.
    pub bad: Option<Bad>,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// The package of a deployment, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PackageBrief {
    /// Its id.
    pub id: PackageId,
    /// Its version.
    pub version: String,
    /// SHA-256 of the archive.
    pub sha256: String,
}

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
    /// Digest of script and environment of its last order.
    pub order_digest: Option<String>,
}

/// Who asked for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// On what.
    pub subject: String,
    /// `accepted`, or the code of the refusal.
    pub answer: String,
    /// Details, for people.
    pub detail: String,
}

/// A part of the output of a host's scripts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogPart {
    /// The stage.
    pub stage: String,
    /// Attempt of the target.
    pub attempt: u32,
    /// Key of the order.
    pub key: String,
    /// When its first output came.
    pub at: Timestamp,
    /// The output; bytes that are no UTF-8 are shown as U+FFFD.
    pub text: String,
    /// Bytes of output that are kept in all.
    pub bytes: u64,
}
