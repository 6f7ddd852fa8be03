//! The JSON that the REST API gives out and the portal and the command line read.

mod deployment;
mod tally;
mod webhook;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::dependency::{BreakerState, DependencyKind};
use crate::record::{
    Bad, BastionRule, Location, OnLbFailure, OutBecause, PulledOut, ScaleOut, Service,
};
use crate::{ApplicationId, DeploymentId, GroupId, PackageId, ServerId, Timestamp};

pub(crate) use deployment::HOLD;
pub use deployment::{
    BatchView, DeploymentBrief, DeploymentView, HoldView, OwedView, TargetView, WaitKind,
    WaitingFor,
};
pub use tally::Tally;
pub use webhook::{DeliveryView, WebhookView};

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
    /// When the cache was last known to be right: the latest of its groups; null: it has none, and no
    /// CMDB gives it.
    pub synced_at: Option<Timestamp>,
    /// Whether that is longer ago than the configured limit.
    pub stale: bool,
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
    /// Name of the executor that comes first.
    pub executor: String,
    /// Those that orders go through while a person has cut the ones before off, in turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next_executors: Vec<String>,
    /// Allows 100 % and taking the last server.
    pub may_go_dark: bool,
    /// What happens when the load balancer does not answer.
    pub on_lb_failure: OnLbFailure,
    /// Whether new servers get the group's version by themselves.
    #[serde(default)]
    pub scale_out: ScaleOut,
    /// How long a server must stay healthy, in seconds.
    pub settle_seconds: u32,
    /// Members, retired servers left out.
    pub total: u32,
    /// Members that count as out.
    pub out: u32,
    /// Members in service.
    pub in_service: u32,
    /// Revision of the CMDB record that this is a cache of; 0: it has none, below: there was no record yet.
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

impl GroupView {
    /// Names of its executors, the one that comes first before the others.
    pub fn executors(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.executor).chain(&self.next_executors).map(String::as_str)
    }
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
    /// When the cache was last known to be right: that of its group, with whose record it comes.
    pub synced_at: Timestamp,
    /// Whether that is longer ago than the configured limit.
    pub stale: bool,
    /// Pulled out by hand.
    pub pulled_out: Option<PulledOut>,
    /// Whether it gets traffic.
    pub service: Service,
    /// Why it is out.
    pub out_because: Option<OutBecause>,
    /// Since when its Markup is owed: it was released while its load balancer was bypassed.
    #[serde(default)]
    pub markup_owed_since: Option<Timestamp>,
    /// When its service was last seen to change.
    pub observed_at: Option<Timestamp>,
    /// The version that it runs, as far as is known.
    pub version: Option<String>,
    /// When that was last proven; null with a version: an Install began and nothing was proven since.
    pub proven_at: Option<Timestamp>,
}

/// A person cut a dependency off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CutOff {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// When it ends by itself; null: when a person restores it.
    pub expires_at: Option<Timestamp>,
}

/// An outside dependency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DependencyView {
    /// Its name: its section in the configuration.
    pub name: String,
    /// What it is.
    pub kind: DependencyKind,
    /// What its circuit breaker does with calls, as long as nobody cut it off.
    pub state: BreakerState,
    /// Since when the breaker is closed, or is not.
    pub since: Timestamp,
    /// The error that opened it last.
    pub last_error: Option<String>,
    /// Whether a person cut it off: then no call is made.
    pub cut_off: Option<CutOff>,
    /// How many groups are released through it now; of the CMDB, the package store and the message broker,
    /// all.
    pub groups: u32,
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

/// Whether a process can do its work, and what is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadinessView {
    /// Whether it can.
    pub ready: bool,
    /// What it cannot do without and does not have.
    pub missing: Vec<MissingView>,
    /// What it does without: releases go on from the cache.
    pub warnings: Vec<String>,
    /// When the CMDB last gave all its groups to this process.
    pub synced_at: Option<Timestamp>,
}

/// Something that a process cannot do without and does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingView {
    /// For example `database`.
    pub what: String,
    /// What is wrong with it.
    pub reason: String,
}
