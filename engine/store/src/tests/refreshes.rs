//! Refreshes of one group, asked for in several processes.

use std::time::Duration;

use capstan_core::GroupId;
use capstan_services::Database;
use futures::future::join_all;
use uuid::Uuid;

use crate::bulk::sql;
use crate::{RefreshTurn, RefreshWish, Refreshing, Settings, Store};
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

/// The turn that is given now.
async fn turn(store: &Store, wish: RefreshWish) -> RefreshTurn {
    match begin(store, wish).await {
        Refreshing::Begun(turn) => turn,
        other @ (Refreshing::UnderWay | Refreshing::Ended(_)) => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_told(refreshing: &Refreshing, what: &str) {
    assert!(matches!(refreshing, Refreshing::Ended(told) if told == what), "{refreshing:?}");
}

#[track_caller]
fn assert_under_way(refreshing: &Refreshing) {
    assert!(matches!(refreshing, Refreshing::UnderWay), "{refreshing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_refreshes_and_those_who_wished_before_it_began_are_told() {
    let database = Database::shared();
    let stores = join_all((0..4).map(|_| open(&database))).await;
    let group = GroupId(Uuid::now_v7());
    let wishes = join_all(stores.iter().map(|store| wish(store, group))).await;
    let begun = stores.iter().zip(&wishes).map(|(store, wish)| begin(store, *wish));
    let mut begun = join_all(begun).await;
    let is_begun = |it: &Refreshing| matches!(it, Refreshing::Begun(_));
    let holder = begun.iter().position(is_begun).expect("one begins");
    assert_eq!(begun.iter().filter(|it| is_begun(it)).count(), 1, "{begun:?}");
    let Refreshing::Begun(first) = begun.swap_remove(holder) else { unreachable!("it is one") };
    let other = (holder + 1) % 4;
    // It may have asked the CMDB already: what is known since then needs another one, in any process.
    let late = [wish(&stores[other], group).await, wish(&stores[holder], group).await];
    assert_under_way(&begin(&stores[holder], late[1]).await);
    stores[holder].refresh_end(first, Some("old")).await.expect("it ends");
    for at in (0..4).filter(|at| *at != holder) {
        assert_told(&begin(&stores[at], wishes[at]).await, "old");
    }
    let second = turn(&stores[other], late[0]).await;
    assert_under_way(&begin(&stores[holder], late[1]).await);
    assert_told(&begin(&stores[(holder + 2) % 4], wishes[(holder + 2) % 4]).await, "old");
    stores[other].refresh_end(second, Some("new")).await.expect("it ends");
    assert_told(&begin(&stores[holder], late[1]).await, "new");
    let after = wish(&stores[holder], group).await;
    turn(&stores[holder], after).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_failed_for_reasons_of_its_own_tells_nobody() {
    let database = Database::shared();
    let (one, two) = (open(&database).await, open(&database).await);
    let group = GroupId(Uuid::now_v7());
    let (first, second) = (wish(&one, group).await, wish(&two, group).await);
    let failed = turn(&one, first).await;
    assert_under_way(&begin(&two, second).await);
    one.refresh_end(failed, None).await.expect("it ends");
    let again = turn(&two, second).await;
    assert_under_way(&begin(&one, first).await);
    two.refresh_end(again, Some("good")).await.expect("it ends");
    assert_told(&begin(&one, first).await, "good");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_refresh_of_a_process_that_is_gone_or_late_is_anybodys() {
    let database = Database::shared();
    let (one, two) = (open(&database).await, open(&database).await);
    let group = GroupId(Uuid::now_v7());
    let (first, second) = (wish(&one, group).await, wish(&two, group).await);
    let late = one.refresh_begin(first, Duration::ZERO).await.expect("answered");
    let Refreshing::Begun(late) = late else { panic!("{late:?}") };
    tokio::time::sleep(Duration::from_millis(2)).await;
    let taken = turn(&two, second).await;
    one.refresh_end(late, Some("late")).await.expect("it is passed over");
    assert_under_way(&begin(&one, first).await);
    drop(taken);
    // A process that lives would enter itself anew.
    let gone = "UPDATE refreshes SET holder = 'gone' WHERE group_id = ?";
    let gone = sql(two.writer(), gone, [group.0.into()]);
    two.writer().execute_raw(gone).await.expect("its holder is nobody that is known");
    turn(&one, first).await;
}
