//! Writes what a decision changed, in the transaction that it was decided in: the hot path.
//!
//! Few statements per table, however many rows. The group's row comes before what is in it: if its
//! version is not the one that the decision was made from, somebody else was faster, and the caller
//! must give up the transaction.
//!
//! The statements are made first and hold all they need, so that they can run while the next decision
//! is taken on the same copy.

use std::collections::BTreeSet;

use capstan_core::changes::{Changes, DeploymentChanges, EffectChange};
use capstan_core::effect::Effect;
use capstan_core::event::Event;
use capstan_core::record::{Group, Server};
use capstan_core::state::{DeploymentState, GroupState};
use capstan_core::{DeploymentId, ServerId};
use sea_orm::{DbBackend, Value};
use uuid::Uuid;

use crate::Error;
use crate::arrays;
use crate::bulk::{self, Existing, Rows, Step, Table, in_dialect};
use crate::rows::deployment::{batch_values, deployment_values, target_values};
use crate::rows::inventory::{bastion_word, server_state_values, server_values};
use crate::rows::{micros, micros_opt, to_json};
use crate::tables::{BATCHES, DEPLOYMENTS, EFFECTS, EVENTS, SERVER_STATES, SERVERS, TARGETS};

/// An effect's identity: number of its kind, and subject.
pub(crate) type EffectKey = (i16, Uuid);

/// Ids in one list of a statement.
const IDS_AT_ONCE: usize = 10_000;

/// The statements that write `changes`, whose values are in `state`. The group's version goes from
/// `version_before` to the next; that is also the `rev` of every row that is written.
///
/// Effects that are put and whose key is in `claimed` belong to `claimed_by` from the start, as if
/// it had claimed them once.
pub(crate) fn statements(
    backend: DbBackend,
    state: &GroupState,
    changes: &Changes,
    version_before: i64,
    claimed_by: &str,
    claimed: &BTreeSet<EffectKey>,
) -> Result<Vec<Step>, Error> {
    let rev = version_before + 1;
    let writer = Writer { backend, state, changes, rev, claimed_by, claimed };
    let mut steps = writer.group()?;
    steps.extend(writer.servers()?);
    steps.extend(writer.deployments()?);
    steps.extend(writer.batches()?);
    steps.extend(writer.targets()?);
    steps.extend(writer.events()?);
    steps.extend(writer.effects());
    Ok(steps)
}

/// Makes the statements of one group's changes.
struct Writer<'a> {
    backend: DbBackend,
    state: &'a GroupState,
    changes: &'a Changes,
    rev: i64,
    claimed_by: &'a str,
    claimed: &'a BTreeSet<EffectKey>,
}

impl Writer<'_> {
    fn rows<const N: usize>(
        &self,
        table: &Table<N>,
        existing: Existing,
        values: Vec<Value>,
    ) -> Vec<Step> {
        bulk::rows(self.backend, table, existing, values)
    }

    /// Raises the version, if it is the one expected.
    fn group(&self) -> Result<Vec<Step>, Error> {
        let group = &self.state.group;
        let mut steps = Vec::with_capacity(2);
        let mut values = vec![self.rev.into(), group.seq.into()];
        let mut others = "";
        if self.changes.group {
            let some = Some(&group.dependencies).filter(|it| !it.is_empty());
            let dependencies = some.map(|it| to_json("groups", it)).transpose()?;
            steps.push(self.application(group));
            others = ", application_id = ?, name = ?, binding = ?, port = ?, idc = ?, \
                      cmdb_revision = ?, synced_at = ?, observed_at = ?, refresh_held = ?, \
                      dependencies = ?";
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
                dependencies.into(),
            ]);
        }
        values.extend([group.id.0.into(), (self.rev - 1).into()]);
        let table = bulk::quoted(self.backend, "groups");
        let text =
            format!("UPDATE {table} SET version = ?, seq = ?{others} WHERE id = ? AND version = ?");
        let statement = in_dialect(self.backend, &text, values);
        steps.push(Step::new(statement, "groups", Rows::OneOrLost));
        Ok(steps)
    }

    /// The CMDB's record of a group carries its application, so a change to it comes with the group.
    ///
    /// It is written only when this change is a refresh from the CMDB, which moves `synced_at`: at
    /// any other time the state's copy may be older than what a refresh of another group has written.
    /// So it goes before the group's row; a lost comparison gives up the transaction, and this with it.
    fn application(&self, group: &Group) -> Step {
        let it = &group.application;
        let text = format!(
            "UPDATE applications SET name = ?, owner = ?, environment = ?, kind = ?, bastion = ? \
             WHERE id = ? AND EXISTS (SELECT 1 FROM {} WHERE id = ? AND synced_at <> ?)",
            bulk::quoted(self.backend, "groups")
        );
        let values = [
            it.name.as_str().into(),
            it.owner.as_str().into(),
            it.environment.as_str().into(),
            it.kind.as_str().into(),
            bastion_word(it.bastion).into(),
            it.id.0.into(),
            group.id.0.into(),
            micros(group.synced_at),
        ];
        let statement = in_dialect(self.backend, &text, values);
        Step::new(statement, "applications", Rows::Any)
    }

    fn servers(&self) -> Result<Vec<Step>, Error> {
        let (state, changes) = (self.state, self.changes);
        let group = state.id();
        let mut records = Vec::with_capacity(changes.server_records.len() * SERVERS.columns.len());
        for id in &changes.server_records {
            records.extend(server_values(group, server(state, *id)?));
        }
        let mut steps = Vec::with_capacity(3);
        if changes.server_records.len() > 1 {
            steps.extend(self.names_aside());
        }
        steps.extend(self.rows(&SERVERS, Existing::Update, records));

        // A changed record gets its state's `rev` raised too: by that other processes find it.
        let mut states = Vec::with_capacity(changes.servers.len() * SERVER_STATES.columns.len());
        for id in changes.servers.union(&changes.server_records) {
            states.extend(server_state_values(group, server(state, *id)?, self.rev)?);
        }
        steps.extend(self.rows(&SERVER_STATES, Existing::Update, states));
        Ok(steps)
    }

    /// Servers may swap names in the CMDB, and names are unique: before they get their new ones, none
    /// has its old one any more.
    fn names_aside(&self) -> impl Iterator<Item = Step> {
        let ids: Vec<Value> = self.changes.server_records.iter().map(|id| id.0.into()).collect();
        let backend = self.backend;
        let some = ids.chunks(IDS_AT_ONCE).map(<[Value]>::to_vec).collect::<Vec<_>>();
        some.into_iter().map(move |ids| {
            let text = format!(
                "UPDATE servers SET instance = SUBSTR(CONCAT('\u{1}', external_id), 1, 255) \
                 WHERE id IN ({})",
                bulk::list(ids.len())
            );
            let statement = in_dialect(backend, &text, ids);
            Step::new(statement, "servers", Rows::Any)
        })
    }

    /// Ended deployments come first and new ones last, so that one takes over the group from another
    /// within the transaction without both holding it for an instant (S6).
    fn deployments(&self) -> Result<Vec<Step>, Error> {
        let mut created = Vec::new();
        let mut known = Vec::with_capacity(self.changes.deployments.len());
        for (id, change) in &self.changes.deployments {
            let it = &deployment(self.state, *id)?.deployment;
            if change.created {
                created.extend(deployment_values(it, self.rev)?);
            } else {
                known.push(it);
            }
        }
        known.sort_by_key(|it| it.status.is_running());
        let mut steps = Vec::with_capacity(known.len() + 1);
        for it in known {
            let values = deployment_values(it, self.rev)?;
            steps.push(bulk::one_row(self.backend, &DEPLOYMENTS, values));
        }
        steps.extend(self.rows(&DEPLOYMENTS, Existing::Refuse, created));
        Ok(steps)
    }

    fn batches(&self) -> Result<Vec<Step>, Error> {
        let mut values = Vec::new();
        for (id, DeploymentChanges { batches, .. }) in &self.changes.deployments {
            let deployment = deployment(self.state, *id)?;
            for index in batches {
                let batch = deployment
                    .batch(*index)
                    .ok_or_else(|| missing("batch", format_args!("{id}/{index}")))?;
                values.extend(batch_values(batch, self.rev));
            }
        }
        Ok(self.rows(&BATCHES, Existing::Update, values))
    }

    fn targets(&self) -> Result<Vec<Step>, Error> {
        let deployments = &self.changes.deployments;
        let count: usize = deployments.values().map(|change| change.targets.len()).sum();
        let mut values = Vec::with_capacity(count * TARGETS.columns.len());
        for (id, DeploymentChanges { targets, .. }) in deployments {
            let rows = deployment(self.state, *id)?.targets();
            for place in targets {
                let target = rows
                    .get(*place)
                    .ok_or_else(|| missing("target", format_args!("{id} at {place}")))?;
                values.extend(target_values(target, self.rev));
            }
        }
        Ok(self.rows(&TARGETS, Existing::Update, values))
    }

    fn events(&self) -> Result<Vec<Step>, Error> {
        let events: &[Event] = &self.changes.events;
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
        Ok(self.rows(&EVENTS, Existing::Refuse, values))
    }

    fn effects(&self) -> Vec<Step> {
        let effects = &self.changes.effects;
        let mut put: Vec<Value> = Vec::with_capacity(effects.len() * EFFECTS.columns.len());
        let mut delete = Vec::new();
        for (key, change) in effects {
            match change {
                EffectChange::Put(effect) => {
                    let owner = Some(self.claimed_by).filter(|_| self.claimed.contains(key));
                    put.extend(effect_values(effect, owner));
                }
                EffectChange::Delete(_) => delete.push(*key),
            }
        }
        let mut steps = self.deleted_effects(&delete);
        steps.extend(self.rows(&EFFECTS, Existing::Update, put));
        steps
    }

    /// Deletes effects, `keys` sorted. How many there were is not checked: a decision may delete what
    /// it has put itself, in a transaction that writes both at once.
    fn deleted_effects(&self, keys: &[EffectKey]) -> Vec<Step> {
        if self.backend == DbBackend::Postgres {
            if keys.is_empty() {
                return Vec::new();
            }
            let values = keys.iter().flat_map(|key| [key.0.into(), key.1.into()]).collect();
            let statement = arrays::delete(&EFFECTS, values);
            return vec![Step::new(statement, "effects", Rows::Any)];
        }
        let same_kind = keys.chunk_by(|a, b| a.0 == b.0);
        let some = same_kind.flat_map(|same_kind| same_kind.chunks(IDS_AT_ONCE));
        some.map(|some| {
            let (among, ids) = bulk::among(self.backend, some.iter().map(|key| key.1.into()));
            let text = format!("DELETE FROM effects WHERE kind = ? AND subject {among}");
            let values = std::iter::once(some[0].0.into()).chain(ids);
            let statement = in_dialect(self.backend, &text, values);
            Step::new(statement, "effects", Rows::Any)
        })
        .collect()
    }
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

fn server(state: &GroupState, id: ServerId) -> Result<&Server, Error> {
    state.server(id).ok_or_else(|| missing("server", id))
}

fn deployment(state: &GroupState, id: DeploymentId) -> Result<&DeploymentState, Error> {
    state.deployment(id).ok_or_else(|| missing("deployment", id))
}

fn missing(what: &'static str, id: impl std::fmt::Display) -> Error {
    Error::Missing { what, id: id.to_string() }
}
