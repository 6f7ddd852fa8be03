//! Applications.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use capstan_core::ApplicationId;
use capstan_core::record::{Application, BastionRule};
use capstan_core::view::{ApplicationView, Page};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::api::BASE;
use crate::app::App;
use crate::audit::Deed;
use crate::auth::Caller;
use crate::extract::{Answered, Body, Id, Params, page};
use crate::problem::{Problem, Problems};

/// An application that the CMDB does not give.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApplicationRequest {
    /// Its name, 1 to 64 letters, digits and `._-`.
    name: String,
    /// Who answers for it.
    #[serde(default)]
    owner: String,
    /// For example `prod`.
    #[serde(default)]
    environment: String,
    /// Chooses the host scripts.
    #[serde(default = "generic")]
    kind: String,
    /// Whether its rollouts begin with a bastion batch.
    #[serde(default)]
    bastion: BastionRule,
}

fn generic() -> String {
    "generic".to_owned()
}

/// Which applications.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Query {
    /// Only those whose name contains this.
    search: Option<String>,
    /// How many items, 1 to 500; 100 when left out.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 500)]
    limit: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Applications by name.
#[utoipa::path(
    get,
    path = "/applications",
    tag = "applications",
    params(Query),
    responses((status = 200, body = Page<ApplicationView>), Problems)
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Params(query): Params<Query>,
) -> Result<Answered<Page<ApplicationView>>, Problem> {
    let page = page(query.limit.as_deref(), query.cursor)?;
    Ok(Answered(app.store.applications(query.search, page).await?))
}

/// One application.
#[utoipa::path(
    get,
    path = "/applications/{id}",
    tag = "applications",
    params(("id" = ApplicationId, Path)),
    responses((status = 200, body = ApplicationView), Problems)
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Id(id): Id<ApplicationId>,
) -> Result<Answered<ApplicationView>, Problem> {
    let application = app.store.application(id).await?;
    application
        .map(Answered)
        .ok_or_else(|| Problem::unknown("application", "application_unknown", id))
}

/// Adds an application.
#[utoipa::path(
    post,
    path = "/applications",
    tag = "applications",
    request_body = ApplicationRequest,
    responses((status = 201, body = ApplicationView), Problems)
)]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(request): Body<ApplicationRequest>,
) -> Result<Response, Problem> {
    let deed = Deed {
        actor: &caller.name,
        action: "application.create",
        kind: "application",
        subject: request.name.clone(),
        deployment: None,
        detail: String::new(),
    };
    let result = add(&app, &deed, request).await;
    let view = app.audited_unless_accepted(deed, result).await?;
    let location = format!("{BASE}/applications/{}", view.id);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Answered(view)).into_response())
}

async fn add(
    app: &App,
    deed: &Deed<'_>,
    request: ApplicationRequest,
) -> Result<ApplicationView, Problem> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !(1..=64).contains(&request.name.len()) || !request.name.bytes().all(good) {
        return Err(Problem::invalid("name", request.name, "1 to 64 letters, digits and . _ -"));
    }
    for (field, text) in [("owner", &request.owner), ("environment", &request.environment)] {
        if text.chars().count() > 100 {
            return Err(Problem::invalid(field, text, "at most 100 characters"));
        }
    }
    app.scripts(&request.kind).map_err(|problem| {
        if problem.status == StatusCode::CONFLICT {
            return Problem::invalid("kind", &request.kind, &problem.detail);
        }
        problem
    })?;
    if app.store.application_by_name(&request.name).await?.is_some() {
        return Err(exists(&request.name));
    }
    let ApplicationRequest { name, owner, environment, kind, bastion } = request;
    let id = ApplicationId(Uuid::now_v7());
    let application = Application { id, name, owner, environment, kind, bastion };
    match app.store.application_put(&application, Some(deed.accepted())).await {
        Ok(view) => Ok(view),
        // Somebody else was faster, or it is there and the answer was lost.
        Err(error) => match app.store.application_by_name(&application.name).await? {
            Some(view) if view.id == application.id => Ok(view),
            Some(_) => Err(exists(&application.name)),
            None => Err(error.into()),
        },
    }
}

fn exists(name: &str) -> Problem {
    let text = format!("name: there is an application {name:?} already");
    Problem::new(StatusCode::CONFLICT, "application_exists", text).with("field", "name")
}
