//! Extractors whose rejections are problems, with the field that is wrong.

use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use capstan_store::PageRequest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::IntoParams;

use crate::problem::Problem;

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

/// A JSON body that may be left out.
pub(crate) struct MaybeBody<T>(pub(crate) T);

/// The only id in the path.
pub(crate) struct Id<T>(pub(crate) T);

/// What stands in the path.
pub(crate) struct Segments<T>(pub(crate) T);

/// The query.
pub(crate) struct Params<T>(pub(crate) T);

/// A JSON answer.
pub(crate) struct Answered<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json = is_json(&request);
        let bytes = Bytes::from_request(request, state).await.map_err(|error| unread(&error))?;
        if !is_json {
            return Err(no_json());
        }
        read(&bytes).map(Self)
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for MaybeBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json = is_json(&request);
        let bytes = Bytes::from_request(request, state).await.map_err(|error| unread(&error))?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(T::default()));
        }
        if !is_json {
            return Err(no_json());
        }
        read(&bytes).map(Self)
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let value = serde_json::from_slice::<Value>(bytes);
    let body = match (axum::Json::from_bytes(bytes), &value) {
        (Ok(axum::Json(body)), _) => body,
        // JSON it is: serde_json calls it a fault of syntax when a word of a few has another type.
        (Err(JsonRejection::JsonSyntaxError(error)), Ok(value)) => {
            return Err(no_word(&cause(&error), value));
        }
        (Err(rejection), value) => {
            let problem = Problem::from(rejection);
            let given = problem.field().and_then(|field| member(value.as_ref().ok()?, field));
            let given = given.cloned();
            return Err(match given {
                Some(given) => problem.with("value", given),
                None => problem,
            });
        }
    };
    // serde takes a list for an object, field by field. No body of ours has a list anywhere.
    match value.as_ref().ok().and_then(|value| list_in(value, "body")) {
        Some((field, list)) => Err(Problem::invalid(field, list, "a JSON object")),
        None => Ok(body),
    }
}

/// A field that takes one of a few words has something else.
fn no_word(text: &str, body: &Value) -> Problem {
    let field = field_of(text).unwrap_or("body");
    let value = member(body, field).unwrap_or(body);
    Problem::invalid(field, value, "one of the words that the description of this call names")
}

/// The value at a path like `config.mode`.
fn member<'a>(body: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(body, |value, name| value.get(name))
}

/// The first list in a value, with the name of the member that it is.
fn list_in<'a>(value: &'a Value, name: &'a str) -> Option<(&'a str, &'a Value)> {
    match value {
        Value::Array(_) => Some((name, value)),
        Value::Object(members) => members.iter().find_map(|(name, value)| list_in(value, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

impl<T: FromStr, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await?;
        id(&text).map(Self)
    }
}

/// Reads an id that stands in the path.
pub(crate) fn id<T: FromStr>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| {
        let mut problem = Problem::invalid("id", text, "a UUID");
        (problem.status, problem.code) = (StatusCode::BAD_REQUEST, "invalid_id");
        problem
    })
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(segments) = Path::from_request_parts(parts, state).await?;
        Ok(Self(segments))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(params) = Query::from_request_parts(parts, state).await?;
        Ok(Self(params))
    }
}

impl<T: Serialize> IntoResponse for Answered<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

fn is_json(request: &Request) -> bool {
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = value.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

fn no_json() -> Problem {
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "not_json",
        "Content-Type: the body must be application/json",
    )
}

/// A body that could not be read to its end.
pub(crate) fn unread(error: &BytesRejection) -> Problem {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return too_large();
    }
    Problem::new(StatusCode::BAD_REQUEST, "body_unreadable", "the body ended before it was whole")
}

/// A body beyond the limit.
pub(crate) fn too_large() -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        "the body is larger than this call takes",
    )
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        match rejection {
            JsonRejection::JsonDataError(error) => described(&error, "body"),
            JsonRejection::JsonSyntaxError(error) => Self::new(
                StatusCode::BAD_REQUEST,
                "invalid_json",
                format!("the body is no JSON: {}", cause(&error)),
            ),
            JsonRejection::MissingJsonContentType(_) => no_json(),
            JsonRejection::BytesRejection(error) => unread(&error),
            rejection => Self::new(rejection.status(), "body_unreadable", rejection.body_text()),
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        described(&rejection, "query")
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        if rejection.status().is_server_error() {
            tracing::error!(error = rejection.body_text(), "a route does not fit its handler");
            return Self::internal();
        }
        let text = rejection.body_text();
        let field = text.split('`').nth(1).unwrap_or("path").to_owned();
        Self::new(StatusCode::BAD_REQUEST, "invalid_id", format!("path: {text}"))
            .with("field", field)
    }
}

/// A field that is unknown, missing or of the wrong type: the innermost cause names the field by
/// its path, what was found, and what is expected.
fn described(error: &dyn std::error::Error, place: &str) -> Problem {
    let text = cause(error);
    let field = field_of(&text).unwrap_or(place).to_owned();
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", text).with("field", field)
}

/// The field that an error of serde is about: the path before the first colon, or the first word
/// in backticks of `unknown field` and `missing field`.
fn field_of(text: &str) -> Option<&str> {
    for mark in ["unknown field `", "missing field `", "duplicate field `"] {
        if let Some(at) = text.find(mark) {
            return text[at + mark.len()..].split('`').next();
        }
    }
    let (path, _) = text.split_once(": ")?;
    (!path.is_empty() && !path.contains(' ')).then_some(path)
}

fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        // The error of serde_path_to_error carries the path; its source does not.
        if source.source().is_none() && innermost.to_string().contains(&source.to_string()) {
            break;
        }
        innermost = source;
    }
    innermost.to_string()
}

/// How much of a list is wanted.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paging {
    /// How many items, 1 to 500; 100 when left out.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 500)]
    pub(crate) limit: Option<String>,
    /// `next_cursor` of the page before.
    pub(crate) cursor: Option<String>,
}

/// Checks `limit` and `cursor`.
pub(crate) fn page(limit: Option<&str>, cursor: Option<String>) -> Result<PageRequest, Problem> {
    Ok(PageRequest { limit: limit_of(limit)?, cursor: cursor.filter(|text| !text.is_empty()) })
}

/// Checks a `limit`, 1 to 500; 100 when left out.
pub(crate) fn limit_of(limit: Option<&str>) -> Result<u32, Problem> {
    let Some(text) = limit else { return Ok(100) };
    text.parse()
        .ok()
        .filter(|limit| (1..=500).contains(limit))
        .ok_or_else(|| Problem::invalid("limit", text, "a whole number from 1 to 500"))
}

/// Reads a parameter of the query; `allowed` says what it may be.
pub(crate) fn parsed<T: FromStr>(
    field: &str,
    text: Option<&str>,
    allowed: &str,
) -> Result<Option<T>, Problem> {
    text.map(|text| text.parse().map_err(|_| Problem::invalid(field, text, allowed))).transpose()
}

/// Reads a word of the query that names one of `all`.
pub(crate) fn word<T: Serialize + Copy>(
    field: &str,
    text: Option<&str>,
    all: &[T],
) -> Result<Option<T>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let words: Vec<String> = all
        .iter()
        .filter_map(|value| serde_json::to_value(value).ok()?.as_str().map(str::to_owned))
        .collect();
    let found = words.iter().position(|word| word == text).map(|at| all[at]);
    found
        .map(Some)
        .ok_or_else(|| Problem::invalid(field, text, &format!("one of {}", words.join(", "))))
}

impl Paging {
    /// The page that is asked for.
    pub(crate) fn request(self) -> Result<PageRequest, Problem> {
        page(self.limit.as_deref(), self.cursor)
    }
}

/// Checks a text that a person writes, 1 to 500 characters.
pub(crate) fn sentence(field: &str, text: Option<String>) -> Result<String, Problem> {
    let allowed = "a sentence of 1 to 500 characters";
    let Some(text) = text else { return Err(Problem::missing(field, allowed)) };
    let trimmed = text.trim();
    if trimmed.is_empty() || trimmed.chars().count() > 500 || trimmed.contains('\0') {
        return Err(Problem::invalid(field, text, allowed));
    }
    Ok(trimmed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_found_in_what_serde_says() {
        for (text, field) in [
            ("unknown field `colour`, expected one of `group`", Some("colour")),
            ("config: unknown field `colour`, expected one of `mode`", Some("colour")),
            (
                "config.max_unavailable: invalid value: integer `300`",
                Some("config.max_unavailable"),
            ),
            ("expected value at line 1", None),
        ] {
            assert_eq!(field_of(text), field, "{text}");
        }
    }
}
