//! Claimed effects, with everything that is needed to do them.

use std::collections::BTreeMap;
use std::sync::Arc;

use capstan_core::decide::LOOK_INTERVAL;
use capstan_core::effect::{Effect, EffectKind};
use capstan_core::order::{self, Work};
use capstan_core::ports::Endpoint;
use capstan_core::record::{Binding, Server};
use capstan_core::state::GroupState;
use capstan_core::{DeploymentId, ServerId};
use tokio::sync::OwnedSemaphorePermit;

use crate::claims::Owed;
use crate::inner::Inner;

/// An effect that this process has claimed. It stays claimed until the input that follows from it is
/// committed, or until it is given back.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The effect.
    pub effect: Effect,
    /// What to do.
    pub task: Task,
}

/// A claim on its way to an engine. If it is not taken out, it is given back when this is dropped,
/// so that no claim outlives the one who asked for it.
#[derive(Debug)]
pub struct Claimed {
    claim: Option<(Claim, OwnedSemaphorePermit)>,
    inner: Arc<Inner>,
}

impl Claimed {
    pub(crate) fn new(claim: Claim, slot: OwnedSemaphorePermit, inner: Arc<Inner>) -> Self {
        Self { claim: Some((claim, slot)), inner }
    }

    /// Takes the claim, with the permit to begin it; whoever does answers for it.
    pub fn take(mut self) -> Option<(Claim, OwnedSemaphorePermit)> {
        self.claim.take()
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if let Some((claim, _)) = self.claim.take() {
            self.inner.owe(claim.effect, Owed::Release);
        }
    }
}

/// What to do for an effect.
#[derive(Debug, Clone)]
pub enum Task {
    /// Run a stage, and look until it has ended.
    Stage(Box<Work>),
    /// Look at the deployment again.
    Wake(DeploymentId),
    /// Look at servers.
    Observe {
        /// The deployment that asks.
        deployment: DeploymentId,
        /// Name of the load-balancer driver.
        load_balancer: String,
        /// The servers to look at this time.
        servers: Vec<Endpoint>,
        /// Whether these are all; if not, a driver that sees all at once looks at every one.
        are_all: bool,
    },
    /// Take a server out of traffic.
    Drain {
        /// Name of the load-balancer driver.
        load_balancer: String,
        /// The server.
        server: Endpoint,
    },
    /// Ask a server what it runs, and put it into traffic if that is right.
    Return {
        /// Name of the load-balancer driver.
        load_balancer: String,
        /// Names of the executors: it is asked through the first one that no person cut off.
        executors: Vec<String>,
        /// Kind of the application, for the script that reports.
        kind: String,
        /// The server.
        server: Endpoint,
    },
    /// Take our own mark off a server.
    Admit {
        /// Name of the load-balancer driver.
        load_balancer: String,
        /// The server.
        server: Endpoint,
    },
    /// There is nothing to do any more: the effect is deleted.
    Nothing,
}

/// Where the next look at each deployment's servers begins. Lost when the process ends, which is
/// harmless: the look begins with the first server again.
pub(crate) type Cursors = BTreeMap<DeploymentId, usize>;

/// A driver that must probe one by one looks at each server once in so many looks (S13: a minute).
const LOOKS_PER_ROUND: u64 = 60 / LOOK_INTERVAL.as_secs();
/// Groups up to this size are looked at as a whole each time.
const SMALL_GROUP: usize = 200;

/// What to do for a claimed effect. The state holds the effect's deployment.
pub(crate) fn claim_of(state: &GroupState, effect: Effect, cursors: &mut Cursors) -> Claim {
    Claim { effect, task: task_of(state, effect, cursors) }
}

pub(crate) fn task_of(state: &GroupState, effect: Effect, cursors: &mut Cursors) -> Task {
    match effect.kind {
        EffectKind::RunStage(deployment, target) => {
            let work = state.deployment(deployment).and_then(|row| {
                let target = &row.targets()[row.place(target)?];
                order::work(&row.deployment, target, state.server(target.server)?)
            });
            work.map_or(Task::Nothing, |work| Task::Stage(Box::new(work)))
        }
        EffectKind::WakeDeployment(deployment) => Task::Wake(deployment),
        EffectKind::ObserveServers(deployment) => observe(state, deployment, cursors),
        EffectKind::DrainServer(server) => {
            with_server(state, server, |binding, server| Task::Drain {
                load_balancer: binding.load_balancer.clone(),
                server: order::endpoint(binding, server),
            })
        }
        EffectKind::AdmitServer(server) => {
            with_server(state, server, |binding, server| Task::Admit {
                load_balancer: binding.load_balancer.clone(),
                server: order::endpoint(binding, server),
            })
        }
        EffectKind::ReturnServer(server) => {
            with_server(state, server, |binding, server| Task::Return {
                load_balancer: binding.load_balancer.clone(),
                executors: binding.executors().map(str::to_owned).collect(),
                kind: binding.kind.clone(),
                server: order::endpoint(binding, server),
            })
        }
    }
}

/// Every member, as it is reached now.
pub(crate) fn members(state: &GroupState) -> Vec<Endpoint> {
    let members = state.servers().iter().filter(|row| !row.retired);
    members.map(|server| order::endpoint(state.binding(), server)).collect()
}

fn with_server(
    state: &GroupState,
    server: ServerId,
    task: impl FnOnce(&Binding, &Server) -> Task,
) -> Task {
    match state.server(server) {
        Some(server) if !server.retired => task(state.binding(), server),
        Some(_) | None => Task::Nothing,
    }
}

fn observe(state: &GroupState, deployment: DeploymentId, cursors: &mut Cursors) -> Task {
    let binding = state.binding();
    let members: Vec<&Server> = state.servers().iter().filter(|row| !row.retired).collect();
    let per_look = members.len().div_ceil(usize::try_from(LOOKS_PER_ROUND).unwrap_or(1));
    let count = if members.len() <= SMALL_GROUP { members.len() } else { per_look };
    let is_running =
        state.deployment(deployment).is_some_and(|row| row.deployment.status.is_running());
    let first = cursors.get(&deployment).copied().unwrap_or(0) % members.len().max(1);
    if is_running {
        cursors.insert(deployment, first + count);
    } else {
        cursors.remove(&deployment);
    }
    let servers = members.iter().cycle().skip(first).take(count);
    Task::Observe {
        deployment,
        load_balancer: binding.load_balancer.clone(),
        servers: servers.map(|server| order::endpoint(binding, server)).collect(),
        are_all: count == members.len(),
    }
}
