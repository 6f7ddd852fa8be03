//! Databases that an older version wrote, and one that a newer version did.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use capstan_core::action::Action;
use capstan_core::checker;
use capstan_core::dependency::{BreakerReport, BreakerState, DependencyKind};
use capstan_core::input::{Act, Input};
use capstan_core::record::Flavor;
use capstan_core::rollback::History;
use capstan_services::Database;
use sea_orm::{ConnectionTrait, DbBackend};

use super::records::{settings, store};
use crate::bulk::sql;
use crate::{DeploymentFilter, Error, PageRequest, Store};

/// What a demo with four hosts wrote with the first schema: it came with 1.0.0, 1.1.0 was released, a server
/// was pulled out, the CMDB cut off, and 1.2.0 is being tried again on its bastion.
fn first_schema() -> Database {
    Database::restored(Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/schema-0001"
    )))
}

#[tokio::test]
async fn what_the_first_schema_holds_is_read_and_goes_on() {
    let database = first_schema();
    let store = Store::open(&settings(&database)).await.expect("it is brought up to date");
    let page = store.deployments(DeploymentFilter::default(), PageRequest::default()).await;
    let deployments = page.expect("deployments are listed").items;
    let told: Vec<(Flavor, &str)> =
        deployments.iter().map(|row| (row.flavor, row.package.version.as_str())).collect();
    let wanted =
        [(Flavor::Rollout, "1.2.0"), (Flavor::Rollout, "1.1.0"), (Flavor::Adopted, "1.0.0")];
    assert_eq!(told, wanted);
    let cut = store.dependencies().await.expect("dependencies are read");
    assert!(cut.iter().any(|it| it.name == "cmdb" && it.cut_off.is_some()), "{cut:?}");
    // The first schema knew no such kind.
    let report = BreakerReport {
        name: "broker".to_owned(),
        kind: DependencyKind::Broker,
        state: BreakerState::Closed,
        error: None,
    };
    assert!(store.dependencies_note(&[report]).await.expect("it may be noted"));

    let trying = &deployments[0];
    let events = store.events(trying.id, 0, 1000).await.expect("its log is read");
    checker::check(&events).expect("its log is right");
    let view = store.deployment_view(trying.id).await.expect("it is read").expect("it is there");
    assert!(view.allowed_actions.contains(&Action::Revoke), "{:?}", view.allowed_actions);
    let act = Act {
        deployment: trying.id,
        action: Action::Revoke,
        batch: None,
        without: Vec::new(),
        actor: "ann".into(),
        history: History::default(),
    };
    store.submit(trying.group, Input::Act(Box::new(act))).await.expect("it is revoked");
    let events = store.events(trying.id, 0, 1000).await.expect("its log is read");
    checker::check(&events).expect("its log is right");
    let servers = store.servers(trying.group).await.expect("servers are read");
    assert_eq!(servers.iter().filter(|server| server.pulled_out.is_some()).count(), 1);
}

#[tokio::test]
async fn a_schema_that_was_brought_up_to_date_is_that_of_a_new_database() {
    let old = first_schema();
    let done = crate::migrate(&old.url).await.expect("it is brought up to date");
    assert_eq!(done.first().map(String::as_str), Some("m0002_messages"), "{done:?}");
    assert_eq!(crate::migrate(&old.url).await.expect("it is").len(), 0);
    let old = Store::open(&settings(&old)).await.expect("it is opened");
    let (new, _database) = store().await;
    assert_eq!(schema(&old).await, schema(&new).await);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_not_touched() {
    let (store, database) = store().await;
    let backend = store.writer().get_database_backend();
    let newer = "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_later', 0)";
    store.writer().execute_unprepared(newer).await.expect("a newer version was here");
    let before = schema(&store).await;
    if backend == DbBackend::Sqlite {
        drop(store);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    let refused = loop {
        match Store::open(&settings(&database)).await {
            // The lock of a file goes when the last of its tasks has ended.
            Err(Error::InUse { .. }) if Instant::now() < deadline => tokio::task::yield_now().await,
            other => break other,
        }
    };
    let error = refused.expect_err("it is newer").to_string();
    assert!(error.contains("m9999_later") && error.contains("newer"), "{error}");
    let error = crate::migrate(&database.url).await.expect_err("it is newer").to_string();
    assert!(error.contains("m9999_later"), "{error}");
    if backend != DbBackend::Sqlite {
        let (again, _other) = super::records::store().await;
        assert_eq!(schema(&again).await, before);
    }
}

/// Every column of every table, with its type, whether it may be empty, and its default; the indexes; the
/// constraints, without the casts that a dump adds.
async fn schema(store: &Store) -> BTreeSet<String> {
    let backend = store.reader().get_database_backend();
    let text = match backend {
        DbBackend::Postgres => {
            "SELECT CONCAT_WS(' ', table_name, column_name, data_type, is_nullable, column_default) AS line \
             FROM information_schema.columns WHERE table_schema = 'public' \
             UNION SELECT CONCAT(tablename, ': ', indexdef) FROM pg_indexes WHERE schemaname = 'public' \
             UNION SELECT CONCAT(conrelid::regclass, ': ', REGEXP_REPLACE(pg_get_constraintdef(oid), \
             '::(text|character varying)|[][()]', '', 'g')) FROM pg_constraint \
             WHERE connamespace = 'public'::regnamespace"
        }
        DbBackend::MySql => {
            "SELECT CONCAT_WS(' ', table_name, column_name, column_type, is_nullable, column_default) AS line \
             FROM information_schema.columns WHERE table_schema = DATABASE() \
             UNION SELECT CONCAT_WS(' ', table_name, index_name, seq_in_index, column_name, non_unique) \
             FROM information_schema.statistics WHERE table_schema = DATABASE() \
             UNION SELECT check_clause FROM information_schema.check_constraints \
             WHERE constraint_schema = DATABASE()"
        }
        DbBackend::Sqlite | _ => {
            "SELECT type || ' ' || name || ' ' || COALESCE(sql, '') AS line FROM sqlite_schema"
        }
    };
    let rows = store.reader().query_all_raw(sql(store.reader(), text, [])).await;
    let rows = rows.expect("the schema is read");
    rows.iter().map(|row| row.try_get("", "line").expect("a line")).collect()
}
