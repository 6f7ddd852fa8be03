//! The controller as the rest of the program sees it.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use capstan_store::Store;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::app::App;
use crate::auth::{LOGIN_LINK_AGE, hash, new_secret};
use crate::measure::measure;
use crate::problem::Problem;
use crate::settings::{Ports, Settings};
use crate::{api, download, headers, health, messages, portal};

/// Name of the token that the first start makes.
const ADMINISTRATOR: &str = "admin";

/// Why a token or a link could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error("the store failed")]
    Store(#[source] capstan_store::Error),
    /// The new token could not be put where it belongs; none was made.
    #[error("the administrator's token could not be written")]
    Keep(#[source] std::io::Error),
    /// The token for a link is not known.
    #[error("no such token is known; give the whole token, as it was printed when it was made")]
    TokenUnknown,
}

/// Takes every command from outside. All clones are one.
#[derive(Debug, Clone)]
pub struct Controller {
    app: Arc<App>,
}

impl Controller {
    /// A controller over a store and the outside.
    pub fn new(store: Store, ports: Ports, settings: Settings) -> Self {
        Self { app: Arc::new(App::new(store, ports, settings)) }
    }

    /// All routes: the API, the pages, the archives, and health. Serve it with
    /// `into_make_service_with_connect_info::<SocketAddr>()`, so that `/metrics` can tell callers on
    /// this machine from others.
    pub fn router(&self) -> Router {
        let app = &self.app;
        let mut calls = Router::new();
        if app.settings.serves_api {
            calls = calls.merge(api::router(app));
        }
        if app.settings.serves_pages {
            calls = calls.merge(portal::router(app));
        }
        if app.settings.serves_api {
            calls = calls.route_layer(from_fn_with_state(app.clone(), headers::check_host));
        }
        calls
            .route("/packages/{file}", get(download::by_digest))
            .route("/healthz", get(health::live))
            .route("/readyz", get(health::ready))
            .route("/metrics", get(health::metrics))
            .fallback(unknown_path)
            .method_not_allowed_fallback(unknown_method)
            .layer(CatchPanicLayer::custom(headers::panicked))
            .layer(map_response(headers::protect))
            .layer(from_fn(measure))
            .with_state(app.clone())
    }

    /// Keeps the cache of the CMDB right until `shutdown`: all groups at the start, when the CMDB
    /// tells of a change, and from time to time. Then ends the live streams.
    pub async fn run_sync(self: Arc<Self>, shutdown: CancellationToken) {
        self.app.clone().run_sync(shutdown).await;
        self.close_streams();
    }

    /// Sends events to the broker and to webhooks, and takes messages of the CMDB, until `shutdown`.
    pub async fn run_messages(self: Arc<Self>, shutdown: CancellationToken) {
        messages::run(self.app.clone(), shutdown).await;
    }

    /// Ends every live stream, so that a server that shuts down gets rid of its connections.
    /// Readers come again and go on where they stopped.
    pub fn close_streams(&self) {
        self.app.stopping.cancel();
    }

    /// Makes the administrator's token when there is none yet and gives its clear text, this once:
    /// the store keeps its SHA-256 alone. `keep` puts the text where it belongs before that; if it
    /// fails, or the process dies, no token is made, and the next start makes another.
    pub async fn ensure_admin_token(
        &self,
        keep: impl FnOnce(&str) -> std::io::Result<()>,
    ) -> Result<Option<String>, Error> {
        let store = &self.app.store;
        if store.tokens_exist().await.map_err(Error::Store)? {
            return Ok(None);
        }
        let token = format!("cap_{}", new_secret());
        keep(&token).map_err(Error::Keep)?;
        store.token_create(ADMINISTRATOR, &hash(&token)).await.map_err(Error::Store)?;
        tracing::info!(name = ADMINISTRATOR, "made the administrator's token");
        Ok(Some(token))
    }

    /// A path that signs a browser in as the owner of `token`: once, within 24 hours.
    pub async fn login_link(&self, token: &str) -> Result<String, Error> {
        let store = &self.app.store;
        let row = store.token_find(&hash(token)).await.map_err(Error::Store)?;
        let row = row.ok_or(Error::TokenUnknown)?;
        let secret = new_secret();
        let expires_at = store.now() + LOGIN_LINK_AGE;
        let made = store.login_link_create(&hash(&secret), row.id, expires_at).await;
        made.map_err(Error::Store)?;
        Ok(format!("/login/once/{secret}"))
    }
}

async fn unknown_path(request: Request) -> Response {
    let path = request.uri().path();
    let problem =
        Problem::new(StatusCode::NOT_FOUND, "unknown_path", format!("nothing is at {path}"));
    portal::shown(&request, problem)
}

async fn unknown_method(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "unknown_method",
        format!("{method} is not allowed at {path}; the header Allow names what is"),
    )
    .into_response()
}
