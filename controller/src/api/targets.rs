//! Targets.

use std::sync::Arc;

use axum::extract::State;
use capstan_core::target_status::TargetStatus;
use capstan_core::view::{Page, TargetView};
use capstan_core::{DeploymentId, TargetId};
use capstan_store::TargetFilter;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::app::App;
use crate::extract::{Answered, Id, Params, page, parsed, word};
use crate::problem::{Problem, Problems};

/// Which targets.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Query {
    /// Only those with this status.
    #[param(value_type = Option<TargetStatus>)]
    status: Option<String>,
    /// Only those of the batch with this index.
    #[param(value_type = Option<u32>)]
    batch: Option<String>,
    /// How many items, 1 to 500; 100 when left out.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 500)]
    limit: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// The targets of a deployment, by batch and place.
#[utoipa::path(
    get,
    path = "/deployments/{id}/targets",
    tag = "targets",
    params(("id" = DeploymentId, Path), Query),
    responses((status = 200, body = Page<TargetView>), Problems)
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Id(id): Id<DeploymentId>,
    Params(query): Params<Query>,
) -> Result<Answered<Page<TargetView>>, Problem> {
    let filter = TargetFilter {
        status: word("status", query.status.as_deref(), &TargetStatus::ALL)?,
        batch: parsed("batch", query.batch.as_deref(), "a whole number from 1")?,
    };
    let page = page(query.limit.as_deref(), query.cursor)?;
    app.group_of(id).await?;
    Ok(Answered(app.store.targets(id, filter, page).await?))
}

impl App {
    /// A target that the path names.
    pub(crate) async fn target(&self, id: TargetId) -> Result<TargetView, Problem> {
        let target = self.store.target(id).await?;
        target.ok_or_else(|| Problem::unknown("target", "target_unknown", id))
    }
}

/// One target.
#[utoipa::path(
    get,
    path = "/targets/{id}",
    tag = "targets",
    params(("id" = TargetId, Path)),
    responses((status = 200, body = TargetView), Problems)
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Id(id): Id<TargetId>,
) -> Result<Answered<TargetView>, Problem> {
    app.target(id).await.map(Answered)
}
