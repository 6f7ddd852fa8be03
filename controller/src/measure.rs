//! How long requests take, for the metrics.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;

/// Name of the metric.
const METRIC: &str = "capstan_http_request_seconds";
/// In place of a route, for requests to none.
const NO_ROUTE: &str = "none";

/// Says what the metrics of this crate mean. Called once, after the recorder is installed.
pub fn describe_metrics() {
    let text = "Time of HTTP requests, until the head of the response";
    crate::messages::describe_metrics();
    metrics::describe_histogram!(METRIC, metrics::Unit::Seconds, text);
}

/// Middleware: counts a request and how long its response took to begin. The labels are templates,
/// known methods and classes, so that no caller can make new ones.
pub(crate) async fn measure(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = known(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.map_or_else(|| NO_ROUTE.to_owned(), |route| route.as_str().to_owned());
    let labels = [("method", method.to_owned()), ("route", route), ("status", class(&response))];
    metrics::histogram!(METRIC, &labels).record(began.elapsed());
    response
}

fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

fn class(response: &Response) -> String {
    format!("{}xx", response.status().as_u16() / 100)
}
