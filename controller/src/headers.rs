//! What every response carries, and which hosts we answer for.

use std::any::Any;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::problem::Problem;

/// Headers of every response; a handler that sets one itself keeps its own.
const ALWAYS: [(HeaderName, &str); 4] = [
    (CONTENT_SECURITY_POLICY, capstan_portal::CONTENT_SECURITY_POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "same-origin"),
    (CACHE_CONTROL, "no-store"),
];

/// Middleware: sets the headers that protect whoever looks at a response in a browser.
pub(crate) async fn protect(mut response: Response) -> Response {
    for (name, value) in ALWAYS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Middleware: answers only for the hosts of the settings, if there are any. A page of another
/// site that points its own name at us gets nothing.
pub(crate) async fn check_host(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let allowed = &app.settings.allowed_hosts;
    let host = request.headers().get(HOST).and_then(|value| value.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(Authority::as_str));
    let host = host.unwrap_or_default();
    if allowed.is_empty() || allowed.iter().any(|name| is_host(host, name)) {
        return next.run(request).await;
    }
    Problem::new(
        StatusCode::MISDIRECTED_REQUEST,
        "wrong_host",
        "Host: this Capstan does not answer for that name; see the setting for allowed hosts",
    )
    .into_response()
}

/// Whether a Host header names this host, on any port unless one is given.
fn is_host(given: &str, allowed: &str) -> bool {
    let without_port = match given.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => given,
    };
    given.eq_ignore_ascii_case(allowed) || without_port.eq_ignore_ascii_case(allowed)
}

/// What a panic in a handler is answered with.
#[expect(clippy::needless_pass_by_value, reason = "the layer gives it away")]
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("no text"), "a handler panicked");
    Problem::internal().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_known_with_and_without_port() {
        assert!(is_host("capstan.example:8080", "capstan.example"));
        assert!(is_host("Capstan.example", "capstan.example"));
        assert!(is_host("capstan.example:8080", "capstan.example:8080"));
        assert!(is_host("[::1]:80", "[::1]"));
        assert!(!is_host("evil.example", "capstan.example"));
        assert!(!is_host("capstan.example:80", "capstan.example:8080"));
    }
}
