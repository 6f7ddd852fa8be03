//! Signing in and out.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::http::header::{HOST, LOCATION, ORIGIN, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use capstan_portal::form::{BareForm, SignInForm};
use capstan_store::TokenRow;

use crate::app::App;
use crate::audit::Deed;
use crate::auth::{SESSION_COOKIE, cookie, hash, new_secret, same_secret, session};
use crate::extract::Segments;
use crate::portal::posted::{Posted, unreadable};
use crate::portal::{Visitor, html};
use crate::problem::Problem;

/// Cookie of a browser that is not signed in yet; its hash is the token of the sign-in form.
const DOOR_COOKIE: &str = "capstan_door";
const DOOR_AGE: Duration = Duration::from_hours(1);
/// Every attempt to sign in takes at least this long.
const DELAY: Duration = Duration::from_millis(250);

/// `GET /login`.
pub(super) async fn page(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if session(&app, &headers).await?.is_some() {
        return Ok(Redirect::to("/").into_response());
    }
    Ok(door(&app, StatusCode::OK, None))
}

/// The sign-in page, with a secret that its form has to bring back.
fn door(app: &App, status: StatusCode, error: Option<&str>) -> Response {
    let secret = new_secret();
    let mut response = html(status, capstan_portal::sign_in(&hash(&secret), error));
    set_cookie(app, &mut response, DOOR_COOKIE, &secret, DOOR_AGE);
    response
}

/// `POST /login`.
pub(super) async fn sign_in(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    form: Result<Form<SignInForm>, FormRejection>,
) -> Result<Response, Problem> {
    let Form(form) = form.map_err(|error| unreadable(&error))?;
    let Ok(_permit) = app.logins.try_acquire() else {
        let text = "too many people sign in just now: try again in a moment";
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_logins", text);
        return Err(problem.retry_after(1));
    };
    tokio::time::sleep(DELAY).await;
    let secret = cookie(&headers, DOOR_COOKIE).unwrap_or_default();
    if !is_same_origin(&headers) || !same_secret(&form.csrf, &hash(secret)) {
        let text = "The page was too old. Please sign in again.";
        return Ok(door(&app, StatusCode::FORBIDDEN, Some(text)));
    }
    let Some(token) = app.store.token_find(&hash(form.token.trim())).await? else {
        tracing::warn!("a sign-in with an unknown token was refused");
        let text = "This token is not known.";
        return Ok(door(&app, StatusCode::UNAUTHORIZED, Some(text)));
    };
    open(&app, token).await
}

/// `GET /login/once/{secret}`: signs in and goes on. A look without taking (HEAD) uses nothing up.
pub(super) async fn once(
    State(app): State<Arc<App>>,
    method: Method,
    Segments(secret): Segments<String>,
) -> Result<Response, Problem> {
    if method == Method::HEAD {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let Ok(_permit) = app.logins.try_acquire() else {
        let text = "too many people sign in just now: try again in a moment";
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_logins", text);
        return Err(problem.retry_after(1));
    };
    tokio::time::sleep(DELAY).await;
    if let Some(token) = app.store.login_link_take(&hash(&secret)).await? {
        return open(&app, token).await;
    }
    let text = "This link was used already or is too old. Sign in with a token.";
    Ok(door(&app, StatusCode::UNAUTHORIZED, Some(text)))
}

/// Opens a session.
async fn open(app: &App, token: TokenRow) -> Result<Response, Problem> {
    let (secret, csrf) = (new_secret(), new_secret());
    let expires_at = app.store.now() + app.settings.session;
    let deed = Deed {
        actor: &token.name,
        action: "session.open",
        kind: "token",
        subject: token.name.clone(),
        deployment: None,
        detail: String::new(),
    };
    let result = app
        .store
        .session_create(&hash(&secret), token.id, &csrf, expires_at, Some(deed.accepted()))
        .await;
    app.audited_unless_accepted(deed, result.map_err(Problem::from)).await?;
    let mut response = Redirect::to("/").into_response();
    set_cookie(app, &mut response, SESSION_COOKIE, &secret, app.settings.session);
    set_cookie(app, &mut response, DOOR_COOKIE, "", Duration::ZERO);
    Ok(response)
}

/// `POST /logout`.
pub(super) async fn sign_out(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    headers: HeaderMap,
    Posted(_): Posted<BareForm>,
) -> Result<Response, Problem> {
    let caller = visitor.caller();
    let deed = Deed {
        actor: &caller.name,
        action: "session.close",
        kind: "token",
        subject: caller.name.clone(),
        deployment: None,
        detail: String::new(),
    };
    if let Some(secret) = cookie(&headers, SESSION_COOKIE) {
        let result = app.store.session_delete(&hash(secret), Some(deed.accepted())).await;
        app.audited_unless_accepted(deed, result.map_err(Problem::from)).await?;
    }
    let mut response =
        (StatusCode::SEE_OTHER, [(LOCATION, HeaderValue::from_static("/login"))]).into_response();
    set_cookie(&app, &mut response, SESSION_COOKIE, "", Duration::ZERO);
    Ok(response)
}

fn set_cookie(app: &App, response: &mut Response, name: &str, value: &str, age: Duration) {
    let secure = if app.settings.secure_cookies { "; Secure" } else { "" };
    let text = format!(
        "{name}={value}; HttpOnly; SameSite=Strict; Path=/; Max-Age={}{secure}",
        age.as_secs()
    );
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().append(SET_COOKIE, value);
    }
}

/// Whether a browser says that one of our own pages sent the request. One that says nothing is
/// believed here; the CSRF token decides.
pub(super) fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    match (text(ORIGIN.as_str()), text(HOST.as_str())) {
        (Some(origin), Some(host)) => {
            origin.split_once("://").is_some_and(|(_, origin)| origin.eq_ignore_ascii_case(host))
        }
        (Some(_) | None, None) | (None, Some(_)) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_origin_is_told_from_ours() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            is_same_origin(&headers)
        };
        assert!(with(&[]));
        assert!(with(&[("sec-fetch-site", "same-origin")]));
        assert!(!with(&[("sec-fetch-site", "cross-site")]));
        assert!(!with(&[("sec-fetch-site", "same-site")]));
        assert!(with(&[("origin", "http://c.example:80"), ("host", "c.example:80")]));
        assert!(!with(&[("origin", "http://evil.example"), ("host", "c.example")]));
        assert!(!with(&[("origin", "null"), ("host", "c.example")]));
    }
}
