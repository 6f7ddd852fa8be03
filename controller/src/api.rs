//! The REST API under `/api/v1`.

mod applications;
mod dependencies;
mod deployments;
mod events;
mod groups;
mod log;
mod messages;
mod packages;
mod servers;
mod strict;
mod targets;
mod upload;
mod webhooks;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use capstan_core::view::Page;
use capstan_store::PageRequest;
use utoipa::openapi::RefOr;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoResponses, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::problem::{BodyProblems, Problem};
use crate::{auth, idempotency};

/// Where the API begins.
pub(crate) const BASE: &str = "/api/v1";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Capstan",
        description = "Puts built packages on fleets of servers, batch by batch. Errors are \
                       `application/problem+json` with a stable `code`. Writes accept \
                       `Idempotency-Key`, kept 24 h per token and path."
    ),
    modifiers(&Security),
    security(("token" = []))
)]
struct Document;

struct Security;

impl utoipa::Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// Every call of the API, and its description at `/api/openapi.json`.
pub(crate) fn router(app: &Arc<App>) -> Router<Arc<App>> {
    let (calls, mut document) =
        OpenApiRouter::with_openapi(Document::openapi()).nest(BASE, calls()).split_for_parts();
    complete(&mut document);
    let queries = Arc::new(strict::Queries::of(&document));
    let document = Arc::new(document);
    calls
        .layer(DefaultBodyLimit::max(app.settings.max_body_bytes))
        .route_layer(from_fn_with_state(queries, strict::check))
        .route_layer(from_fn_with_state(app.clone(), idempotency::guard))
        .route_layer(from_fn_with_state(app.clone(), auth::require))
        .route("/api/openapi.json", get(async move || Json(&*document).into_response()))
}

/// Names each operation by tag and handler, `groups_list`: names must be unique in the document. Says
/// of each that takes a body how that may be refused.
fn complete(document: &mut utoipa::openapi::OpenApi) {
    let of_bodies = BodyProblems::responses();
    for item in document.paths.paths.values_mut() {
        let operations =
            [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            let tag = operation.tags.as_ref().and_then(|tags| tags.first());
            if let (Some(tag), Some(id)) = (tag, &operation.operation_id) {
                operation.operation_id = Some(format!("{tag}_{id}"));
            }
            if let Some(RefOr::T(body)) = &operation.request_body
                && body.content.contains_key("application/json")
            {
                operation.responses.responses.extend(of_bodies.clone());
            }
        }
    }
}

fn calls() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(applications::list, applications::create))
        .routes(routes!(applications::show))
        .routes(routes!(packages::list))
        .routes(routes!(groups::list))
        .routes(routes!(groups::show))
        .routes(routes!(groups::sync))
        .routes(routes!(groups::servers))
        .routes(routes!(groups::versions))
        .routes(routes!(groups::preview))
        .routes(routes!(groups::rollback))
        .routes(routes!(servers::show, servers::change))
        .routes(routes!(packages::register))
        .routes(routes!(packages::show, packages::mark, upload::upload))
        .routes(routes!(packages::archive))
        .routes(routes!(deployments::list, deployments::create))
        .routes(routes!(deployments::show))
        .routes(routes!(deployments::actions))
        .routes(routes!(deployments::act))
        .routes(routes!(targets::list))
        .routes(routes!(targets::show))
        .routes(routes!(log::show))
        .routes(routes!(events::show))
        .routes(routes!(dependencies::list))
        .routes(routes!(dependencies::change))
        .routes(routes!(messages::show))
        .routes(routes!(messages::replay))
        .routes(routes!(webhooks::list, webhooks::create))
        .routes(routes!(webhooks::show, webhooks::change, webhooks::remove))
        .routes(routes!(webhooks::deliveries))
        .routes(routes!(webhooks::replay))
}

/// A page of a list that the store gives whole; the cursor is the place of its first item.
pub(crate) fn cut<T>(items: Vec<T>, request: &PageRequest) -> Result<Page<T>, Problem> {
    let from = match request.cursor.as_deref().map(str::parse::<usize>) {
        None => 0,
        Some(Ok(from)) => from,
        Some(Err(_)) => {
            return Err(
                capstan_store::Error::Cursor(request.cursor.clone().unwrap_or_default()).into()
            );
        }
    };
    let end = from.saturating_add(request.limit as usize);
    let next_cursor = (end < items.len()).then(|| end.to_string());
    let items = items.into_iter().skip(from).take(request.limit as usize).collect();
    Ok(Page { items, next_cursor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_list_is_cut_into_pages() {
        let request =
            |cursor: Option<&str>| PageRequest { limit: 2, cursor: cursor.map(str::to_owned) };
        let first = cut(vec![1, 2, 3], &request(None)).expect("a page");
        assert_eq!((first.items, first.next_cursor.as_deref()), (vec![1, 2], Some("2")));
        let last = cut(vec![1, 2, 3], &request(Some("2"))).expect("a page");
        assert_eq!((last.items, last.next_cursor), (vec![3], None));
        assert_eq!(cut(vec![1], &request(Some("x"))).expect_err("no place").code, "invalid_cursor");
    }
}
