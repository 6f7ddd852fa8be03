//! A store with a group of servers, an engine over it, and what both are asked.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use capstan_core::action::Action;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::input::{Act, Input};
use capstan_core::ports::{CmdbGroup, Executor, LoadBalancer, Sight};
use capstan_core::rollback::History;
use capstan_core::{DeploymentId, GroupId};
use capstan_drivers::scripts::Scripts;
use capstan_runner::{Engine, Ports, Settings};
use capstan_store::Store;

use crate::recorder::Recorder;

const PATIENCE: Duration = Duration::from_mins(5);

/// A store with one group of `size` servers that all serve.
pub(crate) async fn fleet(folder: &Path, size: u32) -> anyhow::Result<(Store, GroupId)> {
    let url = format!("sqlite://{}", folder.join("bench.db").display());
    let store = Store::open(&capstan_store::Settings::new(url)).await?;
    let group = group(&store, size).await?;
    Ok((store, group))
}

/// A group of `size` servers that all serve.
pub(crate) async fn group(store: &Store, size: u32) -> anyhow::Result<GroupId> {
    let servers: Vec<serde_json::Value> = (0..size)
        .map(|place| {
            serde_json::json!({
                "id": format!("s{place}"), "hostname": format!("host-{place:05}"),
                "ip_address": "127.0.0.1", "root": format!("/srv/{place}"),
                "idc": (["sh", "pd"][place as usize % 2]), "pool": "a",
            })
        })
        .collect();
    let record: CmdbGroup = serde_json::from_value(serde_json::json!({
        "id": "bench", "revision": 1, "name": "bench", "port": 80,
        "application": {"id": "bench", "name": "bench", "bastion": "none"},
        "health_check_url": "http://{ip}:{port}/", "load_balancer": "bench", "executor": "bench",
        "servers": servers,
    }))?;
    let (group, _) = store.sync_group(record, false).await?;
    let seen = store.servers(group).await?.iter().map(|row| (row.id, Sight::Serving)).collect();
    let answering = Vec::new();
    let observed = Input::Observed { deployment: None, seen, can_drain: false, answering };
    store.submit(group, observed).await?;
    Ok(group)
}

pub(crate) fn engine(store: &Store, recorder: &Arc<Recorder>) -> Engine {
    let balancer: Arc<dyn LoadBalancer> = Arc::clone(recorder) as Arc<dyn LoadBalancer>;
    let executor: Arc<dyn Executor> = Arc::clone(recorder) as Arc<dyn Executor>;
    let ports = Ports {
        health: Arc::clone(&balancer),
        load_balancers: BTreeMap::from([("bench".to_owned(), balancer)]),
        executors: BTreeMap::from([("bench".to_owned(), executor)]),
        scripts: Arc::new(Scripts::new(None)),
        breakers: Arc::new(capstan_drivers::breaker::Switchboard::default()),
    };
    Engine::start(store.clone(), ports, Settings::default())
}

pub(crate) async fn act(
    store: &Store,
    group: GroupId,
    deployment: DeploymentId,
    action: Action,
) -> anyhow::Result<()> {
    let act = Act {
        deployment,
        action,
        batch: None,
        without: Vec::new(),
        actor: "bench".into(),
        history: History::default(),
    };
    store.submit(group, Input::Act(Box::new(act))).await?;
    Ok(())
}

pub(crate) async fn wait_until(
    store: &Store,
    deployment: DeploymentId,
    wanted: impl Fn(DeploymentStatus) -> bool,
) -> anyhow::Result<()> {
    let mut watch = store.watch(deployment);
    let end = tokio::time::timeout(PATIENCE, async {
        loop {
            let filter = capstan_store::DeploymentFilter::default();
            let page = capstan_store::PageRequest { limit: 1, cursor: None };
            let page = store.deployments(filter, page).await?;
            if page.items.first().is_some_and(|brief| wanted(brief.status)) {
                return anyhow::Ok(());
            }
            watch.changed().await?;
        }
    });
    end.await.context("the rollout took too long")?
}

pub(crate) async fn wait_for_calls(recorder: &Recorder, count: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while recorder.calls() < count {
        if Instant::now() > deadline {
            bail!("the engine made too few calls");
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}
