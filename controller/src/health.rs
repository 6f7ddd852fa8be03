//! Live, ready, and the numbers.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use capstan_core::view::{MissingView, ReadinessView};

use crate::app::App;
use crate::auth::{bearer, hash};
use crate::problem::{Problem, chain};

/// `GET /healthz`: the process answers.
pub(crate) async fn live() -> Response {
    Json(serde_json::json!({ "live": true })).into_response()
}

/// `GET /readyz`: what the process needs answers too.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    let mut missing = Vec::new();
    if let Err(error) = app.store.check().await {
        tracing::warn!(error = chain(&error), "not ready");
        missing.push(MissingView { what: "database".to_owned(), reason: error.to_string() });
    }
    let sync = app.sync_state();
    let mut warnings: Vec<String> =
        app.ports.cmdb.faults().into_iter().map(|fault| format!("cmdb: {fault}")).collect();
    warnings.extend(sync.problem.map(|problem| format!("cmdb: the last sync failed: {problem}")));
    let ready = missing.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = ReadinessView { ready, missing, warnings, synced_at: sync.last_success_at };
    (status, Json(body)).into_response()
}

/// `GET /metrics`: for Prometheus. Callers on this machine need no token, others do.
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    if peer.is_some_and(|ConnectInfo(peer)| !peer.ip().to_canonical().is_loopback()) {
        let token = bearer(request.headers()).map(hash);
        let known = match token {
            Some(hash) => app.store.token_find(&hash).await?.is_some(),
            None => false,
        };
        if !known {
            let text = "from another machine this call needs Authorization: Bearer <token>";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", text));
        }
    }
    let handle = app.settings.metrics.as_ref();
    let handle = handle.ok_or_else(|| Problem::not_implemented("metrics are not recorded"))?;
    match app.store.metrics_snapshot().await {
        Ok(queue) => {
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            metrics::gauge!("capstan_effects_due").set(queue.effects_due as f64);
            metrics::gauge!("capstan_oldest_effect_due_seconds").set(queue.oldest_due_seconds);
        }
        Err(error) => tracing::warn!(error = chain(&error), "the queue cannot be measured"),
    }
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], handle.render()).into_response())
}
