//! Refuses a query at calls that take none: what is written there would be passed over silently.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::{OpenApi, RefOr};

use crate::problem::Problem;

/// The calls that take a query, by method and path as they are described.
#[derive(Debug)]
pub(crate) struct Queries(HashSet<(Method, String)>);

impl Queries {
    /// Reads them from the description of the interface.
    pub(crate) fn of(document: &OpenApi) -> Self {
        let mut calls = HashSet::new();
        for (path, item) in &document.paths.paths {
            for (method, operation) in [
                (Method::GET, &item.get),
                (Method::POST, &item.post),
                (Method::PUT, &item.put),
                (Method::PATCH, &item.patch),
                (Method::DELETE, &item.delete),
            ] {
                if operation.as_ref().is_some_and(takes_query) {
                    calls.insert((method, path.clone()));
                }
            }
        }
        Self(calls)
    }

    fn has(&self, method: &Method, path: &str) -> bool {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.0.contains(&(method.clone(), path.to_owned()))
    }
}

fn takes_query(operation: &Operation) -> bool {
    let mut parameters = operation.parameters.iter().flatten();
    parameters
        .any(|it| matches!(it, RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query))
}

/// Middleware of every call of the API.
pub(crate) async fn check(
    State(queries): State<Arc<Queries>>,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    let query = request.uri().query().unwrap_or_default();
    if query.is_empty() || queries.has(request.method(), path.as_str()) {
        return next.run(request).await;
    }
    let field = query.split(['=', '&']).next().unwrap_or_default();
    let text = format!("unknown field `{field}`, this call takes no query");
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", text)
        .with("field", field)
        .into_response()
}
