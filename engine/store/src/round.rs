//! A round: what is decided together, written in one transaction, and handed out after it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capstan_core::changes::{Changes, EffectChange};
use capstan_core::effect::Effect;
use capstan_core::{DeploymentId, GroupId, Timestamp};
use sea_orm::DatabaseTransaction;
use tokio::sync::{OwnedRwLockReadGuard, OwnedSemaphorePermit};
use tokio::task::JoinHandle;

use crate::apply::EffectKey;
use crate::bulk::{Applied, Step};
use crate::claims::{Owed, claim, wait_for_claims};
use crate::commit::{Committer, PAUSE};
use crate::hand_out::{Taker, due_now, is_overdue, key};
use crate::idempotency::note_made;
use crate::operation::within;
use crate::part::{Part, Parts};
use crate::store::commit;
use crate::work::{Claim, claim_of};
use crate::{Error, Inner, NewAudit, RequestKey, audit, crash, merged, processes};

/// Other processes are told of effects that are due within this time: so long at most they do not look.
const SOON: Duration = Duration::from_secs(1);

/// What was decided, with everything that its transaction and what follows need.
pub(crate) struct Round {
    pub(crate) now: Timestamp,
    pub(crate) parts: Parts,
    /// What becomes this engine's as it is written, and what to do; `None`: it is overdue.
    pub(crate) claimed: Vec<(Effect, Option<Claim>)>,
    /// A permit for each effect that is or may be claimed.
    pub(crate) slots: Option<OwnedSemaphorePermit>,
    /// Groups with effects that are due, or soon will be, and that are left to whoever finds them.
    pub(crate) left: Vec<GroupId>,
    /// Due effects are claimed from the table with it, and no debts are paid meanwhile.
    looks: Option<OwnedRwLockReadGuard<()>>,
    steps: Result<Vec<Step>, Error>,
}

/// A round on its way into the database.
pub(crate) struct Writing {
    pub(crate) round: Round,
    task: JoinHandle<Result<Written, Error>>,
}

/// How a write ended.
pub(crate) enum Written {
    /// It is committed. With it were claimed these effects from the table, each with how often it was
    /// claimed before.
    Done(Vec<(Effect, i32)>),
    /// A comparison of versions was lost, and nothing is written.
    Lost,
}

impl Round {
    /// Makes ready what writes the parts, whose copies are held, and the work that follows from them.
    pub(crate) fn new(committer: &mut Committer, parts: Parts, now: Timestamp) -> Self {
        // Whoever may not act leaves the work to others.
        let may_act = committer.inner.member.may_act();
        let slots = committer.taker.as_ref().filter(|_| may_act).and_then(Taker::free_slots);
        let capacity = slots.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        // What is due already goes first: then all is claimed from the table, in its order.
        let is_due = capacity > 0 && committer.next_due.is_some_and(|due| due <= now);
        let claiming = || Arc::clone(&committer.inner.claiming).try_read_owned().ok();
        let looks = is_due.then(claiming).flatten();
        if is_due && looks.is_none() {
            // Who pays wakes this one when it has ended.
            committer.next_due = Some(now + PAUSE);
        }
        let left = Vec::new();
        let mut round =
            Self { now, parts, claimed: Vec::new(), slots, left, looks, steps: Ok(Vec::new()) };
        round.steps = round.make(committer, if is_due { 0 } else { capacity });
        if !round.looks() {
            // The others are for the round that is decided while this one is written.
            round.slots = round.slots.and_then(|mut slots| slots.split(round.claimed.len()));
        }
        round
    }

    fn make(&mut self, committer: &mut Committer, capacity: usize) -> Result<Vec<Step>, Error> {
        let backend = committer.inner.backend();
        let inner = Arc::clone(&committer.inner);
        let owner = inner.member.id();
        let mut steps = Vec::new();
        for (group, part) in &self.parts {
            let Some(state) = committer.held.get(group).and_then(|copy| copy.as_ref()) else {
                continue;
            };
            let due = due_now(&part.changes, self.now, capacity - self.claimed.len());
            let keys: BTreeSet<EffectKey> = due.iter().map(key).collect();
            steps.extend(part.statements(backend, state, owner, &keys)?);
            if inner.member.has_others() {
                steps.extend(part.notes(backend, state));
            }
            for effect in due {
                let is_overdue = is_overdue(state, effect, self.now);
                let claim = (!is_overdue).then(|| claim_of(state, effect, &mut committer.cursors));
                self.claimed.push((effect, claim));
            }
            let left = earliest_left(&part.changes, &keys);
            // What this engine begins of a group it also goes on with.
            if keys.is_empty() && left.is_some_and(|due| due <= self.now + SOON) {
                self.left.push(*group);
            }
            committer.next_due = [committer.next_due, left].into_iter().flatten().min();
        }
        Ok(steps)
    }

    /// Whether due effects are claimed from the table with it.
    pub(crate) const fn looks(&self) -> bool {
        self.looks.is_some()
    }

    /// How many effects can be claimed.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Begins to write it; in a transaction that was begun already, if there is one.
    pub(crate) fn write(
        mut self,
        inner: &Arc<Inner>,
        begun: Option<DatabaseTransaction>,
    ) -> Writing {
        let steps = std::mem::replace(&mut self.steps, Ok(Vec::new()));
        let made = self.parts.values().flat_map(Part::made);
        let made = made.map(|(request, id)| (request.clone(), id)).collect();
        let noted = Noted { made, audits: self.parts.values().flat_map(Part::audits).collect() };
        let look = self.looks().then(|| (self.now, self.capacity()));
        let claimed = self.claimed.iter().map(|(effect, _)| *effect).collect();
        let task = tokio::spawn(write(Arc::clone(inner), begun, steps, noted, claimed, look));
        Writing { round: self, task }
    }
}

/// When the first effect is due that is written and not claimed.
fn earliest_left(changes: &Changes, claimed: &BTreeSet<EffectKey>) -> Option<Timestamp> {
    let left = changes.effects.iter().filter_map(|(key, change)| match change {
        EffectChange::Put(effect) if !claimed.contains(key) => Some(effect.due_at),
        EffectChange::Put(_) | EffectChange::Delete(_) => None,
    });
    left.min()
}

/// Waits until the round is written. Waiting may be given up and begun again; once it has ended, the
/// round is to be taken out.
pub(crate) async fn written(writing: &mut Option<Writing>) -> Result<Written, Error> {
    let Some(writing) = writing else { return Ok(Written::Done(Vec::new())) };
    match (&mut writing.task).await {
        Ok(written) => written,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Stopping),
        },
    }
}

/// What is written of those who asked, beside what follows from it.
struct Noted {
    made: Vec<(RequestKey, DeploymentId)>,
    audits: Vec<NewAudit>,
}

impl Noted {
    const fn is_empty(&self) -> bool {
        self.made.is_empty() && self.audits.is_empty()
    }

    async fn write(self, txn: &DatabaseTransaction, inner: &Inner) -> Result<(), Error> {
        for (request, made) in &self.made {
            note_made(txn, &inner.member, request, *made).await?;
        }
        for audit in self.audits {
            audit::insert(txn, audit, inner.now()).await?;
        }
        Ok(())
    }
}

/// Writes everything in one transaction. One that was in the way of another process's has lost.
async fn write(
    inner: Arc<Inner>,
    begun: Option<DatabaseTransaction>,
    steps: Result<Vec<Step>, Error>,
    noted: Noted,
    claimed: Vec<Effect>,
    look: Option<(Timestamp, usize)>,
) -> Result<Written, Error> {
    let written = write_all(&inner, begun, steps?, noted, claimed, look).await;
    written.or_else(|error| if error.is_collision() { Ok(Written::Lost) } else { Err(error) })
}

async fn write_all(
    inner: &Arc<Inner>,
    begun: Option<DatabaseTransaction>,
    steps: Vec<Step>,
    noted: Noted,
    claimed: Vec<Effect>,
    look: Option<(Timestamp, usize)>,
) -> Result<Written, Error> {
    if steps.is_empty() && noted.is_empty() && look.is_none() {
        return Ok(Written::Done(Vec::new()));
    }
    crash::point("commit.begin");
    let started = Instant::now();
    let is_audited = !noted.audits.is_empty();
    let claims_something = look.is_some() || !claimed.is_empty();
    let written = within(inner.write_limit(), async {
        let is_turn = begun.is_some();
        let txn = match begun {
            Some(txn) => txn,
            None => inner.begin_round().await?,
        };
        match processes::assert_known(&txn, &inner.member).await {
            // It was idle for too long while the group was read: nothing is written yet.
            Err(Error::Database { .. }) if is_turn => return Ok(None),
            known => known?,
        }
        if claims_something {
            wait_for_claims(&txn, inner.member.id()).await?;
        }
        if merged::run(&txn, steps).await? == Applied::Lost {
            return Ok(None);
        }
        noted.write(&txn, inner).await?;
        let found = match look {
            Some((now, limit)) => claim(&txn, &inner.member, now, limit as u64).await?,
            None => Vec::new(),
        };
        Ok(Some((txn, found)))
    });
    let Some((txn, found)) = written.await? else { return Ok(Written::Lost) };
    crash::point("commit.written");
    if let Err(error) = within(inner.write_limit(), commit(txn)).await {
        // It may have been done: then what it claimed is nobody's work, for it is not handed out.
        for effect in claimed.into_iter().chain(found.into_iter().map(|(effect, _)| effect)) {
            inner.owe(effect, Owed::Release);
        }
        return Err(error);
    }
    crash::point("commit.done");
    if is_audited {
        crash::point("audit.done");
    }
    inner.note_write(None);
    metrics::histogram!("capstan_commit_seconds").record(started.elapsed().as_secs_f64());
    Ok(Written::Done(found))
}
