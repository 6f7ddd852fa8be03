//! A database that an older version has written is brought up to date with what is in it.

use capstan_core::dependency::{BreakerReport, BreakerState, DependencyKind};
use capstan_migrations::Migrator;
use capstan_services::Database;
use sea_orm::ConnectionTrait;
use sea_orm_migration::MigratorTrait;

use super::records::settings;
use crate::Store;

/// Makes the first schema, and puts what `statements` say into it.
async fn first_schema(database: &Database, statements: &[&str]) {
    let url = match database.url.strip_prefix("sqlite://") {
        Some(path) => {
            let folder = std::path::Path::new(path).parent().expect("a folder");
            std::fs::create_dir_all(folder).expect("a folder");
            format!("sqlite://{path}?mode=rwc")
        }
        None => database.url.clone(),
    };
    let conn = sea_orm::Database::connect(url).await.expect("connected");
    Migrator::up(&conn, Some(1)).await.expect("the first schema");
    for statement in statements {
        conn.execute_unprepared(statement).await.expect(statement);
    }
    conn.close().await.expect("closed");
}

#[tokio::test]
async fn switches_stay_and_the_broker_becomes_a_dependency() {
    let database = Database::new();
    let cut = "INSERT INTO dependencies (name, kind, state, since, cut_off_at, cut_off_by, \
               cut_off_reason) VALUES ('load_balancer.edge', 'load_balancer', 'open', 1, 2, 'ada', \
               'ticket 17')";
    first_schema(&database, &[cut]).await;
    let store = Store::open(&settings(&database)).await.expect("it is brought up to date");
    let report = BreakerReport {
        name: "broker".to_owned(),
        kind: DependencyKind::Broker,
        state: BreakerState::Closed,
        error: None,
    };
    assert!(store.dependencies_note(&[report]).await.expect("it may be noted"));
    let all = store.dependencies().await.expect("read");
    let names: Vec<&str> = all.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["broker", "load_balancer.edge"]);
    let cut = all[1].cut_off.as_ref().expect("it is cut off");
    assert_eq!((cut.by.as_str(), cut.reason.as_str()), ("ada", "ticket 17"));
    assert_eq!(all[1].state, BreakerState::Open);
}
