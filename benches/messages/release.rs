//! Releases of one group.

use std::time::Duration;

use anyhow::{Context, ensure};
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::{DeploymentId, GroupId};
use capstan_store::{DeploymentFilter, PageRequest, Store};

use crate::create::create;

const PATIENCE: Duration = Duration::from_mins(15);

/// Releases a version, in four batches, and tells how long that took, as the record has it.
pub(crate) async fn release(
    store: &Store,
    group: GroupId,
    number: u32,
) -> anyhow::Result<Duration> {
    let id = create(store, group, number, true).await?;
    tokio::time::timeout(PATIENCE, ended(store, group, id))
        .await
        .context("it takes too long")??;
    let view = store.deployment_view(id).await?.context("the deployment")?;
    ensure!(
        view.status == DeploymentStatus::Success,
        "the release ended as {}: {:?}",
        view.status,
        view.counts
    );
    let (started, ended) = (view.started_at.context("its start")?, view.ended_at);
    Ok(ended.context("its end")?.since(started))
}

async fn ended(store: &Store, group: GroupId, id: DeploymentId) -> anyhow::Result<()> {
    let mut watch = store.watch(id);
    loop {
        let filter = DeploymentFilter { group: Some(group), ..DeploymentFilter::default() };
        let page = store.deployments(filter, PageRequest { limit: 1, cursor: None }).await?;
        if page.items.iter().any(|brief| brief.id == id && brief.status.is_final()) {
            return Ok(());
        }
        watch.changed().await?;
    }
}
