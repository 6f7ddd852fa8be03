//! Claimed effects on their way to the engine.
//!
//! An engine leaves a [`Taker`] with the committer: a channel, and a semaphore whose permits say how
//! much more it can begin. Each piece of work carries one permit. So an effect that is due when it is
//! written is written as claimed already and handed out after the commit, without a question and an
//! answer in between; and no row is claimed that cannot be begun.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use capstan_core::GroupId;
use capstan_core::Timestamp;
use capstan_core::changes::{Changes, EffectChange};
use capstan_core::effect::{Effect, EffectKind};
use capstan_core::input::Input;
use capstan_core::state::GroupState;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use uuid::Uuid;

use crate::SubmitError;
use crate::cache::{Copy, fill};
use crate::claims::Owed;
use crate::commit::Committer;
use crate::part::{Part, Parts, Reply, Submit};
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

/// Effects that a transaction claimed, and permits for them.
#[derive(Default)]
pub(crate) struct Written {
    /// Claimed when they were written: nobody had them before.
    pub(crate) claimed: Vec<Effect>,
    /// Claimed from the table, with how often they were claimed before.
    pub(crate) found: Vec<(Effect, i32)>,
    pub(crate) slots: Option<OwnedSemaphorePermit>,
}

impl Committer {
    /// Turns claimed effects into work and hands it out. What nobody takes is given back when it is
    /// dropped.
    pub(crate) async fn hand_out(&mut self, parts: &mut Parts, written: Written) {
        let Written { claimed, found, slots: Some(mut slots) } = written else { return };
        let claimed = claimed.into_iter().map(|effect| (effect, 0));
        let mut locked: BTreeMap<GroupId, OwnedMutexGuard<Copy>> = BTreeMap::new();
        for (effect, claims_before) in claimed.chain(found) {
            let Some(claim) = self.claim(parts, &mut locked, effect, claims_before).await else {
                continue;
            };
            let Some(slot) = slots.split(1) else {
                self.inner.owe(effect, Owed::Release);
                continue;
            };
            let claimed = Claimed::new(claim, slot, Arc::clone(&self.inner));
            if let Some(taker) = &self.taker {
                // An engine that is gone or full does not get it: it is given back as it is dropped.
                drop(taker.out.try_send(claimed));
            }
        }
    }

    /// What is to be done for a claimed effect. One that another engine had begun is taken over
    /// first: the fence rises in a transaction of its own, and the effect is handed out after that.
    async fn claim(
        &mut self,
        parts: &mut Parts,
        locked: &mut BTreeMap<GroupId, OwnedMutexGuard<Copy>>,
        effect: Effect,
        claims_before: i32,
    ) -> Option<Claim> {
        let copy = match parts.get_mut(&effect.group) {
            Some(Part { copy, .. }) => copy,
            None => match locked.entry(effect.group) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(self.inner.cache.lock(effect.group).await)
                }
            },
        };
        let named = effect.kind.deployment();
        if let Err(error) = fill(copy, &self.inner.reader, effect.group, named).await {
            tracing::error!(error = %crate::chain(&error), "claimed work could not be read");
            *(*copy) = None;
        }
        let Some(state) = copy.as_ref() else {
            // Not at once: it would be claimed again and again.
            let inner = Arc::clone(&self.inner);
            tokio::spawn(async move {
                tokio::time::sleep(UNREADABLE_AGAIN).await;
                inner.owe(effect, Owed::Release);
            });
            return None;
        };
        if (claims_before > 0 || is_overdue(state, effect, self.inner.now()))
            && let EffectKind::RunStage(deployment, target) = effect.kind
        {
            let input = Box::new(Input::TakenOver { deployment, target });
            let reply = self.after_take_over(effect);
            self.own.push_back(Submit {
                group: effect.group,
                input,
                request: None,
                reply: Some(reply),
            });
            return None;
        }
        Some(claim_of(state, effect, &mut self.cursors))
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
fn is_overdue(state: &GroupState, effect: Effect, now: Timestamp) -> bool {
    let EffectKind::RunStage(deployment, target) = effect.kind else { return false };
    let deadline = state.deployment(deployment).and_then(|row| {
        let target = &row.targets()[row.place(target)?];
        let is_its_order = state.server(target.server)?.order == target.order;
        target.deadline_at.filter(|_| is_its_order)
    });
    deadline.is_some_and(|deadline| deadline < now)
}

/// An effect's identity.
pub(crate) fn key(effect: &Effect) -> (i16, Uuid) {
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
