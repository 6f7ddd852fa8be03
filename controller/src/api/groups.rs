//! Groups: what they are, what runs on them, what a release would do, and back.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use capstan_core::plan::Plan;
use capstan_core::view::{DeploymentView, GroupView, Page, ServerView, VersionView};
use capstan_core::{ApplicationId, GroupId};
use capstan_store::PageRequest;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::api::{BASE, cut};
use crate::app::App;
use crate::auth::Caller;
use crate::commands::create::PreviewRequest;
use crate::commands::rollback::{NothingToRollBack, RollbackRequest, RolledBack};
use crate::extract::{Answered, Body, Id, MaybeBody, Paging, Params, page, parsed};
use crate::problem::{Problem, Problems};
use crate::sync::Removal;

/// Which groups.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Query {
    /// Only groups of the application with this id.
    #[param(value_type = Option<ApplicationId>)]
    application: Option<String>,
    /// Only groups with this name, or with this id in the CMDB.
    name: Option<String>,
    /// How many items, 1 to 500; 100 when left out.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 500)]
    limit: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Groups, with how fresh the cache of each is.
#[utoipa::path(
    get,
    path = "/groups",
    tag = "groups",
    params(Query),
    responses((status = 200, body = Page<GroupView>), Problems)
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Params(query): Params<Query>,
) -> Result<Answered<Page<GroupView>>, Problem> {
    let application = parsed("application", query.application.as_deref(), "a UUID")?;
    let page = page(query.limit.as_deref(), query.cursor)?;
    match query.name {
        None => Ok(Answered(app.store.groups(application, page).await?)),
        Some(name) => Ok(Answered(named(&app, application, &name).await?)),
    }
}

/// The groups with this name. Few have the same one, so they come in one page.
async fn named(
    app: &App,
    application: Option<ApplicationId>,
    name: &str,
) -> Result<Page<GroupView>, Problem> {
    let mut found = Page { items: Vec::new(), next_cursor: None };
    let mut request = PageRequest { limit: 500, cursor: None };
    loop {
        let page = app.store.groups(application, request).await?;
        let matches = |group: &GroupView| group.name == name || group.external_id == name;
        found.items.extend(page.items.into_iter().filter(matches));
        if page.next_cursor.is_none() {
            return Ok(found);
        }
        request = PageRequest { limit: 500, cursor: page.next_cursor };
    }
}

/// One group.
#[utoipa::path(
    get,
    path = "/groups/{id}",
    tag = "groups",
    params(("id" = GroupId, Path)),
    responses((status = 200, body = GroupView), Problems)
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Id(id): Id<GroupId>,
) -> Result<Answered<GroupView>, Problem> {
    app.group(id).await.map(Answered)
}

/// A refresh from the CMDB.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SyncRequest {
    /// Confirms a refresh that was held because it would remove many servers.
    confirm: bool,
}

/// Refreshes a group from the CMDB; merged with a refresh that is under way. One that would remove
/// too many servers is held: `refresh_held` says what it would do, `confirm` lets it through.
#[utoipa::path(
    post,
    path = "/groups/{id}/sync",
    tag = "groups",
    params(("id" = GroupId, Path)),
    request_body = Option<SyncRequest>,
    responses((status = 200, body = GroupView), Problems)
)]
pub(crate) async fn sync(
    State(app): State<Arc<App>>,
    caller: Caller,
    Id(id): Id<GroupId>,
    MaybeBody(request): MaybeBody<SyncRequest>,
) -> Result<Answered<GroupView>, Problem> {
    let removal = if request.confirm { Removal::Confirmed } else { Removal::Held };
    app.sync_group(&caller, id, removal).await.map(Answered)
}

/// A group's servers.
#[utoipa::path(
    get,
    path = "/groups/{id}/servers",
    tag = "groups",
    params(("id" = GroupId, Path), Paging),
    responses((status = 200, body = Page<ServerView>), Problems)
)]
pub(crate) async fn servers(
    State(app): State<Arc<App>>,
    Id(id): Id<GroupId>,
    Params(paging): Params<Paging>,
) -> Result<Answered<Page<ServerView>>, Problem> {
    let request = paging.request()?;
    app.group(id).await?;
    let servers = app.store.servers(id).await?;
    Ok(Answered(cut(servers, &request)?))
}

/// Which version runs where, with the age of the evidence.
#[utoipa::path(
    get,
    path = "/groups/{id}/versions",
    tag = "groups",
    params(("id" = GroupId, Path)),
    responses((status = 200, body = Page<VersionView>), Problems)
)]
pub(crate) async fn versions(
    State(app): State<Arc<App>>,
    Id(id): Id<GroupId>,
) -> Result<Answered<Page<VersionView>>, Problem> {
    app.group(id).await?;
    let items = app.store.versions(id).await?;
    Ok(Answered(Page { items, next_cursor: None }))
}

/// What a deployment would do. Changes nothing.
#[utoipa::path(
    post,
    path = "/groups/{id}/preview",
    tag = "groups",
    params(("id" = GroupId, Path)),
    request_body = PreviewRequest,
    responses((status = 200, body = Plan), Problems)
)]
pub(crate) async fn preview(
    State(app): State<Arc<App>>,
    Id(id): Id<GroupId>,
    Body(request): Body<PreviewRequest>,
) -> Result<Answered<Plan>, Problem> {
    app.preview(id, request).await.map(Answered)
}

/// Creates and starts a rollback; a deployment that runs is revoked by it.
#[utoipa::path(
    post,
    path = "/groups/{id}/rollback",
    tag = "groups",
    params(("id" = GroupId, Path)),
    request_body = Option<RollbackRequest>,
    responses(
        (status = 201, body = DeploymentView),
        (status = 200, body = NothingToRollBack, description = "everything is right already"),
        Problems
    )
)]
pub(crate) async fn rollback(
    State(app): State<Arc<App>>,
    caller: Caller,
    Id(id): Id<GroupId>,
    MaybeBody(request): MaybeBody<RollbackRequest>,
) -> Result<Response, Problem> {
    match app.roll_back(&caller, id, request).await? {
        RolledBack::Created(view) => {
            let location = format!("{BASE}/deployments/{}", view.id);
            Ok((StatusCode::CREATED, [(LOCATION, location)], Answered(view)).into_response())
        }
        RolledBack::Nothing(nothing) => Ok(Answered(nothing).into_response()),
    }
}
