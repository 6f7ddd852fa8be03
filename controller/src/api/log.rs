//! The output of the host's scripts.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use capstan_core::TargetId;
use capstan_core::view::LogPart;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::extract::{Answered, Id, Params, parsed};
use crate::problem::{Problem, Problems};

/// Bytes that one call gives at most.
const MOST: u32 = 1024 * 1024;

/// Which bytes.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Query {
    /// First byte, counted over all parts in order; 0 when left out.
    #[param(value_type = Option<u64>)]
    offset: Option<String>,
    /// How many bytes, 1 to 1048576; 1048576 when left out.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1_048_576)]
    limit: Option<String>,
}

/// Output of the host's scripts, stage by stage.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct LogParts {
    /// The parts that lie within the range, in order.
    items: Vec<LogPart>,
    /// First byte that was asked for.
    offset: u64,
    /// Bytes that were asked for at most. Less came if the output ends within the range.
    limit: u32,
}

/// Output of the host's scripts by byte range; as plain text with `Accept: text/plain`.
#[utoipa::path(
    get,
    path = "/targets/{id}/log",
    tag = "logs",
    params(("id" = TargetId, Path), Query),
    responses(
        (status = 200, content(
            (LogParts = "application/json"),
            (String = "text/plain")
        )),
        Problems
    )
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Id(id): Id<TargetId>,
    Params(query): Params<Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let offset = parsed("offset", query.offset.as_deref(), "a whole number from 0")?.unwrap_or(0);
    let allowed = "a whole number from 1 to 1048576";
    let limit = parsed("limit", query.limit.as_deref(), allowed)?.unwrap_or(MOST);
    if !(1..=MOST).contains(&limit) {
        return Err(Problem::invalid("limit", limit, allowed));
    }
    app.target(id).await?;
    let items = app.store.target_log(id, offset, limit).await?;
    if wants_text(&headers) {
        let text: String = items.into_iter().map(|part| part.text).collect();
        return Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response());
    }
    Ok(Answered(LogParts { items, offset, limit }).into_response())
}

/// Whether the caller prefers plain text: it names that before JSON.
fn wants_text(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match (accept.find("text/plain"), accept.find("application/json")) {
        (Some(text), Some(json)) => text < json,
        (text, None) => text.is_some(),
        (None, Some(_)) => false,
    }
}
