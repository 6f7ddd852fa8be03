//! The CMDB over HTTP: the conformance suite against a real server, and what servers do wrong.

#[path = "../conformance/cmdb.rs"]
mod conformance;
mod server;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use capstan_core::dependency::{BreakerState, Breakers, CMDB, DependencyKind};
use capstan_core::ports::{Cmdb, DriverError};
use capstan_drivers::breaker::Switchboard;
use capstan_drivers::guard::Guard;
use capstan_drivers::http_cmdb::{Asking, HttpCmdb, Settings};
use conformance::{Subject, group, names, one, suite, with};
use serde_json::{Value, json};
use server::{Fault, Server, TOKEN};

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

/// Whatever it says meanwhile: one that answers nothing but failures is not asked all the time.
#[tokio::test]
async fn a_cmdb_that_only_fails_opens_its_breaker() {
    for fault in [Fault::Status(503), Fault::RetryAfter(429, 3600)] {
        let server = Arc::new(Server::start().await);
        server.put(&[group("web", 1)]);
        let switches = Switchboard::default();
        let breaker = switches.breaker(CMDB, DependencyKind::Cmdb);
        let inner = Arc::clone(&server.cmdb) as Arc<dyn Cmdb>;
        let guard = Guard::cmdb("http", inner).with_breaker(breaker);
        server.fail(fault.clone(), usize::MAX);
        // One group may be the only one that it cannot give.
        for group in ["web", "web", "web", "web", "web", "db", "mail"] {
            assert_eq!(switches.reports()[0].state, BreakerState::Closed, "{fault:?}");
            guard.group(group).await.expect_err("it fails");
        }
        let [report] = &switches.reports()[..] else { panic!("there is one") };
        assert_eq!(report.state, BreakerState::Open, "{fault:?}");
        assert!(report.error.as_ref().is_some_and(|error| error.contains("it answers")));
        let asked = server.source().asked.len();
        guard.group("web").await.expect_err("it is not asked");
        assert_eq!(server.source().asked.len(), asked);
        // A group that is broken is an answer.
        let switches = Switchboard::default();
        let breaker = switches.breaker(CMDB, DependencyKind::Cmdb);
        let inner = Arc::clone(&server.cmdb) as Arc<dyn Cmdb>;
        let guard = Guard::cmdb("http", inner).with_breaker(breaker);
        server.heal();
        server.put(&[with(group("web", 1), "/port", json!("http"))]);
        for _ in 0..9 {
            guard.group("web").await.expect_err("it is broken");
        }
        assert_eq!(switches.reports()[0].state, BreakerState::Closed);
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
    assert_eq!(server.cmdb.groups().await.map(|groups| groups.len()), Ok(2));
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
