//! Breakers and hand switches of outside dependencies: part of the interface, not there yet.

use capstan_core::Timestamp;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::extract::{Body, Segments};
use crate::problem::{Problem, ProblemDocument, Problems};

/// Cuts a dependency off, or takes it back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "what is asked is read, so that faults are told, and not done yet")]
pub(crate) struct DependencyRequest {
    /// Whether no call to it is tried.
    cut_off: bool,
    /// Why.
    reason: String,
    /// When it ends by itself.
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

/// Breaker states of every outside dependency.
#[utoipa::path(
    get,
    path = "/dependencies",
    tag = "dependencies",
    responses(
        (status = 501, body = ProblemDocument, content_type = "application/problem+json"),
        Problems
    )
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
    responses(
        (status = 501, body = ProblemDocument, content_type = "application/problem+json"),
        Problems
    )
)]
pub(crate) async fn change(
    Segments(name): Segments<String>,
    Body(_request): Body<DependencyRequest>,
) -> Problem {
    Problem::not_implemented(&format!("dependencies/{name}"))
}
