//! Refreshes of one group, asked for in several processes.

use std::time::Duration;

use capstan_core::GroupId;
use capstan_services::Database;
use futures::future::join_all;
use uuid::Uuid;

use crate::bulk::sql;
use crate::{RefreshWish, Refreshing, Settings, Store};
use sea_orm::ConnectionTrait;

const LEASE: Duration = Duration::from_mins(1);

async fn open(database: &Database) -> Store {
    Store::open(&Settings::new(&database.url)).await.expect("the store opens")
}

async fn wish(store: &Store, group: GroupId) -> RefreshWish {
    store.refresh_wish(group).await.expect("it is noted")
}

async fn begin(store: &Store, wish: RefreshWish) -> Refreshing {
    store.refresh_begin(wish, LEASE).await.expect("it is answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_refreshes_and_those_who_wished_before_its_end_are_told() {
    let database = Database::shared();
    let stores = join_all((0..4).map(|_| open(&database))).await;
    let group = GroupId(Uuid::now_v7());
    let wishes = join_all(stores.iter().map(|store| wish(store, group))).await;
    let begun = stores.iter().zip(&wishes).map(|(store, wish)| begin(store, *wish));
    let begun = join_all(begun).await;
    let holders: Vec<usize> = (0..4).filter(|at| begun[*at] == Refreshing::Begun).collect();
    assert_eq!(holders.len(), 1, "{begun:?}");
    let (holder, other) = (holders[0], (holders[0] + 1) % 4);
    let late = wish(&stores[other], group).await;
    stores[holder].refresh_end(wishes[holder], Some("good")).await.expect("it ends");
    let told = Refreshing::Ended("good".to_owned());
    for at in (0..4).filter(|at| *at != holder) {
        assert_eq!(begin(&stores[at], wishes[at]).await, told);
    }
    assert_eq!(begin(&stores[other], late).await, told, "it was under way when this came up");
    let after = wish(&stores[other], group).await;
    assert_eq!(begin(&stores[other], after).await, Refreshing::Begun, "this needs another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_failed_for_reasons_of_its_own_tells_nobody() {
    let database = Database::shared();
    let (one, two) = (open(&database).await, open(&database).await);
    let group = GroupId(Uuid::now_v7());
    let (first, second) = (wish(&one, group).await, wish(&two, group).await);
    assert_eq!(begin(&one, first).await, Refreshing::Begun);
    assert_eq!(begin(&two, second).await, Refreshing::UnderWay);
    one.refresh_end(first, None).await.expect("it ends");
    assert_eq!(begin(&two, second).await, Refreshing::Begun);
    one.refresh_end(first, Some("late")).await.expect("it is passed over");
    assert_eq!(begin(&one, first).await, Refreshing::UnderWay, "the other one is at it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_refresh_of_a_process_that_is_gone_or_late_is_anybodys() {
    let database = Database::shared();
    let (one, two) = (open(&database).await, open(&database).await);
    let group = GroupId(Uuid::now_v7());
    let (first, second) = (wish(&one, group).await, wish(&two, group).await);
    assert_eq!(
        one.refresh_begin(first, Duration::ZERO).await.expect("answered"),
        Refreshing::Begun
    );
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(begin(&two, second).await, Refreshing::Begun, "its lease is over");
    assert_eq!(begin(&one, first).await, Refreshing::UnderWay);
    // A process that lives would enter itself anew.
    let gone = "UPDATE refreshes SET holder = 'gone' WHERE group_id = ?";
    let gone = sql(two.writer(), gone, [group.0.into()]);
    two.writer().execute_raw(gone).await.expect("its holder is nobody that is known");
    assert_eq!(begin(&one, first).await, Refreshing::Begun, "the other process is gone");
}
