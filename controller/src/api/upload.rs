//! Uploads of archives.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use capstan_core::ports::{DriverError, Stored};
use capstan_core::view::PackageView;
use capstan_store::{NewPackage, crash};
use futures::StreamExt;

use crate::api::packages::registered;
use crate::app::App;
use crate::audit::Deed;
use crate::auth::Caller;
use crate::commands::packages::{Outcome, check_sha256, check_version, deed, version_exists};
use crate::extract::{Segments, too_large};
use crate::problem::{Problem, ProblemDocument, Problems};

/// Header with the digest that the sender expects.
const DIGEST_HEADER: &str = "x-capstan-sha256";
/// How long the next bytes of an upload may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Uploads an archive. The digest is computed on the way and compared with `X-Capstan-Sha256`, if
/// that is given. The same content again is accepted; another content for the same version is
/// refused, and nothing of it is kept. `Idempotency-Key` is not looked at: the content is its own key,
/// and an upload that is sent again gives the same package.
#[utoipa::path(
    put,
    path = "/packages/{application}/{version}",
    tag = "packages",
    params(
        ("application" = String, Path, description = "id or name of the application"),
        ("version" = String, Path, description = "1 to 64 letters, digits and . _ + -"),
        ("X-Capstan-Sha256" = Option<String>, Header, description = "64 hexadecimal digits")
    ),
    request_body(content = Vec<u8>, content_type = "application/gzip"),
    responses(
        (status = 201, body = PackageView),
        (status = 200, body = PackageView, description = "the same content was there already"),
        (status = 408, body = ProblemDocument, content_type = "application/problem+json",
            description = "no bytes came for a minute"),
        (status = 413, body = ProblemDocument, content_type = "application/problem+json",
            description = "the archive is larger than the store takes"),
        Problems
    )
)]
pub(crate) async fn upload(
    State(app): State<Arc<App>>,
    caller: Caller,
    Segments((application, version)): Segments<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let subject = format!("{application}/{version}");
    let mut deed = deed(&caller, "package.upload", subject, String::new());
    let result = upload_now(&app, &mut deed, &application, version, &headers, body).await;
    let (view, outcome) = app.audited_unless_accepted(deed, result).await?;
    Ok(registered(view, outcome))
}

async fn upload_now(
    app: &Arc<App>,
    deed: &mut Deed<'_>,
    application: &str,
    version: String,
    headers: &HeaderMap,
    body: Body,
) -> Result<(PackageView, Outcome), Problem> {
    check_version(&version)?;
    let wanted = wanted_digest(headers)?;
    check_length(headers, app.settings.max_package_bytes)?;
    let application = app.named_application(application).await?;
    let existing = app.store.package_by_version(application.id, &version).await?;
    if let (Some(existing), Some(wanted)) = (&existing, &wanted)
        && existing.sha256 != *wanted
    {
        return Err(version_exists(existing));
    }
    let _permit = app.uploads.try_acquire().map_err(|_| {
        Problem::unavailable("too_many_uploads", "too many uploads are under way").retry_after(5)
    })?;
    let expected = wanted.clone().or_else(|| existing.as_ref().map(|it| it.sha256.clone()));
    let stored = match receive(app, body, expected).await? {
        Received::Stored(stored) => stored,
        Received::Refused(text) => {
            return Err(match (wanted, existing) {
                (None, Some(existing)) => version_exists(&existing),
                (Some(_) | None, _) => digest_mismatch(&text),
            });
        }
    };
    crash::point("upload.stored");
    deed.detail = format!("sha256 {}", stored.sha256);
    let package = NewPackage {
        application: application.id,
        version,
        sha256: stored.sha256,
        size: Some(stored.size),
        locations: Vec::new(),
        stored: true,
    };
    app.put_package(deed, package).await
}

fn wanted_digest(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(DIGEST_HEADER) else { return Ok(None) };
    let digest = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    check_sha256("X-Capstan-Sha256", &digest)?;
    Ok(Some(digest))
}

fn check_length(headers: &HeaderMap, most: u64) -> Result<(), Problem> {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.and_then(|text| text.parse::<u64>().ok()) {
        Some(length) if length > most => Err(too_large()),
        Some(0) => Err(empty()),
        Some(_) | None => Ok(()),
    }
}

fn empty() -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "empty_archive", "the body is empty")
}

fn digest_mismatch(text: &str) -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "digest_mismatch",
        format!("X-Capstan-Sha256: the archive has another digest; {text}"),
    )
    .with("field", "X-Capstan-Sha256")
}

/// What came of an upload.
enum Received {
    /// It was taken in.
    Stored(Stored),
    /// Its digest is another; nothing was kept.
    Refused(String),
}

/// Writes the body into the package store. Whatever goes wrong, the writer is dropped and leaves
/// nothing behind.
async fn receive(app: &App, body: Body, expected: Option<String>) -> Result<Received, Problem> {
    let failed = |error: DriverError| {
        tracing::warn!(%error, "an upload could not be written");
        Problem::unavailable("package_store_unavailable", format!("package store: {error}"))
    };
    let mut writer = app.ports.packages.begin().await.map_err(failed)?;
    let mut parts = body.into_data_stream();
    let mut size = 0_u64;
    loop {
        let part = match tokio::time::timeout(PATIENCE, parts.next()).await {
            Ok(Some(Ok(part))) => part,
            Ok(Some(Err(_))) => return Err(cut_short()),
            Ok(None) => break,
            Err(_) => return Err(too_slow()),
        };
        size += part.len() as u64;
        if size > app.settings.max_package_bytes {
            return Err(too_large());
        }
        match writer.write(&part).await {
            Ok(()) => {}
            // What a store says no to while bytes come is their number.
            Err(DriverError::Refused(_)) => return Err(too_large()),
            Err(error) => return Err(failed(error)),
        }
        crash::point("upload.part");
    }
    if size == 0 {
        return Err(empty());
    }
    let is_checked = expected.is_some();
    match writer.finish(expected).await {
        Ok(stored) => Ok(Received::Stored(stored)),
        Err(DriverError::Refused(text)) if is_checked => Ok(Received::Refused(text)),
        Err(error) => Err(failed(error)),
    }
}

fn cut_short() -> Problem {
    let text = "the body ended before it was whole";
    Problem::new(StatusCode::BAD_REQUEST, "body_unreadable", text)
}

fn too_slow() -> Problem {
    let text = format!("no bytes came for {} seconds", PATIENCE.as_secs());
    Problem::new(StatusCode::REQUEST_TIMEOUT, "upload_too_slow", text)
}
