//! The committer: decides what has come in and writes it, many inputs in one transaction.
//!
//! One task per process. It takes what has arrived (up to [`GROUP_COMMIT`] inputs, without waiting
//! for more), decides the inputs of one group one after the other on one copy, and writes all changes
//! in one transaction with multi-row statements. An idle process commits groups of one at once; the
//! more comes in, the larger the groups. Durability is never traded for speed.
//!
//! Claims of due effects are part of the same loop, see [`crate::hand_out`].
//!
//! If a comparison of versions fails, or the transaction does, the copies are thrown away; after a
//! lost comparison the inputs are decided again one by one, so that one group's loss never harms
//! another group's inputs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use capstan_core::changes::{Changes, EffectChange};
use capstan_core::effect::Effect;
use capstan_core::input::Input;
use capstan_core::{DeploymentId, GroupId, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use uuid::Uuid;

use crate::apply::apply;
use crate::bulk::Applied;
use crate::cache::fill;
use crate::claims::{claim, next_due};
use crate::hand_out::{Taker, Written, due_now, key};
use crate::idempotency::note_made;
use crate::part::{Part, Parts, Submit, named, refuse_all, throw_away};
use crate::told::tell;
use crate::work::Cursors;
use crate::{Error, Inner, SubmitError, crash};

/// Inputs in one transaction at most.
pub(crate) const GROUP_COMMIT: usize = 128;
/// Inputs of one group in a full transaction from which on the group starts nothing new.
const BUSY_GROUP: usize = GROUP_COMMIT / 8;
/// The wait after a commit that failed since the database does not answer.
const PAUSE: Duration = Duration::from_millis(500);
/// How often an input is decided again after lost comparisons of versions.
const LOST_AT_MOST: u32 = 20;

/// What the committer is asked.
pub(crate) enum Request {
    /// Decide an input and write what follows.
    Submit(Submit),
    /// Give due work to this engine from now on, and to no other of this process.
    Take(Taker),
    /// Say that the committer goes round.
    Ping(oneshot::Sender<()>),
}

/// The task's own state.
pub(crate) struct Committer {
    pub(crate) inner: Arc<Inner>,
    requests: mpsc::Receiver<Request>,
    pub(crate) taker: Option<Taker>,
    /// Work that the committer gives itself.
    pub(crate) own: VecDeque<Submit>,
    /// The earliest unclaimed effect, as far as this process knows.
    next_due: Option<Timestamp>,
    pub(crate) cursors: Cursors,
}

impl Committer {
    pub(crate) fn new(inner: Arc<Inner>, requests: mpsc::Receiver<Request>) -> Self {
        Self {
            inner,
            requests,
            taker: None,
            own: VecDeque::new(),
            next_due: Some(Timestamp::from_micros(0)),
            cursors: Cursors::default(),
        }
    }

    /// Runs until every sender is gone.
    pub(crate) async fn run(mut self) {
        let mut buffer = Vec::with_capacity(GROUP_COMMIT);
        let queue = Arc::clone(&self.inner.queue);
        loop {
            if self.own.is_empty() {
                let due = due(self.taker.as_ref(), self.nap());
                tokio::select! {
                    count = self.requests.recv_many(&mut buffer, GROUP_COMMIT) => {
                        if count == 0 {
                            return;
                        }
                    }
                    () = queue.woken() => self.next_due = Some(Timestamp::from_micros(0)),
                    () = due => {}
                }
            } else {
                while buffer.len() < GROUP_COMMIT
                    && let Ok(request) = self.requests.try_recv()
                {
                    buffer.push(request);
                }
            }
            let submits = self.sort(&mut buffer);
            self.round(submits).await;
        }
    }

    /// How long until an effect is due; `None`: none is known.
    fn nap(&self) -> Option<Duration> {
        let now = self.inner.now();
        self.next_due.map(|due| due.since(now))
    }

    /// The inputs of the next transaction. What hosts have answered comes before what is still to
    /// be started: a group whose outcomes alone fill transactions starts nothing new until they are
    /// written, so an outcome never waits behind hundreds of beginnings. Other groups start at once.
    fn sort(&mut self, buffer: &mut Vec<Request>) -> Vec<Submit> {
        let is_full = buffer.len() >= GROUP_COMMIT;
        let mut submits: Vec<Submit> = Vec::with_capacity(buffer.len());
        let mut of_group: BTreeMap<GroupId, usize> = BTreeMap::new();
        for request in buffer.drain(..) {
            match request {
                Request::Submit(submit) => {
                    *of_group.entry(submit.group).or_default() += 1;
                    submits.push(submit);
                }
                Request::Take(taker) => self.taker = Some(taker),
                // Whoever asked may have gone.
                Request::Ping(reply) => drop(reply.send(())),
            }
        }
        let waits = |submit: &Submit| {
            let is_busy = of_group.get(&submit.group).is_some_and(|count| *count >= BUSY_GROUP);
            is_full && is_busy && matches!(*submit.input, Input::Woken { .. })
        };
        let (later, now) = self.own.drain(..).partition::<VecDeque<_>, _>(waits);
        self.own = later;
        submits.extend(now);
        submits
    }

    async fn round(&mut self, submits: Vec<Submit>) {
        if let Err(left) = self.together(submits).await {
            for submit in left {
                self.alone(submit).await;
            }
        }
    }

    /// Decides and writes inputs together. Gives back those whose comparison of versions was lost.
    async fn together(&mut self, submits: Vec<Submit>) -> Result<(), Vec<Submit>> {
        let count = submits.len();
        let now = self.inner.now();
        self.taker = self.taker.take().filter(|taker| !taker.out.is_closed());
        let mut parts = self.decide_all(submits, now).await;
        match self.write(&mut parts, now).await {
            Ok(Some(written)) => {
                self.finish(parts, written).await;
                Ok(())
            }
            Ok(None) => {
                metrics::counter!("capstan_commits_lost_total").increment(1);
                Err(throw_away(parts))
            }
            // One input that cannot be written must not fail its neighbours.
            Err(error) if count > 1 && !error.is_unavailable() => {
                tracing::warn!(error = %crate::chain(&error), "inputs are written one by one");
                Err(throw_away(parts))
            }
            Err(error) => {
                tracing::error!(error = %crate::chain(&error), "a transaction failed");
                let error = Arc::new(error);
                let pause = error.is_unavailable() || count == 0;
                if error.is_unavailable() {
                    self.inner.note_write(Some(&error));
                }
                refuse_all(throw_away(parts), || {
                    SubmitError::Store(Error::Shared(Arc::clone(&error)))
                });
                if pause {
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(())
            }
        }
    }

    /// Decides one input until its comparison of versions holds.
    async fn alone(&mut self, submit: Submit) {
        let mut left = vec![submit];
        for _ in 0..LOST_AT_MOST {
            match self.together(left).await {
                Ok(()) => return,
                Err(again) => left = again,
            }
        }
        refuse_all(left, || SubmitError::Store(Error::Contended));
    }

    async fn decide_all(&mut self, submits: Vec<Submit>, now: Timestamp) -> Parts {
        let mut by_group: BTreeMap<GroupId, Vec<Submit>> = BTreeMap::new();
        for submit in submits {
            by_group.entry(submit.group).or_default().push(submit);
        }
        let mut parts = Parts::new();
        for (group, submits) in by_group {
            let mut copy = self.inner.cache.lock(group).await;
            let named: Vec<DeploymentId> =
                submits.iter().filter_map(|submit| named(&submit.input)).collect();
            match fill(&mut copy, &self.inner.reader, group, named).await {
                Ok(true) => {}
                Ok(false) => {
                    refuse_all(submits, || SubmitError::GroupUnknown);
                    continue;
                }
                Err(error) => {
                    tracing::error!(error = %crate::chain(&error), "a group could not be read");
                    *copy = None;
                    let error = Arc::new(error);
                    refuse_all(submits, || SubmitError::Store(Error::Shared(Arc::clone(&error))));
                    continue;
                }
            }
            match Part::decide(copy, submits, now) {
                Ok(part) => {
                    parts.insert(group, part);
                }
                Err(again) => self.own.extend(again),
            }
        }
        parts
    }

    /// Writes everything in one transaction. `None`: a comparison of versions was lost.
    async fn write(&mut self, parts: &mut Parts, now: Timestamp) -> Result<Option<Written>, Error> {
        let slots = self.taker.as_ref().and_then(Taker::free_slots);
        let capacity = slots.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let mut written = Written { slots, ..Written::default() };
        let look = capacity > 0 && self.next_due.is_some_and(|due| due <= now);
        if !look && parts.values().all(|part| part.changes.is_empty()) {
            return Ok(Some(written));
        }
        crash::point("commit.begin");
        let started = std::time::Instant::now();
        let owner = Arc::clone(&self.inner.process);
        let txn = self.inner.begin().await?;
        for part in parts.values().filter(|part| !part.changes.is_empty()) {
            // What is due already goes first: then all is claimed from the table, in its order.
            let left = if look { 0 } else { capacity - written.claimed.len() };
            let claimed = due_now(&part.changes, now, left);
            let keys: BTreeSet<(i16, Uuid)> = claimed.iter().map(key).collect();
            written.claimed.extend(claimed);
            let Some(state) = part.copy.as_ref() else { continue };
            let applied = apply(&txn, state, &part.changes, part.version, &owner, &keys).await?;
            if applied == Applied::Lost {
                return Ok(None);
            }
            for (request, made) in part.made() {
                note_made(&txn, request, made).await?;
            }
        }
        if look {
            written.found = claim(&txn, &owner, now, capacity as u64).await?;
        }
        crash::point("commit.written");
        txn.commit().await.map_err(Error::database("commit a transaction"))?;
        crash::point("commit.done");
        self.inner.note_write(None);
        metrics::histogram!("capstan_commit_seconds").record(started.elapsed().as_secs_f64());
        for part in parts.values() {
            self.note_due(&part.changes, &written.claimed);
        }
        if look {
            let all = written.found.len() < capacity;
            // Nothing may fail after the commit: what is not known is looked for at once.
            let due = if all { next_due(&self.inner.reader).await } else { Ok(Some(now)) };
            self.next_due = due.unwrap_or(Some(now));
        }
        Ok(Some(written))
    }

    /// After the commit: the copies are right, work is handed out, whoever waits is answered.
    async fn finish(&mut self, mut parts: Parts, written: Written) {
        for (group, part) in &mut parts {
            if let Some(state) = part.copy.as_mut() {
                tell(state, &part.changes.events);
                if !part.changes.is_empty() {
                    state.group.version = part.version + 1;
                }
                for id in part.changes.deployments.keys() {
                    self.inner.watches.tell(*id, state.deployment(*id));
                }
            }
            for id in part.more.drain(..) {
                let input = Box::new(Input::Woken { deployment: id });
                self.own.push_back(Submit { group: *group, input, request: None, reply: None });
            }
        }
        if parts.values().any(|part| !part.changes.is_empty()) {
            self.inner.watches.tell_all();
        }
        self.hand_out(&mut parts, written).await;
        for part in parts.into_values() {
            part.finish();
        }
    }

    fn note_due(&mut self, changes: &Changes, claimed: &[Effect]) {
        let claimed: BTreeSet<(i16, Uuid)> = claimed.iter().map(key).collect();
        for (key, change) in &changes.effects {
            if let EffectChange::Put(effect) = change
                && !claimed.contains(key)
            {
                let due = self.next_due.map_or(effect.due_at, |due| due.min(effect.due_at));
                self.next_due = Some(due);
            }
        }
    }
}

/// Waits until an effect is due and the engine can begin it.
async fn due(taker: Option<&Taker>, nap: Option<Duration>) {
    let (Some(taker), Some(nap)) = (taker, nap) else { return std::future::pending().await };
    tokio::time::sleep(nap).await;
    if taker.slots.acquire().await.is_err() {
        std::future::pending::<()>().await;
    }
}
