//! Releases of one group.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use capstan_core::config::ConfigRequest;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::input::{Answer, Create, Input};
use capstan_core::ports::ScriptSource;
use capstan_core::record::{Flavor, PackageRef};
use capstan_core::rollback::History;
use capstan_core::{DeploymentId, GroupId};
use capstan_drivers::scripts::Scripts;
use capstan_store::{DeploymentFilter, NewPackage, PageRequest, Store};

const PATIENCE: Duration = Duration::from_mins(15);

/// Releases a version, in four batches, and tells how long that took, as the record has it.
pub(crate) async fn release(
    store: &Store,
    group: GroupId,
    number: u32,
) -> anyhow::Result<Duration> {
    let id = create(store, group, number).await?;
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

async fn create(store: &Store, group: GroupId, number: u32) -> anyhow::Result<DeploymentId> {
    let application = store.group(group).await?.context("the group")?.application.id;
    let new = NewPackage {
        application,
        version: format!("1.{number}.0"),
        sha256: format!("{number:064x}"),
        size: None,
        locations: Vec::new(),
        stored: true,
    };
    let (package, _) = store.package_register(new, None).await?;
    let (set, scripts) = Scripts::new(None).scripts("generic")?;
    store.scripts_put(&scripts).await?;
    let create = Create {
        package: PackageRef { id: package.id, version: package.version, sha256: package.sha256 },
        bad: None,
        flavor: Flavor::Rollout,
        config: ConfigRequest::default(),
        seed: None,
        ignore_verify_reason: None,
        plan_hash: None,
        start: true,
        actor: "bench".into(),
        scripts: set,
        stale_after: capstan_core::decide::STALE_AFTER,
        without: Vec::new(),
        history: History::default(),
    };
    match store.submit(group, Input::Create(Box::new(create))).await? {
        Answer::Created(id) => Ok(id),
        answer @ (Answer::Done | Answer::NothingToRollBack { .. } | Answer::RefreshHeld(_)) => {
            bail!("the deployment was not created: {answer:?}")
        }
    }
}
