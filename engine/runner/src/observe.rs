//! Looks at servers (S13), and the acts that belong to no target: draining a server that was pulled
//! out by hand, and bringing one back.

use std::collections::BTreeSet;

use capstan_core::effect::Effect;
use capstan_core::input::Input;
use capstan_core::ports::{DriverError, Endpoint, LoadBalancer, Report, Sight};
use capstan_core::{DeploymentId, GroupId, ServerId};
use capstan_store::{chain, crash};

use crate::job::{Context, Step};
use crate::turn::Turn;

/// Servers in one call of a driver that must probe them one by one.
const SERVERS_AT_ONCE: usize = 50;

/// Whom a look is about.
pub(crate) struct Looked {
    pub(crate) group: GroupId,
    /// The servers whose turn it is in a large group.
    pub(crate) part: Vec<Endpoint>,
    /// Whether the group has no others.
    pub(crate) are_all: bool,
}

/// Names of the drivers that a server is reached with.
pub(crate) struct Names {
    pub(crate) load_balancer: String,
    pub(crate) executors: Vec<String>,
    pub(crate) kind: String,
}

/// Looks at servers; one that cannot be looked at is simply not seen.
pub(crate) async fn look(
    deployment: DeploymentId,
    load_balancer: &str,
    servers: &Looked,
    context: &Context,
) -> Step {
    let mut seen: Vec<(ServerId, Sight)> = Vec::with_capacity(servers.part.len());
    let (mut can_drain, mut is_blind) = (false, false);
    match context.load_balancer(load_balancer) {
        Ok(balancer) => {
            can_drain = balancer.can_drain();
            let all = if balancer.sees_all_at_once() && !servers.are_all {
                everyone(servers.group, context).await
            } else {
                None
            };
            let servers = all.as_deref().unwrap_or(&servers.part);
            let at_once =
                if balancer.sees_all_at_once() { servers.len().max(1) } else { SERVERS_AT_ONCE };
            for part in servers.chunks(at_once) {
                match balancer.observe(part).await {
                    Ok(part) => seen.extend(part.iter().map(|seen| (seen.server, seen.sight))),
                    Err(error) => {
                        blind(load_balancer, &error, context);
                        is_blind = true;
                    }
                }
            }
            if !is_blind && context.outages.ends(load_balancer) {
                tracing::info!(load_balancer, "servers are looked at again");
            }
        }
        Err(error) => blind(load_balancer, &error, context),
    }
    let answering =
        if is_blind { answering(&servers.part, &seen, context).await } else { Vec::new() };
    Step::Done(Input::Observed { deployment: Some(deployment), seen, can_drain, answering })
}

/// A load balancer that is broken or cut off is looked at all the same, every few seconds for each deployment:
/// that is said when it begins.
fn blind(load_balancer: &str, error: &DriverError, context: &Context) {
    if context.outages.begins(load_balancer) {
        tracing::warn!(load_balancer, %error, "servers cannot be looked at");
    } else {
        tracing::debug!(load_balancer, %error, "servers still cannot be looked at");
    }
}

/// Which servers answer, of those that were not seen: their load balancer is broken or cut off. What could
/// not be asked is left out.
async fn answering(
    servers: &[Endpoint],
    seen: &[(ServerId, Sight)],
    context: &Context,
) -> Vec<(ServerId, bool)> {
    let seen: BTreeSet<ServerId> = seen.iter().map(|(server, _)| *server).collect();
    let unseen: Vec<Endpoint> =
        servers.iter().filter(|server| !seen.contains(&server.server)).cloned().collect();
    let mut answering = Vec::with_capacity(unseen.len());
    for part in unseen.chunks(SERVERS_AT_ONCE) {
        match context.ports.health.observe(part).await {
            Ok(seen) => answering.extend(seen.iter().filter_map(|seen| match seen.sight {
                Sight::Serving => Some((seen.server, true)),
                Sight::Dead => Some((seen.server, false)),
                Sight::Drained | Sight::TakenOut | Sight::Unknown => None,
            })),
            Err(error) => tracing::warn!(%error, "servers could not be asked whether they answer"),
        }
    }
    // Where nobody answers it is rather this process that reaches nobody.
    if answering.iter().any(|(_, answers)| *answers) { answering } else { Vec::new() }
}

/// Every member of the group; `None`: they cannot be read, and the part that was given must do.
async fn everyone(group: GroupId, context: &Context) -> Option<Vec<Endpoint>> {
    let members = context.store.members(group).await;
    members
        .inspect_err(|error| {
            tracing::warn!(%group, error = %chain(error), "only some servers can be looked at");
        })
        .ok()
}

pub(crate) async fn drain(
    effect: Effect,
    load_balancer: &str,
    server: &Endpoint,
    context: &Context,
) -> Step {
    let turn = context.turns.take(server.server).await;
    match context.store.is_wanted(effect).await {
        Ok(true) => {}
        Ok(false) => return Step::Forget,
        Err(error) => {
            tracing::warn!(error = %chain(&error), "a server cannot be drained yet");
            return Step::LookAgain { tell: None };
        }
    }
    crash::point("server.before");
    let drained = match context.load_balancer(load_balancer) {
        Ok(balancer) => balancer.drain(server).await,
        Err(error) => Err(error),
    };
    drop(turn);
    crash::point("server.after");
    let problem = drained.err().map(|error| error.to_string());
    if let Some(problem) = &problem {
        tracing::warn!(server = server.hostname, problem, "a server could not be drained yet");
    }
    Step::Done(Input::ServerDrained { server: server.server, problem })
}

/// A server that was put back goes into traffic only if it runs the right package.
pub(crate) async fn bring_back(
    effect: Effect,
    names: &Names,
    server: &Endpoint,
    context: &Context,
) -> Step {
    let group = effect.group;
    let (wanted, current) = match context.store.return_package(group, server.server).await {
        Ok(packages) => packages,
        Err(error) => {
            tracing::warn!(error = %chain(&error), "a server cannot be brought back yet");
            return Step::LookAgain { tell: None };
        }
    };
    crash::point("server.before");
    let report = report(names, server, context).await;
    let is_right = wanted
        .as_ref()
        .zip(report.as_ref())
        .is_some_and(|(wanted, report)| wanted.sha256 == report.sha256);
    let sight = match context.load_balancer(&names.load_balancer) {
        Ok(balancer) if is_right => {
            let turn = context.turns.take(server.server).await;
            match context.store.is_wanted(effect).await {
                Ok(true) => admit(balancer.as_ref(), server, turn).await,
                Ok(false) => return Step::Forget,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "a server cannot be brought back yet");
                    return Step::LookAgain { tell: None };
                }
            }
        }
        Ok(_) | Err(_) => Sight::Unknown,
    };
    crash::point("server.after");
    Step::Done(Input::ServerReturned { server: server.server, report, sight, current })
}

/// Takes our own mark off a server that a drain met too late.
pub(crate) async fn remove_mark(
    effect: Effect,
    load_balancer: &str,
    server: &Endpoint,
    context: &Context,
) -> Step {
    let turn = context.turns.take(server.server).await;
    match context.store.is_wanted(effect).await {
        Ok(true) => {}
        Ok(false) => return Step::Forget,
        Err(error) => {
            tracing::warn!(error = %chain(&error), "a late mark cannot be removed yet");
            return Step::LookAgain { tell: None };
        }
    }
    crash::point("server.before");
    let sight = match context.load_balancer(load_balancer) {
        Ok(balancer) => admit(balancer.as_ref(), server, turn).await,
        Err(error) => {
            tracing::warn!(server = server.hostname, %error, "a late mark cannot be removed yet");
            Sight::Unknown
        }
    };
    crash::point("server.after");
    Step::Done(Input::ServerAdmitted { server: server.server, sight })
}

async fn report(names: &Names, server: &Endpoint, context: &Context) -> Option<Report> {
    let executor = context.executor_of(&names.executors);
    let scripts = context.ports.scripts.scripts(&names.kind);
    let asked = match (executor, scripts) {
        (Ok(executor), Ok((set, scripts))) => {
            let digest = set.digests.get("report");
            let script = scripts.iter().find(|script| Some(&script.sha256) == digest);
            match script {
                Some(script) => executor.report(server, script).await,
                None => return None,
            }
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    asked
        .inspect_err(|error| {
            tracing::warn!(server = server.hostname, %error, "a server does not say what it runs");
        })
        .ok()
        .flatten()
}

async fn admit(balancer: &dyn LoadBalancer, server: &Endpoint, turn: Turn) -> Sight {
    let admitted = balancer.admit(server).await;
    drop(turn);
    let seen = match admitted {
        Ok(()) => balancer.observe(std::slice::from_ref(server)).await,
        Err(error) => Err(error),
    };
    match seen {
        Ok(seen) => seen.first().map_or(Sight::Unknown, |seen| seen.sight),
        Err(error) => {
            tracing::warn!(server = server.hostname, %error, "a server could not be put back");
            Sight::Unknown
        }
    }
}
