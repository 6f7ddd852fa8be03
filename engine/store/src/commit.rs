//! The committer: decides what has come in and writes it, many inputs in one transaction.
//!
//! One task per process. It takes what has arrived (up to [`GROUP_COMMIT`] inputs, without waiting
//! for more), decides the inputs of one group one after the other on one copy, and writes all changes
//! in one transaction with multi-row statements. An idle process commits groups of one at once; the
//! more comes in, the larger the groups. Durability is never traded for speed.
//!
//! Claims of due effects are part of the same loop: an effect that is due when it is written, while
//! an engine waits for work, is written as claimed already, and needs no second transaction.
//!
//! If a comparison of versions fails, or the transaction does, the copies are thrown away; after a
//! lost comparison the inputs are decided again one by one, so that one group's loss never harms
//! another group's inputs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use capstan_core::changes::{Changes, EffectChange};
use capstan_core::decide::{Decision, decide};
use capstan_core::effect::{Effect, EffectKind};
use capstan_core::input::{Answer, Input, Refused};
use capstan_core::state::GroupState;
use capstan_core::{DeploymentId, GroupId, Timestamp};
use sea_orm::TransactionTrait;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use uuid::Uuid;

use crate::apply::{Applied, apply};
use crate::cache::{Copy, fill, forget_ended};
use crate::claims::{claim, next_due};
use crate::inner::Owed;
use crate::work::{Claim, Claimed, Cursors, claim_of};
use crate::{Error, Inner, SubmitError, crash};

/// Inputs in one transaction at most.
pub(crate) const GROUP_COMMIT: usize = 128;
/// How often due effects of other processes are looked for, and the wait after a failed commit.
const POLL: Duration = Duration::from_millis(500);
/// After so many full rounds the committer's own work is done though more outcomes wait.
const ROUNDS_PASSED: u32 = 16;
/// How often an input is decided again after lost comparisons of versions.
const LOST_AT_MOST: u32 = 20;

pub(crate) type Reply = oneshot::Sender<Result<Answer, SubmitError>>;

/// What the committer is asked.
pub(crate) enum Request {
    /// Decide an input and write what follows.
    Submit { group: GroupId, input: Box<Input>, reply: Option<Reply> },
    /// Give due work to an engine, at most so much at a time; answered when there is some.
    Claim { owner: Arc<str>, limit: usize, reply: oneshot::Sender<Claimed> },
}

struct Submit {
    group: GroupId,
    input: Box<Input>,
    reply: Option<Reply>,
}

struct ClaimRequest {
    owner: Arc<str>,
    limit: usize,
    reply: oneshot::Sender<Claimed>,
}

/// One group's part of a transaction.
struct Part {
    copy: OwnedMutexGuard<Copy>,
    changes: Changes,
    version: i64,
    answers: Vec<(Submit, Result<Answer, Refused>)>,
    more: Vec<DeploymentId>,
}

/// The task's own state.
pub(crate) struct Committer {
    inner: Arc<Inner>,
    requests: mpsc::Receiver<Request>,
    waiting: VecDeque<ClaimRequest>,
    /// Work that the committer gives itself. What hosts have answered comes first, so that a large
    /// batch is begun no faster than its outcomes can be written.
    own: VecDeque<Submit>,
    /// Full rounds since the committer's own work was done.
    rounds_passed: u32,
    /// The earliest unclaimed effect, as far as this process knows.
    next_due: Option<Timestamp>,
    cursors: Cursors,
}

/// What a transaction wrote.
struct Written {
    claimed: Vec<Effect>,
    taken_over: Vec<(Effect, i32)>,
}

impl Committer {
    pub(crate) fn new(inner: Arc<Inner>, requests: mpsc::Receiver<Request>) -> Self {
        Self {
            inner,
            requests,
            waiting: VecDeque::new(),
            own: VecDeque::new(),
            rounds_passed: 0,
            next_due: Some(Timestamp::from_micros(0)),
            cursors: Cursors::default(),
        }
    }

    /// Runs until every sender is gone.
    pub(crate) async fn run(mut self) {
        let mut buffer = Vec::with_capacity(GROUP_COMMIT);
        let freed = Arc::clone(&self.inner.freed);
        loop {
            if self.own.is_empty() {
                let nap = self.nap();
                tokio::select! {
                    count = self.requests.recv_many(&mut buffer, GROUP_COMMIT) => {
                        if count == 0 {
                            return;
                        }
                    }
                    () = freed.notified() => self.next_due = Some(Timestamp::from_micros(0)),
                    () = tokio::time::sleep(nap), if !self.waiting.is_empty() => {}
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

    /// How long to wait for a due effect.
    fn nap(&self) -> Duration {
        let now = self.inner.now();
        self.next_due.map_or(POLL, |due| due.since(now)).min(POLL)
    }

    fn sort(&mut self, buffer: &mut Vec<Request>) -> Vec<Submit> {
        let mut submits: Vec<Submit> = Vec::with_capacity(buffer.len());
        self.rounds_passed += 1;
        if buffer.len() < GROUP_COMMIT || self.rounds_passed >= ROUNDS_PASSED {
            submits.extend(self.own.drain(..));
            self.rounds_passed = 0;
        }
        for request in buffer.drain(..) {
            match request {
                Request::Submit { group, input, reply } => {
                    submits.push(Submit { group, input, reply });
                }
                Request::Claim { owner, limit, reply } => {
                    self.waiting.push_back(ClaimRequest { owner, limit, reply });
                }
            }
        }
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
        let mut parts = self.decide_all(submits, now).await;
        self.waiting.retain(|request| !request.reply.is_closed());
        match self.write(&mut parts, now).await {
            Ok(Some(written)) => {
                self.finish(parts, written).await;
                Ok(())
            }
            Ok(None) => {
                metrics::counter!("commit_lost_total").increment(1);
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
                refuse_all(throw_away(parts), || {
                    SubmitError::Store(Error::Shared(Arc::clone(&error)))
                });
                if error.is_unavailable() {
                    tokio::time::sleep(POLL).await;
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

    async fn decide_all(
        &mut self,
        submits: Vec<Submit>,
        now: Timestamp,
    ) -> BTreeMap<GroupId, Part> {
        let mut by_group: BTreeMap<GroupId, Vec<Submit>> = BTreeMap::new();
        for submit in submits {
            by_group.entry(submit.group).or_default().push(submit);
        }
        let mut parts = BTreeMap::new();
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
            match decide_group(copy, submits, now) {
                Ok(part) => {
                    parts.insert(group, part);
                }
                Err(again) => self.own.extend(again),
            }
        }
        parts
    }

    /// Writes everything in one transaction. `None`: a comparison of versions was lost.
    async fn write(
        &mut self,
        parts: &mut BTreeMap<GroupId, Part>,
        now: Timestamp,
    ) -> Result<Option<Written>, Error> {
        let mut written = Written { claimed: Vec::new(), taken_over: Vec::new() };
        let capacity = self.waiting.front().map_or(0, |request| request.limit);
        let owner = self.waiting.front().map(|request| Arc::clone(&request.owner));
        let look = capacity > 0 && self.next_due.is_some_and(|due| due <= now);
        if !look && parts.values().all(|part| part.changes.is_empty()) {
            return Ok(Some(written));
        }
        crash::point("commit.begin");
        let started = std::time::Instant::now();
        let txn =
            self.inner.writer.begin().await.map_err(Error::database("begin a transaction"))?;
        for part in parts.values().filter(|part| !part.changes.is_empty()) {
            let left = capacity - written.claimed.len();
            let claimed = due_now(&part.changes, now, left);
            let keys: BTreeSet<(i16, Uuid)> = claimed.iter().map(key).collect();
            written.claimed.extend(claimed);
            let Some(state) = part.copy.as_ref() else { continue };
            let applied =
                apply(&txn, state, &part.changes, part.version, owner.as_deref(), &keys).await?;
            if applied == Applied::Lost {
                return Ok(None);
            }
        }
        if look && let Some(owner) = &owner {
            let left = capacity - written.claimed.len();
            written.taken_over = claim(&txn, owner, now, left as u64).await?;
        }
        crash::point("commit.written");
        txn.commit().await.map_err(Error::database("commit a transaction"))?;
        crash::point("commit.done");
        metrics::histogram!("commit_seconds").record(started.elapsed().as_secs_f64());
        if look {
            let all = written.taken_over.len() + written.claimed.len() < capacity;
            // Nothing may fail after the commit: what is not known is looked for at once.
            let due = if all { next_due(&self.inner.reader).await } else { Ok(Some(now)) };
            self.next_due = due.unwrap_or(Some(now));
        }
        Ok(Some(written))
    }

    /// After the commit: the copies are right, whoever waits is answered, work is handed out.
    async fn finish(&mut self, mut parts: BTreeMap<GroupId, Part>, written: Written) {
        let claimed: BTreeSet<(i16, Uuid)> = written.claimed.iter().map(key).collect();
        for (group, part) in &mut parts {
            self.note_due(&part.changes, &claimed);
            if let Some(state) = part.copy.as_mut() {
                if !part.changes.is_empty() {
                    state.group.version = part.version + 1;
                }
                for id in part.changes.deployments.keys() {
                    self.inner.watches.tell(*id, state.deployment(*id));
                }
            }
            for id in part.more.drain(..) {
                let input = Box::new(Input::Woken { deployment: id });
                self.own.push_back(Submit { group: *group, input, reply: None });
            }
        }
        if parts.values().any(|part| !part.changes.is_empty()) {
            self.inner.watches.tell_all();
        }
        let mut effects: Vec<(Effect, i32)> =
            written.claimed.into_iter().map(|effect| (effect, 0)).collect();
        effects.extend(written.taken_over);
        let claims = self.claims(&mut parts, effects).await;
        for part in parts.into_values() {
            finish_part(part);
        }
        self.hand_out(claims);
    }

    fn note_due(&mut self, changes: &Changes, claimed: &BTreeSet<(i16, Uuid)>) {
        for (key, change) in &changes.effects {
            if let EffectChange::Put(effect) = change
                && !claimed.contains(key)
            {
                let due = self.next_due.map_or(effect.due_at, |due| due.min(effect.due_at));
                self.next_due = Some(due);
            }
        }
    }

    /// Turns claimed effects into work. One that another engine had begun is taken over first: the
    /// fence rises in a transaction of its own, and the effect is handed out after that.
    async fn claims(
        &mut self,
        parts: &mut BTreeMap<GroupId, Part>,
        effects: Vec<(Effect, i32)>,
    ) -> Vec<Claim> {
        let mut claims = Vec::with_capacity(effects.len());
        let mut locked: BTreeMap<GroupId, OwnedMutexGuard<Copy>> = BTreeMap::new();
        for (effect, claims_before) in effects {
            let copy = match parts.get_mut(&effect.group) {
                Some(part) => &mut part.copy,
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
                self.inner.owe(effect.kind, Owed::Release);
                continue;
            }
            let Some(state) = copy.as_ref() else {
                self.inner.owe(effect.kind, Owed::Release);
                continue;
            };
            if claims_before > 0
                && let EffectKind::RunStage(deployment, target) = effect.kind
            {
                let input = Box::new(Input::TakenOver { deployment, target });
                let reply = self.after_take_over(effect);
                self.own.push_back(Submit { group: effect.group, input, reply: Some(reply) });
                continue;
            }
            claims.push(claim_of(state, effect, &mut self.cursors));
        }
        claims
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
            inner.owe(effect.kind, owed);
        });
        sender
    }

    /// Work that nobody takes any more is given back when it is dropped.
    fn hand_out(&mut self, claims: Vec<Claim>) {
        if claims.is_empty() {
            return;
        }
        let claimed = Claimed::new(claims, Arc::clone(&self.inner));
        if let Some(request) = self.waiting.pop_front() {
            drop(request.reply.send(claimed));
        }
    }
}

/// Decides the inputs of one group on its copy. A decision that panics is answered as a failure, its
/// copy is thrown away, and the other inputs are given back to be decided on a fresh one: a bug that
/// one group meets stops no other.
fn decide_group(
    mut copy: OwnedMutexGuard<Copy>,
    submits: Vec<Submit>,
    now: Timestamp,
) -> Result<Part, Vec<Submit>> {
    let Some(state) = copy.as_mut() else { return Err(submits) };
    let version = state.group.version;
    let mut changes = Changes::default();
    let (mut answers, mut more) = (Vec::new(), Vec::new());
    let mut submits = submits.into_iter();
    while let Some(submit) = submits.next() {
        let decided = catch_unwind(AssertUnwindSafe(|| decide_one(state, &submit.input, now)));
        let Ok(decided) = decided else {
            tracing::error!(group = %submit.group, input = ?submit.input, "a decision panicked");
            *copy = None;
            refuse_all(vec![submit], || SubmitError::Store(Error::Panicked));
            return Err(answers.into_iter().map(|(submit, _)| submit).chain(submits).collect());
        };
        let answer = decided.map(|decision| {
            changes.merge(decision.changes);
            more.extend(decision.more);
            decision.answer
        });
        answers.push((submit, answer));
    }
    more.sort_unstable();
    more.dedup();
    Ok(Part { copy, changes, version, answers, more })
}

fn decide_one(state: &mut GroupState, input: &Input, now: Timestamp) -> Result<Decision, Refused> {
    match named(input).filter(|id| state.deployment(*id).is_none()) {
        Some(id) => {
            Err(Refused::new("deployment_unknown", format!("no deployment {id} in this group")))
        }
        None => decide(state, input, now),
    }
}

fn finish_part(part: Part) {
    let Part { mut copy, answers, .. } = part;
    if let Some(state) = copy.as_mut() {
        forget_ended(state);
    }
    drop(copy);
    for (submit, result) in answers {
        if let Some(reply) = submit.reply {
            answer(reply, result.map_err(SubmitError::Refused));
        }
    }
}

/// The copies are wrong from here on; gives the inputs back.
fn throw_away(parts: BTreeMap<GroupId, Part>) -> Vec<Submit> {
    let mut submits = Vec::new();
    for mut part in parts.into_values() {
        *part.copy = None;
        submits.extend(part.answers.into_iter().map(|(submit, _)| submit));
    }
    submits
}

fn refuse_all(submits: Vec<Submit>, error: impl Fn() -> SubmitError) {
    for reply in submits.into_iter().filter_map(|submit| submit.reply) {
        answer(reply, Err(error()));
    }
}

/// Whoever asked may have gone; then nobody needs the answer.
fn answer(reply: Reply, result: Result<Answer, SubmitError>) {
    drop(reply.send(result));
}

fn key(effect: &Effect) -> (i16, Uuid) {
    (effect.kind.number(), effect.kind.subject())
}

/// Effects that are due when they are written, up to a number.
fn due_now(changes: &Changes, now: Timestamp, limit: usize) -> Vec<Effect> {
    let puts = changes.effects.values().filter_map(|change| match change {
        EffectChange::Put(effect) if effect.due_at <= now => Some(*effect),
        EffectChange::Put(_) | EffectChange::Delete(_) => None,
    });
    puts.take(limit).collect()
}

/// The deployment that an input is about.
fn named(input: &Input) -> Option<DeploymentId> {
    match input {
        Input::Act(act) => Some(act.deployment),
        Input::StageEnded(ended) => Some(ended.deployment),
        Input::AnswerLost { deployment, .. }
        | Input::AnswerFound { deployment, .. }
        | Input::TakenOver { deployment, .. }
        | Input::Woken { deployment } => Some(*deployment),
        Input::Observed { deployment, .. } => *deployment,
        Input::Create(_)
        | Input::Rollback(_)
        | Input::PullOut { .. }
        | Input::PutBack { .. }
        | Input::ServerDrained { .. }
        | Input::ServerReturned { .. }
        | Input::Synced { .. }
        | Input::Adopt { .. } => None,
    }
}
