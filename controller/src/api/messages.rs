//! Messages of the CMDB.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use capstan_core::message::Inbox;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::audit::Deed;
use crate::auth::Caller;
use crate::extract::{Answered, MaybeBody};
use crate::problem::{Problem, Problems};

/// Most messages that one call puts back.
const MOST: u32 = 10_000;

/// Messages about changes in the CMDB, as they wait in the broker.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessagesView {
    /// In the queue.
    queued: u32,
    /// Laid aside, since nobody understood them.
    dead: u32,
}

/// How many messages to put back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessagesReplayRequest {
    /// At most so many, 1 to 10000; 10000 when left out.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 10_000)]
    limit: Option<u32>,
}

/// What was put back.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessagesReplayView {
    /// How many messages are in the queue again.
    replayed: u32,
    /// How many of those that were there are still laid aside; a further call puts back more.
    left: u32,
}

/// How many messages about changes in the CMDB wait, and how many were laid aside.
#[utoipa::path(
    get,
    path = "/messages",
    tag = "messages",
    responses((status = 200, body = MessagesView), Problems)
)]
pub(crate) async fn show(State(app): State<Arc<App>>) -> Result<Answered<MessagesView>, Problem> {
    let waiting = inbox(&app)?.waiting().await.map_err(|error| broken(&error))?;
    Ok(Answered(MessagesView { queued: waiting.queued, dead: waiting.dead }))
}

/// Puts messages that were laid aside into the queue again: as many as it can within some seconds.
#[utoipa::path(
    post,
    path = "/messages/replay",
    tag = "messages",
    request_body = Option<MessagesReplayRequest>,
    responses((status = 200, body = MessagesReplayView), Problems)
)]
pub(crate) async fn replay(
    State(app): State<Arc<App>>,
    caller: Caller,
    MaybeBody(request): MaybeBody<MessagesReplayRequest>,
) -> Result<Answered<MessagesReplayView>, Problem> {
    let limit = request.limit.unwrap_or(MOST);
    let deed = Deed {
        actor: &caller.name,
        action: "messages.replay",
        kind: "dependency",
        subject: capstan_core::dependency::BROKER.to_owned(),
        deployment: None,
        detail: format!("at most {limit}"),
    };
    let result = replay_now(&app, limit).await;
    app.audited(deed, result).await.map(Answered)
}

async fn replay_now(app: &App, limit: u32) -> Result<MessagesReplayView, Problem> {
    if !(1..=MOST).contains(&limit) {
        return Err(Problem::invalid("limit", limit, "a whole number from 1 to 10000"));
    }
    let replayed = inbox(app)?.replay(limit).await.map_err(|error| broken(&error))?;
    Ok(MessagesReplayView { replayed: replayed.moved, left: replayed.left })
}

fn inbox(app: &App) -> Result<&dyn Inbox, Problem> {
    let none = || {
        let detail = "no message broker is configured; see [broker] url";
        Problem::new(StatusCode::CONFLICT, "no_broker", detail)
    };
    app.ports.inbox.as_deref().ok_or_else(none)
}

fn broken(error: &capstan_core::ports::DriverError) -> Problem {
    Problem::driver("broker_unavailable", "message broker", error)
}
