//! A group that came to Capstan with a version running gets a first deployment for it, so that its
//! first release can be rolled back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use capstan_core::dependency;
use capstan_core::input::Input;
use capstan_core::ports::{Endpoint, Executor, Report, Script};
use capstan_core::record::PackageRef;
use capstan_core::view::GroupView;
use capstan_core::{ApplicationId, GroupId, ServerId};
use capstan_store::{DeploymentFilter, PageRequest};
use futures::{StreamExt, stream};

use crate::app::App;
use crate::problem::Problem;

/// Hosts that are asked at the same time.
const CONCURRENCY: usize = 32;
/// How long the first deployment of a group waits for the adoption before it.
const PATIENCE: Duration = Duration::from_secs(10);

impl App {
    /// Adopts in the background.
    pub(crate) fn adopt_later(self: &Arc<Self>, group: GroupId) {
        let app = self.clone();
        tokio::spawn(async move {
            let Ok(_permit) = app.background.acquire().await else { return };
            app.adopt_joined(group).await;
        });
    }

    /// Adopts before the group's first deployment is created, within bounds.
    pub(crate) async fn adopt_first(self: &Arc<Self>, group: GroupId) {
        if tokio::time::timeout(PATIENCE, self.adopt_joined(group)).await.is_err() {
            tracing::warn!(%group, "hosts take long to say what they run; not waiting for them");
        }
    }

    /// Looks again at every group of an application: a package of it was registered.
    pub(crate) async fn adopt_groups_of(self: &Arc<Self>, application: ApplicationId) {
        let mut cursor = None;
        loop {
            let page = PageRequest { limit: 500, cursor };
            let page = match self.store.groups(Some(application), page).await {
                Ok(page) => page,
                Err(error) => {
                    let problem = Problem::from(error);
                    tracing::warn!(%application, code = problem.code, "groups cannot be read");
                    return;
                }
            };
            for group in page.items {
                self.adopt_later(group.id);
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                return;
            }
        }
    }

    async fn adopt_joined(self: &Arc<Self>, group: GroupId) {
        let app = self.clone();
        let work = async move {
            if let Err(problem) = app.adopt_now(group).await {
                let detail = problem.detail;
                tracing::warn!(%group, code = problem.code, detail, "the group was not adopted");
            }
        };
        self.adoptions.join(group, work).await;
    }

    async fn adopt_now(&self, id: GroupId) -> Result<(), Problem> {
        if self.has_deployments(id).await? || !self.has_packages(id).await? {
            return Ok(());
        }
        let group = self.group(id).await?;
        let (scripts, bodies) = self.scripts(&group.application.kind)?;
        let Some(report) = scripts
            .digests
            .get("report")
            .and_then(|digest| bodies.iter().find(|script| &script.sha256 == digest))
        else {
            return Ok(());
        };
        let Some((_, endpoints)) = self.store.endpoints(id).await? else { return Ok(()) };
        let cut_off = self.store.dependencies_cut_off().await?;
        let usable = group.executors().find(|name| !cut_off.contains(&dependency::executor(name)));
        let Some(executor) = self.ports.executors.get(usable.unwrap_or_default()) else {
            return Ok(());
        };
        let reports = ask(executor.as_ref(), &endpoints, report).await;
        let Some((package, servers)) = self.agreed(&group, reports).await? else { return Ok(()) };
        self.look(id, crate::look::PATIENT).await?;
        self.store.scripts_put(&bodies).await?;
        let (version, count) = (package.version.clone(), servers.len());
        let history = self.store.history(id).await?;
        self.submit(id, Input::Adopt { package, scripts, servers, history }).await?;
        tracing::info!(group = group.name, version, servers = count, "adopted what the group runs");
        Ok(())
    }

    async fn has_deployments(&self, group: GroupId) -> Result<bool, Problem> {
        let filter = DeploymentFilter { group: Some(group), status: None, running: false };
        let page = self.store.deployments(filter, PageRequest { limit: 1, cursor: None }).await?;
        Ok(!page.items.is_empty())
    }

    async fn has_packages(&self, group: GroupId) -> Result<bool, Problem> {
        let application = self.group(group).await?.application.id;
        let page = PageRequest { limit: 1, cursor: None };
        Ok(!self.store.packages(application, page).await?.items.is_empty())
    }

    /// The package that all who report something report, if it is a registered one.
    async fn agreed(
        &self,
        group: &GroupView,
        reports: Vec<(ServerId, Report)>,
    ) -> Result<Option<(PackageRef, Vec<ServerId>)>, Problem> {
        let distinct: BTreeSet<(&str, &str)> =
            reports.iter().map(|(_, it)| (it.version.as_str(), it.sha256.as_str())).collect();
        let mut distinct = distinct.into_iter();
        let (Some((version, sha256)), None) = (distinct.next(), distinct.next()) else {
            return Ok(None);
        };
        let package = self.store.package_by_version(group.application.id, version).await?;
        let Some(package) = package.filter(|package| package.sha256 == sha256) else {
            return Ok(None);
        };
        let package =
            PackageRef { id: package.id, version: package.version, sha256: package.sha256 };
        Ok(Some((package, reports.iter().map(|(server, _)| *server).collect())))
    }
}

/// Asks every host what it runs; those that do not answer or run nothing of ours are left out.
async fn ask(
    executor: &dyn Executor,
    endpoints: &[Endpoint],
    script: &Script,
) -> Vec<(ServerId, Report)> {
    let calls: Vec<_> = endpoints
        .iter()
        .map(|endpoint| {
            let call = executor.report(endpoint, script);
            async move { (endpoint.server, call.await) }
        })
        .collect();
    stream::iter(calls)
        .buffer_unordered(CONCURRENCY)
        .filter_map(|(server, report)| async move { Some((server, report.ok()??)) })
        .collect()
        .await
}
