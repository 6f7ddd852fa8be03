//! Refreshes of one group, asked for in two processes at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use capstan_core::view::GroupView;
use capstan_services::Database;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::cmdb::{Serving, group};
use crate::harness::PATIENCE;

/// How long the CMDB takes to answer for one group: long enough that all requests come meanwhile.
const SLOW: Duration = Duration::from_millis(3800);
const REQUESTS: usize = 200;

/// A slow CMDB.
#[derive(Debug, Default)]
struct Cmdb {
    /// How often it was asked for one group.
    asked: AtomicU32,
    /// Revisions after the first.
    newer: AtomicI64,
    is_broken: AtomicBool,
}

async fn start(cmdb: Arc<Cmdb>) -> String {
    let answer = async move |request: axum::extract::Request| -> Response {
        if request.uri().path() == "/api/groups" {
            return json!({ "groups": [group(41, 3)] }).to_string().into_response();
        }
        let revision = 41 + cmdb.newer.load(Ordering::SeqCst);
        cmdb.asked.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(SLOW).await;
        if cmdb.is_broken.load(Ordering::SeqCst) {
            return StatusCode::BAD_REQUEST.into_response();
        }
        group(revision, 3).to_string().into_response()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/api", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    url
}

/// Asks one process; when the CMDB was asked, both in turn, all at once. Gives the answers to these.
async fn refresh_all(
    processes: &[Serving; 2],
    cmdb: &Cmdb,
    group: &GroupView,
) -> Vec<(StatusCode, Value)> {
    let ask = async |number: usize| {
        let process = &processes[number % 2];
        let url = format!("{}/api/v1/groups/{}/sync", process.url, group.id);
        let answer =
            process.client.post(url).bearer_auth(&processes[0].token).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    };
    let others = async {
        until_asked(cmdb).await;
        // Whoever asks now must not be answered with what was asked for before.
        cmdb.newer.fetch_add(1, Ordering::SeqCst);
        join_all((1..REQUESTS).map(ask)).await
    };
    futures::join!(ask(0), others).1
}

async fn until_asked(cmdb: &Cmdb) {
    let deadline = Instant::now() + PATIENCE;
    while cmdb.asked.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < deadline, "nobody asks the CMDB");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_over_two_processes_make_one_call_more_than_the_one_under_way() {
    let (database, folder) = (Database::shared(), tempfile::tempdir().unwrap());
    let cmdb = Arc::<Cmdb>::default();
    let url = start(Arc::clone(&cmdb)).await;
    let environment = [
        ("CAPSTAN__DATABASE__URL", database.url.as_str()),
        ("CAPSTAN__ROLES", "controller"),
        ("CAPSTAN__CMDB__TIMEOUT_MS", "5000"),
    ];
    let start = || Serving::start_with(folder.path(), "http", &url, &environment);
    let processes = [start(), start()];
    let groups = processes[0].until("the group is there", |groups| groups.len() == 1).await;

    let answers = refresh_all(&processes, &cmdb, &groups[0]).await;
    let calls = cmdb.asked.swap(0, Ordering::SeqCst);
    assert_eq!(calls, 2, "the one under way, and one that knows what is new");
    for (status, answer) in &answers {
        assert_eq!(*status, StatusCode::OK, "{answer}");
        assert_eq!((&answer["total"], &answer["cmdb_revision"]), (&json!(3), &json!(42)));
    }

    cmdb.is_broken.store(true, Ordering::SeqCst);
    let answers = refresh_all(&processes, &cmdb, &groups[0]).await;
    assert_eq!(cmdb.asked.swap(0, Ordering::SeqCst), 2);
    for (status, answer) in &answers {
        assert_eq!((*status, answer), (answers[0].0, &answers[0].1), "all are answered alike");
        assert_eq!(answer["code"], "cmdb_unavailable", "{answer}");
    }

    // The process that is at it dies: whoever waits in the other one is answered all the same.
    cmdb.is_broken.store(false, Ordering::SeqCst);
    let [dies, stays] = processes;
    let path = format!("/api/v1/groups/{}/sync", groups[0].id);
    let ask = |process: &Serving| {
        let url = format!("{}{path}", process.url);
        process.client.post(url).bearer_auth(&stays.token).send()
    };
    let first = tokio::spawn(ask(&dies));
    until_asked(&cmdb).await;
    let second = tokio::spawn(ask(&stays));
    drop(dies);
    assert!(first.await.unwrap().is_err(), "its connection is cut");
    assert_eq!(second.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(cmdb.asked.load(Ordering::SeqCst), 2);
}
