//! Breakers and hand switches of outside dependencies: part of the interface, not there yet.

use utoipa::ToSchema;

use crate::extract::Segments;
use crate::problem::{Problem, ProblemDocument};

/// Cuts a dependency off, or takes it back.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the call in the interface's document")]
pub(crate) struct DependencyRequest {
    /// Whether no call to it is tried.
    cut_off: bool,
    /// Why.
    reason: String,
    /// When it ends by itself.
    expires_at: Option<capstan_core::Timestamp>,
}

/// Breaker states of every outside dependency.
#[utoipa::path(
    get,
    path = "/dependencies",
    tag = "dependencies",
    responses((status = 501, body = ProblemDocument, content_type = "application/problem+json"))
)]
pub(crate) async fn list() -> Problem {
    Problem::not_implemented("dependencies")
}

/// The hand switch of one dependency.
#[utoipa::path(
    put,
    path = "/dependencies/{name}",
    tag = "dependencies",
    params(("name" = String, Path)),
    request_body = DependencyRequest,
    responses((status = 501, body = ProblemDocument, content_type = "application/problem+json"))
)]
pub(crate) async fn change(Segments(name): Segments<String>) -> Problem {
    Problem::not_implemented(&format!("dependencies/{name}"))
}
