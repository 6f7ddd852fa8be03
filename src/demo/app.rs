//! The application that the demo releases: a small web server that can be built to fail.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::http::{HeaderName, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use clap::Args;
use serde::{Deserialize, Serialize};

/// `capstan demo-app`: one instance of the demo's application.
#[derive(Debug, Args)]
pub(crate) struct DemoApp {
    /// Folder of the release; holds `app.toml`.
    #[arg(long)]
    release: PathBuf,
    /// Port on the loopback address.
    #[arg(long)]
    port: u16,
}

/// `app.toml` of a release.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AppConfig {
    /// What `/healthz` says it is.
    pub(crate) version: String,
    /// Seconds after its start at which its health fails for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fails_after_seconds: Option<u64>,
}

const VERSION_HEADER: HeaderName = HeaderName::from_static("x-capstan-version");

/// Serves until SIGTERM.
pub(crate) async fn run(app: DemoApp) -> anyhow::Result<()> {
    let path = app.release.join("app.toml");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let config: AppConfig =
        toml::from_str(&text).with_context(|| format!("in {}", path.display()))?;
    let started = Instant::now();
    let page = format!("web {} on port {}\n", config.version, app.port);
    let health = {
        let config = config.clone();
        move || {
            let config = config.clone();
            async move { healthz(&config, started.elapsed()) }
        }
    };
    let router = Router::new()
        .route("/healthz", get(health))
        .route("/", get(move || async move { page.clone() }));
    let address = SocketAddr::from(([127, 0, 0, 1], app.port));
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    axum::serve(listener, router).await.context("serving")
}

fn healthz(config: &AppConfig, age: Duration) -> impl IntoResponse + use<> {
    let failed = config.fails_after_seconds.is_some_and(|limit| age.as_secs() >= limit);
    let (status, text) = if failed {
        (StatusCode::SERVICE_UNAVAILABLE, "failed\n")
    } else {
        (StatusCode::OK, "ok\n")
    };
    (status, [(VERSION_HEADER, config.version.clone())], text)
}
