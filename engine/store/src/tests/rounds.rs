//! Rounds that are decided while the one before is written: nothing is lost, seen too early or kept from
//! others, whatever becomes of the write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use capstan_core::input::{Answer, Input};
use capstan_core::{GroupId, ServerId};
use capstan_services::Database;
use futures::FutureExt;
use futures::future::join_all;
use sea_orm::{ConnectionTrait, DbBackend};

use super::records::{application, group_state, settings, store};
use crate::bulk::quoted;
use crate::{Error, Store, SubmitError, load};

/// How long all rounds of a test may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// Enough for several full rounds.
const SERVERS: u32 = 1_000;

async fn group(store: &Store) -> (GroupId, Vec<ServerId>) {
    let shop = application(store, "shop").await;
    let state = group_state(store, &shop, SERVERS).await;
    (state.id(), state.servers().iter().map(|server| server.id).collect())
}

async fn pull_out(
    store: &Store,
    group: GroupId,
    servers: &[ServerId],
) -> Vec<Result<Answer, SubmitError>> {
    join_all(servers.iter().map(|server| {
        let (actor, reason) = ("ada".to_owned(), "a test".to_owned());
        store.submit(group, Input::PullOut { server: *server, actor, reason })
    }))
    .await
}

async fn sql(store: &Store, text: &str) {
    store.writer().execute_unprepared(text).await.expect("the statement runs");
}

/// What the database holds: who is pulled out, and the numbers of the group's own events.
async fn written(store: &Store, group: GroupId) -> (Vec<ServerId>, Vec<i64>) {
    let state = load::group(store.reader(), group).await.expect("read").expect("the group");
    let out = state.servers().iter().filter(|server| server.pulled_out.is_some());
    let events = store
        .writer()
        .query_all_raw(crate::bulk::sql(
            store.reader(),
            "SELECT seq FROM events WHERE stream = ? ORDER BY seq",
            [group.0.into()],
        ))
        .await
        .expect("read");
    let seqs = events.iter().map(|row| row.try_get("", "seq").expect("a number")).collect();
    (out.map(|server| server.id).collect(), seqs)
}

fn sorted(mut servers: Vec<ServerId>) -> Vec<ServerId> {
    servers.sort_unstable();
    servers
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_lose_to_another_process_are_decided_again() {
    let (store, _database) = store().await;
    let (group, servers) = group(&store).await;
    let ended = Arc::new(AtomicBool::new(false));
    let other = tokio::spawn({
        let (store, ended) = (store.clone(), Arc::clone(&ended));
        async move {
            let groups = quoted(store.inner.backend(), "groups");
            let bump = format!("UPDATE {groups} SET version = version + 1");
            // As another process would: the copies of this one are then wrong.
            let mut times = 0;
            while !ended.load(Ordering::Relaxed) && times < 5 {
                sql(&store, &bump).await;
                times += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            times
        }
    });
    for answer in pull_out(&store, group, &servers).await {
        assert!(answer.is_ok(), "{answer:?}");
    }
    ended.store(true, Ordering::Relaxed);
    assert!(other.await.expect("the other process ends") > 0);
    let (out, seqs) = written(&store, group).await;
    assert_eq!(sorted(out), sorted(servers));
    assert_eq!(seqs, (1..=i64::from(SERVERS)).collect::<Vec<_>>(), "an event is lost or twice");
}

/// Makes the database refuse to pull a server out.
async fn refuse(store: &Store, server: ServerId) {
    let id = server.0;
    let text = match store.writer().get_database_backend() {
        DbBackend::Postgres => format!(
            "ALTER TABLE server_states ADD CHECK (server_id <> '{id}' OR pulled_out IS NULL)"
        ),
        DbBackend::MySql => format!(
            "ALTER TABLE server_states ADD CHECK (server_id <> X'{}' OR pulled_out IS NULL)",
            id.simple()
        ),
        DbBackend::Sqlite | _ => format!(
            "CREATE TRIGGER refuses BEFORE UPDATE ON server_states WHEN NEW.server_id = X'{}' \
             BEGIN SELECT RAISE(ABORT, 'refused by the test'); END",
            id.simple()
        ),
    };
    sql(store, &text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_cannot_be_written_fails_alone() {
    let (store, _database) = store().await;
    let (group, servers) = group(&store).await;
    let place = 400;
    refuse(&store, servers[place]).await;
    let answers = pull_out(&store, group, &servers).await;
    for (server, answer) in servers.iter().zip(&answers) {
        assert_eq!(answer.is_err(), *server == servers[place], "{server}: {answer:?}");
    }
    let (out, seqs) = written(&store, group).await;
    let mut rest = servers;
    rest.remove(place);
    assert_eq!(sorted(out), sorted(rest));
    assert_eq!(seqs, (1..i64::from(SERVERS)).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_copy_gets_one_that_is_written() {
    let (store, _database) = store().await;
    let (group, servers) = group(&store).await;
    let busy = tokio::spawn({
        let store = store.clone();
        async move { pull_out(&store, group, &servers).await }
    });
    let mut looks = 0;
    let deadline = Instant::now() + PATIENCE;
    while !busy.is_finished() {
        assert!(Instant::now() < deadline, "they are not answered");
        let copy = store.inner.cache.lock(group).await;
        let written = load::group_version(store.reader(), group).await.expect("read");
        if let Some(state) = &*copy {
            assert_eq!(Some(state.group.version), written);
        }
        looks += 1;
        drop(copy);
        tokio::task::yield_now().await;
    }
    assert!(busy.await.expect("it ends").iter().all(Result::is_ok));
    assert!(looks > 3, "the copy was let go {looks} times");
}

async fn number(store: &Store, pragma: &str) -> i64 {
    let statement = crate::bulk::sql(store.reader(), &format!("PRAGMA {pragma}"), []);
    let row = store.writer().query_one_raw(statement).await.expect("read").expect("a row");
    row.try_get("", pragma).expect("a number")
}

/// A disk that is full in the middle fails the round that meets it; the one that was decided meanwhile, on
/// copies that are thrown away, is decided again.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_decided_ahead_of_one_that_finds_the_disk_full_is_decided_again() {
    let database = Database::file();
    let store = Store::open(&settings(&database)).await.expect("the store opens");
    let (group, servers) = group(&store).await;
    // Room for some rounds, and for all of them once a write has failed.
    let pages = number(&store, "page_count").await;
    sql(&store, &format!("PRAGMA max_page_count = {}", pages + 25)).await;
    let freed = tokio::spawn({
        let store = store.clone();
        async move {
            while store.inner.last_write().is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            sql(&store, &format!("PRAGMA max_page_count = {}", pages + 100_000)).await;
        }
    });
    let answers = pull_out(&store, group, &servers).await;
    let freed = tokio::time::timeout(PATIENCE, freed).await;
    freed.expect("a write failed").expect("the disk has room again");
    let by_answer = |is_ok| {
        let all = servers.iter().zip(&answers).filter(move |(_, answer)| answer.is_ok() == is_ok);
        all.map(|(server, _)| *server).collect::<Vec<ServerId>>()
    };
    let (done, failed) = (by_answer(true), by_answer(false));
    assert!(!done.is_empty() && !failed.is_empty(), "{} inputs failed", failed.len());
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        // Refused by the write that failed, and not dropped.
        assert!(matches!(error, SubmitError::Store(Error::Shared(_))), "{error:?}");
    }
    let (out, seqs) = written(&store, group).await;
    let count = i64::try_from(done.len()).expect("a count");
    assert_eq!(sorted(out), sorted(done));
    assert_eq!(seqs, (1..=count).collect::<Vec<_>>());
    for answer in pull_out(&store, group, &failed).await {
        assert!(answer.is_ok(), "{answer:?}");
    }
    let (out, seqs) = written(&store, group).await;
    assert_eq!(sorted(out), sorted(servers));
    assert_eq!(seqs, (1..=i64::from(SERVERS)).collect::<Vec<_>>());
}

/// What was asked before the process let go of the store is written, though nobody waits for an answer.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_before_a_shutdown_is_written() {
    let database = Database::file();
    let store = Store::open(&settings(&database)).await.expect("the store opens");
    let (group, servers) = group(&store).await;
    for server in &servers {
        let (actor, reason) = ("ada".to_owned(), "a test".to_owned());
        let input = Input::PullOut { server: *server, actor, reason };
        // Asked once, and not waited for.
        let asked = tokio::task::unconstrained(store.submit(group, input)).now_or_never();
        assert!(asked.is_none(), "{asked:?}");
    }
    drop(store);
    // The committer has the file until it has ended.
    let store = super::open_again(&settings(&database)).await;
    let (out, seqs) = written(&store, group).await;
    assert_eq!(sorted(out), sorted(servers));
    assert_eq!(seqs, (1..=i64::from(SERVERS)).collect::<Vec<_>>());
}
