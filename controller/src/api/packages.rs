//! Packages.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use capstan_core::ApplicationId;
use capstan_core::view::{PackageView, Page};

use crate::api::BASE;
use crate::app::App;
use crate::auth::Caller;
use crate::commands::packages::{MarkRequest, Outcome, RegisterRequest};
use crate::download;
use crate::extract::{Answered, Body, Id, Paging, Params, Segments};
use crate::problem::{Problem, Problems};

/// The packages of an application, newest first.
#[utoipa::path(
    get,
    path = "/applications/{id}/packages",
    tag = "packages",
    params(("id" = ApplicationId, Path), Paging),
    responses((status = 200, body = Page<PackageView>), Problems)
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Id(id): Id<ApplicationId>,
    Params(paging): Params<Paging>,
) -> Result<Answered<Page<PackageView>>, Problem> {
    let page = paging.request()?;
    if app.store.application(id).await?.is_none() {
        return Err(Problem::unknown("application", "application_unknown", id));
    }
    Ok(Answered(app.store.packages(id, page).await?))
}

/// Registers a package that lies somewhere else. The same content again adds the location; another
/// content for the same version is refused.
#[utoipa::path(
    post,
    path = "/packages",
    tag = "packages",
    request_body = RegisterRequest,
    responses(
        (status = 201, body = PackageView),
        (status = 200, body = PackageView, description = "it was registered already"),
        Problems
    )
)]
pub(crate) async fn register(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(request): Body<RegisterRequest>,
) -> Result<Response, Problem> {
    let (view, outcome) = app.register(&caller, request).await?;
    Ok(registered(view, outcome))
}

/// The answer to a registration.
pub(crate) fn registered(view: PackageView, outcome: Outcome) -> Response {
    let status = match outcome {
        Outcome::Created => StatusCode::CREATED,
        Outcome::Same => StatusCode::OK,
    };
    let location = format!("{BASE}/packages/{}/{}", view.application, view.version);
    (status, [(LOCATION, location)], Answered(view)).into_response()
}

/// One package.
#[utoipa::path(
    get,
    path = "/packages/{application}/{version}",
    tag = "packages",
    params(
        ("application" = String, Path, description = "id or name of the application"),
        ("version" = String, Path)
    ),
    responses((status = 200, body = PackageView), Problems)
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Segments((application, version)): Segments<(String, String)>,
) -> Result<Answered<PackageView>, Problem> {
    app.package(&application, &version).await.map(Answered)
}

/// Marks a package as bad, or takes the mark away.
#[utoipa::path(
    patch,
    path = "/packages/{application}/{version}",
    tag = "packages",
    params(
        ("application" = String, Path, description = "id or name of the application"),
        ("version" = String, Path)
    ),
    request_body = MarkRequest,
    responses((status = 200, body = PackageView), Problems)
)]
pub(crate) async fn mark(
    State(app): State<Arc<App>>,
    caller: Caller,
    Segments((application, version)): Segments<(String, String)>,
    Body(request): Body<MarkRequest>,
) -> Result<Answered<PackageView>, Problem> {
    app.mark(&caller, &application, &version, request).await.map(Answered)
}

/// The archive, from Capstan's own store.
#[utoipa::path(
    get,
    path = "/packages/{application}/{version}/archive",
    tag = "packages",
    params(
        ("application" = String, Path, description = "id or name of the application"),
        ("version" = String, Path)
    ),
    responses(
        (status = 200, content_type = "application/gzip", body = Vec<u8>),
        (status = 206, content_type = "application/gzip", body = Vec<u8>,
            description = "the part that Range asks for"),
        Problems
    )
)]
pub(crate) async fn archive(
    State(app): State<Arc<App>>,
    Segments((application, version)): Segments<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let package = app.package(&application, &version).await?;
    download::archive(&app, &package.sha256, &headers).await
}
