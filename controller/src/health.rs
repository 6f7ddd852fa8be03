//! Live, ready, and the numbers.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use capstan_core::dependency::Condition;
use capstan_core::view::{MissingView, ReadinessView};
use capstan_store::Error;

use crate::app::App;
use crate::auth::{bearer, hash};
use crate::problem::{Problem, chain};

/// `GET /healthz`: the process answers.
pub(crate) async fn live() -> Response {
    Json(serde_json::json!({ "live": true })).into_response()
}

/// `GET /readyz`: what the process needs answers too.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    let checked = app.store.check().await;
    if let Err(error) = &checked {
        tracing::warn!(error = chain(error), "not ready");
    }
    let has_database = checked.is_ok();
    let missing = missing(checked.err().as_ref(), app.store.may_act());
    let sync = app.sync_state();
    let mut warnings = if app.settings.serves_api { warnings(&app).await } else { Vec::new() };
    if has_database {
        warnings.extend(impaired(&app).await);
    }
    let ready = missing.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = ReadinessView { ready, missing, warnings, synced_at: sync.last_success_at };
    (status, Json(body)).into_response()
}

/// What the process cannot work without, whatever its roles.
fn missing(store: Option<&Error>, may_act: bool) -> Vec<MissingView> {
    let view = |what: &str, reason| MissingView { what: what.to_owned(), reason };
    let store = store.map(|error| {
        let is_committer = matches!(error, Error::Stuck | Error::Stopping);
        view(if is_committer { "committer" } else { "database" }, error.to_string())
    });
    let lease = (!may_act).then(|| view("lease", Error::Silent.to_string()));
    store.into_iter().chain(lease).collect()
}

/// What whoever answers the API does without. That makes it no less ready: where it cannot store packages it
/// can still brake and roll back.
async fn warnings(app: &App) -> Vec<String> {
    let mut warnings: Vec<String> =
        app.ports.cmdb.faults().into_iter().map(|fault| format!("cmdb: {fault}")).collect();
    let problem = app.sync_state().problem;
    warnings.extend(problem.map(|problem| format!("cmdb: the last sync failed: {problem}")));
    // An upload that is begun and given up takes all that a real one takes.
    if let Err(error) = app.ports.packages.begin().await {
        warnings.push(format!("packages: nothing can be uploaded: {error}"));
    }
    warnings
}

/// What is broken or cut off. Who did that, and why, is for those who have a token.
async fn impaired(app: &App) -> Vec<String> {
    let impaired = match app.store.dependencies_impaired().await {
        Ok(impaired) => impaired,
        Err(error) => return vec![format!("dependencies cannot be read: {}", chain(&error))],
    };
    let told = impaired.into_iter().map(|(name, why)| match why.condition {
        Condition::Open => format!("{name}: broken"),
        Condition::CutOff => format!("{name}: cut off"),
    });
    told.collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_called_by_its_name() {
        let names = |store: Option<&Error>, may_act| {
            let missing = missing(store, may_act).into_iter();
            missing.map(|it| it.what).collect::<Vec<_>>()
        };
        assert!(names(None, true).is_empty());
        assert_eq!(names(Some(&Error::Contended), true), ["database"]);
        assert_eq!(names(Some(&Error::Stuck), true), ["committer"]);
        assert_eq!(names(Some(&Error::Stopping), true), ["committer"]);
        assert_eq!(names(None, false), ["lease"]);
        assert_eq!(names(Some(&Error::Contended), false), ["database", "lease"]);
    }
}
