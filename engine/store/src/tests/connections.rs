//! What becomes of a connection whose user has gone.

use std::collections::BTreeSet;

use sea_orm::{ConnectionTrait, DbBackend, Value};

use super::records::store;
use crate::bulk::sql;

/// Beginnings of transactions that are given up, each a little later than the one before.
const TRIES: i64 = 300;

/// What is written on a connection after that is committed, and in nobody's transaction.
#[tokio::test]
async fn a_transaction_that_is_given_up_while_it_begins_leaves_nothing_open() {
    let (store, _folder) = store().await;
    let (writer, reader) = (store.writer(), store.reader());
    writer.execute_unprepared("CREATE TABLE scratch (number BIGINT)").await.expect("a table");
    for number in 0..TRIES {
        tokio::select! {
            biased;
            begun = store.begin() => drop(begun.expect("it begins")),
            () = turns(number) => {}
        }
        let insert = sql(writer, "INSERT INTO scratch (number) VALUES (?)", [number.into()]);
        writer.execute_raw(insert).await.expect("it is written");
    }
    let none: [Value; 0] = [];
    let count = sql(reader, "SELECT COUNT(*) AS written FROM scratch", none);
    let row = reader.query_one_raw(count).await.expect("it is read").expect("a count");
    let written: i64 = row.try_get("", "written").expect("a number");
    assert_eq!(written, TRIES);
}

/// What is given back in a transaction is not used again, and everything else is.
#[tokio::test]
async fn a_connection_is_used_again_unless_it_is_in_a_transaction() {
    let (store, _folder) = store().await;
    let (writer, reader) = (store.writer(), store.reader());
    let own_id = match writer.get_database_backend() {
        DbBackend::Postgres => "SELECT CAST(pg_backend_pid() AS BIGINT) AS id",
        DbBackend::MySql => "SELECT CAST(CONNECTION_ID() AS SIGNED) AS id",
        // A file has one connection that writes, and nobody begins by hand.
        DbBackend::Sqlite | _ => return,
    };
    let number = async |text: &str, name: &str| {
        let row = reader.query_one_raw(sql(reader, text, [])).await.expect("it is read");
        row.expect("a row").try_get::<i64>("", name).expect("a number")
    };
    let mut ids = BTreeSet::new();
    for _ in 0..50 {
        ids.insert(number(own_id, "id").await);
    }
    assert!(ids.len() <= 8, "as many as there may be: {ids:?}");
    writer.execute_unprepared("CREATE TABLE scratch (number BIGINT)").await.expect("a table");
    for _ in 0..10 {
        writer.execute_unprepared("BEGIN").await.expect("it begins");
        let insert = "INSERT INTO scratch (number) VALUES (1)";
        writer.execute_unprepared(insert).await.expect("it is written");
    }
    assert_eq!(number("SELECT COUNT(*) AS written FROM scratch", "written").await, 10);
}

async fn turns(number: i64) {
    for _ in 0..number {
        tokio::task::yield_now().await;
    }
}
