//! A deployment to measure.

use anyhow::{Context, bail};
use capstan_core::config::ConfigRequest;
use capstan_core::input::{Answer, Create, Input};
use capstan_core::ports::ScriptSource;
use capstan_core::record::{Flavor, PackageRef};
use capstan_core::rollback::History;
use capstan_core::{DeploymentId, GroupId};
use capstan_drivers::scripts::Scripts;
use capstan_store::{NewPackage, Store};

/// Makes a rollout of version 1.`number`.0, and starts it if it shall.
pub(crate) async fn create(
    store: &Store,
    group: GroupId,
    number: u32,
    start: bool,
) -> anyhow::Result<DeploymentId> {
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
        start,
        actor: "bench".into(),
        scripts: set,
        stale_after: capstan_core::decide::STALE_AFTER,
        without: Vec::new(),
        history: History::default(),
    };
    match store.submit(group, Input::Create(Box::new(create))).await? {
        Answer::Created(id) => Ok(id),
        answer @ (Answer::Done
        | Answer::NothingToRollBack { .. }
        | Answer::RefreshHeld(_)
        | Answer::ReadAlone) => {
            bail!("the deployment was not created: {answer:?}")
        }
    }
}
