//! Keeps database, breakers and groups of one mind about outside dependencies: what a breaker finds is
//! written and told to groups, and what a person cut off is not called any more.
//!
//! It compares and never counts on having been told: whatever was missed or failed is done by the next
//! round.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use capstan_core::OrderKey;
use capstan_core::dependency::{BreakerReport, BreakerState, DependencyKind};
use capstan_store::{Error, chain};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::job::Context;

/// Time between two looks at the table, if nothing is heard of a change: cuts end, and other processes
/// set switches.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time between two comparisons of every group with the table, if nothing changed.
const COMPARE: Duration = Duration::from_mins(1);

pub(crate) async fn run(context: Arc<Context>, mut stopped: watch::Receiver<bool>) {
    let mut switches = context.store.watch_switches();
    let mut compared_at: Option<Instant> = None;
    let mut cut_off = BTreeSet::new();
    while !*stopped.borrow() {
        let is_due = compared_at.is_none_or(|at| at.elapsed() >= COMPARE);
        match keep(&context, &mut cut_off, is_due).await {
            Ok(true) => compared_at = Some(Instant::now()),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(error = %chain(&error), "dependencies are looked at again");
                compared_at = None;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = context.ports.breakers.changed() => {}
            _ = switches.changed() => {}
            _ = stopped.changed() => {}
        }
    }
}

/// Returns whether groups were compared with the table.
async fn keep(
    context: &Context,
    cut_off: &mut BTreeSet<String>,
    is_due: bool,
) -> Result<bool, Error> {
    let (store, breakers) = (&context.store, &context.ports.breakers);
    let noted = store.dependencies_note(&breakers.reports()).await?;
    let over = store.dependencies_expire().await?;
    let cut_off_now = store.dependencies_cut_off().await?;
    breakers.cut_off(&cut_off_now);
    // Whoever set a switch tells the groups, unless it died meanwhile.
    let switched = std::mem::replace(cut_off, cut_off_now) != *cut_off;
    let compares = noted || over || switched || is_due;
    if compares {
        store.dependencies_tell(None).await?;
    }
    probe(context).await?;
    Ok(compares)
}

/// Asks what is broken something harmless: while a deployment holds for it, nobody else may. The breaker
/// lets the question through once it is time.
async fn probe(context: &Context) -> Result<(), Error> {
    for BreakerReport { name, state, kind, .. } in context.ports.breakers.reports() {
        let probed = matches!(kind, DependencyKind::LoadBalancer | DependencyKind::Executor);
        if state == BreakerState::Closed || !probed || !context.ports.breakers.is_usable(&name) {
            continue;
        }
        let servers = context.store.dependency_servers(&name).await?;
        // Another one each time, since the one that was asked may be dead.
        let now = context.store.now();
        let place = usize::try_from(now.as_micros() / 1_000_000).unwrap_or_default();
        let Some(server) = servers.get(place % servers.len().max(1)) else { continue };
        let answer = match name.split_once('.') {
            Some(("load_balancer", driver)) => match context.load_balancer(driver) {
                Ok(balancer) => balancer.observe(std::slice::from_ref(server)).await.map(drop),
                Err(error) => Err(error),
            },
            Some((_, driver)) => match context.executor(driver) {
                Ok(executor) => {
                    let key = OrderKey::derive(now, &[name.as_bytes(), b"probe"]);
                    executor.look(server, key, 0).await.map(drop)
                }
                Err(error) => Err(error),
            },
            None => continue,
        };
        if let Err(error) = answer {
            tracing::debug!(dependency = name, %error, "a probe");
        }
    }
    Ok(())
}
