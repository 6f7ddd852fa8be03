//! The files beside the pages.

use axum::extract::RawQuery;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use capstan_portal::assets;

use crate::extract::Segments;
use crate::problem::Problem;

/// `GET /assets/{file}`; what pages link to may be kept for ever.
pub(super) async fn show(
    Segments(file): Segments<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let path = format!("/assets/{file}");
    let asset = assets::find(&path).ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, "unknown_path", format!("nothing is at {path}"))
    })?;
    let linked = query.is_some_and(|query| asset.href().ends_with(&format!("?{query}")));
    let keep = if linked { "public, max-age=31536000, immutable" } else { "no-cache" };
    let mut response = asset.body.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(keep));
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{:016x}\"", asset.version)) {
        headers.insert(ETAG, etag);
    }
    Ok(response)
}
