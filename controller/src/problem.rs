//! What a caller is told when a call is refused or fails: RFC 9457, with a stable `code`.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use capstan_core::action::Action;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::plan::Plan;
use capstan_core::ports::DriverError;
use capstan_core::{DeploymentId, config};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{IntoResponses, ToSchema};

/// Media type of a problem.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// Why a call was refused or failed.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// Stable word for programs.
    pub(crate) code: &'static str,
    /// A sentence for people: what, why, what is allowed.
    pub(crate) detail: String,
    members: Map<String, Value>,
    retry_after_seconds: Option<u32>,
    /// The audit has it already.
    pub(crate) is_audited: bool,
}

/// Left on a response for the layers outside of the handler.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) code: &'static str,
    pub(crate) title: String,
    pub(crate) detail: String,
    /// For a refused action: what is allowed now.
    pub(crate) allowed: Option<Vec<Action>>,
    pub(crate) is_audited: bool,
}

impl Problem {
    /// A problem with this status, code and sentence.
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            members: Map::new(),
            retry_after_seconds: None,
            is_audited: false,
        }
    }

    /// A field whose value is not allowed: 422, naming field, value and what is allowed.
    pub(crate) fn invalid(field: &str, value: impl Serialize, allowed: &str) -> Self {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            format!("{field}: {value} is not allowed; {allowed}"),
        )
        .with("field", field)
        .with("value", value)
        .with("allowed", allowed)
    }

    /// A field that is missing: 422.
    pub(crate) fn missing(field: &str, allowed: &str) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            format!("{field}: it is missing; {allowed}"),
        )
        .with("field", field)
        .with("value", Value::Null)
        .with("allowed", allowed)
    }

    /// Nothing has this id: 404.
    pub(crate) fn unknown(what: &str, code: &'static str, id: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, format!("there is no {what} {id}"))
    }

    /// Our own fault: 500. The cause is in the log, not in the answer.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Capstan made a mistake; its log has the details",
        )
    }

    /// Something that Capstan needs does not answer: 503, try again.
    pub(crate) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(1)
    }

    /// The call is part of the interface and does nothing yet: 501.
    pub(crate) fn not_implemented(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            "not_implemented",
            format!("{what}: this version of Capstan does not have it yet"),
        )
    }

    /// A driver's error, where the caller waits for its result.
    pub(crate) fn driver(code: &'static str, what: &str, error: &DriverError) -> Self {
        match error {
            DriverError::Refused(_) => {
                Self::new(StatusCode::CONFLICT, code, format!("{what}: {error}"))
            }
            DriverError::Busy(_) | DriverError::Unknown(_) => {
                Self::unavailable(code, format!("{what}: {error}"))
            }
        }
    }

    /// Adds a member of its own to the document.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a member that is written as JSON.
    pub(crate) fn with_json(self, name: &str, value: &impl Serialize) -> Self {
        self.with(name, serde_json::to_value(value).unwrap_or(Value::Null))
    }

    /// The field that is wrong.
    pub(crate) fn field(&self) -> Option<&str> {
        self.members.get("field")?.as_str()
    }

    /// Tells when another try may help.
    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// The document as it is sent.
    pub(crate) fn document(&self) -> Value {
        let mut members = self.members.clone();
        members.insert("type".into(), format!("urn:capstan:problem:{}", self.code).into());
        members.insert("title".into(), title(self.code).into());
        members.insert("status".into(), self.status.as_u16().into());
        members.insert("detail".into(), self.detail.clone().into());
        members.insert("code".into(), self.code.into());
        Value::Object(members)
    }
}

/// The code in words.
fn title(code: &str) -> String {
    let words = code.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}

impl From<config::Error> for Problem {
    fn from(error: config::Error) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", error.to_string())
            .with("field", error.field)
            .with("value", error.value)
            .with("allowed", error.allowed)
    }
}

impl From<capstan_store::Error> for Problem {
    fn from(error: capstan_store::Error) -> Self {
        if let capstan_store::Error::Cursor(given) = error {
            let allowed = "a next_cursor that this list gave out; begin without a cursor";
            let mut problem = Self::invalid("cursor", given, allowed);
            (problem.status, problem.code) = (StatusCode::BAD_REQUEST, "invalid_cursor");
            return problem;
        }
        let chain = chain(&error);
        if error.is_unavailable() {
            tracing::warn!(error = chain, "the database does not answer");
            return Self::unavailable("database_unavailable", "the database does not answer");
        }
        tracing::error!(error = chain, "the store failed");
        Self::internal()
    }
}

/// An error with everything that caused it, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.document().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"capstan\"");
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        let allowed = self.members.get("allowed_actions").cloned();
        response.extensions_mut().insert(Refusal {
            code: self.code,
            title: title(self.code),
            detail: self.detail,
            allowed: allowed.and_then(|actions| serde_json::from_value(actions).ok()),
            is_audited: self.is_audited,
        });
        response
    }
}

/// A problem as JSON (RFC 9457). Members beyond the first five depend on the code.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProblemDocument {
    /// `urn:capstan:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:capstan:problem:action_not_allowed")]
    kind: String,
    /// The code in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What, why, and what is allowed.
    detail: String,
    /// Stable word for programs.
    code: String,
    /// For an invalid field: its name.
    field: Option<String>,
    /// For an invalid field: what was given.
    value: Option<Value>,
    /// For an invalid field: what is allowed.
    allowed: Option<String>,
    /// The deployment that was meant or stands in the way.
    deployment: Option<DeploymentId>,
    /// Its status.
    deployment_status: Option<DeploymentStatus>,
    /// Its status, marked when it is braked.
    deployment_shown_status: Option<String>,
    /// What can be asked of it now.
    allowed_actions: Option<Vec<Action>>,
    /// The plan as it is now, when the one that was seen is stale.
    plan: Option<Plan>,
}

/// The refusals of a call that takes a body of JSON.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "read by the derive only")]
pub(crate) enum BodyProblems {
    /// The body is larger than this call takes.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemDocument),
    /// The body must be `application/json`.
    #[response(status = 415, content_type = "application/problem+json")]
    NotJson(ProblemDocument),
}

/// The refusals that every call may answer.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "read by the derive only")]
pub(crate) enum Problems {
    /// The request cannot be read.
    #[response(status = 400, content_type = "application/problem+json")]
    Unreadable(ProblemDocument),
    /// No valid token.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(ProblemDocument),
    /// Nothing has this id.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(ProblemDocument),
    /// It is not allowed in the present state; nothing was changed.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemDocument),
    /// A field is unknown, of the wrong type, or out of bounds; nothing was changed.
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(ProblemDocument),
    /// Something that Capstan needs does not answer; try again.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(ProblemDocument),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_field_is_named_with_its_value_and_what_is_allowed() {
        let document = Problem::invalid("limit", 501, "1 to 500").document();
        assert_eq!(document["code"], "invalid");
        assert_eq!(document["status"], 422);
        assert_eq!(document["title"], "Invalid");
        assert_eq!(document["type"], "urn:capstan:problem:invalid");
        assert_eq!(document["detail"], "limit: 501 is not allowed; 1 to 500");
        assert_eq!(document["field"], "limit");
        assert_eq!(document["value"], 501);
    }
}
