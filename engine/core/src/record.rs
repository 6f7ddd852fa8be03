//! The records. Words and meanings are those of the glossary in `docs/glossary.md`.

mod release;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::dependency::{Dependencies, OwedMarkup};
use crate::{ApplicationId, GroupId, OrderKey, PackageId, ServerId, Timestamp};

pub use release::{Batch, Cause, Deployment, Flavor, Hold, HoldReason, Target};

/// Whether a rollout of an application begins with a bastion batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BastionRule {
    /// It does.
    #[default]
    One,
    /// It does not.
    None,
}

/// What is released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Application {
    /// Its id.
    pub id: ApplicationId,
    /// Its unique name.
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

/// What happens when a group's load balancer does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnLbFailure {
    /// The deployment holds.
    #[default]
    Brake,
    /// Markdown and Markup are recorded as bypassed.
    Bypass,
}

/// Whether new servers of a group get its version without a person's click.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScaleOut {
    /// A person starts a scaleout.
    #[default]
    Manual,
    /// Capstan starts one when servers have appeared and nothing runs.
    Automatic,
}

/// What a deployment copies of its group when it is created, so that a later change to the group
/// counts from the next deployment on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Name of the application.
    pub application: String,
    /// Kind of the application: chooses the host scripts.
    pub kind: String,
    /// Name of the group.
    pub group: String,
    /// Site.
    pub site: String,
    /// Virtual path.
    pub virtual_path: String,
    /// Physical path.
    pub doc_base: String,
    /// Health URL; `{ip}` and `{port}` are filled in per server.
    pub health_check_url: String,
    /// Name of the load-balancer driver.
    pub load_balancer: String,
    /// Name of the executor that comes first.
    pub executor: String,
    /// Those that follow it: while a person has cut the ones before off, orders go through the next.
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
    /// How many releases a host keeps.
    pub keep_releases: u32,
    /// How long a deployment may wait for a person before it is called stale, in seconds. Not the
    /// CMDB's to say: a deployment freezes what Capstan's own setting is when it is created.
    #[serde(default = "day")]
    pub stale_after_seconds: u32,
}

/// [`crate::decide::STALE_AFTER`], in seconds.
fn day() -> u32 {
    u32::try_from(crate::decide::STALE_AFTER.as_secs()).unwrap_or(u32::MAX)
}

impl Binding {
    /// Names of the executors, the one that comes first before the others.
    pub fn executors(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.executor).chain(&self.next_executors).map(String::as_str)
    }

    /// How long a deployment may wait for a person before it is called stale.
    pub fn stale_after(&self) -> Duration {
        Duration::from_secs(u64::from(self.stale_after_seconds))
    }

    /// The same binding with another such time.
    #[must_use]
    pub fn with_stale_after(mut self, time: Duration) -> Self {
        self.stale_after_seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        self
    }

    /// How long a server must stay healthy.
    pub fn settle_time(&self) -> Duration {
        Duration::from_secs(u64::from(self.settle_seconds))
    }
}

/// One application's instances that serve together; the smallest unit of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// Its id in the CMDB.
    pub external_id: String,
    /// The application that it serves.
    pub application: Application,
    /// The fields that a deployment freezes.
    pub binding: Binding,
    /// Default port of its servers.
    pub port: u16,
    /// Main data centre.
    pub idc: String,
    /// Revision of the CMDB record that this is a cache of; 0: it has none, below: there was no record yet.
    pub cmdb_revision: i64,
    /// When the cache was last known to be right.
    pub synced_at: Timestamp,
    /// A refresh that would remove too many servers and waits for a person's word: what it would do.
    pub refresh_held: Option<String>,
    /// Raised by every transaction that changes the group, its servers or its deployments.
    pub version: i64,
    /// When every server was last looked at.
    pub observed_at: Option<Timestamp>,
    /// Sequence number of the last event in the group's own log (events outside any deployment).
    pub seq: i64,
    /// Dependencies of the group, or of its running deployment, that are not usable.
    pub dependencies: Dependencies,
}

/// Whether a server gets traffic, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// It gets traffic and answers.
    In,
    /// It does not.
    Out,
    /// Nobody has looked yet.
    Unknown,
}

/// Why a server is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutBecause {
    /// A target took it out.
    Target,
    /// A target took it while it was in service and its load balancer was bypassed: it carries no mark and
    /// gets traffic as far as its load balancer gives it (S12).
    Bypassed,
    /// A person pulled it out through Capstan.
    Person,
    /// Somebody took it out at the load balancer.
    Outside,
    /// It does not answer.
    Dead,
    /// It carries our own mark, which nothing asks for: a drain that was given up on came late.
    LateMark,
    /// It is new in the group and nothing was released to it yet.
    New,
}

impl OutBecause {
    /// Whether Capstan took it out for a release.
    pub fn is_ours(self) -> bool {
        match self {
            Self::Target | Self::Bypassed | Self::LateMark => true,
            Self::Person | Self::Outside | Self::Dead | Self::New => false,
        }
    }
}

/// A person took a server out by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PulledOut {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// Evidence of what a server runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The package.
    pub package: PackageId,
    /// Its version, for people.
    pub version: String,
    /// When a Verify last proved it; none: an Install began and nothing was proven since.
    pub proven_at: Option<Timestamp>,
}

/// One instance on one host: what the CMDB says of it, and what Capstan knows.
#[expect(clippy::struct_excessive_bools, reason = "a row: each is a fact of its own")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its id.
    pub id: ServerId,
    /// Its id in the CMDB.
    pub external_id: String,
    /// Host name.
    pub hostname: String,
    /// Instance on the host; empty when the host carries one.
    pub instance: String,
    /// Address.
    pub ip_address: String,
    /// Port.
    pub port: u16,
    /// Folder of the instance on the host.
    pub root: String,
    /// Data centre.
    pub idc: String,
    /// Pool within the data centre.
    pub pool: String,
    /// Marked as bastion in the CMDB.
    pub is_bastion: bool,
    /// No part of the group any more.
    pub retired: bool,
    /// Set by a person; outlives deployments.
    pub pulled_out: Option<PulledOut>,
    /// Whether it gets traffic.
    pub service: Service,
    /// Why it is out.
    pub out_because: Option<OutBecause>,
    /// When its service last changed or was last looked at singly.
    pub observed_at: Option<Timestamp>,
    /// Since when it has not answered.
    pub dead_since: Option<Timestamp>,
    /// Our own mark is on it at the load balancer; written before the call that sets it.
    pub drained: bool,
    /// It was in traffic although we had drained it, and was drained again.
    pub drained_again: bool,
    /// Its Markup was bypassed and is owed (S12). With [`Self::drained`] our mark is to be removed;
    /// without, it only has to be seen in traffic. It may be in service by the record already: then it
    /// never was drained.
    pub markup_owed: Option<OwedMarkup>,
    /// What it runs.
    pub running: Option<Running>,
    /// Key of the act under way on it.
    pub order: Option<OrderKey>,
    /// Last fence given out for it; only grows (S7).
    pub fence: i64,
}

impl Server {
    /// Whether it counts as out of service (S1): a new server does so from its first target on.
    /// What nobody has looked at counts as out, since nothing says that it serves; what a person
    /// pulled out does, whatever is seen of it.
    pub fn is_out(&self) -> bool {
        self.pulled_out.is_some()
            || self.service != Service::In && self.out_because != Some(OutBecause::New)
    }

    /// Whether the record proves that it runs `package`.
    pub fn proves(&self, package: PackageId) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.package == package && running.proven_at.is_some())
    }

    /// Whether the record says that it may run `package`: proven, or an Install of it began.
    pub fn may_run(&self, package: PackageId) -> bool {
        self.running.as_ref().is_some_and(|running| running.package == package)
    }
}

/// Where a package can be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Location {
    /// Data centre of the store; empty: any.
    pub idc: String,
    /// URL of the archive.
    pub url: String,
}

/// One built artifact; a version never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its id.
    pub id: PackageId,
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
    /// Marked as bad: refused in new deployments and passed over by rollback.
    pub bad: Option<Bad>,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// A package was marked as bad.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Bad {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// The part of a package that a deployment keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageRef {
    /// The package.
    pub id: PackageId,
    /// Its version.
    pub version: String,
    /// SHA-256 of the archive, lower-case hexadecimal.
    pub sha256: String,
}
