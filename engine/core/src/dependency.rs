//! Outside dependencies as decisions see them: what is found broken, and what a person cut off.
//!
//! A dependency has the name of its section in the configuration, so that no two have the same. What
//! is not named in a group's row is usable.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::record::{Binding, OnLbFailure};
use crate::{DeploymentId, Timestamp};

/// The CMDB.
pub const CMDB: &str = "cmdb";
/// Capstan's own package store.
pub const PACKAGES: &str = "packages";
/// The message broker.
pub const BROKER: &str = "broker";
/// What tells engines of due work, if it is not the database.
pub const QUEUE: &str = "queue";

/// What every group uses, and how a release goes on without it. By name.
const OF_ALL: [(&str, &str); 4] = [
    (BROKER, "messages wait in the log"),
    (CMDB, "the group is as it was last read"),
    (PACKAGES, "hosts use other locations or what they have kept"),
    (QUEUE, "engines look for work in the database"),
];

/// How a release goes on without a dependency that every group uses; `None`: it is none of these.
pub fn without(name: &str) -> Option<&'static str> {
    OF_ALL.iter().find(|(known, _)| *known == name).map(|(_, how)| *how)
}

/// The names of what every group uses.
pub fn of_all() -> impl Iterator<Item = &'static str> {
    OF_ALL.iter().map(|(name, _)| *name)
}

/// The dependency that is the load balancer with this name.
pub fn load_balancer(name: &str) -> String {
    format!("load_balancer.{name}")
}

/// The dependency that is the executor with this name.
pub fn executor(name: &str) -> String {
    format!("executor.{name}")
}

/// What a dependency is to Capstan.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum DependencyKind {
    /// Takes servers out of traffic and puts them back.
    LoadBalancer,
    /// Gives orders to hosts.
    Executor,
    /// Names applications, groups and servers.
    Cmdb,
    /// Keeps archives.
    PackageStore,
    /// Takes messages out, and brings them in.
    Broker,
    /// Tells engines of due work.
    Queue,
}

impl DependencyKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::LoadBalancer,
        Self::Executor,
        Self::Cmdb,
        Self::PackageStore,
        Self::Broker,
        Self::Queue,
    ];

    /// The word in the API and the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::LoadBalancer => "load_balancer",
            Self::Executor => "executor",
            Self::Cmdb => "cmdb",
            Self::PackageStore => "package_store",
            Self::Broker => "broker",
            Self::Queue => "queue",
        }
    }

    /// The kind with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// What a circuit breaker does with calls.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// It lets them through.
    Closed,
    /// It refuses them: the dependency was found broken.
    Open,
    /// It lets a few through, to see whether the dependency answers again.
    HalfOpen,
}

impl BreakerState {
    /// The word in the API and the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }

    /// The state with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Closed, Self::Open, Self::HalfOpen].into_iter().find(|state| state.word() == word)
    }
}

/// Why a dependency is not used.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Its breaker found it broken, and has not seen it answer again.
    Open,
    /// A person cut it off: no call is made.
    CutOff,
}

/// A dependency that is not usable, and what a person should know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Impaired {
    /// Which of the two.
    pub condition: Condition,
    /// Since when.
    pub since: Timestamp,
    /// Who cut it off; `capstan` for a breaker.
    pub by: String,
    /// Why: what the person wrote, or the last error.
    pub reason: String,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl Impaired {
    /// What is wrong with the dependency of this name, as a sentence without a full stop.
    pub fn sentence(&self, name: &str) -> String {
        let Self { condition, by, reason, .. } = self;
        let (since, until) = (self.since.whole_second(), self.until.map(Timestamp::whole_second));
        match (condition, until) {
            (Condition::Open, _) => format!("{name} is broken since {since}: {reason}"),
            (Condition::CutOff, None) => {
                format!("{name} is cut off by {by} since {since}: {reason}")
            }
            (Condition::CutOff, Some(until)) => {
                format!("{name} is cut off by {by} since {since} until {until}: {reason}")
            }
        }
    }
}

/// The dependencies that are not usable, by name.
pub type Dependencies = BTreeMap<String, Impaired>;

/// What becomes of Markdown and Markup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// The load balancer is asked.
    Asked,
    /// It is broken, and the deployment holds until it answers.
    Held,
    /// It is not asked: what would have been asked is recorded as bypassed (S12).
    Bypassed,
}

impl Traffic {
    /// What a binding says of it.
    pub fn of(dependencies: &Dependencies, binding: &Binding) -> Self {
        // Asked for every stage that starts: nothing is allocated while all is well.
        if dependencies.is_empty() {
            return Self::Asked;
        }
        let impaired = dependencies.get(&load_balancer(&binding.load_balancer));
        match impaired.map(|impaired| (impaired.condition, binding.on_lb_failure)) {
            None => Self::Asked,
            Some((Condition::Open, OnLbFailure::Brake)) => Self::Held,
            Some((Condition::Open, OnLbFailure::Bypass) | (Condition::CutOff, _)) => Self::Bypassed,
        }
    }
}

/// Name of the executor that orders go through: the first one that no person cut off, or the one that comes
/// first if all are. One that was found broken is waited for: what it was given may still run.
pub fn executor_in_use<'a>(dependencies: &Dependencies, binding: &'a Binding) -> &'a str {
    let usable = binding.executors().find(|name| !is_cut_off(dependencies, name));
    usable.unwrap_or(&binding.executor)
}

fn is_cut_off(dependencies: &Dependencies, name: &str) -> bool {
    let impaired = dependencies.get(&executor(name));
    impaired.is_some_and(|impaired| impaired.condition == Condition::CutOff)
}

/// What holds a deployment with this binding: dependencies that it cannot do without and that may not
/// be bypassed. By name.
pub fn holding<'a>(
    dependencies: &'a Dependencies,
    binding: &Binding,
) -> Vec<(&'a str, &'a Impaired)> {
    if dependencies.is_empty() {
        return Vec::new();
    }
    let held = Traffic::of(dependencies, binding) == Traffic::Held;
    let balancer = load_balancer(&binding.load_balancer);
    let in_use = executor_in_use(dependencies, binding);
    let held_by: Vec<String> = if is_cut_off(dependencies, in_use) {
        binding.executors().map(executor).collect()
    } else {
        vec![executor(in_use)]
    };
    dependencies
        .iter()
        .filter(|(name, _)| held_by.contains(name) || held && **name == balancer)
        .map(|(name, impaired)| (name.as_str(), impaired))
        .collect()
}

/// Markup of a server was bypassed after it had proved its package. Until its load balancer is back and
/// shows it in traffic, a server that was drained is out by the record; one that was in service and
/// never drained is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwedMarkup {
    /// The deployment that owes it.
    pub deployment: DeploymentId,
    /// What the server proved.
    pub package: crate::record::PackageRef,
    /// Since when.
    pub since: Timestamp,
}

/// Something that a deployment did without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Without {
    /// The dependency.
    pub dependency: String,
    /// Since when.
    pub since: Timestamp,
    /// A sentence: why, and what follows from it.
    pub text: String,
}

/// What a circuit breaker of this process says of its dependency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerReport {
    /// The dependency.
    pub name: String,
    /// What it is.
    pub kind: DependencyKind,
    /// What becomes of calls; a hand switch is not counted.
    pub state: BreakerState,
    /// The error that opened it last.
    pub error: Option<String>,
}

/// The circuit breakers of this process. Drivers have them; the engine tells the database of them and
/// sets their hand switches.
pub trait Breakers: Send + Sync {
    /// Every dependency that this process calls.
    fn reports(&self) -> Vec<BreakerReport>;
    /// Sets the hand switches: what is named is not called from here on, everything else may be.
    fn cut_off(&self, names: &std::collections::BTreeSet<String>);
    /// Whether the hand switch of a dependency is set, as far as this process knows.
    fn is_cut_off(&self, name: &str) -> bool;
    /// Whether calls to a dependency are made now, as far as this process knows.
    fn is_usable(&self, name: &str) -> bool;
    /// Waits until a breaker changed its state since the last call ended; several changes may count
    /// as one.
    fn changed(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}
