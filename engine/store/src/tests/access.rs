//! Tokens, sessions, login links, repeated requests, the audit, scripts.

use std::time::{Duration, Instant};

use capstan_core::ports::Script;
use capstan_core::{DeploymentId, TokenId};
use sea_orm::ConnectionTrait;
use uuid::Uuid;

use super::records::store;
use crate::answering::Marking;
use crate::{Idempotency, NewAudit, PageRequest, RequestKey};

#[tokio::test]
async fn tokens_sessions_and_login_links_are_found_by_their_hash_until_they_end() {
    let (store, _database) = store().await;
    assert!(!store.tokens_exist().await.expect("read"));
    let token = store.token_create("ada", "h1").await.expect("created");
    assert!(store.tokens_exist().await.expect("read"));
    let row = store.token_find("h1").await.expect("read").expect("there");
    assert_eq!((row.id, row.name.as_str()), (token, "ada"));
    assert_eq!(store.token_find("h2").await.expect("read"), None);
    assert!(store.token_create("eve", "h1").await.is_err(), "a hash names one token");

    let soon = store.now() + Duration::from_mins(1);
    let past = capstan_core::Timestamp::from_micros(1);
    store.session_create("s1", token, "c1", soon, None).await.expect("created");
    store.session_create("s2", token, "c2", past, None).await.expect("created");
    let session = store.session_find("s1").await.expect("read").expect("there");
    assert_eq!(
        (session.token, session.csrf.as_str(), session.expires_at),
        (row.clone(), "c1", soon)
    );
    assert_eq!(store.session_find("s2").await.expect("read"), None);
    store.session_delete("s1", None).await.expect("deleted");
    assert_eq!(store.session_find("s1").await.expect("read"), None);
    let nobody = TokenId(Uuid::now_v7());
    assert!(store.session_create("s3", nobody, "c", soon, None).await.is_err(), "no such token");

    store.login_link_create("l1", token, soon).await.expect("created");
    store.login_link_create("l2", token, past).await.expect("created");
    assert_eq!(store.login_link_take("l1").await.expect("read"), Some(row));
    assert_eq!(store.login_link_take("l1").await.expect("read"), None);
    assert_eq!(store.login_link_take("l2").await.expect("read"), None);
}

#[tokio::test]
async fn a_login_link_is_taken_by_one_of_many() {
    let (store, _database) = store().await;
    let token = store.token_create("ada", "h1").await.expect("created");
    let soon = store.now() + Duration::from_mins(1);
    store.login_link_create("l1", token, soon).await.expect("created");
    let takers = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.login_link_take("l1").await })
    });
    let mut winners = 0;
    for taker in takers.collect::<Vec<_>>() {
        winners += usize::from(taker.await.expect("it ends").expect("it is answered").is_some());
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer() {
    let (store, database) = store().await;
    let token = TokenId(Uuid::now_v7());
    let begin = |key: &'static str, body: &'static str| {
        let store = store.clone();
        async move { store.idempotency_begin(token, "/p", key, body).await.expect("answered") }
    };
    assert_eq!(begin("k", "b").await, Idempotency::Fresh);
    assert_eq!(begin("k", "b").await, Idempotency::Running);
    assert_eq!(begin("k", "other").await, Idempotency::OtherBody);
    store.idempotency_finish(token, "/p", "k", 201, "application/json", b"{}").await.expect("kept");
    let replay = Idempotency::Replay {
        status: 201,
        content_type: "application/json".to_owned(),
        body: b"{}".to_vec(),
    };
    assert_eq!(begin("k", "b").await, replay);
    store.idempotency_forget(token, "/p", "k").await.expect("forgotten");
    assert_eq!(begin("k", "other").await, Idempotency::Fresh);

    // What was under way when the process ended is forgotten, what was answered is not.
    assert_eq!(begin("k2", "b").await, Idempotency::Fresh);
    store.idempotency_finish(token, "/p", "k2", 200, "text/plain", b"x").await.expect("kept");
    store.leave().await.expect("it goes");
    drop(store);
    let store = super::open_again(&super::records::settings(&database)).await;
    let begin = |key: &'static str, body: &'static str| {
        let store = store.clone();
        async move { store.idempotency_begin(token, "/p", key, body).await.expect("answered") }
    };
    assert_eq!(begin("k", "other").await, Idempotency::Fresh);
    assert!(matches!(begin("k2", "b").await, Idempotency::Replay { status: 200, .. }));

    let old = "UPDATE idempotency SET created_at = created_at - 90000000000";
    store.writer().execute_unprepared(old).await.expect("25 hours pass");
    assert_eq!(begin("k2", "b").await, Idempotency::Fresh);
}

#[tokio::test]
async fn a_request_whose_answer_could_not_be_kept_can_be_repeated() {
    let (store, _database) = store().await;
    let token = TokenId(Uuid::now_v7());
    let begin = async |key| store.idempotency_begin(token, "/p", key, "b").await.expect("answered");
    assert_eq!(begin("lost").await, Idempotency::Fresh);
    assert_eq!(begin("under way").await, Idempotency::Fresh);

    // As when the database does not answer.
    let lost = RequestKey { token, path: "/p".to_owned(), key: "lost".to_owned() };
    drop(Marking::end(&store.inner, lost));

    let since = Instant::now();
    while begin("lost").await != Idempotency::Fresh {
        assert!(since.elapsed() < Duration::from_secs(20), "it is said to be under way for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(begin("lost").await, Idempotency::Running);
    assert_eq!(begin("under way").await, Idempotency::Running);
}

#[tokio::test]
async fn the_audit_is_read_newest_first_page_by_page() {
    let (store, _database) = store().await;
    let deployment = DeploymentId(Uuid::now_v7());
    for number in 0..5 {
        let entry = NewAudit {
            actor: "ada".to_owned(),
            action: format!("action {number}"),
            subject_kind: "deployment",
            subject: deployment.to_string(),
            deployment: (number != 2).then_some(deployment),
            answer: "accepted".to_owned(),
            detail: String::new(),
        };
        store.audit(entry).await.expect("written");
    }
    let mut cursor = None;
    let mut seen = Vec::new();
    loop {
        let page = store.audits(deployment, PageRequest { limit: 2, cursor }).await.expect("read");
        seen.extend(page.items.into_iter().map(|entry| entry.action));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["action 4", "action 3", "action 1", "action 0"]);
}

#[tokio::test]
async fn scripts_are_kept_once_by_their_digest() {
    let (store, _database) = store().await;
    let script = |sha256: &str| Script { sha256: sha256.to_owned(), body: format!("# {sha256}") };
    store.scripts_put(&[script("a"), script("b")]).await.expect("kept");
    store.scripts_put(&[script("b"), script("c")]).await.expect("kept");
    store.scripts_put(&[]).await.expect("nothing to keep");
    assert_eq!(store.script("c").await.expect("read").expect("there").body, "# c");
    assert!(store.script("d").await.expect("read").is_none());
}
