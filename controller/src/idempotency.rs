//! The guard of writes: idempotency keys, and that a write which began is carried to its end.

use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use capstan_core::order::hex;
use capstan_store::{Idempotency, RequestKey};
use sha2::{Digest, Sha256};
use tracing::Instrument;

use crate::api::BASE;
use crate::app::App;
use crate::audit::Deed;
use crate::auth::{Caller, is_safe};
use crate::extract::{Answered, unread};
use crate::problem::{Problem, Refusal, chain};

/// Header with the caller's key.
pub(crate) const KEY_HEADER: &str = "idempotency-key";
/// Header on an answer that was given before.
const REPLAYED_HEADER: &str = "idempotency-replayed";
/// An answer beyond this is not kept; none of ours comes near it.
const LARGEST_ANSWER: usize = 16 * 1024 * 1024;

/// Middleware of every call of the API.
pub(crate) async fn guard(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    if is_safe(request.method()) {
        return next.run(request).await;
    }
    let deed = format!("{} {}", request.method(), request.uri().path());
    let response = if request.method() == Method::PUT {
        // An upload must end when its sender goes away, and its content is its own key.
        next.run(request).await
    } else {
        let work = keyed(app.clone(), caller.clone(), request, next);
        let task = tokio::spawn(work.in_current_span());
        task.await.unwrap_or_else(|_| Problem::internal().into_response())
    };
    if let Some(refusal) = unheard(&response, &deed) {
        audit_unheard(&app, &caller, &deed, refusal).await;
    }
    response
}

/// A refusal that the audit does not have yet: the request did not reach its handler. A preview is
/// a question, which nobody audits.
pub(crate) fn unheard(response: &Response, deed: &str) -> Option<Refusal> {
    if deed.ends_with("/preview") {
        return None;
    }
    response.extensions().get::<Refusal>().filter(|refusal| !refusal.is_audited).cloned()
}

/// Writes such a refusal into the audit.
pub(crate) async fn audit_unheard(app: &App, caller: &Caller, deed: &str, refusal: Refusal) {
    let deed = Deed {
        actor: &caller.name,
        action: deed,
        kind: "request",
        subject: String::new(),
        deployment: None,
        detail: refusal.detail,
    };
    app.note(deed, refusal.code).await;
}

async fn keyed(app: Arc<App>, caller: Caller, request: Request, next: Next) -> Response {
    match request.headers().get(KEY_HEADER) {
        None => next.run(request).await,
        Some(key) => match check_key(key) {
            Ok(key) => match once(&app, &caller, &key, request, next).await {
                Ok(response) => response,
                Err(problem) => problem.into_response(),
            },
            Err(problem) => problem.into_response(),
        },
    }
}

fn check_key(value: &HeaderValue) -> Result<String, Problem> {
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || text.len() > 255 {
        let shown = String::from_utf8_lossy(value.as_bytes());
        return Err(Problem::invalid("Idempotency-Key", shown, "1 to 255 printable characters"));
    }
    Ok(text.to_owned())
}

/// Runs a request once per token, path and key.
async fn once(
    app: &App,
    caller: &Caller,
    key: &str,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let path = request.uri().path_and_query().map_or("", |path| path.as_str()).to_owned();
    let (parts, body) = request.into_parts();
    let mut whole = Request::new(body);
    DefaultBodyLimit::max(app.settings.max_body_bytes).apply(&mut whole);
    let body = Bytes::from_request(whole, &()).await.map_err(|error| unread(&error))?;
    let mut hash = Sha256::new();
    hash.update(parts.method.as_str());
    hash.update([0]);
    hash.update(&body);
    let body_hash = hex(&hash.finalize());
    match app.store.idempotency_begin(caller.token, &path, key, &body_hash).await? {
        Idempotency::Fresh => {}
        Idempotency::Running => return Err(still_running()),
        Idempotency::OtherBody => return Err(other_body(key)),
        Idempotency::Made(made) => {
            let view = app.deployment(made).await?;
            let place = format!("{BASE}/deployments/{made}");
            let response = if path.starts_with(&place) {
                Answered(view).into_response()
            } else {
                (StatusCode::CREATED, [(LOCATION, place)], Answered(view)).into_response()
            };
            return Ok(keep(app, caller, &path, key, response).await);
        }
        Idempotency::Replay { status, content_type, body } => {
            return Ok(replay(status, &content_type, &body));
        }
    }
    // In a task of its own, so that a panic is seen here and the key does not stay taken.
    let mut request = Request::from_parts(parts, Body::from(body));
    let mark = RequestKey { token: caller.token, path: path.clone(), key: key.to_owned() };
    request.extensions_mut().insert(Caller { request: Some(mark), ..caller.clone() });
    let ran = tokio::spawn(async move { next.run(request).await }.in_current_span()).await;
    let response = ran.unwrap_or_else(|_| Problem::internal().into_response());
    Ok(keep(app, caller, &path, key, response).await)
}

fn still_running() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "idempotency_running",
        "the first request with this Idempotency-Key is still under way",
    )
    .retry_after(1)
}

fn other_body(key: &str) -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "idempotency_other_body",
        "Idempotency-Key: it was used with another body; take a new key for another request",
    )
    .with("field", "Idempotency-Key")
    .with("value", key)
}

/// Keeps an answer for repeats. Failures of ours are forgotten: the next try is a first one.
async fn keep(app: &App, caller: &Caller, path: &str, key: &str, response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, LARGEST_ANSWER).await;
    let kept = match &bytes {
        Ok(bytes) if !parts.status.is_server_error() => {
            let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
            let stored = pack(text(LOCATION).unwrap_or_default(), bytes);
            let kind = text(CONTENT_TYPE).unwrap_or("application/json");
            let status = parts.status.as_u16();
            app.store.idempotency_finish(caller.token, path, key, status, kind, &stored).await
        }
        Ok(_) | Err(_) => app.store.idempotency_forget(caller.token, path, key).await,
    };
    if let Err(error) = kept {
        tracing::warn!(error = chain(&error), path, "the answer to a key could not be kept");
    }
    match bytes {
        Ok(bytes) => Response::from_parts(parts, Body::from(bytes)),
        Err(_) => Problem::internal().into_response(),
    }
}

/// What is kept: the Location on the first line, then the body.
fn pack(location: &str, body: &[u8]) -> Vec<u8> {
    [location.as_bytes(), b"\n", body].concat()
}

fn replay(status: u16, content_type: &str, kept: &[u8]) -> Response {
    let end = kept.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (location, body) = (&kept[..end], kept.get(end + 1..).unwrap_or_default());
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let mut response = (status, Bytes::copy_from_slice(body)).into_response();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(content_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    if let (Ok(value), false) = (HeaderValue::from_bytes(location), location.is_empty()) {
        headers.insert(LOCATION, value);
    }
    headers.insert(REPLAYED_HEADER, HeaderValue::from_static("true"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_given_again_with_its_location() {
        let kept = pack("/api/v1/deployments/1", b"{\"id\": 1}\n");
        let response = replay(201, "application/json", &kept);
        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(response.headers()[LOCATION], "/api/v1/deployments/1");
        let body = to_bytes(response.into_body(), 100).await.expect("a body");
        assert_eq!(&body[..], b"{\"id\": 1}\n");
    }

    #[test]
    fn an_answer_without_a_location_has_none() {
        let response = replay(200, "application/json", &pack("", b"{}"));
        assert!(!response.headers().contains_key(LOCATION));
    }
}
