//! Stages whose effects are this process's own, so that the next stage of the same target needs no write of its effect.
//!
//! A stage that follows another one of its target is claimed as it is written. Was the one before claimed so, too, and
//! not given back, then its row says all that a new one would: it is due, and this process's. It stays as it is. Which
//! act it stands for is told by the target's row, whose order key is another one for each act.
//!
//! What is kept here is a hint. The round that leaves rows as they are looks whether they are there and its own, and
//! writes them if not.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use capstan_core::TargetId;
use capstan_core::effect::{Effect, EffectKind};

/// Targets with a stage that was claimed as it was written, and handed out.
#[derive(Debug, Default)]
pub(crate) struct OwnStages(Mutex<HashSet<TargetId>>);

impl OwnStages {
    /// A claim was handed out. One that was found in the table is written once more, as this process's.
    pub(crate) fn add(&self, effect: &Effect) {
        if let (EffectKind::RunStage(_, target), Some(_)) = (effect.kind, effect.order) {
            self.lock().insert(target);
        }
    }

    /// The effect is deleted, left to others or given back.
    pub(crate) fn remove(&self, kind: EffectKind) {
        if let EffectKind::RunStage(_, target) = kind {
            self.lock().remove(&target);
        }
    }

    /// It is not known what is in the table.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// Whether the effect that is there may stand for this one.
    pub(crate) fn has(&self, effect: &Effect) -> bool {
        match effect.kind {
            EffectKind::RunStage(_, target) => self.lock().contains(&target),
            EffectKind::WakeDeployment(_)
            | EffectKind::ObserveServers(_)
            | EffectKind::DrainServer(_)
            | EffectKind::ReturnServer(_)
            | EffectKind::AdmitServer(_) => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<TargetId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
