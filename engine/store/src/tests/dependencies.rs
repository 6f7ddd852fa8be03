//! Outside dependencies: what is noted, switched, and told to groups.

use std::time::Duration;

use capstan_core::dependency::{BreakerReport, BreakerState, Condition, DependencyKind};
use capstan_core::view::CutOff;

use capstan_services::Lines;
use sea_orm::{ConnectionTrait, DbBackend};

use super::records::{application, group_state, store};
use crate::Store;
use crate::bulk::sql;

const EDGE: &str = "load_balancer.edge";

fn report(name: &str, kind: DependencyKind, state: BreakerState) -> BreakerReport {
    let error = (state != BreakerState::Closed).then(|| "no answer".to_owned());
    BreakerReport { name: name.to_owned(), kind, state, error }
}

async fn note(store: &Store, state: BreakerState) -> bool {
    let reports = [report(EDGE, DependencyKind::LoadBalancer, state)];
    store.dependencies_note(&reports).await.expect("it is noted")
}

fn cut(store: &Store, expires_in: Option<Duration>) -> CutOff {
    CutOff {
        by: "ada".to_owned(),
        reason: "ticket \"17\" — käse".to_owned(),
        since: store.now(),
        expires_at: expires_in.map(|time| store.now() + time),
    }
}

#[tokio::test]
async fn a_breaker_is_noted_when_it_changes_and_its_switch_is_left_alone() {
    let (store, _folder) = store().await;
    assert!(note(&store, BreakerState::Closed).await, "it is new");
    assert!(!note(&store, BreakerState::Closed).await, "nothing changed");
    store.dependency_switch(EDGE, Some(cut(&store, None)), None).await.expect("it is written");
    assert!(note(&store, BreakerState::Open).await);
    let all = store.dependencies().await.expect("they are read");
    let opened = &all[0];
    assert_eq!(
        (opened.state, opened.last_error.as_deref()),
        (BreakerState::Open, Some("no answer"))
    );
    assert_eq!(
        opened.cut_off.as_ref().map(|cut| cut.reason.as_str()),
        Some("ticket \"17\" — käse")
    );
    assert!(note(&store, BreakerState::HalfOpen).await);
    let all = store.dependencies().await.expect("they are read");
    assert_eq!(all[0].since, opened.since, "it is broken all the while");
    let restored = store.dependency_switch(EDGE, None, None).await.expect("it is written");
    let restored = restored.expect("it is known");
    assert_eq!((restored.cut_off, restored.state), (None, BreakerState::HalfOpen));
    let unknown = store.dependency_switch("load_balancer.mars", None, None).await;
    assert_eq!(unknown.expect("it is read"), None);
}

#[tokio::test]
async fn a_cut_ends_when_its_time_is_over() {
    let (store, _folder) = store().await;
    note(&store, BreakerState::Closed).await;
    let lasting = cut(&store, Some(Duration::from_hours(1)));
    store.dependency_switch(EDGE, Some(lasting), None).await.expect("it is written");
    assert!(!store.dependencies_expire().await.expect("it is read"));
    assert!(store.dependencies_cut_off().await.expect("they are read").contains(EDGE));
    let over = CutOff { expires_at: Some(store.now()), ..cut(&store, None) };
    store.dependency_switch(EDGE, Some(over), None).await.expect("it is written");
    assert!(store.dependencies_expire().await.expect("it is written"));
    assert!(store.dependencies_cut_off().await.expect("they are read").is_empty());
}

#[tokio::test]
async fn groups_are_told_of_what_they_use_and_of_nothing_else() {
    let (store, _folder) = store().await;
    let shop = application(&store, "shop").await;
    let state = group_state(&store, &shop, 1).await;
    let used = capstan_core::dependency::load_balancer(&state.group.binding.load_balancer);
    let reports = [
        report(&used, DependencyKind::LoadBalancer, BreakerState::Open),
        report("load_balancer.other", DependencyKind::LoadBalancer, BreakerState::Open),
    ];
    store.dependencies_note(&reports).await.expect("they are noted");
    let told = async || {
        store.dependencies_tell(None).await.expect("it is told");
        let group = crate::load::group(store.reader(), state.id()).await.expect("it is read");
        group.expect("it is there").group.dependencies
    };
    let conditions = |all: &capstan_core::dependency::Dependencies| -> Vec<(String, Condition)> {
        all.iter().map(|(name, why)| (name.clone(), why.condition)).collect()
    };
    assert_eq!(conditions(&told().await), [(used.clone(), Condition::Open)]);
    store.dependency_switch(&used, Some(cut(&store, None)), None).await.expect("it is written");
    assert_eq!(
        conditions(&told().await),
        [(used.clone(), Condition::CutOff)],
        "a switch comes first"
    );
    store.dependency_switch(&used, None, None).await.expect("it is written");
    assert_eq!(conditions(&told().await), [(used.clone(), Condition::Open)]);
    let closed = [report(&used, DependencyKind::LoadBalancer, BreakerState::Closed)];
    store.dependencies_note(&closed).await.expect("it is noted");
    assert!(told().await.is_empty());
}

#[tokio::test]
async fn a_row_of_a_kind_that_only_a_newer_release_knows_is_passed_over_and_left_alone() {
    let lines = Lines::default();
    let _watched = lines.watch();
    let (store, _folder) = store().await;
    note(&store, BreakerState::Closed).await;
    // The newer release has widened the CHECK before.
    let backend = store.writer().get_database_backend();
    let widen = match backend {
        DbBackend::Sqlite => "PRAGMA ignore_check_constraints = ON",
        DbBackend::Postgres | DbBackend::MySql | _ => {
            "ALTER TABLE dependencies DROP CONSTRAINT ck_dependencies_kind"
        }
    };
    let insert = "INSERT INTO dependencies (name, kind, state, since, cut_off_at, cut_off_until) \
                  VALUES ('registry', 'registry', 'open', 7, 8, 9)";
    for statement in [widen, insert] {
        store.writer().execute_unprepared(statement).await.expect(statement);
    }
    let foreign = async || {
        let text = "SELECT COUNT(*) AS number FROM dependencies WHERE name = 'registry' \
                    AND kind = 'registry' AND state = 'open' AND since = 7 AND cut_off_until = 9";
        let row = store.reader().query_one_raw(sql(store.reader(), text, [])).await;
        let row = row.expect("it is read").expect("a count");
        row.try_get::<i64>("", "number").expect("a number")
    };
    assert_eq!(foreign().await, 1);
    let all = store.dependencies().await.expect("the others are read");
    assert_eq!(all.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), [EDGE]);
    assert!(note(&store, BreakerState::Open).await, "the others are noted");
    let ours = [report("registry", DependencyKind::Executor, BreakerState::Closed)];
    assert!(!store.dependencies_note(&ours).await.expect("it is passed over"));
    let switched =
        store.dependency_switch("registry", None, None).await.expect("it is passed over");
    assert_eq!(switched, None, "this release knows of none with this name");
    assert!(!store.dependencies_expire().await.expect("it is passed over"));
    store.dependencies_tell(None).await.expect("groups are told of the others");
    assert_eq!(foreign().await, 1, "nothing of it was changed");
    assert_eq!(lines.count("WARN", "only a newer release knows"), 1, "{lines:?}");
}
