//! What should happen next, outside or later: rows that are written with the decision.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{DeploymentId, GroupId, ServerId, TargetId, Timestamp};

/// The kinds of effects, and what each is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EffectKind {
    /// Run the stage that is under way on the target, and look until it has ended.
    RunStage(DeploymentId, TargetId),
    /// Look at the deployment again: a wait is over, or something was left to start.
    WakeDeployment(DeploymentId),
    /// Look at servers of the deployment's group (S13).
    ObserveServers(DeploymentId),
    /// Take a server that was pulled out by hand out of traffic.
    DrainServer(ServerId),
    /// Ask a server that was put back what it runs, and bring it into traffic if that is right.
    ReturnServer(ServerId),
    /// Take our own mark off a server that a drain met too late (S13).
    AdmitServer(ServerId),
}

/// One thing to do; there is at most one per kind and subject, a new one replaces the old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Effect {
    /// What.
    pub kind: EffectKind,
    /// The group that it belongs to.
    pub group: GroupId,
    /// Not before.
    pub due_at: Timestamp,
}

impl EffectKind {
    /// The highest of [`Self::number`].
    pub const LAST_NUMBER: i16 = 6;

    /// Number of the kind in the database.
    pub fn number(self) -> i16 {
        match self {
            Self::RunStage(..) => 1,
            Self::WakeDeployment(_) => 2,
            Self::ObserveServers(_) => 3,
            Self::DrainServer(_) => 4,
            Self::ReturnServer(_) => 5,
            Self::AdmitServer(_) => 6,
        }
    }

    /// What the effect is about: with the kind, its identity.
    pub fn subject(self) -> Uuid {
        match self {
            Self::RunStage(_, target) => target.0,
            Self::WakeDeployment(deployment) | Self::ObserveServers(deployment) => deployment.0,
            Self::DrainServer(server) | Self::ReturnServer(server) | Self::AdmitServer(server) => {
                server.0
            }
        }
    }

    /// The deployment that it belongs to, if one.
    pub fn deployment(self) -> Option<DeploymentId> {
        match self {
            Self::RunStage(deployment, _)
            | Self::WakeDeployment(deployment)
            | Self::ObserveServers(deployment) => Some(deployment),
            Self::DrainServer(_) | Self::ReturnServer(_) | Self::AdmitServer(_) => None,
        }
    }

    /// Reads the kind from its columns.
    pub fn from_columns(number: i16, subject: Uuid, deployment: Option<Uuid>) -> Option<Self> {
        let deployment = deployment.map(DeploymentId);
        match number {
            1 => Some(Self::RunStage(deployment?, TargetId(subject))),
            2 => Some(Self::WakeDeployment(DeploymentId(subject))),
            3 => Some(Self::ObserveServers(DeploymentId(subject))),
            4 => Some(Self::DrainServer(ServerId(subject))),
            5 => Some(Self::ReturnServer(ServerId(subject))),
            6 => Some(Self::AdmitServer(ServerId(subject))),
            _ => None,
        }
    }
}
