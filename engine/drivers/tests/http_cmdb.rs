//! The CMDB over HTTP: the conformance suite against a real server, and what servers do wrong.

#[path = "conformance/cmdb.rs"]
mod conformance;

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
use capstan_core::ports::{Cmdb, DriverError};
use capstan_drivers::http_cmdb::{Asking, HttpCmdb, Settings};
use conformance::{Subject, group, names, one, suite, with};
use serde_json::{Value, json};

const TOKEN: &str = "Bearer secret-of-the-cmdb";

/// What the server does instead of answering.
#[derive(Debug, Clone)]
enum Fault {
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
struct Source {
    groups: Vec<Value>,
    page: usize,
    etags: bool,
    fault: Option<Fault>,
    /// How many requests meet the fault; then it is over.
    faulty: usize,
    /// Path and query of each request, and the status that it got.
    asked: Vec<(String, u16)>,
    strangers: usize,
}

type Shared = Arc<Mutex<Source>>;

struct Server {
    source: Shared,
    cmdb: HttpCmdb,
}

impl Server {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
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
        Self { source, cmdb: HttpCmdb::new(&settings, names()).expect("a client") }
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        self.source.lock().expect("nobody panicked")
    }

    fn fail(&self, fault: Fault, faulty: usize) {
        let mut source = self.source();
        source.asked.clear();
        (source.fault, source.faulty) = (Some(fault), faulty);
    }

    fn heal(&self) {
        self.source().fault = None;
    }
}

impl Subject for Server {
    fn cmdb(&self) -> &dyn Cmdb {
        &self.cmdb
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

#[tokio::test]
async fn http_conforms() {
    suite(async || Box::new(Server::start().await) as Box<dyn Subject>).await;
}

#[tokio::test]
async fn http_conforms_without_etags_and_on_one_page() {
    suite(async || {
        let server = Server::start().await;
        (server.source().etags, server.source().page) = (false, 100);
        Box::new(server) as Box<dyn Subject>
    })
    .await;
}

/// A fault, the error that it is, what is said of it, and how often one question is asked.
type Case = (Fault, fn(String) -> DriverError, &'static str, usize);

fn faults() -> Vec<Case> {
    let body = |text: &'static str| Fault::Body(Bytes::from_static(text.as_bytes()));
    vec![
        (Fault::Status(500), DriverError::Busy, "500 Internal Server Error", 3),
        (Fault::Status(502), DriverError::Busy, "502 Bad Gateway", 3),
        (Fault::RetryAfter(429, 0), DriverError::Busy, "429 Too Many Requests", 3),
        // Nobody waits that long: it is said at once.
        (Fault::RetryAfter(503, 3600), DriverError::Busy, "503 Service Unavailable", 1),
        (Fault::Status(401), DriverError::Refused, "is the token right?", 1),
        (Fault::Status(403), DriverError::Refused, "is the token right?", 1),
        (Fault::Status(400), DriverError::Refused, "400 Bad Request", 1),
        (Fault::Redirect, DriverError::Refused, "302 Found to /cmdb/v1/groups", 1),
        (Fault::Unasked, DriverError::Refused, "304 Not Modified", 1),
        (body("<html>It works!</html>"), DriverError::Busy, "the answer is no JSON", 1),
        (body(""), DriverError::Busy, "the answer is no JSON", 1),
        (body("{\"groups\": ["), DriverError::Busy, "the answer is no JSON", 1),
        (Fault::Announce(1_000_000_000), DriverError::Refused, "larger than 100000 bytes", 1),
        (Fault::Endless, DriverError::Refused, "larger than 100000 bytes", 1),
        (Fault::Cut, DriverError::Unknown, ": error ", 3),
        (Fault::Hang, DriverError::Unknown, "timed out", 3),
    ]
}

#[tokio::test]
async fn a_fault_is_told_and_takes_nothing_away() {
    for (fault, kind, expected, tries) in faults() {
        let server = Server::start().await;
        server.source().etags = false;
        server.put(&[group("web", 1), group("db", 2)]);
        let before = server.cmdb.groups().await.expect("groups answers");
        server.fail(fault.clone(), usize::MAX);
        for _ in 0..2 {
            let error = server.cmdb.groups().await.expect_err("it is broken");
            let text = error.to_string();
            assert!(text.contains(expected), "{fault:?}: {text}");
            assert!(text.contains("/cmdb/v1/groups: "), "{fault:?}: {text}");
            let inner = match &error {
                DriverError::Refused(text)
                | DriverError::Busy(text)
                | DriverError::Unknown(text) => text,
            };
            assert_eq!(error, kind(inner.clone()), "{fault:?}");
            let faults = server.cmdb.faults();
            assert_eq!(faults, [format!("{error} (nothing of it is used)")], "{fault:?}");
        }
        if !matches!(fault, Fault::Hang) {
            assert_eq!(server.source().asked.len(), 2 * tries, "{fault:?}");
        }
        let single = server.cmdb.group("web").await.expect_err("it is broken").to_string();
        assert!(single.contains(expected) || single.contains("302"), "{fault:?}: {single}");
        server.heal();
        assert_eq!(server.cmdb.groups().await, Ok(before), "{fault:?}");
        assert_eq!(server.cmdb.faults(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn answers_of_a_wrong_shape_are_told() {
    let shape = "the answer must be an object with `groups`, a list";
    for (text, expected) in [
        ("[]", shape),
        ("3", shape),
        ("{}", shape),
        ("{\"groups\": {}}", shape),
        ("{\"groups\": [], \"next_cursor\": 7}", shape),
        ("{\"groups\": [], \"next\": \"7\"}", "unknown field `next`"),
    ] {
        let server = Server::start().await;
        server.fail(Fault::Body(Bytes::from_static(text.as_bytes())), usize::MAX);
        let error = server.cmdb.groups().await.expect_err("it is broken");
        assert!(matches!(error, DriverError::Busy(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
    let server = Server::start().await;
    server.put(&[group("web", 1)]);
    server.fail(Fault::Body(Bytes::from_static(b"[3]")), usize::MAX);
    let error = server.cmdb.group("web").await.expect_err("it is broken").to_string();
    assert!(error.contains("the answer must be a group"), "{error}");
    server.fail(Fault::Body(Bytes::from(group("db", 2).to_string())), usize::MAX);
    let error = server.cmdb.group("web").await.expect_err("it is another").to_string();
    assert!(error.contains("it answers the group \"db\""), "{error}");
}

#[tokio::test]
async fn a_list_that_repeats_or_does_not_end_is_not_used() {
    let server = Server::start().await;
    server.put(&[group("web", 1), group("db", 2)]);
    let before = server.cmdb.groups().await;
    assert_eq!(before.as_ref().map(Vec::len), Ok(2));
    server.fail(Fault::Repeat, usize::MAX);
    let error = server.cmdb.groups().await.expect_err("it repeats").to_string();
    assert!(error.contains("groups?cursor=again is its next page twice"), "{error}");
    assert_eq!(server.source().asked.len(), 2);
    server.heal();
    assert_eq!(server.cmdb.groups().await, before);
    // Pages that are small each can be too large together.
    let many: Vec<Value> = (0..100)
        .map(|number| {
            with(group(&format!("g{number}"), number), "/virtual_path", json!("x".repeat(10_000)))
        })
        .collect();
    server.put(&many);
    let error = server.cmdb.groups().await.expect_err("it is too large").to_string();
    assert!(error.contains("the pages together are too large"), "{error}");
}

#[tokio::test]
async fn a_page_that_fails_spoils_the_list_and_one_that_recovers_does_not() {
    let server = Server::start().await;
    server.put(&[group("web", 1), group("db", 2), group("mail", 3)]);
    for fault in [Fault::Status(503), Fault::Cut, Fault::Hang] {
        server.fail(fault.clone(), 2);
        assert_eq!(server.cmdb.groups().await.map(|groups| groups.len()), Ok(3), "{fault:?}");
        server.fail(fault, 2);
        assert_eq!(one(&server, "web").await.id, "web");
    }
    server.heal();
    server.put(&[group("web", 1), json!("no group"), group("mail", 3)]);
    // The broken one has no id, so it may be the one that is missing.
    assert_eq!(server.cmdb.groups().await.map(|groups| groups.len()), Ok(3));
    let faults = server.cmdb.faults();
    assert!(faults[0].contains("/cmdb/v1/groups, page 2, groups[0]: invalid type"), "{faults:?}");
}

#[tokio::test]
async fn what_did_not_change_is_not_sent_again() {
    let server = Server::start().await;
    server.put(&[group("web", 1), group("db", 2), group("mail", 3)]);
    let first = server.cmdb.groups().await;
    let one_first = one(&server, "db").await;
    server.source().asked.clear();
    assert_eq!(server.cmdb.groups().await, first);
    assert_eq!(one(&server, "db").await, one_first);
    let statuses: Vec<u16> = server.source().asked.iter().map(|(_, status)| *status).collect();
    assert_eq!(statuses, [304; 4]);
    // One page changed: it alone is sent.
    let newer = with(with(group("db", 2), "/revision", json!(42)), "/port", json!(8081));
    server.put(&[group("web", 1), newer, group("mail", 3)]);
    server.source().asked.clear();
    assert_eq!(server.cmdb.groups().await.expect("groups answers")[0].port, 8081);
    let statuses: Vec<u16> = server.source().asked.iter().map(|(_, status)| *status).collect();
    assert_eq!(statuses, [304, 200, 304]);
    assert_eq!(server.source().strangers, 0, "the token is sent with every question");
}

#[tokio::test]
async fn changes_are_asked_for_since_the_last_list() {
    let server = Server::start().await;
    server.put(&[group("web", 1)]);
    server.cmdb.groups().await.expect("groups answers");
    server.source().asked.clear();
    drop(tokio::time::timeout(Duration::from_millis(300), server.cmdb.changed()).await);
    let asked = server.source().asked.clone();
    assert!(!asked.is_empty());
    for (asked, _) in asked {
        let since = asked.strip_prefix("/cmdb/v1/groups?updated_after=").expect("a time");
        assert!(since.starts_with("20") && since.ends_with('Z'), "{since}");
    }
    // A server that fails tells of no change, and is asked again.
    server.fail(Fault::Status(500), usize::MAX);
    let silent = tokio::time::timeout(Duration::from_secs(1), server.cmdb.changed()).await;
    assert!(silent.is_err());
    server.heal();
    server.put(&[group("web", 1), group("db", 2)]);
    let told = tokio::time::timeout(Duration::from_secs(5), server.cmdb.changed()).await;
    assert_eq!(told, Ok(Ok(())));
}

#[tokio::test]
async fn what_cannot_be_taken_is_told_once() {
    let server = Server::start().await;
    server.put(&[group("web", 1)]);
    server.cmdb.groups().await.expect("groups answers");
    let told = async |within: u64| {
        let told = tokio::time::timeout(Duration::from_millis(within), server.cmdb.changed()).await;
        told.is_ok()
    };
    // Good by itself, and in conflict with the other one: it never counts.
    let clash = with(group("db", 2), "/servers/0/ip_address", json!("10.0.1.1"));
    server.put(&[group("web", 1), clash]);
    assert!(told(5000).await);
    assert_eq!(server.cmdb.groups().await.map(|groups| groups.len()), Ok(1));
    assert!(!told(500).await, "it would be read for ever");
    server.put(&[group("web", 1), with(group("db", 2), "/revision", json!(42))]);
    assert!(told(5000).await);
}

#[tokio::test]
async fn nobody_there_is_no_answer() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let url = format!("http://{address}").parse().expect("a URL");
    let server = Server::with(|settings| settings.url = url).await;
    for error in [
        server.cmdb.groups().await.expect_err("nobody is there"),
        server.cmdb.group("web").await.expect_err("nobody is there"),
    ] {
        assert!(matches!(error, DriverError::Unknown(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_token_is_never_shown() {
    let asking = Asking { authorization: Some(TOKEN.to_owned()), ..Asking::default() };
    assert!(!format!("{asking:?}").contains("secret"), "{asking:?}");
    let url = "http://127.0.0.1:1".parse().expect("a URL");
    let bad = Asking { authorization: Some("Bearer a\nb".to_owned()), ..Asking::default() };
    let settings = Settings { url, asking: bad, poll: Duration::from_secs(1) };
    let error = HttpCmdb::new(&settings, names()).err().expect("no header");
    assert!(!error.to_string().contains("a\nb"), "{error}");
    let server = Server::start().await;
    server.fail(Fault::Status(401), usize::MAX);
    let error = server.cmdb.groups().await.expect_err("it is refused").to_string();
    assert!(!error.contains("secret"), "{error}");
}
