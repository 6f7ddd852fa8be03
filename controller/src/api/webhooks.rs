//! Webhooks.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use capstan_core::WebhookId;
use capstan_core::view::{DeliveryView, Page, WebhookView};

use crate::api::BASE;
use crate::app::App;
use crate::auth::Caller;
use crate::commands::webhooks::{ReplayRequest, ReplayView, WebhookChangeRequest, WebhookRequest};
use crate::extract::{Answered, Body, Id, Paging, Params};
use crate::problem::{Problem, Problems};

/// Webhooks by name.
#[utoipa::path(
    get,
    path = "/webhooks",
    tag = "webhooks",
    params(Paging),
    responses((status = 200, body = Page<WebhookView>), Problems)
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Params(paging): Params<Paging>,
) -> Result<Answered<Page<WebhookView>>, Problem> {
    Ok(Answered(app.store.webhooks(paging.request()?).await?))
}

/// Makes a webhook. Only this answer has its secret.
#[utoipa::path(
    post,
    path = "/webhooks",
    tag = "webhooks",
    request_body = WebhookRequest,
    responses((status = 201, body = WebhookView), Problems)
)]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(request): Body<WebhookRequest>,
) -> Result<Response, Problem> {
    let view = app.webhook_make(&caller, request).await?;
    let place = format!("{BASE}/webhooks/{}", view.id);
    Ok((StatusCode::CREATED, [(LOCATION, place)], Answered(view)).into_response())
}

/// One webhook.
#[utoipa::path(
    get,
    path = "/webhooks/{id}",
    tag = "webhooks",
    params(("id" = WebhookId, Path)),
    responses((status = 200, body = WebhookView), Problems)
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Id(id): Id<WebhookId>,
) -> Result<Answered<WebhookView>, Problem> {
    app.webhook(id).await.map(Answered)
}

/// Changes a webhook, or switches it on or off.
#[utoipa::path(
    patch,
    path = "/webhooks/{id}",
    tag = "webhooks",
    params(("id" = WebhookId, Path)),
    request_body = WebhookChangeRequest,
    responses((status = 200, body = WebhookView), Problems)
)]
pub(crate) async fn change(
    State(app): State<Arc<App>>,
    caller: Caller,
    Id(id): Id<WebhookId>,
    Body(request): Body<WebhookChangeRequest>,
) -> Result<Answered<WebhookView>, Problem> {
    app.webhook_change(&caller, id, request).await.map(Answered)
}

/// Removes a webhook, and what is known of its calls.
#[utoipa::path(
    delete,
    path = "/webhooks/{id}",
    tag = "webhooks",
    params(("id" = WebhookId, Path)),
    responses((status = 204, description = "it is gone"), Problems)
)]
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    caller: Caller,
    Id(id): Id<WebhookId>,
) -> Result<StatusCode, Problem> {
    app.webhook_remove(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How a webhook was called, newest first: the last 1,000 calls, for seven days at most.
#[utoipa::path(
    get,
    path = "/webhooks/{id}/deliveries",
    tag = "webhooks",
    params(("id" = WebhookId, Path), Paging),
    responses((status = 200, body = Page<DeliveryView>), Problems)
)]
pub(crate) async fn deliveries(
    State(app): State<Arc<App>>,
    Id(id): Id<WebhookId>,
    Params(paging): Params<Paging>,
) -> Result<Answered<Page<DeliveryView>>, Problem> {
    let page = paging.request()?;
    app.webhook(id).await?;
    Ok(Answered(app.store.deliveries(id, page).await?))
}

/// Sends the events of a deployment again, in their order and with the same ids. What is sent besides
/// goes on.
#[utoipa::path(
    post,
    path = "/webhooks/{id}/replay",
    tag = "webhooks",
    params(("id" = WebhookId, Path)),
    request_body = ReplayRequest,
    responses((status = 202, body = ReplayView), Problems)
)]
pub(crate) async fn replay(
    State(app): State<Arc<App>>,
    caller: Caller,
    Id(id): Id<WebhookId>,
    Body(request): Body<ReplayRequest>,
) -> Result<Response, Problem> {
    let view = app.webhook_replay(&caller, id, request).await?;
    Ok((StatusCode::ACCEPTED, Answered(view)).into_response())
}
