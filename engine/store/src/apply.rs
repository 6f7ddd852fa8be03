//! Writes what a decision changed, in the transaction that it was decided in: the hot path.
//!
//! One statement per table, however many rows. The group's row comes before what is in it: if its
//! version is not the one that the decision was made from, somebody else was faster, and the caller
//! must give up the transaction.

use std::collections::BTreeSet;

use capstan_core::changes::{Changes, DeploymentChanges, EffectChange};
use capstan_core::effect::Effect;
use capstan_core::event::Event;
use capstan_core::record::{Group, Server};
use capstan_core::state::{DeploymentState, GroupState};
use capstan_core::{DeploymentId, ServerId};
use sea_orm::{ConnectionTrait, DatabaseTransaction, Value};
use uuid::Uuid;

use crate::Error;
use crate::bulk::{self, Existing, sql};
use crate::rows::deployment::{batch_values, deployment_values, target_values};
use crate::rows::inventory::{bastion_word, server_state_values, server_values};
use crate::rows::{micros, micros_opt, to_json};
use crate::tables::{BATCHES, DEPLOYMENTS, EFFECTS, EVENTS, SERVER_STATES, SERVERS, TARGETS};

/// An effect's identity: number of its kind, and subject.
pub(crate) type EffectKey = (i16, Uuid);

/// Whether changes were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// They were.
    Done,
    /// The group was changed by somebody else since it was read; the transaction must be given up.
    Lost,
}

/// Writes `changes`, whose values are in `state`. The group's version goes from `version_before`
/// to the next; that is also the `rev` of every row that is written.
///
/// Effects that are put and whose key is in `claimed` belong to `claimed_by` from the start, as if
/// it had claimed them once.
pub(crate) async fn apply(
    txn: &DatabaseTransaction,
    state: &GroupState,
    changes: &Changes,
    version_before: i64,
    claimed_by: Option<&str>,
    claimed: &BTreeSet<EffectKey>,
) -> Result<Applied, Error> {
    let rev = version_before + 1;
    if !write_group(txn, &state.group, changes.group, version_before).await? {
        return Ok(Applied::Lost);
    }
    write_servers(txn, state, changes, rev).await?;
    write_deployments(txn, state, changes, rev).await?;
    write_batches(txn, state, changes, rev).await?;
    write_targets(txn, state, changes, rev).await?;
    write_events(txn, &changes.events).await?;
    write_effects(txn, changes, claimed_by, claimed).await?;
    Ok(Applied::Done)
}

/// Raises the version, and says whether it was the one expected.
async fn write_group(
    txn: &DatabaseTransaction,
    group: &Group,
    whole: bool,
    version_before: i64,
) -> Result<bool, Error> {
    let mut values = vec![(version_before + 1).into(), group.seq.into()];
    let mut others = "";
    if whole {
        write_application(txn, group).await?;
        others = ", application_id = ?, name = ?, binding = ?, port = ?, idc = ?, \
                  cmdb_revision = ?, synced_at = ?, observed_at = ?, refresh_held = ?";
        values.extend([
            group.application.id.0.into(),
            group.binding.group.as_str().into(),
            to_json("groups", &group.binding)?.into(),
            i32::from(group.port).into(),
            group.idc.as_str().into(),
            group.cmdb_revision.into(),
            micros(group.synced_at),
            micros_opt(group.observed_at),
            group.refresh_held.as_deref().into(),
        ]);
    }
    values.extend([group.id.0.into(), version_before.into()]);
    let table = bulk::quoted(txn.get_database_backend(), "groups");
    let text =
        format!("UPDATE {table} SET version = ?, seq = ?{others} WHERE id = ? AND version = ?");
    let done = txn
        .execute_raw(sql(txn, &text, values))
        .await
        .map_err(Error::database("raise the version of a group"))?;
    Ok(done.rows_affected() == 1)
}

/// The CMDB's record of a group carries its application, so a change to it comes with the group.
///
/// It is written only when this change is a refresh from the CMDB, which moves `synced_at`: at any
/// other time the state's copy may be older than what a refresh of another group has written. So it
/// goes before the group's row; a lost comparison gives up the transaction, and this with it.
async fn write_application(txn: &DatabaseTransaction, group: &Group) -> Result<(), Error> {
    let it = &group.application;
    let statement = sql(
        txn,
        &format!(
            "UPDATE applications SET name = ?, owner = ?, environment = ?, kind = ?, bastion = ? \
             WHERE id = ? AND EXISTS (SELECT 1 FROM {} WHERE id = ? AND synced_at <> ?)",
            bulk::quoted(txn.get_database_backend(), "groups")
        ),
        [
            it.name.as_str().into(),
            it.owner.as_str().into(),
            it.environment.as_str().into(),
            it.kind.as_str().into(),
            bastion_word(it.bastion).into(),
            it.id.0.into(),
            group.id.0.into(),
            micros(group.synced_at),
        ],
    );
    txn.execute_raw(statement).await.map(|_| ()).map_err(Error::database("write an application"))
}

async fn write_servers(
    txn: &DatabaseTransaction,
    state: &GroupState,
    changes: &Changes,
    rev: i64,
) -> Result<(), Error> {
    let group = state.id();
    let mut records = Vec::with_capacity(changes.server_records.len() * SERVERS.columns.len());
    for id in &changes.server_records {
        records.extend(server_values(group, server(state, *id)?));
    }
    bulk::write(txn, &SERVERS, Existing::Update, records).await?;

    // A changed record gets its state's `rev` raised too: by that other processes find it.
    let mut states = Vec::with_capacity(changes.servers.len() * SERVER_STATES.columns.len());
    for id in changes.servers.union(&changes.server_records) {
        states.extend(server_state_values(group, server(state, *id)?, rev)?);
    }
    bulk::write(txn, &SERVER_STATES, Existing::Update, states).await
}

/// Ended deployments come first and new ones last, so that one takes over the group from another
/// within the transaction without both holding it for an instant (S6).
async fn write_deployments(
    txn: &DatabaseTransaction,
    state: &GroupState,
    changes: &Changes,
    rev: i64,
) -> Result<(), Error> {
    let mut created = Vec::new();
    let mut known = Vec::with_capacity(changes.deployments.len());
    for (id, change) in &changes.deployments {
        let it = &deployment(state, *id)?.deployment;
        if change.created {
            created.extend(deployment_values(it, rev)?);
        } else {
            known.push(it);
        }
    }
    known.sort_by_key(|it| it.status.is_running());
    for it in known {
        bulk::update_one(txn, &DEPLOYMENTS, deployment_values(it, rev)?).await?;
    }
    bulk::write(txn, &DEPLOYMENTS, Existing::Refuse, created).await
}

async fn write_batches(
    txn: &DatabaseTransaction,
    state: &GroupState,
    changes: &Changes,
    rev: i64,
) -> Result<(), Error> {
    let mut values = Vec::new();
    for (id, DeploymentChanges { batches, .. }) in &changes.deployments {
        let deployment = deployment(state, *id)?;
        for index in batches {
            let batch = deployment
                .batch(*index)
                .ok_or_else(|| missing("batch", format_args!("{id}/{index}")))?;
            values.extend(batch_values(batch, rev));
        }
    }
    bulk::write(txn, &BATCHES, Existing::Update, values).await
}

async fn write_targets(
    txn: &DatabaseTransaction,
    state: &GroupState,
    changes: &Changes,
    rev: i64,
) -> Result<(), Error> {
    let count: usize = changes.deployments.values().map(|change| change.targets.len()).sum();
    let mut values = Vec::with_capacity(count * TARGETS.columns.len());
    for (id, DeploymentChanges { targets, .. }) in &changes.deployments {
        let rows = deployment(state, *id)?.targets();
        for place in targets {
            let target = rows
                .get(*place)
                .ok_or_else(|| missing("target", format_args!("{id} at {place}")))?;
            values.extend(target_values(target, rev));
        }
    }
    bulk::write(txn, &TARGETS, Existing::Update, values).await
}

async fn write_events(txn: &DatabaseTransaction, events: &[Event]) -> Result<(), Error> {
    let mut values: Vec<Value> = Vec::with_capacity(events.len() * EVENTS.columns.len());
    for event in events {
        values.extend([
            event.deployment.map_or(event.group.0, |deployment| deployment.0).into(),
            event.seq.into(),
            micros(event.at),
            event.kind.word().into(),
            to_json("events", event)?.into(),
        ]);
    }
    bulk::write(txn, &EVENTS, Existing::Refuse, values).await
}

async fn write_effects(
    txn: &DatabaseTransaction,
    changes: &Changes,
    claimed_by: Option<&str>,
    claimed: &BTreeSet<EffectKey>,
) -> Result<(), Error> {
    let mut put: Vec<Value> = Vec::with_capacity(changes.effects.len() * EFFECTS.columns.len());
    let mut delete = Vec::new();
    for (key, change) in &changes.effects {
        match change {
            EffectChange::Put(effect) => {
                let owner = claimed_by.filter(|_| claimed.contains(key));
                put.extend(effect_values(effect, owner));
            }
            EffectChange::Delete(_) => delete.push(*key),
        }
    }
    delete_effects(txn, &delete).await?;
    bulk::write(txn, &EFFECTS, Existing::Update, put).await
}

fn effect_values(effect: &Effect, owner: Option<&str>) -> [Value; 7] {
    [
        effect.kind.number().into(),
        effect.kind.subject().into(),
        effect.group.0.into(),
        effect.kind.deployment().map(|deployment| deployment.0).into(),
        micros(effect.due_at),
        owner.into(),
        i32::from(owner.is_some()).into(),
    ]
}

/// Deletes effects, `keys` sorted. How many there were is not checked: a decision may delete what
/// it has put itself, in a transaction that writes both at once.
async fn delete_effects(txn: &DatabaseTransaction, keys: &[EffectKey]) -> Result<(), Error> {
    for same_kind in keys.chunk_by(|a, b| a.0 == b.0) {
        for some in same_kind.chunks(10_000) {
            let text = format!(
                "DELETE FROM effects WHERE kind = ? AND subject IN ({})",
                bulk::list(some.len())
            );
            let values =
                std::iter::once(some[0].0.into()).chain(some.iter().map(|key| key.1.into()));
            txn.execute_raw(sql(txn, &text, values))
                .await
                .map_err(Error::database("delete effects"))?;
        }
    }
    Ok(())
}

fn server(state: &GroupState, id: ServerId) -> Result<&Server, Error> {
    state.server(id).ok_or_else(|| missing("server", id))
}

fn deployment(state: &GroupState, id: DeploymentId) -> Result<&DeploymentState, Error> {
    state.deployment(id).ok_or_else(|| missing("deployment", id))
}

fn missing(what: &'static str, id: impl std::fmt::Display) -> Error {
    Error::Missing { what, id: id.to_string() }
}
