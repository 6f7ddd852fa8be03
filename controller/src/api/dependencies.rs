//! Breakers and hand switches of outside dependencies.

use std::sync::Arc;

use axum::extract::State;
use capstan_core::Timestamp;
use capstan_core::view::{DependencyView, Page};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::cut;
use crate::app::App;
use crate::auth::Caller;
use crate::extract::{Answered, Body, Paging, Params, Segments};
use crate::problem::{Problem, Problems};

/// Cuts a dependency off, or restores it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DependencyRequest {
    /// `true`: no call to it is made; `false`: it is called again.
    cut_off: bool,
    /// Why; needed when it is cut off.
    #[serde(default)]
    reason: Option<String>,
    /// When the cut ends by itself; not given: when a person restores it.
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

/// Every outside dependency: what its breaker does, and who cut it off.
#[utoipa::path(
    get,
    path = "/dependencies",
    tag = "dependencies",
    params(Paging),
    responses((status = 200, body = Page<DependencyView>), Problems)
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Params(paging): Params<Paging>,
) -> Result<Answered<Page<DependencyView>>, Problem> {
    let request = paging.request()?;
    Ok(Answered(cut(app.store.dependencies().await?, &request)?))
}

/// The hand switch of one dependency.
#[utoipa::path(
    put,
    path = "/dependencies/{name}",
    tag = "dependencies",
    params(("name" = String, Path)),
    request_body = DependencyRequest,
    responses((status = 200, body = DependencyView), Problems)
)]
pub(crate) async fn change(
    State(app): State<Arc<App>>,
    caller: Caller,
    Segments(name): Segments<String>,
    Body(request): Body<DependencyRequest>,
) -> Result<Answered<DependencyView>, Problem> {
    let DependencyRequest { cut_off, reason, expires_at } = request;
    if cut_off {
        return app.cut_off(&caller, &name, reason, expires_at).await.map(Answered);
    }
    if let Some(at) = expires_at {
        return Err(Problem::invalid("expires_at", at, "only together with cut_off = true"));
    }
    app.restore(&caller, &name, reason).await.map(Answered)
}
