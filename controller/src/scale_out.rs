//! Groups whose new servers get the version that the group runs without a person's click.

use std::sync::Arc;

use capstan_core::config::ConfigRequest;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::record::{Flavor, OutBecause, ScaleOut};
use capstan_core::view::ServerView;
use capstan_core::{DeploymentId, GroupId};
use capstan_store::{DeploymentFilter, PageRequest};

use crate::app::App;
use crate::audit::Deed;
use crate::commands::create::CreateRequest;
use crate::problem::Problem;

/// Deployments among which the last one that was started is looked for; drafts lie before it.
const RECENT: u32 = 20;
/// Who does what Capstan does by itself.
const CAPSTAN: &str = "capstan";

impl App {
    /// Starts a scaleout in the background, if one is due.
    pub(crate) fn scale_out_later(self: &Arc<Self>, group: GroupId) {
        let app = self.clone();
        tokio::spawn(async move {
            let Ok(_permit) = app.background.acquire().await else { return };
            match app.scale_out(group).await {
                Ok(Some(deployment)) => {
                    tracing::info!(%group, %deployment, "new servers get the group's version");
                }
                Ok(None) => {}
                Err(problem) => {
                    let detail = problem.detail;
                    tracing::warn!(%group, code = problem.code, detail, "no scaleout was started");
                }
            }
        });
    }

    /// One is due when nothing runs in the group, it runs a version, and servers are new. It visits new
    /// servers alone: what failed, or runs something else, is for a person to decide, and so is everything
    /// after a scaleout that did not succeed.
    async fn scale_out(self: &Arc<Self>, id: GroupId) -> Result<Option<DeploymentId>, Problem> {
        let group = self.group(id).await?;
        let is_free = group.running_deployment.is_none() && group.refresh_held.is_none();
        if group.scale_out != ScaleOut::Automatic || !is_free {
            return Ok(None);
        }
        let _alone = self.scaling_out.lock().await;
        let history = self.store.history(id).await?;
        let Some(current) = history.current() else { return Ok(None) };
        let servers = self.store.servers(id).await?;
        let members = servers.iter().filter(|row| !row.retired && row.pulled_out.is_none());
        let (new, known): (Vec<&ServerView>, Vec<&ServerView>) =
            members.partition(|row| row.out_because == Some(OutBecause::New));
        if new.is_empty() || self.last_scaleout_failed(id).await? {
            return Ok(None);
        }
        let version = &current.package.version;
        let proves =
            |row: &&ServerView| row.version.as_ref() == Some(version) && row.proven_at.is_some();
        if let Some(other) = known.iter().find(|row| !proves(row)) {
            let (group, hostname, new) = (&group.name, &other.hostname, new.len());
            tracing::warn!(
                group,
                hostname,
                version,
                new,
                "new servers wait for a person: a server of the group does not prove its version"
            );
            return Ok(None);
        }
        let new = new.len();
        let request = CreateRequest {
            group: id,
            package: current.package.id.to_string(),
            flavor: Flavor::Scaleout,
            config: ConfigRequest::default(),
            seed: None,
            ignore_verify_reason: None,
            plan_hash: None,
            start: true,
            queue: false,
        };
        let deed = Deed {
            actor: CAPSTAN,
            action: "deployment.create",
            kind: "group",
            subject: id.to_string(),
            deployment: None,
            detail: format!("{new} new servers, {}", current.package.version),
        };
        match self.create_now(deed.asked_by_nobody(), CAPSTAN, request).await {
            Ok(view) => Ok(Some(view.id)),
            // Somebody else was faster: a person, or another process that saw the same servers.
            Err(problem) if problem.code == "deployment_running" => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    /// Whether the last deployment that was started is a scaleout that did not come to SUCCESS.
    async fn last_scaleout_failed(&self, group: GroupId) -> Result<bool, Problem> {
        let filter = DeploymentFilter { group: Some(group), status: None, running: false };
        let page = PageRequest { limit: RECENT, cursor: None };
        let recent = self.store.deployments(filter, page).await?.items;
        let last = recent.iter().find(|row| row.status != DeploymentStatus::Pending);
        Ok(last.is_some_and(|row| {
            row.flavor == Flavor::Scaleout && row.status != DeploymentStatus::Success
        }))
    }
}
