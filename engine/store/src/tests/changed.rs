//! What another process wrote is found, whether or not it was noted which rows that were.

use std::collections::{BTreeMap, BTreeSet};

use capstan_core::DeploymentId;
use capstan_core::batch_status::BatchStatus;
use capstan_core::changes::{Changes, DeploymentChanges};
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::record::Service;
use capstan_core::state::GroupState;
use capstan_core::target_status::TargetStatus;
use sea_orm::ConnectionTrait;

use super::records::{
    application, batch, deployment, group_state, insert, package, server, store, target, write,
};
use crate::changed::{Changed, note, since};
use crate::merged::run;
use crate::{Store, load};

/// Writes as a process does that has others beside it.
async fn write_noted(store: &Store, state: &mut GroupState, changes: &Changes) {
    write(store, state, changes).await;
    let conn = store.writer();
    let notes = note(conn.get_database_backend(), state, changes, state.group.version);
    run(conn, notes).await.expect("it is noted");
}

async fn found(store: &Store, state: &GroupState, known: i64) -> Option<Changed> {
    let version = state.group.version;
    since(store.reader(), state.id(), known, version).await.expect("it is read")
}

/// A new server, another server, a new batch, a new target and another target.
fn much(theirs: &mut GroupState, id: DeploymentId) -> Changes {
    let known = theirs.servers()[0].id;
    theirs.change_server(known, |server| {
        server.service = Service::Out;
        server.fence = 5;
    });
    let added = server(9);
    let added_id = added.id;
    theirs.insert_server(added);
    let old = theirs.deployment(id).expect("it is there").clone();
    let mut targets = old.targets().to_vec();
    targets[2].status = TargetStatus::Pending;
    targets.push(target(&old.deployment, theirs.server(added_id).expect("it is there"), 3));
    let mut third = batch(&old.deployment, 3);
    third.status = BatchStatus::Pending;
    let mut newer = old.deployment.clone();
    newer.seq = 1;
    theirs.insert(newer, [old.batches(), &[third]].concat(), targets);
    let change = DeploymentChanges {
        created: false,
        batches: BTreeSet::from([3]),
        targets: BTreeSet::from([2, 3]),
    };
    Changes {
        servers: BTreeSet::from([known, added_id]),
        server_records: BTreeSet::from([added_id]),
        deployments: BTreeMap::from([(id, change)]),
        ..Changes::default()
    }
}

#[tokio::test]
async fn a_refresh_reads_what_another_process_wrote() {
    for is_noted in [false, true] {
        let (store, _database) = store().await;
        let shop = application(&store, "shop").await;
        let package = package(&store, &shop, "1.0").await;
        let mut mine = group_state(&store, &shop, 3).await;
        let new = deployment(&mine, &package);
        let id = new.id;
        let changes = insert(&mut mine, new);
        write(&store, &mut mine, &changes).await;

        let mut theirs = mine.clone();
        let changes = much(&mut theirs, id);
        let known = mine.group.version;
        if is_noted {
            write_noted(&store, &mut theirs, &changes).await;
            let noted = found(&store, &theirs, known).await.expect("it is noted");
            let targets = theirs.deployment(id).expect("it is there").targets();
            assert_eq!(noted.targets, [2, 3].map(|place: usize| targets[place].id.0).into());
            assert_eq!(noted.servers, changes.servers.iter().map(|id| id.0).collect());
        } else {
            write(&store, &mut theirs, &changes).await;
            assert_eq!(found(&store, &theirs, known).await, None);
        }
        let version = load::group_version(store.reader(), mine.id()).await.expect("it is read");
        assert_eq!(version, Some(theirs.group.version));
        load::refresh(store.reader(), &mut mine, known).await.expect("it is read");
        assert_eq!(mine, theirs);
        assert!(mine.deployment(id).expect("it is there").recount(&mine));
    }
}

#[tokio::test]
async fn a_refresh_adds_what_began_and_leaves_drafts_until_they_start() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let package = package(&store, &shop, "1.0").await;
    let mut mine = group_state(&store, &shop, 3).await;
    let mut theirs = mine.clone();
    // It began and ended meanwhile, and has stages under way.
    let mut ended = deployment(&theirs, &package);
    ended.status = DeploymentStatus::Revoked;
    let mut draft = deployment(&theirs, &package);
    draft.status = DeploymentStatus::Pending;
    for new in [ended, draft.clone()] {
        let changes = insert(&mut theirs, new);
        write_noted(&store, &mut theirs, &changes).await;
    }
    let known = mine.group.version;
    load::refresh(store.reader(), &mut mine, known).await.expect("it is read");
    let mut wanted = theirs.clone();
    wanted.forget(draft.id);
    assert_eq!(mine, wanted);

    draft.status = DeploymentStatus::RollingOut;
    let batches = theirs.deployment(draft.id).expect("it is there").batches().to_vec();
    theirs.renew(draft.clone(), batches, Vec::new());
    let started = BTreeMap::from([(draft.id, DeploymentChanges::default())]);
    let changes = Changes { deployments: started, ..Changes::default() };
    write_noted(&store, &mut theirs, &changes).await;
    let known = mine.group.version;
    load::refresh(store.reader(), &mut mine, known).await.expect("it is read");
    assert_eq!(mine, theirs);
}

/// Another process was faster, so what was decided here is not written.
#[tokio::test]
async fn what_was_decided_and_not_written_is_taken_back() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let package = package(&store, &shop, "1.0").await;
    let mut mine = group_state(&store, &shop, 4).await;
    let new = deployment(&mine, &package);
    let id = new.id;
    let begun = insert(&mut mine, new);
    write_noted(&store, &mut mine, &begun).await;
    let known = mine.group.version;
    let mut theirs = mine.clone();
    let change = |state: &mut GroupState, place: usize| {
        let server = state.servers()[place].id;
        state.change_server(server, |server| server.fence += 7);
        state.change_target(id, place, |target| target.status = TargetStatus::Pending);
        let targets = BTreeSet::from([place]);
        let change = DeploymentChanges { targets, ..DeploymentChanges::default() };
        let deployments = BTreeMap::from([(id, change)]);
        Changes { servers: BTreeSet::from([server]), deployments, ..Changes::default() }
    };
    let written = change(&mut theirs, 1);
    write_noted(&store, &mut theirs, &written).await;

    let decided = change(&mut mine, 2);
    mine.group.version += 1;
    mine.group.seq += 3;
    let spoilt = Changed::by(&mine, &decided).expect("it made no rows");
    let taken_back = load::take_back(store.reader(), &mut mine, known, spoilt).await;
    assert!(taken_back.expect("it is read"));
    assert_eq!(mine, theirs);
    assert!(mine.deployment(id).expect("it is there").recount(&mine));

    assert_eq!(Changed::by(&mine, &begun), None, "rows that were made stay in a copy");
    // A version that nobody noted: what else differs is not known.
    let known = mine.group.version;
    write(&store, &mut theirs, &written).await;
    let spoilt = Changed::by(&mine, &decided).expect("it made no rows");
    let taken_back = load::take_back(store.reader(), &mut mine, known, spoilt).await;
    assert!(!taken_back.expect("it is read"));
}

/// Those of the last 256 versions are kept, and now and then the others are deleted.
#[tokio::test]
async fn old_notes_are_deleted() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let package = package(&store, &shop, "1.0").await;
    let mut state = group_state(&store, &shop, 1).await;
    let new = deployment(&state, &package);
    let begun = insert(&mut state, new);
    write_noted(&store, &mut state, &begun).await;
    let one = Changes { servers: BTreeSet::from([state.servers()[0].id]), ..Changes::default() };
    while state.group.version < 384 {
        write_noted(&store, &mut state, &one).await;
    }
    let text = "SELECT MIN(rev) AS first, COUNT(*) AS number FROM changed_rows";
    let row = store.reader().query_one_raw(crate::bulk::sql(store.reader(), text, [])).await;
    let row = row.expect("read").expect("a row");
    let number = |column| row.try_get::<i64>("", column).expect("a number");
    assert_eq!((number("first"), number("number")), (128, 257));
    assert!(found(&store, &state, 128).await.is_some());
    assert_eq!(found(&store, &state, 127).await, None);
}

/// Whoever has no note of a version looks at every row.
#[tokio::test]
async fn a_version_that_is_missing_or_wrote_much_leaves_a_gap() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let package = package(&store, &shop, "1.0").await;
    let mut state = group_state(&store, &shop, 1_100).await;
    let new = deployment(&state, &package);
    let id = new.id;
    let first = state.group.version;
    let all = insert(&mut state, new);
    write_noted(&store, &mut state, &all).await;
    assert_eq!(found(&store, &state, first).await, None, "1,100 targets are too many to list");

    let one = Changes { servers: BTreeSet::from([state.servers()[0].id]), ..Changes::default() };
    let second = state.group.version;
    write_noted(&store, &mut state, &one).await;
    assert!(found(&store, &state, second).await.is_some());
    write(&store, &mut state, &one).await;
    write_noted(&store, &mut state, &one).await;
    assert_eq!(found(&store, &state, second).await, None, "one of three is not noted");
    let fourth = state.group.version - 1;
    let changed = found(&store, &state, fourth).await.expect("it is noted");
    assert_eq!((changed.servers.len(), changed.targets.len()), (1, 0));

    // Once nothing runs, what is noted is that of the last version.
    let mut ended = state.deployment(id).expect("it is there").deployment.clone();
    ended.status = DeploymentStatus::Success;
    state.renew(ended, Vec::new(), Vec::new());
    let change = DeploymentChanges::default();
    let end = Changes { deployments: BTreeMap::from([(id, change)]), ..Changes::default() };
    write_noted(&store, &mut state, &end).await;
    let text = "SELECT rev FROM changed_rows";
    let left = store.reader().query_all_raw(crate::bulk::sql(store.reader(), text, [])).await;
    assert_eq!(left.expect("read").len(), 1);
}
