//! Deployments.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::view::{AuditView, DeploymentBrief, DeploymentView, Page};
use capstan_core::{DeploymentId, GroupId};
use capstan_store::DeploymentFilter;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::api::BASE;
use crate::app::App;
use crate::auth::Caller;
use crate::commands::act::action;
use crate::commands::create::CreateRequest;
use crate::extract::{Answered, Body, Id, MaybeBody, Paging, Params, Segments, page, parsed, word};
use crate::problem::{Problem, Problems};

/// Which deployments.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Query {
    /// Only those of the group with this id.
    #[param(value_type = Option<GroupId>)]
    group: Option<String>,
    /// Only those with this status.
    #[param(value_type = Option<DeploymentStatus>)]
    status: Option<String>,
    /// `true`: only those that hold their group.
    #[param(value_type = Option<bool>)]
    running: Option<String>,
    /// How many items, 1 to 500; 100 when left out.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 500)]
    limit: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Deployments, newest first.
#[utoipa::path(
    get,
    path = "/deployments",
    tag = "deployments",
    params(Query),
    responses((status = 200, body = Page<DeploymentBrief>), Problems)
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Params(query): Params<Query>,
) -> Result<Answered<Page<DeploymentBrief>>, Problem> {
    let filter = DeploymentFilter {
        group: parsed("group", query.group.as_deref(), "a UUID")?,
        status: word("status", query.status.as_deref(), &DeploymentStatus::ALL)?,
        running: parsed("running", query.running.as_deref(), "true or false")?.unwrap_or(false),
    };
    let page = page(query.limit.as_deref(), query.cursor)?;
    Ok(Answered(app.store.deployments(filter, page).await?))
}

/// Plans a deployment and, with `start`, starts it. The group is refreshed from the CMDB and each
/// of its servers is looked at before the plan is made.
#[utoipa::path(
    post,
    path = "/deployments",
    tag = "deployments",
    request_body = CreateRequest,
    responses((status = 201, body = DeploymentView), Problems)
)]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(request): Body<CreateRequest>,
) -> Result<Response, Problem> {
    let view = app.create(&caller, request).await?;
    let location = format!("{BASE}/deployments/{}", view.id);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Answered(view)).into_response())
}

/// One deployment: where it stands, what it waits for, what can be asked of it.
#[utoipa::path(
    get,
    path = "/deployments/{id}",
    tag = "deployments",
    params(("id" = DeploymentId, Path)),
    responses((status = 200, body = DeploymentView), Problems)
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Id(id): Id<DeploymentId>,
) -> Result<Answered<DeploymentView>, Problem> {
    app.deployment(id).await.map(Answered)
}

/// Who asked what of a deployment, with which answer; refused ones too.
#[utoipa::path(
    get,
    path = "/deployments/{id}/actions",
    tag = "deployments",
    params(("id" = DeploymentId, Path), Paging),
    responses((status = 200, body = Page<AuditView>), Problems)
)]
pub(crate) async fn actions(
    State(app): State<Arc<App>>,
    Id(id): Id<DeploymentId>,
    Params(paging): Params<Paging>,
) -> Result<Answered<Page<AuditView>>, Problem> {
    let page = paging.request()?;
    app.group_of(id).await?;
    Ok(Answered(app.store.audits(id, page).await?))
}

/// Details of an action.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ActRequest {
    /// For `rollout`: the batch that is meant; another one is refused.
    batch: Option<u32>,
}

/// Asks something of a deployment. What the present status does not allow is refused with the
/// actions that are allowed, and changes nothing.
#[utoipa::path(
    post,
    path = "/deployments/{id}/{action}",
    tag = "deployments",
    params(
        ("id" = DeploymentId, Path),
        ("action" = String, Path,
            description = "start, bake, rollout, retry, brake, resume, revoke or finish")
    ),
    request_body = Option<ActRequest>,
    responses((status = 200, body = DeploymentView), Problems)
)]
pub(crate) async fn act(
    State(app): State<Arc<App>>,
    caller: Caller,
    Segments((id, word)): Segments<(String, String)>,
    MaybeBody(request): MaybeBody<ActRequest>,
) -> Result<Answered<DeploymentView>, Problem> {
    let action = action(&word)?;
    let id = crate::extract::id(&id)?;
    app.act(&caller, id, action, request.batch).await.map(Answered)
}
