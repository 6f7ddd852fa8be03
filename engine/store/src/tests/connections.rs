//! What becomes of a connection whose user has gone.

use sea_orm::{ConnectionTrait, Value};

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

async fn turns(number: i64) {
    for _ in 0..number {
        tokio::task::yield_now().await;
    }
}
