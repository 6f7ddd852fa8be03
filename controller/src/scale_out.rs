//! Groups whose new servers get the version that the group runs without a person's click.

use std::sync::Arc;

use capstan_core::config::ConfigRequest;
use capstan_core::record::{Flavor, OutBecause, ScaleOut};
use capstan_core::{DeploymentId, GroupId};

use crate::app::App;
use crate::audit::Deed;
use crate::commands::create::CreateRequest;
use crate::problem::Problem;

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

    /// One is due when nothing runs in the group, it runs a version, and servers are new. A server that a
    /// target has taken once is not new any more: what failed is tried again by a person alone.
    async fn scale_out(self: &Arc<Self>, id: GroupId) -> Result<Option<DeploymentId>, Problem> {
        let group = self.group(id).await?;
        let is_free = group.running_deployment.is_none() && group.refresh_held.is_none();
        if group.scale_out != ScaleOut::Automatic || !is_free {
            return Ok(None);
        }
        let history = self.store.history(id).await?;
        let Some(current) = history.current() else { return Ok(None) };
        let is_new = |server: &capstan_core::view::ServerView| {
            let is_member = !server.retired && server.pulled_out.is_none();
            is_member && server.out_because == Some(OutBecause::New)
        };
        let new = self.store.servers(id).await?.iter().filter(|server| is_new(server)).count();
        if new == 0 {
            return Ok(None);
        }
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
}
