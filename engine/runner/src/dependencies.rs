//! Keeps database, breakers and groups of one mind about outside dependencies: what a breaker finds is
//! written and told to groups, and what a person cut off is not called any more.
//!
//! It compares and never counts on having been told: whatever was missed or failed is done by the next
//! round.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use capstan_core::OrderKey;
use capstan_core::dependency::{BreakerReport, BreakerState, Breakers, DependencyKind};
use capstan_store::{Error, Store, chain};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::job::Context;

/// Time between two looks at the table, if nothing is heard of a change: cuts end, and other processes
/// set switches.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time between two comparisons of every group with the table, if nothing changed.
const COMPARE: Duration = Duration::from_mins(1);

pub(crate) async fn run(context: Arc<Context>, stopped: watch::Receiver<bool>) {
    let (store, breakers) = (context.store.clone(), Arc::clone(&context.ports.breakers));
    keep_on(store, breakers, Some(context), stopped).await;
}

/// Keeps database, breakers and groups of one mind in a process without an engine, until it is cancelled.
pub async fn keep_dependencies(store: Store, breakers: Arc<dyn Breakers>) {
    let (_never, stopped) = watch::channel(false);
    keep_on(store, breakers, None, stopped).await;
}

/// `engine`: it also asks what is broken whether it is well again.
async fn keep_on(
    store: Store,
    breakers: Arc<dyn Breakers>,
    engine: Option<Arc<Context>>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut switches = store.watch_switches();
    let mut compared_at: Option<Instant> = None;
    let mut cut_off = BTreeSet::new();
    while !*stopped.borrow() {
        let is_due = compared_at.is_none_or(|at| at.elapsed() >= COMPARE);
        let reports = breakers.reports().into_iter();
        let reports: Vec<BreakerReport> =
            reports.filter(|report| engine.is_some() || !is_probed(report)).collect();
        let kept = match (keep(&store, &*breakers, &reports, &mut cut_off, is_due).await, &engine) {
            (Ok(compared), Some(engine)) => probe(engine).await.map(|()| compared),
            (kept, _) => kept,
        };
        match kept {
            Ok(true) => compared_at = Some(Instant::now()),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(error = %chain(&error), "dependencies are looked at again");
                compared_at = None;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = breakers.changed() => {}
            _ = switches.changed() => {}
            _ = stopped.changed() => {}
        }
    }
}

/// Returns whether groups were compared with the table.
async fn keep(
    store: &Store,
    breakers: &dyn Breakers,
    reports: &[BreakerReport],
    cut_off: &mut BTreeSet<String>,
    is_due: bool,
) -> Result<bool, Error> {
    let noted = store.dependencies_note(reports).await?;
    let over = store.dependencies_expire().await?;
    let cut_off_now = store.dependencies_cut_off().await?;
    breakers.cut_off(&cut_off_now);
    // Whoever set a switch tells the groups, unless it died meanwhile.
    let switched = std::mem::replace(cut_off, cut_off_now) != *cut_off;
    let compares = noted || over || switched || is_due;
    if compares {
        store.dependencies_tell(None).await?;
    }
    Ok(compares)
}

/// Whether an engine asks it again and again while it is broken. Who finds something broken is the one to find
/// it well again, so a process without an engine, which asks such a thing now and then, says nothing of it.
const fn is_probed(report: &BreakerReport) -> bool {
    let by_engines = matches!(report.kind, DependencyKind::LoadBalancer | DependencyKind::Executor);
    by_engines && !matches!(report.state, BreakerState::Closed)
}

/// Asks what is broken something harmless: while a deployment holds for it, nobody else may. The breaker
/// lets the question through once it is time.
async fn probe(context: &Context) -> Result<(), Error> {
    for report in context.ports.breakers.reports() {
        let name = &report.name;
        if !is_probed(&report) || !context.ports.breakers.is_usable(name) {
            continue;
        }
        let servers = context.store.dependency_servers(name).await?;
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
