//! Outside dependencies: what is noted, switched, and told to groups.

use std::time::Duration;

use capstan_core::dependency::{BreakerReport, BreakerState, Condition, DependencyKind};
use capstan_core::view::CutOff;

use super::records::{application, group_state, store};
use crate::Store;

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
