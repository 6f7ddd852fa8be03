//! A CMDB over HTTP that answers as a test wants.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, ETAG, IF_NONE_MATCH, LOCATION, RETRY_AFTER,
};
use axum::response::{IntoResponse, Response};
use capstan_core::ports::Cmdb;
use capstan_drivers::http_cmdb::{Asking, HttpCmdb, Settings};
use serde_json::{Value, json};

use crate::conformance::{Subject, names};

pub(crate) const TOKEN: &str = "Bearer secret-of-the-cmdb";

/// What the server does instead of answering.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    Hang,
    Status(u16),
    RetryAfter(u16, u64),
    Redirect,
    /// A whole answer.
    Body(Bytes),
    /// Says that much and sends little.
    Announce(usize),
    Endless,
    /// Breaks off in the middle.
    Cut,
    /// Each page is said to have the same one after it.
    Repeat,
    /// 304 to whoever has no `ETag`.
    Unasked,
}

/// What the server has.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) groups: Vec<Value>,
    pub(crate) page: usize,
    pub(crate) etags: bool,
    pub(crate) fault: Option<Fault>,
    /// How many requests meet the fault; then it is over.
    pub(crate) faulty: usize,
    /// Path and query of each request, and the status that it got.
    pub(crate) asked: Vec<(String, u16)>,
    pub(crate) strangers: usize,
}

pub(crate) type Shared = Arc<Mutex<Source>>;

pub(crate) struct Server {
    pub(crate) source: Shared,
    pub(crate) cmdb: Arc<HttpCmdb>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let source = Arc::new(Mutex::new(Source {
            groups: Vec::new(),
            page: 1,
            etags: true,
            fault: None,
            faulty: usize::MAX,
            asked: Vec::new(),
            strangers: 0,
        }));
        let router = Router::new().fallback(answer).with_state(source.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut settings = Settings {
            url: format!("http://{address}/cmdb/v1/").parse().expect("a URL"),
            asking: Asking {
                authorization: Some(TOKEN.to_owned()),
                answer: Duration::from_millis(500),
                largest: 100_000,
            },
            poll: Duration::from_millis(50),
        };
        change(&mut settings);
        Self { source, cmdb: Arc::new(HttpCmdb::new(&settings, names()).expect("a client")) }
    }

    pub(crate) fn source(&self) -> MutexGuard<'_, Source> {
        self.source.lock().expect("nobody panicked")
    }

    pub(crate) fn fail(&self, fault: Fault, faulty: usize) {
        let mut source = self.source();
        source.asked.clear();
        (source.fault, source.faulty) = (Some(fault), faulty);
    }

    pub(crate) fn heal(&self) {
        self.source().fault = None;
    }
}

impl Subject for Server {
    fn cmdb(&self) -> &dyn Cmdb {
        &*self.cmdb
    }

    fn put(&self, groups: &[Value]) {
        self.source().groups = groups.to_vec();
    }
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    let asked = request.uri().path_and_query().expect("a path").to_string();
    let fault = {
        let mut source = shared.lock().expect("nobody panicked");
        if request.headers().get(AUTHORIZATION).is_none_or(|value| value != TOKEN) {
            source.strangers += 1;
        }
        let fault = source.fault.clone().filter(|_| source.faulty > 0);
        source.faulty -= usize::from(fault.is_some());
        fault
    };
    let response = match fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(fault) => broken(&fault, &asked),
        None => good(&shared.lock().expect("nobody panicked"), &asked, &request),
    };
    shared.lock().expect("nobody panicked").asked.push((asked, response.status().as_u16()));
    response
}

fn good(source: &Source, asked: &str, request: &Request) -> Response {
    let path = request.uri().path();
    let body = if path == "/cmdb/v1/groups" {
        let cursor =
            asked.split("cursor=").nth(1).map_or(0, |cursor| cursor.parse().expect("ours"));
        let end = (cursor + source.page).min(source.groups.len());
        let next = (end < source.groups.len()).then(|| end.to_string());
        json!({"groups": source.groups[cursor..end], "next_cursor": next})
    } else {
        let id = path.strip_prefix("/cmdb/v1/groups/").unwrap_or_default();
        let found = source.groups.iter().find(|group| group["id"] == id);
        match found {
            Some(group) => group.clone(),
            None => return StatusCode::NOT_FOUND.into_response(),
        }
    };
    let body = body.to_string();
    if !source.etags {
        return body.into_response();
    }
    let etag = format!("\"{}\"", body.len() + body.bytes().map(usize::from).sum::<usize>() * 1000);
    if request.headers().get(IF_NONE_MATCH).is_some_and(|given| *given == *etag) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    ([(ETAG, etag)], body).into_response()
}

fn broken(fault: &Fault, asked: &str) -> Response {
    let status = |status: u16| StatusCode::from_u16(status).expect("a status");
    let endless = || {
        let chunks =
            futures::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![b' '; 1000])));
        Body::from_stream(chunks)
    };
    match fault {
        Fault::Hang => unreachable!("it does not answer"),
        Fault::Status(code) => status(*code).into_response(),
        Fault::RetryAfter(code, seconds) => {
            (status(*code), [(RETRY_AFTER, seconds.to_string())]).into_response()
        }
        Fault::Redirect => (status(302), [(LOCATION, asked)]).into_response(),
        Fault::Body(body) => body.clone().into_response(),
        Fault::Announce(length) => {
            ([(CONTENT_LENGTH, length.to_string())], endless()).into_response()
        }
        Fault::Endless => endless().into_response(),
        Fault::Cut => {
            let parts = [Ok(Bytes::from_static(b"{\"groups\": [")), Err("scripted: gone")];
            Body::from_stream(futures::stream::iter(parts)).into_response()
        }
        Fault::Repeat => json!({"groups": [], "next_cursor": "again"}).to_string().into_response(),
        Fault::Unasked => StatusCode::NOT_MODIFIED.into_response(),
    }
}
