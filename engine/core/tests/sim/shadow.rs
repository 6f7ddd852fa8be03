//! The database of the simulated world: it knows only the rows that `Changes` names.

use std::collections::BTreeMap;

use capstan_core::changes::{Changes, EffectChange};
use capstan_core::effect::Effect;
use capstan_core::event::Event;
use capstan_core::record::{Batch, Deployment, Group, Server, Target};
use capstan_core::state::GroupState;
use capstan_core::{DeploymentId, ServerId};
use uuid::Uuid;

#[derive(Debug, Clone)]
pub struct Rows {
    pub deployment: Deployment,
    pub batches: BTreeMap<u32, Batch>,
    pub targets: BTreeMap<usize, Target>,
}

#[derive(Debug, Clone)]
pub struct Shadow {
    pub group: Group,
    /// The order of the state, for comparing: a database promises none.
    order: Vec<ServerId>,
    pub servers: BTreeMap<ServerId, Server>,
    pub deployments: BTreeMap<DeploymentId, Rows>,
    pub effects: BTreeMap<(i16, Uuid), Effect>,
    pub events: Vec<Event>,
}

impl Shadow {
    pub fn of(state: &GroupState) -> Self {
        Self {
            group: state.group.clone(),
            order: Vec::new(),
            servers: BTreeMap::new(),
            deployments: BTreeMap::new(),
            effects: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// Writes what a decision changed.
    pub fn write(&mut self, state: &GroupState, changes: &Changes) {
        if changes.group {
            let version = self.group.version;
            self.group = Group { version, ..state.group.clone() };
        }
        for id in changes.servers.union(&changes.server_records) {
            let row = state.server(*id).expect("a server that changed is there");
            let known = changes.servers.contains(id);
            let recorded = changes.server_records.contains(id);
            match self.servers.get_mut(id) {
                None => {
                    assert!(known && recorded, "a new server is written whole");
                    self.servers.insert(*id, row.clone());
                }
                Some(old) => *old = merged(old, row, known, recorded),
            }
        }
        self.order = state.servers().iter().map(|server| server.id).collect();
        for (id, changed) in &changes.deployments {
            let now = state.deployment(*id).expect("a deployment that changed is there");
            assert_eq!(changed.created, !self.deployments.contains_key(id), "created once");
            let rows = self.deployments.entry(*id).or_insert_with(|| Rows {
                deployment: now.deployment.clone(),
                batches: BTreeMap::new(),
                targets: BTreeMap::new(),
            });
            rows.deployment = now.deployment.clone();
            for index in &changed.batches {
                rows.batches.insert(*index, now.batch(*index).expect("a batch").clone());
            }
            for place in &changed.targets {
                rows.targets.insert(*place, now.targets()[*place].clone());
            }
        }
        self.events.extend(changes.events.iter().cloned());
        for (key, change) in &changes.effects {
            match change {
                EffectChange::Put(effect) => self.effects.insert(*key, *effect),
                EffectChange::Delete(_) => self.effects.remove(key),
            };
        }
    }

    /// What a fresh start reads.
    pub fn rebuild(&self) -> GroupState {
        let servers = self.order.iter().filter_map(|id| self.servers.get(id).cloned()).collect();
        let mut state = GroupState::new(self.group.clone(), servers);
        for rows in self.deployments.values() {
            let batches = rows.batches.values().cloned().collect();
            let targets = rows.targets.values().cloned().collect();
            state.insert(rows.deployment.clone(), batches, targets);
        }
        state
    }
}

/// A server's row is two rows: what the CMDB says, and what Capstan knows.
fn merged(old: &Server, new: &Server, known: bool, recorded: bool) -> Server {
    let (record, knowledge) = (if recorded { new } else { old }, if known { new } else { old });
    Server {
        external_id: record.external_id.clone(),
        hostname: record.hostname.clone(),
        instance: record.instance.clone(),
        ip_address: record.ip_address.clone(),
        port: record.port,
        root: record.root.clone(),
        idc: record.idc.clone(),
        pool: record.pool.clone(),
        is_bastion: record.is_bastion,
        retired: record.retired,
        ..knowledge.clone()
    }
}
