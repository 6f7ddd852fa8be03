//! What a decision changed: which rows are to be written, which events appended, what is due next.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::effect::{Effect, EffectKind};
use crate::event::Event;
use crate::{DeploymentId, ServerId};

/// The rows that differ from the database; their values are in the [`crate::state::GroupState`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// The group's row differs (its version always does).
    pub group: bool,
    /// Servers whose row differs or is new.
    pub servers: BTreeSet<ServerId>,
    /// Servers of which what the CMDB says differs or is new, too.
    pub server_records: BTreeSet<ServerId>,
    /// Deployments that changed.
    pub deployments: BTreeMap<DeploymentId, DeploymentChanges>,
    /// Events to append, in order; their sequence numbers are given.
    pub events: Vec<Event>,
    /// Effects by kind and subject: to be put in place of any older one, or to be deleted.
    pub effects: BTreeMap<(i16, Uuid), EffectChange>,
}

/// What changed in one deployment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeploymentChanges {
    /// The deployment is new.
    pub created: bool,
    /// Indexes of batches whose row differs or is new.
    pub batches: BTreeSet<u32>,
    /// Places of targets whose row differs or is new.
    pub targets: BTreeSet<usize>,
}

/// What happens to an effect row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EffectChange {
    /// It is put in place of any older one of its kind and subject.
    Put(Effect),
    /// It is deleted.
    Delete(EffectKind),
}

impl Changes {
    /// Whether nothing has to be written.
    pub fn is_empty(&self) -> bool {
        !self.group
            && self.servers.is_empty()
            && self.deployments.is_empty()
            && self.events.is_empty()
            && self.effects.is_empty()
    }

    /// Adds what a later decision on the same group changed.
    pub fn merge(&mut self, later: Self) {
        self.group |= later.group;
        self.servers.extend(later.servers);
        self.server_records.extend(later.server_records);
        for (id, changes) in later.deployments {
            let mine = self.deployments.entry(id).or_default();
            mine.created |= changes.created;
            mine.batches.extend(changes.batches);
            mine.targets.extend(changes.targets);
        }
        self.events.extend(later.events);
        self.effects.extend(later.effects);
    }

    pub(crate) fn put(&mut self, effect: Effect) {
        let key = (effect.kind.number(), effect.kind.subject());
        self.effects.insert(key, EffectChange::Put(effect));
    }

    pub(crate) fn delete(&mut self, kind: EffectKind) {
        self.effects.insert((kind.number(), kind.subject()), EffectChange::Delete(kind));
    }
}
