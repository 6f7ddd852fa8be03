//! What is applied can be loaded again and is the same.

use std::collections::{BTreeMap, BTreeSet};

use capstan_core::batch_status::BatchStatus;
use capstan_core::changes::{Changes, DeploymentChanges};
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::record::{BastionRule, Flavor, Service};
use capstan_core::state::GroupState;
use capstan_core::target_status::TargetStatus;
use sea_orm::{ConnectionTrait, QueryResult, Value};

use super::apply;
use super::records::{
    application, at, batch, deployment, event, group_state, insert, known_server, package, server,
    store, write,
};
use crate::bulk::tests::PETS;
use crate::bulk::{Applied, Existing, rows, sql};
use crate::{Error, Store, load};

async fn load_again(store: &Store, state: &GroupState) -> GroupState {
    let mut loaded = load::group(store.reader(), state.id())
        .await
        .expect("the group is read")
        .expect("the group is there");
    for it in state.deployments() {
        let id = it.deployment.id;
        assert!(load::deployment(store.reader(), &mut loaded, id).await.expect("it is read"));
    }
    for it in loaded.deployments() {
        assert!(it.recount(&loaded));
    }
    loaded
}

#[tokio::test]
async fn every_record_comes_back_as_it_was_written() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let package = package(&store, &shop, "1.0").await;
    let mut state = group_state(&store, &shop, 2).await;
    assert_eq!(load_again(&store, &state).await, state);

    state.group.refresh_held = Some("3 of 4 servers".to_owned());
    state.group.observed_at = Some(at(20));
    state.group.synced_at = at(21);
    state.group.cmdb_revision = 8;
    state.group.application.bastion = BastionRule::None;
    state.group.seq = 1;
    let known = known_server(2, &package);
    let mut bare = server(3);
    bare.service = Service::Unknown;
    bare.retired = true;
    let new = deployment(&state, &package);
    let (known_id, bare_id, new_id) = (known.id, bare.id, new.id);
    state.insert_server(known);
    state.insert_server(bare);
    let mut changes = insert(&mut state, new);
    changes.group = true;
    changes.servers = BTreeSet::from([known_id, bare_id]);
    changes.server_records = changes.servers.clone();
    changes.events = vec![event(&state, Some(new_id), 1), event(&state, None, 1)];
    write(&store, &mut state, &changes).await;
    assert_eq!(load_again(&store, &state).await, state);
    assert_eq!(store.events(new_id, 0, 10).await.expect("events"), changes.events[..1]);
    let running = load::running_deployment(store.reader(), state.id()).await.expect("it is read");
    assert_eq!(running, Some(new_id));
}

#[tokio::test]
async fn a_deployment_with_nothing_optional_comes_back_and_changes() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let package = package(&store, &shop, "1.0").await;
    let mut state = group_state(&store, &shop, 3).await;
    let mut draft = deployment(&state, &package);
    draft.status = DeploymentStatus::Pending;
    draft.flavor = Flavor::Scaleout;
    draft.holds.clear();
    (draft.parent, draft.origin, draft.restores, draft.superseded_by) = (None, None, None, None);
    (draft.started_at, draft.ended_at, draft.ignore_verify_reason) = (None, None, None);
    let id = draft.id;
    let changes = insert(&mut state, draft.clone());
    write(&store, &mut state, &changes).await;
    assert_eq!(load_again(&store, &state).await, state);
    assert_eq!(load::running_deployment(store.reader(), state.id()).await.expect("read"), None);

    let mut targets = state.deployment(id).expect("it is there").targets().to_vec();
    targets[1] = capstan_core::record::Target {
        id: targets[1].id,
        status: TargetStatus::Pending,
        order: None,
        order_digest: None,
        cause: None,
        message: None,
        batch: 2,
        ..targets[1].clone()
    };
    draft.status = DeploymentStatus::Smoking;
    draft.seq = 3;
    let mut second = batch(&draft, 2);
    second.status = BatchStatus::Deploying;
    state.insert(draft.clone(), vec![batch(&draft, 1), second], targets);
    let change = DeploymentChanges {
        created: false,
        batches: BTreeSet::from([2]),
        targets: BTreeSet::from([1]),
    };
    let changes = Changes { deployments: BTreeMap::from([(id, change)]), ..Changes::default() };
    write(&store, &mut state, &changes).await;
    assert_eq!(load_again(&store, &state).await, state);
}

#[tokio::test]
async fn a_stale_version_loses_and_nothing_is_written() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let mut state = group_state(&store, &shop, 1).await;
    let id = state.servers()[0].id;
    let changes = Changes { servers: BTreeSet::from([id]), ..Changes::default() };
    let mut other = state.clone();
    write(&store, &mut other, &changes).await;

    state.change_server(id, |server| server.service = Service::Out);
    let txn = store.begin().await.expect("a transaction begins");
    let applied = apply(&txn, &state, &changes, state.group.version, "me", &BTreeSet::new()).await;
    assert_eq!(applied.expect("it is answered"), Applied::Lost);
    drop(txn);
    assert_eq!(load_again(&store, &other).await, other);
}

#[tokio::test]
async fn a_number_that_comes_twice_in_a_log_gives_up_the_transaction() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let mut state = group_state(&store, &shop, 1).await;
    let events = vec![event(&state, None, 1)];
    let changes = Changes { events, ..Changes::default() };
    write(&store, &mut state, &changes).await;
    let txn = store.begin().await.expect("a transaction begins");
    let again = apply(&txn, &state, &changes, state.group.version, "me", &BTreeSet::new()).await;
    assert!(matches!(again, Err(Error::Database { .. })), "{again:?}");
}

#[tokio::test]
async fn a_group_larger_than_one_statement_is_written_and_changed() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let package = package(&store, &shop, "1.0").await;
    let mut state = group_state(&store, &shop, 3_000).await;
    let changes = {
        let new = deployment(&state, &package);
        insert(&mut state, new)
    };
    write(&store, &mut state, &changes).await;
    assert_eq!(load_again(&store, &state).await, state);
}

#[tokio::test]
async fn an_old_copy_of_the_application_is_not_written_back() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let mut first = group_state(&store, &shop, 1).await;
    let mut second = group_state(&store, &shop, 1).await;
    first.group.application.owner = "Team Blau".to_owned();
    first.group.synced_at = at(30);
    let changes = Changes { group: true, ..Changes::default() };
    write(&store, &mut first, &changes).await;
    second.group.observed_at = Some(at(31));
    write(&store, &mut second, &changes).await;
    let view = store.application(shop.id).await.expect("it is read").expect("it is there");
    assert_eq!(view.owner, "Team Blau");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named() {
    use sea_orm::ConnectionTrait;
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let state = group_state(&store, &shop, 1).await;
    store
        .writer()
        .execute_unprepared("UPDATE server_states SET pulled_out = '{'")
        .await
        .expect("the row is damaged");
    let error = load::group(store.reader(), state.id()).await.expect_err("it cannot be read");
    let text = error.to_string();
    assert!(text.contains("server_states"), "{text}");
    assert!(text.contains(&state.servers()[0].id.to_string()), "{text}");
    assert!(!error.is_unavailable());
    let missing = Changes { servers: BTreeSet::from([server(5).id]), ..Changes::default() };
    let txn = store.begin().await.expect("a transaction begins");
    let applied = apply(&txn, &state, &missing, 1, "me", &BTreeSet::new()).await;
    assert!(matches!(applied, Err(Error::Missing { what: "server", .. })), "{applied:?}");
}

/// Some are there, some are not, and values are of every awkward kind.
#[tokio::test]
async fn rows_of_which_some_are_there_are_all_written() {
    let (store, _database) = store().await;
    let conn = store.writer();
    let table = "CREATE TABLE pets (id INT PRIMARY KEY, kind VARCHAR(50), age BIGINT)";
    conn.execute_unprepared(table).await.expect("a table");
    let awkward = "\"cat\\\", NULL {é},";
    let pet = |id: i32, age: Option<i64>| [Value::from(id), awkward.into(), age.into()];
    let one = pet(1, Some(i64::MAX)).to_vec();
    let three = [pet(1, None), pet(2, Some(-7)), pet(3, None)].concat();
    for values in [one, three] {
        for step in rows(conn.get_database_backend(), &PETS, Existing::Update, values) {
            assert_eq!(step.run(conn).await.expect("written"), Applied::Done);
        }
    }
    let found = conn.query_all_raw(sql(conn, "SELECT * FROM pets ORDER BY id", [])).await;
    let read = |row: &QueryResult| {
        let column = |name| row.try_get::<Option<i64>>("", name).expect("a number");
        let id: i32 = row.try_get("", "id").expect("a number");
        let kind: String = row.try_get("", "kind").expect("a text");
        (id, kind, column("age"))
    };
    let found: Vec<_> = found.expect("read").iter().map(read).collect();
    let wanted = [(1, None), (2, Some(-7)), (3, None)];
    assert_eq!(found, wanted.map(|(id, age)| (id, awkward.to_owned(), age)));
}
