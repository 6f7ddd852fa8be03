//! What one process leaves another one hears of, on PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use capstan_core::ports::Queue;
use capstan_services::Database;
use futures::FutureExt;
use sea_orm::{ConnectionTrait, DbBackend};
use tokio::sync::Semaphore;

use crate::bulk::sql;
use crate::listen::{Word, hear};
use crate::queue::OwnQueue;
use crate::{Settings, Store};

const PATIENCE: Duration = Duration::from_secs(30);

async fn open(database: &Database) -> Store {
    Store::open(&Settings::new(&database.url)).await.expect("the store opens")
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

/// Listens beside a store, and is woken by all but `id`.
fn listener(database: &Database, store: &Store, id: &str) -> Arc<OwnQueue> {
    let queue = Arc::new(OwnQueue::default());
    let word = Word::over(&database.url, Arc::clone(&queue)).expect("it is PostgreSQL");
    let (inner, id, heard) = (Arc::downgrade(&store.inner), id.to_owned(), Arc::clone(&queue));
    tokio::spawn(async move { hear(&inner, &heard, word.options(), &id).await });
    queue
}

#[tokio::test]
async fn a_word_wakes_every_process_but_its_own() {
    let database = Database::shared();
    let (tells, other) = (open(&database).await, open(&database).await);
    if tells.writer().get_database_backend() != DbBackend::Postgres {
        assert!(tells.inner.queue.look_every().is_none(), "nobody tells it");
        return;
    }
    let own = listener(&database, &tells, tells.inner.member.id());
    let woken = listener(&database, &other, other.inner.member.id());
    // Once both listen; whoever begins to listen is woken by that.
    for queue in [&own, &woken] {
        tokio::time::timeout(PATIENCE, queue.woken()).await.expect("it listens");
    }
    tells.inner.nudge(None, tells.now());
    tokio::time::timeout(PATIENCE, woken.woken()).await.expect("it is told");
    until("its own word is heard", async || own.has_heard()).await;
    assert!(own.woken().now_or_never().is_none(), "and wakes it not");
    assert_eq!(woken.look_every(), Some(Duration::from_secs(1)));
}

#[tokio::test]
async fn an_engine_hears_itself_and_listens_again_when_its_line_is_cut() {
    let database = Database::shared();
    let store = open(&database).await;
    if store.writer().get_database_backend() != DbBackend::Postgres {
        return;
    }
    let ask = async |text: &str| {
        let rows = store.reader().query_all_raw(sql(store.reader(), text, [])).await;
        let rows = rows.expect("it is read");
        rows.iter().map(|row| row.try_get("", "pid").expect("a number")).collect::<Vec<i32>>()
    };
    let listening = "SELECT pid FROM pg_stat_activity \
                     WHERE datname = current_database() AND application_name = 'capstan listens'";
    assert!(ask(listening).await.is_empty(), "who has no engine does not listen");
    let _work = store.take_work(Arc::new(Semaphore::new(1)), 1).await.expect("it is taken");
    let looks = || store.inner.queue.look_every();
    until("it hears itself", async || looks().is_some()).await;
    let before = ask(listening).await;
    assert_eq!(before.len(), 1);
    let pid = before[0];
    let cut = format!("SELECT {pid} AS pid WHERE pg_terminate_backend({pid})");
    assert_eq!(ask(&cut).await, before);
    until("another one listens", async || {
        let now = ask(listening).await;
        now.len() == 1 && now != before && looks().is_some()
    })
    .await;
}
