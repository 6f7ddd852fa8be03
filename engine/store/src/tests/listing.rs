//! Lists and views: pages, counts, versions, history.

use std::collections::{BTreeMap, BTreeSet};

use capstan_core::changes::{Changes, DeploymentChanges};
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::record::{Bad, Flavor, OutBecause, Running, Service};
use capstan_core::slots::Census;
use capstan_core::state::GroupState;
use capstan_core::target_status::TargetStatus;

use super::records::{
    application, at, deployment, event, group_state, insert, known_server, package, store, write,
};
use crate::{DeploymentFilter, Error, PageRequest, Store, TargetFilter};

fn first(limit: u32) -> PageRequest {
    PageRequest { limit, cursor: None }
}

#[tokio::test]
async fn applications_are_listed_by_name_and_searched() {
    let (store, _database) = store().await;
    for name in ["shop", "Blog", "a_b", "axb", "mail"] {
        application(&store, name).await;
    }
    let mut names = Vec::new();
    let mut request = first(2);
    loop {
        let page = store.applications(None, request).await.expect("read");
        names.extend(page.items.into_iter().map(|it| it.name));
        let Some(cursor) = page.next_cursor else { break };
        request = PageRequest { limit: 2, cursor: Some(cursor) };
    }
    assert_eq!(names, ["Blog", "a_b", "axb", "mail", "shop"]);
    for (search, expected) in [("BLO", vec!["Blog"]), ("a_b", vec!["a_b"]), ("%", vec![])] {
        let page = store.applications(Some(search.to_owned()), first(9)).await.expect("read");
        let names: Vec<String> = page.items.into_iter().map(|it| it.name).collect();
        assert_eq!(names, expected, "{search}");
    }
    let owned = store.applications(Some("rot".to_owned()), first(9)).await.expect("read");
    assert_eq!(owned.items.len(), 5);
    let foreign = PageRequest { limit: 2, cursor: Some("zz".to_owned()) };
    let refused = store.applications(None, foreign).await;
    assert!(matches!(refused, Err(Error::Cursor(_))));
    assert!(store.application_by_name("mail").await.expect("read").is_some());
}

#[tokio::test]
async fn what_is_cached_says_how_fresh_it_is() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let view = store.application(shop.id).await.expect("read").expect("there");
    assert_eq!((view.synced_at, view.stale), (None, false), "no CMDB gives it");
    let state = group_state(&store, &shop, 3).await;
    group_state(&store, &shop, 0).await;
    let groups = store.groups(Some(shop.id), first(9)).await.expect("read").items;
    let group = groups.iter().find(|group| group.id == state.id()).expect("there");
    assert!(group.stale);
    // Servers come with their group's record, an application with the latest of its groups'.
    let servers = store.servers(state.id()).await.expect("read");
    assert_eq!(servers.len(), 3);
    for server in &servers {
        assert_eq!((server.synced_at, server.stale), (group.synced_at, true));
        assert_eq!(store.server(server.id).await.expect("read").as_ref(), Some(server));
    }
    let view = store.application(shop.id).await.expect("read").expect("there");
    assert_eq!(view.synced_at, groups.iter().map(|group| group.synced_at).max());
    assert!(view.stale);
    assert_eq!(view, group.application);
    let listed = store.applications(None, first(9)).await.expect("read").items;
    assert_eq!(listed, [view]);
}

#[tokio::test]
async fn a_group_shows_its_counts_its_version_and_what_runs() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let (old, new) = (package(&store, &shop, "1.0").await, package(&store, &shop, "2.0").await);
    let mut state = group_state(&store, &shop, 4).await;
    let other = group_state(&store, &shop, 0).await;
    let ids: Vec<_> = state.servers().iter().map(|server| server.id).collect();
    state.change_server(ids[0], |server| {
        server.service = Service::Out;
        server.out_because = Some(OutBecause::New);
    });
    state.change_server(ids[1], |server| server.service = Service::Unknown);
    state.change_server(ids[2], |server| {
        let proof =
            Running { package: new.id, version: new.version.clone(), proven_at: Some(at(3)) };
        server.running = Some(proof);
    });
    let pulled = known_server(7, &old);
    let mut retired = known_server(8, &old);
    retired.retired = true;
    let added = [pulled.id, retired.id];
    state.insert_server(pulled);
    state.insert_server(retired);
    let mut done = deployment(&state, &new);
    (done.status, done.flavor) = (DeploymentStatus::Success, Flavor::Rollout);
    let mut scaleout = deployment(&state, &old);
    (scaleout.status, scaleout.flavor) = (DeploymentStatus::Success, Flavor::Scaleout);
    scaleout.started_at = Some(at(100));
    let running = deployment(&state, &old);
    let running_id = running.id;
    let mut changes = Changes {
        servers: ids.iter().copied().chain(added).collect(),
        server_records: BTreeSet::from(added),
        ..Changes::default()
    };
    for it in [done, scaleout, running] {
        let created = DeploymentChanges { created: true, ..DeploymentChanges::default() };
        changes.deployments.insert(it.id, created);
        state.insert(it, Vec::new(), Vec::new());
    }
    write(&store, &mut state, &changes).await;

    let view = store.group(state.id()).await.expect("read").expect("there");
    let census = Census::of(state.servers());
    assert_eq!((view.total, view.out, view.in_service), (5, census.out, census.in_service));
    assert_eq!(view.version.as_deref(), Some("2.0"));
    assert_eq!(view.running_deployment, Some(running_id));
    assert_eq!(view.running_status.as_deref(), Some("ROLLOUT_BRAKED"));
    assert!(view.stale);

    let page = store.groups(Some(shop.id), first(1)).await.expect("read");
    let request = PageRequest { limit: 1, cursor: page.next_cursor };
    let rest = store.groups(Some(shop.id), request).await.expect("read");
    let seen = [page.items[0].id, rest.items[0].id];
    assert_eq!(BTreeSet::from(seen), BTreeSet::from([state.id(), other.id()]));
    assert_eq!(rest.next_cursor, None);
    assert!(store.groups(None, first(9)).await.expect("read").items.contains(&view));

    let versions = store.versions(state.id()).await.expect("read");
    let counts: Vec<_> =
        versions.iter().map(|it| (it.version.as_deref(), it.servers, it.proven)).collect();
    assert_eq!(counts, [(None, 3, 0), (Some("1.0"), 1, 1), (Some("2.0"), 1, 1)]);
    assert_servers(&store, &state).await;
}

async fn assert_servers(store: &Store, state: &GroupState) {
    let found = store.group_id_by_external(&state.group.external_id).await.expect("read");
    assert_eq!(found, Some(state.id()));
    let servers = store.servers(state.id()).await.expect("read");
    assert_eq!(servers.len(), state.servers().len());
    let one = store.server(servers[2].id).await.expect("read");
    assert_eq!(one.as_ref(), Some(&servers[2]));
    let (binding, endpoints) = store.endpoints(state.id()).await.expect("read").expect("there");
    assert_eq!(binding, state.group.binding);
    assert_eq!(endpoints.len(), state.servers().iter().filter(|server| !server.retired).count());
}

#[tokio::test]
async fn history_is_by_start_and_knows_bad_packages() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let package = package(&store, &shop, "1.0").await;
    let mut state = group_state(&store, &shop, 1).await;
    let mut ids = Vec::new();
    let mut changes = Changes::default();
    for started in [Some(at(50)), None, Some(at(40))] {
        let mut it = deployment(&state, &package);
        (it.status, it.started_at) = (DeploymentStatus::Revoked, started);
        ids.push(it.id);
        let created = DeploymentChanges { created: true, ..DeploymentChanges::default() };
        changes.deployments.insert(it.id, created);
        state.insert(it, Vec::new(), Vec::new());
    }
    write(&store, &mut state, &changes).await;
    let bad = Bad { by: "ada".to_owned(), reason: "it leaks".to_owned() };
    store.package_mark(package.id, Some(bad), None).await.expect("marked");
    let history = store.history(state.id()).await.expect("read");
    let seen: Vec<_> = history.0.iter().map(|past| (past.id, past.bad)).collect();
    assert_eq!(seen, [(ids[0], true), (ids[2], true)]);
}

#[tokio::test]
async fn deployments_targets_and_events_are_paged() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let package = package(&store, &shop, "1.0").await;
    let mut state = group_state(&store, &shop, 5).await;
    let new = deployment(&state, &package);
    let id = new.id;
    let mut changes = insert(&mut state, new);
    changes.events = (1..=7).map(|seq| event(&state, Some(id), seq)).collect();
    write(&store, &mut state, &changes).await;
    let mut draft = deployment(&state, &package);
    draft.status = DeploymentStatus::Pending;
    let draft_id = draft.id;
    let changes = Changes {
        deployments: BTreeMap::from([(
            draft_id,
            DeploymentChanges { created: true, ..DeploymentChanges::default() },
        )]),
        ..Changes::default()
    };
    state.insert(draft, Vec::new(), Vec::new());
    write(&store, &mut state, &changes).await;

    let filter = DeploymentFilter { group: Some(state.id()), ..DeploymentFilter::default() };
    let page = store.deployments(filter, first(1)).await.expect("read");
    assert_eq!(
        (page.items[0].id, page.items[0].group_name.as_str()),
        (draft_id, state.group.binding.group.as_str())
    );
    let request = PageRequest { limit: 1, cursor: page.next_cursor };
    let page = store.deployments(filter, request).await.expect("read");
    assert_eq!((page.items[0].id, page.next_cursor), (id, None));
    for filter in [
        DeploymentFilter { running: true, ..filter },
        DeploymentFilter { status: Some(DeploymentStatus::RollingOut), ..filter },
    ] {
        let page = store.deployments(filter, first(9)).await.expect("read");
        assert_eq!(page.items.iter().map(|it| it.id).collect::<Vec<_>>(), [id]);
    }
    assert_eq!(store.deployment_group(id).await.expect("read"), Some(state.id()));

    let mut places = Vec::new();
    let mut request = first(2);
    loop {
        let page = store.targets(id, TargetFilter::default(), request).await.expect("read");
        places.extend(page.items.iter().map(|it| (it.batch, it.place)));
        let Some(cursor) = page.next_cursor else { break };
        request = PageRequest { limit: 2, cursor: Some(cursor) };
    }
    assert_eq!(places, [(1, 0), (1, 2), (1, 4), (2, 1), (2, 3)]);
    let filter = TargetFilter { status: Some(TargetStatus::VerifyFailure), batch: Some(2) };
    let page = store.targets(id, filter, first(9)).await.expect("read");
    assert_eq!(page.items.len(), 2);
    let target = store.target(page.items[0].id).await.expect("read");
    assert_eq!(target.as_ref(), Some(&page.items[0]));

    let events = store.events(id, 3, 3).await.expect("read");
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [4, 5, 6]);
    assert_eq!(store.metrics_snapshot().await.expect("read").effects_due, 0);
}
