//! Claimed effects on their way to the engine.
//!
//! An engine leaves a [`Taker`] with the committer: a channel, and a semaphore whose permits say how
//! much more it can begin. Each piece of work carries one permit. So an effect that is due when it is
//! written is written as claimed already and handed out after the commit, without a question and an
//! answer in between; and no row is claimed that cannot be begun.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use capstan_core::changes::{Changes, EffectChange};
use capstan_core::effect::{Effect, EffectKind};
use capstan_core::input::Input;
use capstan_core::state::GroupState;
use capstan_core::{GroupId, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::SubmitError;
use crate::apply::EffectKey;
use crate::cache::fill;
use crate::claims::Owed;
use crate::commit::{Committer, hold};
use crate::part::{Reply, Submit};
use crate::round::Round;
use crate::work::{Claim, Claimed, claim_of};

/// Wait before work that could not be read is free again.
const UNREADABLE_AGAIN: Duration = Duration::from_secs(5);

/// The engine of this process, as the committer knows it.
pub(crate) struct Taker {
    /// One permit for each piece of work that can be begun.
    pub(crate) slots: Arc<Semaphore>,
    /// Has room for as many pieces of work as there are permits.
    pub(crate) out: mpsc::Sender<Claimed>,
}

impl Taker {
    /// Every permit that is free now.
    pub(crate) fn free_slots(&self) -> Option<OwnedSemaphorePermit> {
        let free = u32::try_from(self.slots.available_permits()).unwrap_or(u32::MAX);
        Arc::clone(&self.slots).try_acquire_many_owned(free).ok()
    }
}

impl Committer {
    /// Hands out what a round has claimed, once it is written. What nobody takes is given back when
    /// it is dropped.
    pub(crate) async fn hand_out(&mut self, round: Round, found: Vec<(Effect, i32)>) {
        let Round { claimed, slots: Some(mut slots), .. } = round else { return };
        for (effect, claim) in claimed {
            match claim {
                Some(claim) => self.give(effect, claim, &mut slots),
                None => self.take_over(effect),
            }
        }
        let groups: BTreeSet<GroupId> = found.iter().map(|(effect, _)| effect.group).collect();
        self.freshen(groups.into_iter()).await;
        for (effect, claims_before) in found {
            if let Some(claim) = self.claim(effect, claims_before).await {
                self.give(effect, claim, &mut slots);
            }
        }
    }

    fn give(&self, effect: Effect, claim: Claim, slots: &mut OwnedSemaphorePermit) {
        let Some(slot) = slots.split(1) else {
            self.inner.owe(effect, Owed::Release);
            return;
        };
        let claimed = Claimed::new(claim, slot, Arc::clone(&self.inner));
        if let Some(taker) = &self.taker {
            // An engine that is gone or full does not get it: it is given back as it is dropped.
            drop(taker.out.try_send(claimed));
        }
    }

    /// What is to be done for an effect that was claimed from the table.
    async fn claim(&mut self, effect: Effect, claims_before: i32) -> Option<Claim> {
        let copy = hold(&mut self.held, &self.inner, effect.group).await;
        let named = effect.kind.deployment();
        let is_read = fill(copy, &self.inner, effect.group, named).await;
        let is_read = is_read.inspect_err(|error| {
            tracing::error!(error = %crate::chain(error), "claimed work could not be read");
        });
        let Some(state) = copy.as_ref().filter(|_| is_read.is_ok()) else {
            // Not at once: it would be claimed again and again.
            let inner = Arc::clone(&self.inner);
            tokio::spawn(async move {
                tokio::time::sleep(UNREADABLE_AGAIN).await;
                inner.owe(effect, Owed::Release);
            });
            return None;
        };
        let is_stage = matches!(effect.kind, EffectKind::RunStage(..));
        if is_stage && (claims_before > 0 || is_overdue(state, effect, self.inner.now())) {
            self.take_over(effect);
            return None;
        }
        Some(claim_of(state, effect, &mut self.cursors))
    }

    /// A stage that another engine had begun, or whose time is over, is taken over first: the fence
    /// rises in a transaction of its own, and the effect is handed out after that.
    fn take_over(&mut self, effect: Effect) {
        let EffectKind::RunStage(deployment, target) = effect.kind else { return };
        let input = Box::new(Input::TakenOver { deployment, target });
        let reply = Some(self.after_take_over(effect));
        self.own.push_back(Submit { group: effect.group, input, asked: None, reply });
    }

    /// When the take-over is written, the effect becomes free again, as one that nobody has begun.
    fn after_take_over(&self, effect: Effect) -> Reply {
        let (sender, receiver) = oneshot::channel();
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            let owed = match receiver.await {
                Ok(Ok(_)) => Owed::Free,
                Ok(Err(SubmitError::Refused(_) | SubmitError::GroupUnknown)) => Owed::Delete,
                Ok(Err(SubmitError::Store(_))) | Err(_) => Owed::Release,
            };
            inner.owe(effect, owed);
        });
        sender
    }
}

/// Whether a stage's time was over before anybody began it: a process was away for long. Taking it over
/// gives it its whole limit. Not so where the server has another order: there is nothing to take over, and
/// the effect is deleted as one for which nothing is left to do.
pub(crate) fn is_overdue(state: &GroupState, effect: Effect, now: Timestamp) -> bool {
    let EffectKind::RunStage(deployment, target) = effect.kind else { return false };
    let deadline = state.deployment(deployment).and_then(|row| {
        let target = &row.targets()[row.place(target)?];
        let is_its_order = state.server(target.server)?.order == target.order;
        target.deadline_at.filter(|_| is_its_order)
    });
    deadline.is_some_and(|deadline| deadline < now)
}

/// An effect's identity.
pub(crate) fn key(effect: &Effect) -> EffectKey {
    (effect.kind.number(), effect.kind.subject())
}

/// Effects that are due when they are written, up to a number.
pub(crate) fn due_now(changes: &Changes, now: Timestamp, limit: usize) -> Vec<Effect> {
    let puts = changes.effects.values().filter_map(|change| match change {
        EffectChange::Put(effect) if effect.due_at <= now => Some(*effect),
        EffectChange::Put(_) | EffectChange::Delete(_) => None,
    });
    puts.take(limit).collect()
}
