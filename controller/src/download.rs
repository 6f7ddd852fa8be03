//! Archives by digest. Hosts fetch them without a token: who knows the digest may have the archive.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE,
    RANGE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use capstan_core::ports::PackageReader;
use futures::{Stream, stream};

use crate::app::App;
use crate::commands::packages::check_sha256;
use crate::extract::Segments;
use crate::problem::Problem;

/// `GET /packages/{sha256}.tar.gz`.
pub(crate) async fn by_digest(
    State(app): State<Arc<App>>,
    Segments(file): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let digest = file.strip_suffix(".tar.gz").filter(|it| check_sha256("digest", it).is_ok());
    let digest = digest.ok_or_else(|| not_here(&file))?;
    archive(&app, digest, &headers).await
}

/// Part of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    /// First byte.
    from: u64,
    /// Last byte.
    to: u64,
}

/// What a Range header asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Everything: there is none, or one that may be ignored.
    Whole,
    /// One part.
    Part(Part),
    /// Bytes that do not exist.
    Nothing,
}

/// An archive from the package store, whole or the part that Range asks for.
pub(crate) async fn archive(
    app: &App,
    sha256: &str,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let etag = format!("\"{sha256}\"");
    let (size, reader) = open(app, sha256, 0).await?;
    let same = headers.get(IF_RANGE).is_none_or(|value| value.as_bytes() == etag.as_bytes());
    let range = headers.get(RANGE).filter(|_| same).and_then(|value| value.to_str().ok());
    let (status, part, reader) = match range.map_or(Wanted::Whole, |range| wanted(range, size)) {
        Wanted::Whole => (StatusCode::OK, None, reader),
        Wanted::Part(part) if part.from == 0 => (StatusCode::PARTIAL_CONTENT, Some(part), reader),
        Wanted::Part(part) => {
            let (_, reader) = open(app, sha256, part.from).await?;
            (StatusCode::PARTIAL_CONTENT, Some(part), reader)
        }
        Wanted::Nothing => return Ok(unsatisfiable(size)),
    };
    let length = part.map_or(size, |part| part.to - part.from + 1);
    let mut response = (status, Body::from_stream(bytes(reader, length))).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/gzip"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let forever = "private, max-age=31536000, immutable";
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(forever));
    if let Ok(value) = HeaderValue::from_str(&etag) {
        headers.insert(ETAG, value);
    }
    if let Some(Part { from, to }) = part
        && let Ok(value) = HeaderValue::from_str(&format!("bytes {from}-{to}/{size}"))
    {
        headers.insert(CONTENT_RANGE, value);
    }
    Ok(response)
}

async fn open(
    app: &App,
    sha256: &str,
    offset: u64,
) -> Result<(u64, Box<dyn PackageReader>), Problem> {
    let opened = app.ports.packages.open(sha256, offset).await.map_err(|error| {
        tracing::warn!(%error, sha256, "an archive could not be opened");
        Problem::unavailable("package_store_unavailable", format!("package store: {error}"))
    })?;
    opened.ok_or_else(|| not_here(sha256))
}

fn not_here(name: &str) -> Problem {
    let text = format!("Capstan's own store holds no archive {name}");
    Problem::new(StatusCode::NOT_FOUND, "archive_unknown", text)
}

fn unsatisfiable(size: u64) -> Response {
    let text = format!("Range: the archive has {size} bytes");
    let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", text);
    let mut response = problem.into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    response
}

/// Reads a Range header (RFC 9110, section 14). Several parts, and what cannot be read, are
/// answered with the whole, as the RFC allows.
fn wanted(range: &str, size: u64) -> Wanted {
    let Some(spec) = range.trim().strip_prefix("bytes=") else { return Wanted::Whole };
    let Some((from, to)) = spec.trim().split_once('-') else { return Wanted::Whole };
    let number = |text: &str| text.trim().parse::<u64>();
    let part = match (from.trim(), to.trim()) {
        ("", last) => match number(last) {
            Ok(count) => Some((size.saturating_sub(count), size)).filter(|_| count > 0),
            Err(_) => return Wanted::Whole,
        },
        (from, "") => match number(from) {
            Ok(from) => Some((from, size)),
            Err(_) => return Wanted::Whole,
        },
        (from, to) => match (number(from), number(to)) {
            (Ok(from), Ok(to)) if from <= to => Some((from, to.saturating_add(1).min(size))),
            _ => return Wanted::Whole,
        },
    };
    match part {
        Some((from, end)) if from < end => Wanted::Part(Part { from, to: end - 1 }),
        Some(_) | None => Wanted::Nothing,
    }
}

/// At most `left` bytes of a reader.
fn bytes(
    reader: Box<dyn PackageReader>,
    left: u64,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    stream::unfold((reader, left), |(mut reader, left)| async move {
        if left == 0 {
            return None;
        }
        let mut part = match reader.read().await {
            Ok(part) => part,
            Err(error) => {
                tracing::warn!(%error, "an archive could not be read to its end");
                return Some((Err(std::io::Error::other(error)), (reader, 0)));
            }
        };
        if part.is_empty() {
            tracing::error!(left, "an archive is shorter than it was");
            let error = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Some((Err(error), (reader, 0)));
        }
        part.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - part.len() as u64;
        Some((Ok(Bytes::from(part)), (reader, left)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let part = |from, to| Wanted::Part(Part { from, to });
        for (range, expected) in [
            ("bytes=0-9", part(0, 9)),
            ("bytes=10-", part(10, 99)),
            ("bytes=-10", part(90, 99)),
            ("bytes=-200", part(0, 99)),
            ("bytes=50-500", part(50, 99)),
            ("bytes=99-99", part(99, 99)),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=100-200", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=9-0", Wanted::Whole),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=", Wanted::Whole),
        ] {
            assert_eq!(wanted(range, 100), expected, "{range}");
        }
    }
}
