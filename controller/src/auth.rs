//! Who calls: access tokens, and sessions of the portal.
//!
//! Of every secret the store keeps the SHA-256 alone. A secret is looked up by that hash, so no
//! comparison of secrets takes place there; where one does (CSRF tokens), it takes constant time.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use capstan_core::TokenId;
use capstan_core::order::hex;
use capstan_store::{RequestKey, SessionRow};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::app::App;
use crate::problem::Problem;

/// Name of the session cookie.
pub(crate) const SESSION_COOKIE: &str = "capstan_session";
/// How long a one-time link can be used.
pub(crate) const LOGIN_LINK_AGE: Duration = Duration::from_hours(24);
/// Header that proves that a write with a session cookie comes from our own pages.
pub(crate) const CSRF_HEADER: &str = "x-capstan-csrf";

/// Who calls. As an argument of a handler it means: nobody else may.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) token: TokenId,
    pub(crate) name: String,
    /// The request, if a repeat of it must not make another deployment.
    pub(crate) request: Option<RequestKey>,
}

/// A secret from the operating system's random numbers: 244 bits, in hexadecimal.
pub(crate) fn new_secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// What the store knows of a secret.
pub(crate) fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

/// Whether two secrets are the same, in time that does not depend on where they differ.
pub(crate) fn same_secret(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// The value of a cookie.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// The session that the cookie names, if it is still good.
pub(crate) async fn session(app: &App, headers: &HeaderMap) -> Result<Option<SessionRow>, Problem> {
    let Some(secret) = cookie(headers, SESSION_COOKIE) else { return Ok(None) };
    let session = app.store.session_find(&hash(secret)).await?;
    Ok(session.filter(|session| session.expires_at > app.store.now()))
}

/// The token in `Authorization: Bearer …`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether a method changes nothing.
pub(crate) fn is_safe(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD || method == Method::OPTIONS
}

/// Finds out who calls: by token, or by session. A write by session needs the session's CSRF
/// token in a header, which another site cannot send.
async fn identify(app: &App, method: &Method, headers: &HeaderMap) -> Result<Caller, Problem> {
    if headers.contains_key(AUTHORIZATION) {
        let token = bearer(headers).ok_or_else(|| unauthorized("Authorization: Bearer <token>"))?;
        let row = app.store.token_find(&hash(token)).await?;
        let row = row.ok_or_else(|| unauthorized("the token is not known"))?;
        return Ok(Caller { token: row.id, name: row.name, request: None });
    }
    let session = session(app, headers)
        .await?
        .ok_or_else(|| unauthorized("this call needs Authorization: Bearer <token>"))?;
    let given = headers.get(CSRF_HEADER).and_then(|value| value.to_str().ok());
    if is_safe(method) || same_secret(given.unwrap_or_default(), &session.csrf) {
        Ok(Caller { token: session.token.id, name: session.token.name, request: None })
    } else {
        Err(csrf_failed())
    }
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
}

/// The proof that a write comes from our own pages is missing or wrong.
pub(crate) fn csrf_failed() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "csrf",
        "the page that sent this is too old or not ours: load it again and repeat",
    )
}

/// Middleware: lets nobody in who is not known.
pub(crate) async fn require(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    match identify(&app, request.method(), request.headers()).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => {
            if !is_safe(request.method()) {
                let path = request.uri().path();
                tracing::warn!(method = %request.method(), path, code = problem.code, "write refused");
            }
            problem.into_response()
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| unauthorized("this call needs Authorization: Bearer <token>"))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_static("a=1; capstan_session=xyz; b=2"));
        assert_eq!(cookie(&headers, SESSION_COOKIE), Some("xyz"));
        assert_eq!(cookie(&headers, "session"), None);
    }

    #[test]
    fn secrets_differ_and_are_long() {
        let (a, b) = (new_secret(), new_secret());
        assert_eq!(a.len(), 64);
        assert_ne!(a, b);
        assert!(same_secret(&a, &a) && !same_secret(&a, &b) && !same_secret(&a, ""));
    }
}
