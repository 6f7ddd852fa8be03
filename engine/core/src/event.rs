//! What happened: append-only, in order and without gaps per deployment.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::record::{Cause, HoldReason, OutBecause, Service};
use crate::share::Share;
use crate::{DeploymentId, GroupId, OrderKey, ServerId, TargetId, Timestamp};

/// Every type of event. Whoever reads events uses this enum.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
pub enum EventType {
    /// A deployment was planned.
    #[serde(rename = "deployment.created")]
    DeploymentCreated,
    /// A deployment's status changed.
    #[serde(rename = "deployment.status")]
    DeploymentStatus,
    /// A hold was set: the deployment is braked.
    #[serde(rename = "deployment.hold_set")]
    HoldSet,
    /// A hold was cleared.
    #[serde(rename = "deployment.hold_cleared")]
    HoldCleared,
    /// A person asked for something and it was done.
    #[serde(rename = "deployment.action")]
    ActionTaken,
    /// A person has not decided for a day.
    #[serde(rename = "deployment.stale")]
    DeploymentStale,
    /// A batch's status changed.
    #[serde(rename = "batch.status")]
    BatchStatus,
    /// A target was added to a deployment under way.
    #[serde(rename = "target.added")]
    TargetAdded,
    /// A target moved to another batch.
    #[serde(rename = "target.moved")]
    TargetMoved,
    /// A target's status changed.
    #[serde(rename = "target.status")]
    TargetStatus,
    /// A stage is tried again by itself, or ordered anew since the record was restored from a backup.
    #[serde(rename = "target.try")]
    TargetTry,
    /// The answer of a stage is lost (S11).
    #[serde(rename = "target.unknown")]
    TargetUnknown,
    /// An order was taken over from an engine that died; it carries a higher fence.
    #[serde(rename = "target.taken_over")]
    TargetTakenOver,
    /// An outcome came after the target's stage had ended (S9).
    #[serde(rename = "target.late_outcome")]
    LateOutcome,
    /// A server is out of service from here on.
    #[serde(rename = "server.out")]
    ServerOut,
    /// A server is in service from here on.
    #[serde(rename = "server.in")]
    ServerIn,
    /// A person pulled a server out.
    #[serde(rename = "server.pulled_out")]
    ServerPulledOut,
    /// A person put a server back.
    #[serde(rename = "server.put_back")]
    ServerPutBack,
    /// A server that we had drained was in traffic, and is drained again (S13).
    #[serde(rename = "server.drained_again")]
    ServerDrainedAgain,
    /// A server whose Markdown had been bypassed is in traffic, and is drained now that its load
    /// balancer is back (S13).
    #[serde(rename = "server.drained")]
    ServerDrained,
    /// A server appeared in the CMDB.
    #[serde(rename = "server.appeared")]
    ServerAppeared,
    /// A server vanished from the CMDB or was retired.
    #[serde(rename = "server.left")]
    ServerLeft,
    /// A dependency was found broken: its breaker opened.
    #[serde(rename = "dependency.opened")]
    DependencyOpened,
    /// A person cut a dependency off.
    #[serde(rename = "dependency.cut_off")]
    DependencyCutOff,
    /// A dependency is usable again.
    #[serde(rename = "dependency.restored")]
    DependencyRestored,
}

/// Details of an event; what does not apply is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct EventData {
    /// The status before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The status after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Attempt of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Version concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Servers out of service after this event (S1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_count: Option<u32>,
    /// L, how many may be out when Capstan takes one more (S1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `total`, of which every share is a share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u32>,
    /// Failed and unknown targets (S2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_count: Option<u32>,
    /// The holds after this event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<Vec<HoldReason>>,
    /// Key of the act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<OrderKey>,
    /// Fence of the act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<i64>,
    /// The server needed no further slot, since it was out or new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub already_out: Option<bool>,
    /// For an event about a server: whether it gets traffic after this event, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_because: Option<OutBecause>,
    /// The load balancer was not asked for this stage (S12). For an event about a dependency: whether
    /// it is not asked from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bypassed: Option<bool>,
    /// Name of the dependency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependency: Option<String>,
    /// For an event about a dependency: whether the deployment holds because of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds_for_it: Option<bool>,
    /// For an event about a dependency: everything that the deployment holds for from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<Vec<String>>,
    /// When a deployment begins to hold its group: how the group stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<StartingPoint>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How a group stands when a deployment begins to hold it. With the events that follow, who is out
/// can be told at every one of them, and S1 and S2 be checked from the log alone. Members that are
/// not named are in service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StartingPoint {
    /// Members of the group.
    pub members: u32,
    /// Whether the last server in service may be taken.
    pub may_go_dark: bool,
    /// Share of the group that may be out at once.
    pub max_unavailable: Share,
    /// Share of the group whose failure brakes.
    pub max_failure: Share,
    /// Members that are known to be out.
    pub out: Vec<ServerId>,
    /// Members that nobody has looked at: they count as out, and may serve.
    pub unknown: Vec<ServerId>,
    /// Members that are new: they do not count as out yet.
    pub new: Vec<ServerId>,
    /// Servers that a person pulled out; the members among them are out, too.
    pub pulled_out: Vec<ServerId>,
    /// Members that are out because a target took them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ours: Vec<ServerId>,
    /// Those of them that carry no mark: they were taken while the load balancer was bypassed (S12).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub never_drained: Vec<ServerId>,
    /// Whether Markdown and Markup are bypassed (S12).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bypassed: bool,
    /// Dependencies that hold the deployment from the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_by: Vec<String>,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its place in the deployment's log, from 1, without gaps. (For an event of a group outside
    /// any deployment: in the group's own log.)
    pub seq: i64,
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// The group.
    pub group: GroupId,
    /// The deployment; none: it happened outside any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentId>,
    /// The batch's index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<u32>,
    /// The target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetId>,
    /// The server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    /// Who: a person's name, or `capstan`.
    pub actor: String,
    /// Why a stage failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Details.
    pub data: EventData,
}

impl EventType {
    /// All types.
    pub const ALL: [Self; 25] = [
        Self::DeploymentCreated,
        Self::DeploymentStatus,
        Self::HoldSet,
        Self::HoldCleared,
        Self::ActionTaken,
        Self::DeploymentStale,
        Self::BatchStatus,
        Self::TargetAdded,
        Self::TargetMoved,
        Self::TargetStatus,
        Self::TargetTry,
        Self::TargetUnknown,
        Self::TargetTakenOver,
        Self::LateOutcome,
        Self::ServerOut,
        Self::ServerIn,
        Self::ServerPulledOut,
        Self::ServerPutBack,
        Self::ServerDrainedAgain,
        Self::ServerDrained,
        Self::ServerAppeared,
        Self::ServerLeft,
        Self::DependencyOpened,
        Self::DependencyCutOff,
        Self::DependencyRestored,
    ];

    /// The word in the API and the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::DeploymentCreated => "deployment.created",
            Self::DeploymentStatus => "deployment.status",
            Self::HoldSet => "deployment.hold_set",
            Self::HoldCleared => "deployment.hold_cleared",
            Self::ActionTaken => "deployment.action",
            Self::DeploymentStale => "deployment.stale",
            Self::BatchStatus => "batch.status",
            Self::TargetAdded => "target.added",
            Self::TargetMoved => "target.moved",
            Self::TargetStatus => "target.status",
            Self::TargetTry => "target.try",
            Self::TargetUnknown => "target.unknown",
            Self::TargetTakenOver => "target.taken_over",
            Self::LateOutcome => "target.late_outcome",
            Self::ServerOut => "server.out",
            Self::ServerIn => "server.in",
            Self::ServerPulledOut => "server.pulled_out",
            Self::ServerPutBack => "server.put_back",
            Self::ServerDrainedAgain => "server.drained_again",
            Self::ServerAppeared => "server.appeared",
            Self::ServerLeft => "server.left",
            Self::ServerDrained => "server.drained",
            Self::DependencyOpened => "dependency.opened",
            Self::DependencyCutOff => "dependency.cut_off",
            Self::DependencyRestored => "dependency.restored",
        }
    }
}
