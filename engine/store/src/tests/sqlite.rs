//! What a database file adds: who may read it, what is said when it cannot be used, a full disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use capstan_services::Database;
use sea_orm::ConnectionTrait;

use super::records::application;
use crate::store::commit;
use crate::{Error, Settings, Store};

fn settings(path: &std::path::Path) -> Settings {
    Settings::new(format!("sqlite://{}", path.display()))
}

/// A store in a file, whichever database the other tests are run on.
async fn store() -> (Store, Database) {
    let database = Database::file();
    let settings = super::records::settings(&database);
    (Store::open(&settings).await.expect("the store opens"), database)
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
    let (store, _database) = store().await;
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
    let (store, _database) = store().await;
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
    let (store, _database) = store().await;
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
