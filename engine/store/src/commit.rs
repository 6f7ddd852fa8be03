//! The committer: decides what has come in and writes it, many inputs in one transaction.
//!
//! One task per process. It takes what has arrived (up to [`GROUP_COMMIT`] inputs, without waiting
//! for more), decides the inputs of one group one after the other on one copy, and writes all changes
//! in one transaction with multi-row statements: that is a round. An idle process commits groups of
//! one at once; the more comes in, the larger the groups. Durability is never traded for speed.
//!
//! While a round is being written the next one is decided, if there is enough for a full one: the
//! copies are then ahead of the database, so they stay locked until they are not, and nothing of a
//! round is seen or handed out before it is written. Whoever waits for a copy gets it between two
//! rounds.
//!
//! Claims of due effects are part of the same loop, see [`crate::hand_out`]. So is keeping in step with
//! other processes, see [`crate::in_step`].
//!
//! If a comparison of versions fails, what was decided is taken back from the copies, and what was decided on them
//! meanwhile with it; the inputs are decided again group by group, so that one group's loss never harms another
//! group's inputs. If the transaction fails, the copies are thrown away.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use capstan_core::input::Input;
use capstan_core::{DeploymentId, GroupId, Timestamp};
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};

use crate::cache::{Copy, fill, is_wanted};
use crate::hand_out::Taker;
use crate::part::{Part, Parts, Submit, inputs, named, refuse_all};
use crate::round::{Round, Writing, written};
use crate::work::Cursors;
use crate::{Error, Inner, SubmitError};

/// Inputs in one transaction at most.
pub(crate) const GROUP_COMMIT: usize = 128;
/// Inputs of one group in a full transaction from which on the group starts nothing new.
const BUSY_GROUP: usize = GROUP_COMMIT / 8;
/// The wait after a commit that failed since the database does not answer.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

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
    pub(crate) next_due: Option<Timestamp>,
    /// When it was last looked for work of others.
    pub(crate) looked_at: Option<Instant>,
    /// When other processes were last told that this one has its hands full.
    pub(crate) told_at: Option<Instant>,
    pub(crate) cursors: Cursors,
    /// The copies that a round has changed which is not written yet.
    pub(crate) held: BTreeMap<GroupId, OwnedMutexGuard<Copy>>,
    /// The round that is being written.
    pub(crate) writing: Option<Writing>,
}

impl Committer {
    pub(crate) fn new(inner: Arc<Inner>, requests: mpsc::Receiver<Request>) -> Self {
        Self {
            inner,
            requests,
            taker: None,
            own: VecDeque::new(),
            next_due: Some(Timestamp::from_micros(0)),
            looked_at: None,
            told_at: None,
            cursors: Cursors::default(),
            held: BTreeMap::new(),
            writing: None,
        }
    }

    /// Runs until every sender is gone.
    pub(crate) async fn run(mut self) {
        let mut buffer = Vec::with_capacity(GROUP_COMMIT);
        while self.gather(&mut buffer).await {
            let submits = self.sort(&mut buffer);
            if self.is_in_the_way(&submits) {
                self.settle(None).await;
            }
            let round = self.prepare(submits).await;
            if self.settle(Some(&round)).await {
                self.writing = Some(round.write(&self.inner, None));
                // The write begins on this worker, or waits until another one has time for it.
                tokio::task::yield_now().await;
            } else {
                self.own.extend(inputs(round.parts));
            }
        }
        self.settle(None).await;
    }

    /// Waits for the inputs of the next round. While one is being written, only a full round is worth
    /// deciding ahead; what comes in slower is decided when the write has ended, all at once. Returns
    /// whether there is anybody left who may ask.
    async fn gather(&mut self, buffer: &mut Vec<Request>) -> bool {
        let queue = Arc::clone(&self.inner.queue);
        while buffer.len() < GROUP_COMMIT {
            let room = GROUP_COMMIT - buffer.len();
            if self.writing.is_some() {
                tokio::select! {
                    result = written(&mut self.writing) => {
                        self.settled(result, None).await;
                    }
                    () = queue.woken() => self.next_due = Some(Timestamp::from_micros(0)),
                    count = self.requests.recv_many(buffer, room) => if count == 0 {
                        self.settle(None).await;
                        return !buffer.is_empty() || !self.own.is_empty();
                    }
                }
                continue;
            }
            if !self.own.is_empty() || !buffer.is_empty() {
                let Ok(request) = self.requests.try_recv() else { break };
                buffer.push(request);
                continue;
            }
            let due = due(self.taker.as_ref(), self.nap());
            tokio::select! {
                count = self.requests.recv_many(buffer, room) => return count > 0,
                () = queue.woken() => self.next_due = Some(Timestamp::from_micros(0)),
                () = due => {}
            }
            break;
        }
        true
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

    /// Whether what is being written must end before these inputs are decided: somebody else has or
    /// wants one of their copies, one has to be read first (or may be out of date, if other processes
    /// write, too), or what is being written claims work, which is made from copies that are written.
    fn is_in_the_way(&mut self, submits: &[Submit]) -> bool {
        let Some(writing) = &self.writing else { return false };
        writing.round.looks()
            || !submits.iter().all(|submit| {
                let copy = match self.held.entry(submit.group) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => match self.inner.cache.try_lock(submit.group) {
                        Some(copy) => entry.insert(copy),
                        None => return false,
                    },
                };
                let named = named(&submit.input);
                let is_filled = copy
                    .as_ref()
                    .is_some_and(|state| named.is_none_or(|id| state.deployment(id).is_some()));
                let is_known = !self.inner.member.has_others()
                    || writing.round.parts.contains_key(&submit.group);
                is_filled && is_known && !is_wanted(copy)
            })
    }

    /// Decides inputs, and makes ready what writes them and what follows.
    pub(crate) async fn prepare(&mut self, submits: Vec<Submit>) -> Round {
        self.taker = self.taker.take().filter(|taker| !taker.out.is_closed());
        let mut by_group: BTreeMap<GroupId, Vec<Submit>> = BTreeMap::new();
        for submit in submits {
            by_group.entry(submit.group).or_default().push(submit);
        }
        self.freshen(by_group.keys().copied()).await;
        self.look_for_work().await;
        let now = self.inner.now();
        let mut parts = Parts::new();
        for (group, submits) in by_group {
            if let Some(part) = self.decide(group, submits, now).await {
                parts.insert(group, part);
            }
        }
        Round::new(self, parts, now)
    }

    /// Decides the inputs of one group. `None`: they were refused, or have to wait for a fresh copy.
    async fn decide(
        &mut self,
        group: GroupId,
        submits: Vec<Submit>,
        now: Timestamp,
    ) -> Option<Part> {
        let copy = hold(&mut self.held, &self.inner, group).await;
        let named: Vec<DeploymentId> =
            submits.iter().filter_map(|submit| named(&submit.input)).collect();
        match fill(copy, &self.inner, group, named).await {
            Ok(true) => {}
            Ok(false) => {
                refuse_all(submits, || SubmitError::GroupUnknown);
                return None;
            }
            Err(error) => {
                tracing::error!(error = %crate::chain(&error), "a group could not be read");
                let error = Arc::new(error);
                refuse_all(submits, || SubmitError::Store(Error::Shared(Arc::clone(&error))));
                return None;
            }
        }
        match Part::decide(copy, submits, now) {
            Ok(part) => Some(part),
            Err(again) => {
                self.own.extend(again);
                None
            }
        }
    }
}

/// The group's copy; it stays locked until what was decided on it is written.
pub(crate) async fn hold<'a>(
    held: &'a mut BTreeMap<GroupId, OwnedMutexGuard<Copy>>,
    inner: &Inner,
    group: GroupId,
) -> &'a mut OwnedMutexGuard<Copy> {
    match held.entry(group) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => entry.insert(inner.cache.lock(group).await),
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
