//! What the database itself refuses, and what is said when it cannot be used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use capstan_core::changes::{Changes, DeploymentChanges};
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::record::Flavor;
use sea_orm::ConnectionTrait;

use super::apply;
use super::records::{application, deployment, group_state, insert, package, store, write};
use crate::store::commit;
use crate::{Error, Settings, Store};

fn settings(path: &std::path::Path) -> Settings {
    Settings { url: format!("sqlite://{}", path.display()), stale_after: Duration::from_mins(1) }
}

#[tokio::test]
async fn a_group_has_one_running_deployment_and_a_rollback_takes_its_place_at_once() {
    let (store, _folder) = store().await;
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

#[tokio::test]
async fn wrong_words_and_a_wrong_holder_of_a_group_are_refused() {
    let (store, _folder) = store().await;
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
    let allowed = ["UPDATE packages SET stored = 1", "UPDATE packages SET bad = '{}'"];
    for statement in allowed {
        store.writer().execute_unprepared(statement).await.expect(statement);
    }
    let created = DeploymentChanges { created: true, ..DeploymentChanges::default() };
    let again = Changes { deployments: BTreeMap::from([(id, created)]), ..Changes::default() };
    let txn = store.begin().await.expect("a transaction begins");
    assert!(apply(&txn, &state, &again, 2, "me", &BTreeSet::new()).await.is_err());
}

#[tokio::test]
async fn the_file_is_for_its_user_only_and_opens_again_as_it_was() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a/b/capstan.db");
    let store = Store::open(&settings(&path)).await.expect("the store opens");
    let shop = application(&store, "shop").await;
    let mode = |path: &std::path::Path| {
        fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    };
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&path.with_file_name("capstan.db-wal")), 0o600);
    assert_eq!(mode(path.parent().expect("a folder")), 0o700);
    drop(store);
    let again = super::open_again(&settings(&path)).await;
    let view = again.application(shop.id).await.expect("it is read").expect("it is there");
    assert_eq!(view.name, "shop");
    again.check().await.expect("it can be read and written");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("capstan.db");
    fs::write(&path, "this is no database, whatever its name says. ".repeat(100))
        .expect("the file is written");
    let error = Store::open(&settings(&path)).await.expect_err("it is no database");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    assert!(!error.is_unavailable());
}

#[tokio::test]
async fn a_full_disk_is_unavailable_and_passes() {
    let (store, _folder) = store().await;
    let shop = application(&store, "shop").await;
    // A limit on the file's pages is how SQLite meets a full disk without one.
    let limit = "PRAGMA max_page_count = 1";
    store.writer().execute_unprepared(limit).await.expect("the limit is set");
    let mut error = None;
    for number in 0..10_000 {
        if let Err(refused) = store.token_create("ada", &format!("hash {number}")).await {
            error = Some(refused);
            break;
        }
    }
    let error = error.expect("the file cannot grow for ever");
    assert!(error.is_unavailable(), "{error:?}");
    assert!(store.application(shop.id).await.expect("reading goes on").is_some());
    let limit = "PRAGMA max_page_count = 1000000";
    store.writer().execute_unprepared(limit).await.expect("the limit is lifted");
    store.token_create("ada", "another").await.expect("writing goes on");
    store.check().await.expect("it can be read and written");
}

/// What SQLite does when the disk is full as a transaction is written: it ends it by itself. The
/// driver goes on counting it, and without care what is "committed" later is part of a transaction
/// that nobody ends.
#[tokio::test]
async fn a_transaction_that_the_database_ended_spoils_none_that_follows() {
    let (store, _folder) = store().await;
    let txn = store.begin().await.expect("a transaction begins");
    txn.execute_unprepared("ROLLBACK").await.expect("the database ends it");
    commit(txn).await.expect_err("there is nothing to commit");
    drop(store.begin().await.expect("a transaction begins, and is given up"));

    let txn = store.begin().await.expect("a transaction begins");
    let write = "INSERT INTO scripts (sha256, body) VALUES ('digest', 'body')";
    txn.execute_unprepared(write).await.expect("a row is written");
    commit(txn).await.expect("committed");
    // Readers have connections of their own: they see what is durable and nothing else.
    assert!(store.script("digest").await.expect("it can be read").is_some());
}

#[tokio::test]
async fn a_database_that_must_not_be_written_is_unavailable() {
    let (store, _folder) = store().await;
    let forbid = "PRAGMA query_only = ON";
    store.writer().execute_unprepared(forbid).await.expect("writing is forbidden");
    let error = store.check().await.expect_err("it cannot be written");
    assert!(error.is_unavailable(), "{error:?}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("file"), "").expect("the file is written");
    let path = folder.path().join("file/capstan.db");
    let error = Store::open(&settings(&path)).await.expect_err("a file is no folder");
    assert!(matches!(error, Error::Create { .. }), "{error:?}");
    assert!(error.to_string().contains("/file"), "{error}");
}
