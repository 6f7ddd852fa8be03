//! Several processes over one database. On a file there is only one, so these tests then run on PostgreSQL.

use std::time::Duration;

use capstan_core::dependency::{BreakerReport, BreakerState, DependencyKind};
use capstan_core::input::{Answer, Input};
use capstan_core::{DeploymentId, GroupId, ServerId};
use capstan_services::Database;
use futures::future::{join, join_all};
use sea_orm::ConnectionTrait;
use uuid::Uuid;

use super::records::{application, group_state};
use crate::bulk::{Rows, Step, quoted, sql};
use crate::idempotency::{forget_cut_off, note_made};
use crate::processes::{Ended, Member};
use crate::{Error, Idempotency, RequestKey, Settings, Store, SubmitError, load};

const LEASE: Duration = Duration::from_millis(1_200);
/// How long a test waits for what other processes do by themselves.
const PATIENCE: Duration = Duration::from_secs(30);

async fn open(database: &Database) -> Store {
    let settings = Settings { lease: LEASE, ..Settings::new(&database.url) };
    Store::open(&settings).await.expect("the store opens")
}

async fn group(store: &Store, servers: u32) -> (GroupId, Vec<ServerId>) {
    let shop = application(store, "shop").await;
    let state = group_state(store, &shop, servers).await;
    (state.id(), state.servers().iter().map(|server| server.id).collect())
}

fn pull_out(server: ServerId) -> Input {
    Input::PullOut { server, actor: "ada".to_owned(), reason: "a test".to_owned() }
}

async fn pull_out_all(store: &Store, group: GroupId, servers: &[ServerId]) {
    let asked = servers.iter().map(|server| store.submit(group, pull_out(*server)));
    for answer in join_all(asked).await {
        assert!(answer.is_ok(), "{answer:?}");
    }
}

async fn numbers(store: &Store, text: &str) -> Vec<i64> {
    let rows = store.reader().query_all_raw(sql(store.reader(), text, [])).await.expect("read");
    rows.iter().map(|row| row.try_get("", "number").expect("a number")).collect()
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

/// Runs a process that claims everything, begins a request and is gone without a word.
fn die_with_work(database: &Database, token: capstan_core::TokenId) -> String {
    let url = database.url.clone();
    let ended = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let id = runtime.block_on(async {
            let settings = Settings { lease: LEASE, ..Settings::new(url) };
            let store = Store::open(&settings).await.expect("the store opens");
            let begun = store.idempotency_begin(token, "/p", "k", "b").await.expect("answered");
            assert_eq!(begun, Idempotency::Fresh);
            let id = store.inner.member.id().to_owned();
            let text = "UPDATE effects SET owner = ?, claims = claims + 1";
            let statement = sql(store.writer(), text, [id.as_str().into()]);
            let step = Step::new(statement, "effects", Rows::Any);
            step.run(store.writer()).await.expect("claimed");
            id
        });
        runtime.shutdown_background();
        id
    });
    ended.join().expect("the process ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_silent_process_was_doing_is_free_after_its_lease() {
    let database = Database::shared();
    let store = open(&database).await;
    let (group, servers) = group(&store, 3).await;
    pull_out_all(&store, group, &servers).await;
    let token = store.token_create("ada", "hash").await.expect("a token");
    let dead = die_with_work(&database, token);
    let claimed = "SELECT COUNT(*) AS number FROM effects WHERE owner IS NOT NULL";
    assert_eq!(numbers(&store, claimed).await, [3]);

    until("its work is free", async || numbers(&store, claimed).await == [0]).await;
    let claims = "SELECT CAST(claims AS CHAR(9)) AS number FROM effects";
    let rows = store.reader().query_all_raw(sql(store.reader(), claims, [])).await.expect("read");
    for row in rows {
        let claims: String = row.try_get("", "number").expect("text");
        assert_eq!(claims.trim(), "1", "whoever takes it must know that it may have been begun");
    }
    let known = "SELECT COUNT(*) AS number FROM processes";
    assert_eq!(numbers(&store, known).await, [1], "{dead} is still there");
    let again = store.idempotency_begin(token, "/p", "k", "b").await.expect("answered");
    assert_eq!(again, Idempotency::Fresh, "its request would be under way for ever");
    assert!(store.may_act());
}

/// Its request was repeated elsewhere meanwhile: it neither does it as well nor takes the other's mark away.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_taken_over_has_no_say_in_a_request_that_was_repeated() {
    let database = Database::shared();
    let (frozen, other) = (open(&database).await, open(&database).await);
    let token = frozen.token_create("ada", "hash").await.expect("a token");
    let begin = async |store: &Store| {
        store.idempotency_begin(token, "/p", "k", "b").await.expect("answered")
    };
    assert_eq!(begin(&frozen).await, Idempotency::Fresh);
    let ended = Ended::One(frozen.inner.member.id());
    forget_cut_off(other.writer(), ended).await.expect("forgotten");
    assert_eq!(begin(&other).await, Idempotency::Fresh);

    let request = RequestKey { token, path: "/p".to_owned(), key: "k".to_owned() };
    let made = DeploymentId(Uuid::now_v7());
    let noted = note_made(frozen.writer(), &frozen.inner.member, &request, made).await;
    assert!(matches!(noted, Err(Error::GivenUp)), "{noted:?}");
    frozen.idempotency_forget(token, "/p", "k").await.expect("answered");
    assert_eq!(begin(&other).await, Idempotency::Running);
    note_made(other.writer(), &other.inner.member, &request, made).await.expect("noted");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_hands_its_work_over_at_once() {
    let database = Database::shared();
    let (store, leaves) = (open(&database).await, open(&database).await);
    let (group, servers) = group(&store, 2).await;
    pull_out_all(&store, group, &servers).await;
    let text = "UPDATE effects SET owner = ?";
    let statement = sql(store.writer(), text, [leaves.inner.member.id().into()]);
    store.writer().execute_raw(statement).await.expect("claimed");
    leaves.leave().await.expect("it goes");
    let claimed = "SELECT COUNT(*) AS number FROM effects WHERE owner IS NOT NULL";
    assert_eq!(numbers(&store, claimed).await, [0]);
}

/// On an empty database each wants to make the tables.
#[tokio::test(flavor = "multi_thread")]
async fn processes_that_start_at_the_same_time_all_start() {
    let database = Database::shared();
    let stores = join_all((0..4).map(|_| open(&database))).await;
    let known = "SELECT COUNT(*) AS number FROM processes";
    assert_eq!(numbers(&stores[0], known).await, [4]);
}

/// It was frozen, and does not know yet: nothing that it decides is written any more.
#[tokio::test]
async fn who_was_taken_over_writes_nothing() {
    let store = open(&Database::shared()).await;
    let member = &store.inner.member;
    let txn = store.begin().await.expect("a transaction begins");
    crate::processes::assert_known(&txn, member).await.expect("it is known");
    let taken_over = sql(&txn, "DELETE FROM processes WHERE id = ?", [member.id().into()]);
    txn.execute_raw(taken_over).await.expect("taken over");
    let refused = crate::processes::assert_known(&txn, member).await;
    assert!(matches!(refused, Err(Error::Silent)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_of_one_group_through_two_processes_are_all_decided_one_after_the_other() {
    let database = Database::shared();
    let (one, two) = (open(&database).await, open(&database).await);
    let (group, servers) = group(&one, 400).await;
    let (left, right) = servers.split_at(200);
    join(pull_out_all(&one, group, left), pull_out_all(&two, group, right)).await;
    let state = load::group(one.reader(), group).await.expect("read").expect("the group");
    assert!(state.servers().iter().all(|server| server.pulled_out.is_some()));
    let seqs = numbers(&one, "SELECT seq AS number FROM events ORDER BY seq").await;
    assert_eq!(seqs, (1..=400).collect::<Vec<_>>(), "an event is lost or twice");
}

/// Somebody writes the group without a pause, and so is faster each time.
#[tokio::test(flavor = "multi_thread")]
async fn who_loses_every_comparison_takes_the_groups_row_first() {
    let database = Database::shared();
    let (one, two) = (open(&database).await, open(&database).await);
    let (group, servers) = group(&one, 3).await;
    let groups = quoted(one.writer().get_database_backend(), "groups");
    let text = format!("UPDATE {groups} SET version = version + 1");
    let conn = one.writer().clone();
    let writing = tokio::spawn(async move {
        loop {
            conn.execute_unprepared(&text).await.expect("it is written");
        }
    });
    let answer = two.submit(group, pull_out(servers[0])).await;
    assert!(answer.is_ok(), "{answer:?}");
    assert!(!writing.is_finished(), "it wrote all the time");
    writing.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_refused_or_shown_from_an_old_copy() {
    let database = Database::shared();
    let (one, two) = (open(&database).await, open(&database).await);
    let (group, servers) = group(&one, 2).await;
    let server = servers[0];
    let put_back = || Input::PutBack { server, actor: "ada".to_owned() };
    // Both have a copy in which the server is not pulled out.
    for store in [&one, &two] {
        let refused = store.submit(group, put_back()).await;
        assert!(matches!(refused, Err(SubmitError::Refused(_))), "{refused:?}");
    }
    pull_out_all(&one, group, &[server]).await;
    let answer = two.submit(group, put_back()).await.expect("it was pulled out");
    assert_eq!(answer, Answer::Done);
    let refused = one.submit(group, put_back()).await;
    assert!(matches!(refused, Err(SubmitError::Refused(_))), "{refused:?}");
}

/// Only one of several engines calls a broken balancer; the breakers of the others are closed all the
/// while, and say nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_found_broken_another_does_not_call_well() {
    let database = Database::shared();
    let (one, two) = (open(&database).await, open(&database).await);
    let report = |state| BreakerReport {
        name: "load_balancer.edge".to_owned(),
        kind: DependencyKind::LoadBalancer,
        state,
        error: None,
    };
    let state = async || {
        let all = one.dependencies().await.expect("read");
        all.first().map(|row| row.state)
    };
    assert!(one.dependencies_note(&[report(BreakerState::Open)]).await.expect("noted"));
    assert!(!two.dependencies_note(&[report(BreakerState::Closed)]).await.expect("noted"));
    assert_eq!(state().await, Some(BreakerState::Open));
    assert!(one.dependencies_note(&[report(BreakerState::Closed)]).await.expect("noted"));
    assert_eq!(state().await, Some(BreakerState::Closed));
    // Who is gone finds nothing well any more.
    assert!(two.dependencies_note(&[report(BreakerState::Open)]).await.expect("noted"));
    two.leave().await.expect("it goes");
    assert!(one.dependencies_note(&[report(BreakerState::Closed)]).await.expect("noted"));
    assert_eq!(state().await, Some(BreakerState::Closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_hears_of_what_other_processes_write() {
    let database = Database::shared();
    let (one, two) = (open(&database).await, open(&database).await);
    let (group, servers) = group(&one, 1).await;
    let mut heard = two.watch_all();
    // What was there before counts as news once.
    tokio::time::timeout(PATIENCE, heard.changed()).await.expect("heard").expect("followed");
    pull_out_all(&one, group, &servers).await;
    tokio::time::timeout(PATIENCE, heard.changed()).await.expect("heard").expect("followed");
}

#[tokio::test]
async fn a_process_acts_only_for_a_while_after_it_was_heard() {
    let member = Member::among_others("me".to_owned(), Duration::from_millis(120));
    assert!(!member.may_act(), "nobody has heard of it");
    member.has_beaten_now();
    assert!(member.may_act());
    until("it falls silent", async || !member.may_act()).await;
    assert!(Member::alone("me".to_owned()).may_act());
}

#[tokio::test(flavor = "multi_thread")]
async fn fences_are_raised_by_who_is_alone_and_by_nobody_else() {
    let database = Database::shared();
    let store = open(&database).await;
    let (group, servers) = group(&store, 2).await;
    let fences = "SELECT fence AS number FROM server_states";
    let before = numbers(&store, fences).await;

    let refused = open(&database).await;
    let error = refused.fences_raise("ada").await.expect_err("another process lives");
    assert!(matches!(error, SubmitError::Store(Error::HasOthers)), "{error:?}");
    assert_eq!(numbers(&store, fences).await, before);
    refused.leave().await.expect("it goes");

    // As a backup remembers it: a process that will never beat again.
    let text = "INSERT INTO processes (id, beats, started_at) VALUES (?, 7, 0)";
    let statement = sql(store.writer(), text, ["of the backup".into()]);
    store.writer().execute_raw(statement).await.expect("it is entered");
    assert_eq!(store.fences_raise("ada").await.expect("it is alone"), 1);
    let raised = before.iter().map(|fence| fence + capstan_core::decide::RESTORED_FENCES);
    assert_eq!(numbers(&store, fences).await, raised.collect::<Vec<_>>());
    assert_eq!(servers.len(), before.len());
    let audits = "SELECT COUNT(*) AS number FROM actions WHERE action = 'fence raise' \
                  AND actor = 'ada' AND answer = 'accepted'";
    assert_eq!(numbers(&store, audits).await, [1]);
    assert!(store.group(group).await.expect("it is read").is_some());
}

/// As a server does that is just dying: whoever asks is told to try again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_up_on_new_connections_is_unavailable() {
    let (database, line) = Database::shared().behind_a_line();
    let settings = Settings { lease: LEASE, ..Settings::new(&database.url) };
    line.refuse();
    let error = Store::open(&settings).await.expect_err("nobody is let in");
    assert!(error.is_unavailable(), "{error:?}");

    line.open();
    let store = Store::open(&settings).await.expect("the store opens");
    line.refuse();
    let gone = || async {
        let read = store.application_by_name("shop").await;
        assert!(
            read.as_ref().is_ok() || read.as_ref().is_err_and(Error::is_unavailable),
            "{read:?}"
        );
        read.is_err()
    };
    until("the line is cut", gone).await;
    for _ in 0..20 {
        assert!(gone().await, "nobody is let in");
    }
}

/// Whoever asks may go away at any time, as when a request is cut off. What its connection is used for next
/// must not be part of a transaction that nobody ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_given_up_while_it_begins_is_not_open_for_others() {
    let (database, line) = Database::shared().behind_a_line();
    let settings = Settings { lease: Duration::from_mins(1), ..Settings::new(&database.url) };
    let store = Store::open(&settings).await.expect("the store opens");
    // From the first statement's way there to the last one's way back.
    for after in (20..260).step_by(20) {
        line.slow(Duration::from_millis(60));
        let begin = join_all((0..8).map(|_| store.inner.snapshot_to_show()));
        drop(tokio::time::timeout(Duration::from_millis(after), begin).await);
        line.open();
        for begun in join_all((0..8).map(|_| store.inner.snapshot_to_show())).await {
            begun.expect("no transaction is open").rollback().await.expect("it ends");
        }
    }
}
