//! What the tables hold of a world, and what they must.

use std::collections::{BTreeMap, BTreeSet};

use capstan_core::effect::{Effect, EffectKind};
use capstan_core::event::Event;
use capstan_core::record::{Group, Server};
use capstan_core::state::GroupState;
use capstan_core::{GroupId, Timestamp};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QueryResult};
use uuid::Uuid;

use super::kept::Place;
use super::sim::{World, package};
use crate::Store;
use crate::apply::EffectKey;
use crate::bulk::{or_keep, quoted, sql};
use crate::entities::events;
use crate::rows::to_json;
use crate::store::commit;

/// Packages of which scenarios speak.
const PACKAGES: u32 = 10;

/// Tables with rows of the world before, those that are pointed at last.
const OF_GROUP: [&str; 9] = [
    "DELETE FROM events WHERE stream IN (SELECT id FROM deployments WHERE group_id = ?)",
    "DELETE FROM events WHERE stream = ?",
    "DELETE FROM effects WHERE group_id = ?",
    "DELETE FROM changed_rows WHERE group_id = ?",
    "DELETE FROM targets WHERE deployment_id IN (SELECT id FROM deployments WHERE group_id = ?)",
    "DELETE FROM batches WHERE deployment_id IN (SELECT id FROM deployments WHERE group_id = ?)",
    "DELETE FROM deployments WHERE group_id = ?",
    "DELETE FROM server_states WHERE group_id = ?",
    "DELETE FROM servers WHERE group_id = ?",
];

/// Makes the group's row in place of what is there of an earlier world: ids are the same in each, so that a
/// scenario can be played again.
pub(super) async fn begin(store: &Store, group: &Group) {
    store.application_put(&group.application, None).await.expect("an application is put");
    let backend = store.inner.backend();
    let groups = quoted(backend, "groups");
    let txn = store.begin().await.expect("a transaction begins");
    let run = async |text: &str, values: Vec<sea_orm::Value>| {
        let done = txn.execute_raw(sql(&txn, text, values)).await;
        done.expect("the statement runs")
    };
    for text in OF_GROUP {
        run(text, vec![group.id.0.into()]).await;
    }
    run(&format!("DELETE FROM {groups} WHERE id = ?"), vec![group.id.0.into()]).await;
    let text = format!(
        "INSERT INTO packages (id, application_id, version, sha256, locations, stored, created_at) \
         VALUES (?, ?, ?, ?, '[]', ?, 0) {}",
        or_keep(backend)
    );
    for package in (0..PACKAGES).map(package) {
        let (version, sha256) = (package.version.into(), package.sha256.into());
        let application = group.application.id.0.into();
        run(&text, vec![package.id.0.into(), application, version, sha256, false.into()]).await;
    }
    // A refresh that moves `synced_at` writes the application, too.
    let text = format!(
        "INSERT INTO {groups} (id, external_id, application_id, name, binding, port, idc, \
         cmdb_revision, synced_at, version, seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)"
    );
    let values = vec![
        group.id.0.into(),
        group.external_id.as_str().into(),
        group.application.id.0.into(),
        group.binding.group.as_str().into(),
        to_json("groups", &group.binding).expect("a binding is JSON").into(),
        i32::from(group.port).into(),
        group.idc.as_str().into(),
        group.cmdb_revision.into(),
        group.version.into(),
        group.seq.into(),
    ];
    run(&text, values).await;
    commit(txn).await.expect("a transaction commits");
}

/// Two copies of a group are the same, in whichever order their servers lie.
pub(super) fn check_same(found: &GroupState, wanted: &GroupState) {
    assert_eq!(found.group, wanted.group, "the group");
    let by_id = |state: &GroupState| -> BTreeMap<_, Server> {
        state.servers().iter().map(|server| (server.id, server.clone())).collect()
    };
    let servers = by_id(wanted);
    assert_eq!(by_id(found).keys().collect::<Vec<_>>(), servers.keys().collect::<Vec<_>>());
    assert_eq!(found.servers().len(), servers.len(), "a server is there twice");
    for (id, server) in &servers {
        assert_eq!(found.server(*id), Some(server), "a server");
    }
    assert_eq!(found.census(), wanted.census(), "counts over servers");
    let ids = |state: &GroupState| -> Vec<_> {
        state.deployments().map(|row| row.deployment.id).collect()
    };
    assert_eq!(ids(found), ids(wanted), "deployments that are there");
    for (found_row, row) in found.deployments().zip(wanted.deployments()) {
        assert_eq!(found_row.deployment, row.deployment, "a deployment");
        assert_eq!(found_row.batches(), row.batches(), "batches");
        assert_eq!(found_row.targets().len(), row.targets().len(), "targets");
        for (found, wanted) in found_row.targets().iter().zip(row.targets()) {
            assert_eq!(found, wanted, "a target");
        }
        assert!(found_row.recount(found), "counts agree with rows: {found_row:?}");
        assert!(found_row == row, "a deployment's counts: {found_row:?}, {row:?}");
    }
}

/// Exactly those effects are there that are to come, and they belong to whom they were given.
pub(super) async fn check_effects(place: &Place, world: &World, claimed: &BTreeSet<EffectKey>) {
    let conn = place.store.reader();
    let text = "SELECT kind, subject, group_id, deployment_id, due_at, owner, claims \
                FROM effects WHERE group_id = ?";
    let found = conn.query_all_raw(sql(conn, text, [world.state.id().0.into()])).await;
    let found: BTreeMap<_, _> = found.expect("effects are read").iter().map(effect).collect();
    let owner = |key| claimed.contains(key).then(|| place.store.inner.member.id().to_owned());
    let wanted = world.shadow.effects.iter().map(|(key, effect)| {
        let owner = owner(key);
        let claims = i32::from(owner.is_some());
        (*key, (*effect, owner, claims))
    });
    assert_eq!(found, wanted.collect::<BTreeMap<_, _>>(), "effects");
}

fn effect(row: &QueryResult) -> (EffectKey, (Effect, Option<String>, i32)) {
    let id = |column| row.try_get::<Option<Uuid>>("", column).expect("an id");
    let kind: i16 = row.try_get("", "kind").expect("a number");
    let subject = id("subject").expect("a subject");
    let effect = Effect {
        kind: EffectKind::from_columns(kind, subject, id("deployment_id")).expect("a kind"),
        group: GroupId(id("group_id").expect("a group")),
        due_at: Timestamp::from_micros(row.try_get("", "due_at").expect("an instant")),
    };
    let owner = row.try_get("", "owner").expect("a name or none");
    ((kind, subject), (effect, owner, row.try_get("", "claims").expect("a number")))
}

/// Each log is in the table as it was told, numbered from 1 without gaps.
pub(super) async fn check_events(place: &Place, world: &World) {
    let mut wanted: BTreeMap<Uuid, Vec<&Event>> = BTreeMap::new();
    for event in &world.shadow.events {
        let stream = event.deployment.map_or(event.group.0, |deployment| deployment.0);
        wanted.entry(stream).or_default().push(event);
    }
    let deployments = world.state.deployments().map(|row| row.deployment.id.0);
    let streams: Vec<Uuid> = deployments.chain([world.state.id().0]).collect();
    let rows = events::Entity::find()
        .filter(events::Column::Stream.is_in(streams))
        .order_by_asc(events::Column::Stream)
        .order_by_asc(events::Column::Seq)
        .all(place.store.reader())
        .await
        .expect("events are read");
    assert_eq!(rows.len(), world.shadow.events.len(), "as many events");
    for rows in rows.chunk_by(|a, b| a.stream == b.stream) {
        let wanted = wanted.get(&rows[0].stream).expect("a log that is known");
        assert_eq!(rows.len(), wanted.len(), "as many events in a log");
        for ((row, wanted), seq) in rows.iter().zip(wanted).zip(1..) {
            assert_eq!((row.seq, wanted.seq), (seq, seq), "a log has a gap");
            let body: Event = serde_json::from_str(&row.body).expect("an event is JSON");
            assert_eq!(&body, *wanted, "an event");
            let columns = (Timestamp::from_micros(row.at), row.kind.as_str());
            assert_eq!(columns, (wanted.at, wanted.kind.word()), "an event's columns");
        }
    }
}
