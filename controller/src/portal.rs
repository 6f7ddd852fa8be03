//! Routes of the pages: sessions, forms, and the pages themselves, which `capstan-portal` draws.
//!
//! Handlers here answer with [`Problem`]s like those of the API; [`dress`] makes pages of them.

mod assets;
mod forms;
mod pages;
mod posted;
mod session;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use capstan_core::Timestamp;
use capstan_portal::{Chrome, ErrorPage};
use capstan_store::SessionRow;
use maud::Markup;
use tracing::Instrument;

use crate::app::App;
use crate::auth::{self, Caller, is_safe};
use crate::idempotency::{audit_unheard, unheard};
use crate::problem::{Problem, Refusal};

/// Somebody who is signed in.
#[derive(Debug, Clone)]
pub(crate) struct Visitor(pub(crate) SessionRow);

impl Visitor {
    fn caller(&self) -> Caller {
        Caller { token: self.0.token.id, name: self.0.token.name.clone(), request: None }
    }

    fn chrome(&self, now: Timestamp) -> Chrome<'_> {
        Chrome { csrf: &self.0.csrf, user: &self.0.token.name, now, notice: None }
    }
}

/// A page as a response.
fn html(status: StatusCode, page: Markup) -> Response {
    let mut response = (status, page.into_string()).into_response();
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Every page and every form.
pub(crate) fn router(app: &Arc<App>) -> Router<Arc<App>> {
    Router::new()
        .route("/", get(pages::groups))
        .route("/groups/{id}", get(pages::group))
        .route("/deployments/{id}", get(pages::deployment))
        .route("/deployments/{id}/live", get(pages::live))
        .route("/deployments/{id}/targets", get(pages::targets))
        .route("/deployments/{id}/actions", get(pages::actions))
        .route("/targets/{id}", get(pages::target))
        .route("/dependencies", get(pages::dependencies))
        .route("/dependencies/{name}/cut-off", post(forms::cut_off))
        .route("/dependencies/{name}/restore", post(forms::restore))
        .route("/groups/{id}/sync", post(forms::sync))
        .route("/groups/{id}/preview", post(forms::preview))
        .route("/groups/{id}/deployments", post(forms::create))
        .route("/groups/{id}/rollback", post(forms::rollback))
        .route("/servers/{id}/pull-out", post(forms::pull_out))
        .route("/servers/{id}/put-back", post(forms::put_back))
        .route("/deployments/{id}/{action}", post(forms::act))
        .route("/logout", post(session::sign_out))
        .route_layer(from_fn_with_state(app.clone(), enter))
        .route("/login", get(session::page).post(session::sign_in))
        .route("/login/once/{secret}", get(session::once))
        .route_layer(from_fn_with_state(app.clone(), dress))
        .layer(DefaultBodyLimit::max(app.settings.max_body_bytes))
        .route("/assets/{file}", get(assets::show))
}

/// Middleware: lets in who is signed in, and shows the others the door.
async fn enter(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let session = match auth::session(&app, request.headers()).await {
        Ok(session) => session,
        Err(problem) => return problem.into_response(),
    };
    let Some(session) = session else {
        if request.uri().path().ends_with("/live") {
            let text = "the session has ended: sign in again";
            return Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", text).into_response();
        }
        return Redirect::to("/login").into_response();
    };
    let visitor = Visitor(session);
    request.extensions_mut().insert(visitor.clone());
    let mut response = if is_safe(request.method()) {
        next.run(request).await
    } else if session::is_same_origin(request.headers()) {
        carry_out(&app, &visitor, request, next).await
    } else {
        auth::csrf_failed().into_response()
    };
    response.extensions_mut().insert(visitor);
    response
}

/// What a person asked for is carried to its end, also when they close the page.
async fn carry_out(app: &App, visitor: &Visitor, request: Request, next: Next) -> Response {
    let deed = format!("{} {}", request.method(), request.uri().path());
    let work = async move { next.run(request).await };
    let ran = tokio::spawn(work.in_current_span()).await;
    let response = ran.unwrap_or_else(|_| Problem::internal().into_response());
    if let Some(refusal) = unheard(&response, &deed) {
        audit_unheard(app, &visitor.caller(), &deed, refusal).await;
    }
    response
}

/// Middleware: makes pages of problems.
async fn dress(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let Some(refusal) = response.extensions().get::<Refusal>() else { return response };
    let now = app.store.now();
    let visitor = response.extensions().get::<Visitor>();
    let chrome = visitor.map(|visitor| visitor.chrome(now));
    let (status, headers) = (response.status(), response.headers());
    // What is not there is nowhere to go.
    let back = back(&path).filter(|_| status != StatusCode::NOT_FOUND);
    let page = error_page(chrome.as_ref(), status, refusal, back.as_ref());
    let mut dressed = html(status, page);
    if let Some(value) = headers.get(axum::http::header::RETRY_AFTER) {
        dressed.headers_mut().insert(axum::http::header::RETRY_AFTER, value.clone());
    }
    dressed
}

fn error_page(
    chrome: Option<&Chrome<'_>>,
    status: StatusCode,
    refusal: &Refusal,
    back: Option<&(&'static str, String)>,
) -> Markup {
    let page = ErrorPage {
        status: status.as_u16(),
        title: &refusal.title,
        detail: &refusal.detail,
        allowed: refusal.allowed.as_deref(),
        back: back.map(|(name, href)| (*name, href.as_str())),
    };
    capstan_portal::error(chrome, &page)
}

/// The page that a form stood on, by the address that it was sent to.
fn back(path: &str) -> Option<(&'static str, String)> {
    let mut parts = path.split('/').skip(1);
    let (kind, id, rest) = (parts.next()?, parts.next()?, parts.next());
    let name = match kind {
        "groups" => "the group",
        "deployments" => "the deployment",
        "dependencies" => return rest.map(|_| ("the dependencies", "/dependencies".to_owned())),
        _ => return None,
    };
    let is_id = id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (rest.is_some() && is_id).then(|| (name, format!("/{kind}/{id}")))
}

/// A problem outside of the pages: as a page to a browser, as JSON to a program.
pub(crate) fn shown(request: &Request, problem: Problem) -> Response {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    let is_browser = accept.is_some_and(|accept| accept.contains("text/html"));
    let response = problem.into_response();
    if !is_browser || request.uri().path().starts_with("/api/") {
        return response;
    }
    match response.extensions().get::<Refusal>() {
        Some(refusal) => {
            let status = response.status();
            html(status, error_page(None, status, refusal, None))
        }
        None => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_form_leads_back_to_its_page() {
        let back = |path| back(path).map(|(_, href)| href);
        assert_eq!(back("/groups/0193-aa/sync").as_deref(), Some("/groups/0193-aa"));
        assert_eq!(back("/deployments/0193-aa/bake").as_deref(), Some("/deployments/0193-aa"));
        assert_eq!(back("/groups/0193-aa"), None);
        assert_eq!(back("/groups/<b>/sync"), None);
        assert_eq!(back("/"), None);
    }
}
