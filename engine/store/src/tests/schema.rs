//! What the database itself refuses, and what is said when it cannot be used.

use std::collections::{BTreeMap, BTreeSet};

use capstan_core::changes::{Changes, DeploymentChanges};
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::record::Flavor;
use sea_orm::{ConnectionTrait, DbBackend};

use super::apply;
use super::records::{application, deployment, group_state, insert, package, store, write};
use crate::Error;
use crate::bulk::{quoted, sql};
use crate::tables;

#[tokio::test]
async fn a_group_has_one_running_deployment_and_a_rollback_takes_its_place_at_once() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let package = package(&store, &shop, "1.0").await;
    let mut state = group_state(&store, &shop, 2).await;
    let first = deployment(&state, &package);
    let mut revoked = first.clone();
    let changes = insert(&mut state, first);
    write(&store, &mut state, &changes).await;

    let mut second = deployment(&state, &package);
    second.flavor = Flavor::Rollback;
    let second_id = second.id;
    let changes = insert(&mut state, second);
    let txn = store.begin().await.expect("a transaction begins");
    let version = state.group.version;
    let refused = apply(&txn, &state, &changes, version, "me", &BTreeSet::new()).await;
    assert!(matches!(refused, Err(Error::Database { .. })), "{refused:?}");
    drop(txn);

    revoked.status = DeploymentStatus::Revoked;
    revoked.superseded_by = Some(second_id);
    let first_id = revoked.id;
    let mut changes = changes;
    state.insert(revoked, Vec::new(), Vec::new());
    changes.deployments.insert(first_id, DeploymentChanges::default());
    write(&store, &mut state, &changes).await;
    let running = crate::load::running_deployment(store.reader(), state.id()).await;
    assert_eq!(running.expect("it is read"), Some(second_id));
}

/// A table whose list is short has a text for each set of columns with a NULL.
#[tokio::test]
async fn the_tables_name_the_columns_that_may_be_null() {
    let (store, _database) = store().await;
    let text = match store.reader().get_database_backend() {
        DbBackend::Postgres => {
            "SELECT table_name::text AS name, column_name::text AS field FROM information_schema.columns \
             WHERE table_schema = 'public' AND is_nullable = 'YES'"
        }
        DbBackend::MySql => {
            "SELECT table_name AS name, column_name AS field FROM information_schema.columns \
             WHERE table_schema = DATABASE() AND is_nullable = 'YES'"
        }
        DbBackend::Sqlite | _ => {
            "SELECT m.name AS name, c.name AS field FROM sqlite_schema AS m, pragma_table_info(m.name) AS c \
             WHERE m.type = 'table' AND c.\"notnull\" = 0 AND c.pk = 0"
        }
    };
    let rows = store.reader().query_all_raw(sql(store.reader(), text, [])).await;
    let mut nullable = BTreeMap::<String, BTreeSet<String>>::new();
    for row in rows.expect("the schema is read") {
        let [table, column] = ["name", "field"].map(|it| row.try_get("", it).expect("a name"));
        nullable.entry(table).or_default().insert(column);
    }
    let listed = [
        (tables::SERVERS.name, tables::SERVERS.nullable),
        (tables::SERVER_STATES.name, tables::SERVER_STATES.nullable),
        (tables::DEPLOYMENTS.name, tables::DEPLOYMENTS.nullable),
        (tables::BATCHES.name, tables::BATCHES.nullable),
        (tables::TARGETS.name, tables::TARGETS.nullable),
        (tables::EVENTS.name, tables::EVENTS.nullable),
        (tables::EFFECTS.name, tables::EFFECTS.nullable),
    ];
    for (table, listed) in listed {
        let listed: BTreeSet<String> = listed.iter().map(|&it| it.to_owned()).collect();
        assert_eq!(nullable.remove(table).unwrap_or_default(), listed, "{table}");
    }
}

#[tokio::test]
async fn wrong_words_and_a_wrong_holder_of_a_group_are_refused() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let package = package(&store, &shop, "1.0").await;
    let mut state = group_state(&store, &shop, 1).await;
    let new = deployment(&state, &package);
    let id = new.id;
    let changes = insert(&mut state, new);
    write(&store, &mut state, &changes).await;
    for statement in [
        "UPDATE deployments SET status = 'DONE'",
        "UPDATE deployments SET running_group = NULL",
        "UPDATE deployments SET running_group = id",
        "UPDATE deployments SET status = 'SUCCESS'",
        "UPDATE deployments SET flavor = 'hot'",
        "UPDATE batches SET status = 'DONE'",
        "UPDATE targets SET status = 'DONE'",
        "UPDATE server_states SET service = 'maybe'",
        "UPDATE server_states SET out_because = 'fun'",
        "DELETE FROM servers",
        "DELETE FROM deployments",
        "INSERT INTO dependencies (name, kind, state, since) VALUES ('x', 'moon', 'closed', 0)",
        "INSERT INTO dependencies (name, kind, state, since) VALUES ('x', 'cmdb', 'ajar', 0)",
        "UPDATE packages SET version = '2.0'",
        "UPDATE packages SET sha256 = 'other'",
        "UPDATE packages SET application_id = id",
    ] {
        let done = store.writer().execute_unprepared(statement).await;
        assert!(done.is_err(), "{statement}");
    }
    // MySQL keeps `stored` for itself.
    let stored = quoted(store.writer().get_database_backend(), "stored");
    let allowed = [
        format!("UPDATE packages SET {stored} = (1 = 1)"),
        "UPDATE packages SET bad = '{}'".to_owned(),
    ];
    for statement in allowed {
        store.writer().execute_unprepared(&statement).await.expect(&statement);
    }
    let created = DeploymentChanges { created: true, ..DeploymentChanges::default() };
    let again = Changes { deployments: BTreeMap::from([(id, created)]), ..Changes::default() };
    let txn = store.begin().await.expect("a transaction begins");
    assert!(apply(&txn, &state, &again, 2, "me", &BTreeSet::new()).await.is_err());
}
