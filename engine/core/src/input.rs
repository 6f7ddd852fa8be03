//! What comes into a decision, and what comes out besides changes.

use std::time::Duration;

use crate::action::Action;
use crate::config::ConfigRequest;
use crate::dependency::{Impaired, Without};
use crate::order::ScriptSet;
use crate::plan::Plan;
use crate::ports::{CmdbGroup, Report, Sight};
use crate::record::{Cause, Flavor, PackageRef};
use crate::rollback::History;
use crate::share::Share;
use crate::{DeploymentId, OrderKey, ServerId, TargetId};

/// Something that happened or that somebody wants, about one group.
#[derive(Debug, Clone)]
pub enum Input {
    /// A person creates a deployment.
    Create(Box<Create>),
    /// A person rolls the group back.
    Rollback(Box<RollBack>),
    /// A person acts on a deployment.
    Act(Box<Act>),
    /// A stage ended.
    StageEnded(Box<StageEnded>),
    /// The answer of a stage is lost (S11).
    AnswerLost {
        /// The deployment.
        deployment: DeploymentId,
        /// The target.
        target: TargetId,
        /// Key of the act.
        key: OrderKey,
        /// What the driver said.
        message: String,
    },
    /// A lost answer was found: the host says that the stage is under way.
    AnswerFound {
        /// The deployment.
        deployment: DeploymentId,
        /// The target.
        target: TargetId,
        /// Key of the act.
        key: OrderKey,
    },
    /// An engine takes over a stage that another one had: the fence rises (S7).
    TakenOver {
        /// The deployment.
        deployment: DeploymentId,
        /// The target.
        target: TargetId,
    },
    /// Look at the deployment again: time has passed, or the engine has just started.
    Woken {
        /// The deployment.
        deployment: DeploymentId,
    },
    /// Servers were looked at (S13).
    Observed {
        /// The deployment that asked for it; none: a person's call did.
        deployment: Option<DeploymentId>,
        /// What was seen.
        seen: Vec<(ServerId, Sight)>,
        /// Whether the load balancer can take traffic away; else only health is seen.
        can_drain: bool,
        /// Servers that their load balancer could not show, and whether they answer.
        answering: Vec<(ServerId, bool)>,
    },
    /// A person pulls a server out.
    PullOut {
        /// The server.
        server: ServerId,
        /// Who.
        actor: String,
        /// Why.
        reason: String,
    },
    /// A person puts a server back.
    PutBack {
        /// The server.
        server: ServerId,
        /// Who.
        actor: String,
    },
    /// A server that was pulled out has been drained.
    ServerDrained {
        /// The server.
        server: ServerId,
        /// What went wrong, if anything; it is tried again.
        problem: Option<String>,
    },
    /// A server that was put back was asked what it runs, and put into traffic if that was right.
    ServerReturned {
        /// The server.
        server: ServerId,
        /// What it runs; none: nothing, or no answer.
        report: Option<Report>,
        /// What the load balancer shows of it.
        sight: Sight,
        /// What the group runs: the package of its newest SUCCESS.
        current: Option<PackageRef>,
    },
    /// Our own mark, which had come late, was removed from a server, or that was tried.
    ServerAdmitted {
        /// The server.
        server: ServerId,
        /// What the load balancer shows of it.
        sight: Sight,
    },
    /// The CMDB's record of the group.
    Synced {
        /// The record.
        record: Box<CmdbGroup>,
        /// If more than this share of the members would leave, it waits for a person; none: a person has
        /// confirmed it.
        hold_above: Option<Share>,
        /// How it was read.
        reading: Reading,
    },
    /// The database was restored from a backup: hosts may be ahead of what it says.
    Restored {
        /// Who restored it.
        actor: String,
    },
    /// A dependency of the group is not usable from here on, for this reason, or usable again.
    Dependency {
        /// Its name.
        name: String,
        /// What is wrong with it; none: nothing.
        impaired: Option<Impaired>,
    },
    /// A group that came to Capstan runs a package already.
    Adopt {
        /// The package.
        package: PackageRef,
        /// Scripts for later orders.
        scripts: ScriptSet,
        /// The servers that reported it.
        servers: Vec<ServerId>,
        /// The group's earlier deployments: with any, it is too late.
        history: History,
    },
}

/// How a record of the CMDB was read. It matters where the CMDB gives no revisions: of two records that differ the
/// one that was read later is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// By itself, in its turn: whoever else reads the group does so before or after.
    Alone,
    /// With all others; what is newer may have been read and stored meanwhile.
    Listed,
}

/// A deployment as a person asks for it.
#[derive(Debug, Clone)]
pub struct Create {
    /// The package.
    pub package: PackageRef,
    /// Whether it is marked as bad, and why.
    pub bad: Option<String>,
    /// What it is for; never a rollback, see [`RollBack`].
    pub flavor: Flavor,
    /// The strategy.
    pub config: ConfigRequest,
    /// Seed of the order of servers.
    pub seed: Option<String>,
    /// Why a failed health answer is forgiven.
    pub ignore_verify_reason: Option<String>,
    /// The plan that the person saw.
    pub plan_hash: Option<String>,
    /// Whether it starts at once.
    pub start: bool,
    /// Who.
    pub actor: String,
    /// Scripts of the application's kind.
    pub scripts: ScriptSet,
    /// How long the deployment may wait for a person before it is called stale.
    pub stale_after: Duration,
    /// What is done without already: the CMDB, say, when the plan is made from its cached record.
    pub without: Vec<Without>,
    /// The group's earlier deployments.
    pub history: History,
}

/// A rollback as a person asks for it.
#[derive(Debug, Clone)]
pub struct RollBack {
    /// The deployment whose package comes back; none: the one that [`crate::rollback`] finds.
    pub to: Option<DeploymentId>,
    /// The strategy.
    pub config: ConfigRequest,
    /// Who.
    pub actor: String,
    /// Scripts of the application's kind.
    pub scripts: ScriptSet,
    /// How long the deployment may wait for a person before it is called stale.
    pub stale_after: Duration,
    /// What is done without already: the CMDB, say, when the plan is made from its cached record.
    pub without: Vec<Without>,
    /// The group's earlier deployments.
    pub history: History,
}

/// A click.
#[derive(Debug, Clone)]
pub struct Act {
    /// The deployment.
    pub deployment: DeploymentId,
    /// What; a rollback is [`RollBack`].
    pub action: Action,
    /// For `rollout`: the batch that the person means.
    pub batch: Option<u32>,
    /// For `start`: what is done without already.
    pub without: Vec<Without>,
    /// Who.
    pub actor: String,
    /// The group's earlier deployments.
    pub history: History,
}

/// How a stage ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageEnded {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The target.
    pub target: TargetId,
    /// Key of the act.
    pub key: OrderKey,
    /// How.
    pub result: StageResult,
    /// What happened, for people.
    pub message: Option<String>,
}

/// The result of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageResult {
    /// It did what it should. For Markup: the server gets traffic and answers.
    Succeeded,
    /// Markup: our mark is gone, and somebody else keeps the server out.
    StillOut,
    /// It failed.
    Failed {
        /// Why.
        cause: Cause,
        /// Whether another try may help.
        again: Again,
    },
    /// Verify: the right package and process, and a bad or late health answer. `ignore_verify`
    /// forgives this and nothing else (S5).
    Unhealthy,
}

/// Whether another try may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It may.
    May,
    /// It will not.
    WillNot,
}

/// What a decision answers to whoever gave the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was done (or nothing had to be).
    Done,
    /// A deployment was created.
    Created(DeploymentId),
    /// Everything already runs the wanted package; the running deployment, if any, was revoked.
    NothingToRollBack {
        /// The deployment that was revoked.
        revoked: Option<DeploymentId>,
    },
    /// The refresh would remove too many servers and waits for a person's word.
    RefreshHeld(String),
    /// The record, which came in a list and has no revision, says something else than the cache. Which of them is
    /// newer is known when it is read alone.
    ReadAlone,
}

/// Why an input was refused; nothing but the audit changes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// Stable word for programs.
    pub code: &'static str,
    /// A sentence for people: what, why, what is allowed.
    pub message: String,
    /// Actions that are allowed now, if the input was about a deployment.
    pub allowed: Vec<Action>,
    /// The deployment that stands in the way or was meant.
    pub deployment: Option<DeploymentId>,
    /// The plan as it is now, if the one that the person saw is stale.
    pub plan: Option<Box<Plan>>,
}

impl Refused {
    /// A refusal with a code and a sentence.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), allowed: Vec::new(), deployment: None, plan: None }
    }
}
