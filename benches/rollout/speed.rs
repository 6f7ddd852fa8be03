//! How fast a rollout goes, and how fast a brake stops it.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use capstan_core::action::Action;
use capstan_core::deployment_status::DeploymentStatus;

use crate::create::create;
use crate::fleet::{act, engine, fleet, wait_for_calls, wait_until};
use crate::process::resident_mib;
use crate::recorder::Recorder;

pub(crate) const STAGES: f64 = 5.0;

/// One rollout of `size` targets in four batches of 25 %.
pub(crate) async fn rollout(size: u32) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let recorder = Arc::new(Recorder::default());
    let (store, group) = fleet(folder.path(), size).await?;
    let deployment = create(&store, group, 1, false).await?;
    let engine = engine(&store, &recorder);
    let started = Instant::now();
    act(&store, group, deployment, Action::Start).await?;
    wait_until(&store, deployment, DeploymentStatus::is_final).await?;
    let took = started.elapsed();
    let view = store.deployment_view(deployment).await?.context("the deployment")?;
    if view.status != DeploymentStatus::Success {
        bail!("the rollout ended as {}: {:?}", view.status, view.counts);
    }
    let (p50, p99) = recorder.gaps();
    println!(
        "{size:7}  {:8.0}  {:9.1}  {:>15}  {:>8}  {:>8} MiB",
        f64::from(size) * STAGES / took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / f64::from(size),
        format!("{:.1} ms", p50.as_secs_f64() * 1e3),
        format!("{:.1} ms", p99.as_secs_f64() * 1e3),
        resident_mib(std::process::id())?
    );
    engine.stop().await;
    Ok(())
}

/// Brake → last stage started, in a rollout at full speed.
pub(crate) async fn brake(size: u32) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let recorder = Arc::new(Recorder::default());
    let (store, group) = fleet(folder.path(), size).await?;
    let deployment = create(&store, group, 1, false).await?;
    let engine = engine(&store, &recorder);
    act(&store, group, deployment, Action::Start).await?;
    wait_for_calls(&recorder, size as usize).await?;
    let asked = Instant::now();
    act(&store, group, deployment, Action::Brake).await?;
    let mut watch = store.watch(deployment);
    loop {
        let view = store.deployment_view(deployment).await?.context("the deployment")?;
        let under_way: u32 = view
            .counts
            .iter()
            .filter(|(status, _)| status.ends_with("_RUNNING"))
            .map(|(_, count)| count)
            .sum();
        if under_way == 0 {
            break;
        }
        watch.changed().await?;
    }
    let last = recorder.last_call().context("a call")?;
    println!(
        "brake → last stage started, {size} targets at full speed: {:.1} ms",
        last.saturating_duration_since(asked).as_secs_f64() * 1e3
    );
    engine.stop().await;
    Ok(())
}
