//! Servers.

use std::sync::Arc;

use axum::extract::State;
use capstan_core::ServerId;
use capstan_core::view::ServerView;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Caller;
use crate::extract::{Answered, Body, Id};
use crate::problem::{Problem, Problems};

/// Pulls a server out by hand, or puts it back.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerRequest {
    /// `true`: it is drained and left out of every plan; `false`: it goes in once it is verified.
    pulled_out: bool,
    /// Why; needed when it is pulled out.
    #[serde(default)]
    reason: Option<String>,
}

/// One server.
#[utoipa::path(
    get,
    path = "/servers/{id}",
    tag = "servers",
    params(("id" = ServerId, Path)),
    responses((status = 200, body = ServerView), Problems)
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Id(id): Id<ServerId>,
) -> Result<Answered<ServerView>, Problem> {
    app.server(id).await.map(Answered)
}

/// Pulls a server out by hand, or puts it back. Outlives deployments.
#[utoipa::path(
    patch,
    path = "/servers/{id}",
    tag = "servers",
    params(("id" = ServerId, Path)),
    request_body = ServerRequest,
    responses((status = 200, body = ServerView), Problems)
)]
pub(crate) async fn change(
    State(app): State<Arc<App>>,
    caller: Caller,
    Id(id): Id<ServerId>,
    Body(request): Body<ServerRequest>,
) -> Result<Answered<ServerView>, Problem> {
    if request.pulled_out {
        return app.pull_out(&caller, id, request.reason).await.map(Answered);
    }
    if let Some(reason) = request.reason {
        return Err(Problem::invalid("reason", reason, "only together with pulled_out = true"));
    }
    app.put_back(&caller, id).await.map(Answered)
}
