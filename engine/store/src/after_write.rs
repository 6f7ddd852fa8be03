//! What follows a write of the committer: copies are let go, work is handed out, whoever waits is answered. Or it
//! was not done, and what was decided is decided again or refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use capstan_core::GroupId;
use capstan_core::effect::Effect;
use capstan_core::input::Input;
use sea_orm::DatabaseTransaction;

use crate::cache::{fill, forget_ended, take_back};
use crate::commit::{Committer, PAUSE, hold};
use crate::part::{Submit, inputs, named, refuse_all};
use crate::round::{Round, Writing, Written, written};
use crate::told::tell;
use crate::{Error, SubmitError};

/// How often an input is decided again after lost comparisons of versions.
const LOST_AT_MOST: u32 = 20;
/// After so many it takes the group's row first: a process that writes without a pause would be faster each time.
const LOST_FREELY: u32 = 10;

/// Inputs that are to be decided again.
enum Again {
    /// Others were faster: those of a group together, so that one group's loss harms no other.
    Together(Vec<Submit>),
    /// One of them cannot be written.
    OneByOne(Vec<Submit>),
}

impl Committer {
    /// Waits for the round that is being written, and does what follows. `next` was decided
    /// meanwhile, on the same copies. Returns whether they are right.
    pub(crate) async fn settle(&mut self, next: Option<&Round>) -> bool {
        if self.writing.is_none() {
            return true;
        }
        let result = written(&mut self.writing).await;
        self.settled(result, next).await
    }

    pub(crate) async fn settled(
        &mut self,
        result: Result<Written, Error>,
        next: Option<&Round>,
    ) -> bool {
        match self.ended(result, next).await {
            Ok(is_written) => is_written,
            Err(Again::Together(left)) => {
                let mut by_group: BTreeMap<GroupId, Vec<Submit>> = BTreeMap::new();
                for submit in left {
                    by_group.entry(submit.group).or_default().push(submit);
                }
                for (group, submits) in by_group {
                    self.again(group, submits).await;
                }
                false
            }
            Err(Again::OneByOne(left)) => {
                self.one_by_one(left).await;
                false
            }
        }
    }

    async fn one_by_one(&mut self, left: Vec<Submit>) {
        for submit in left {
            Box::pin(self.again(submit.group, vec![submit])).await;
        }
    }

    /// Decides and writes inputs of one group until their comparison of versions holds.
    async fn again(&mut self, group: GroupId, mut left: Vec<Submit>) {
        for lost in 0..LOST_AT_MOST {
            let turn = if lost < LOST_FREELY { None } else { self.turn(group, &left).await };
            let round = self.prepare(left).await;
            self.writing = Some(round.write(&self.inner, turn));
            let result = written(&mut self.writing).await;
            match self.ended(result, None).await {
                Ok(_) => return,
                Err(Again::Together(again)) => left = again,
                Err(Again::OneByOne(left)) => return self.one_by_one(left).await,
            }
        }
        refuse_all(left, || SubmitError::Store(Error::Contended));
    }

    /// A transaction that has the group's row, so that nobody else writes the group before it. The group is read
    /// before that, so that others wait for what is read again only. None: it did not come, and is done without.
    async fn turn(&mut self, group: GroupId, submits: &[Submit]) -> Option<DatabaseTransaction> {
        let named: Vec<_> = submits.iter().filter_map(|submit| named(&submit.input)).collect();
        let copy = hold(&mut self.held, &self.inner, group).await;
        let turn = async {
            fill(copy, &self.inner, group, named).await?;
            self.inner.begin_in_group(group).await
        };
        turn.await
            .inspect_err(|error| {
                tracing::warn!(%group, error = %crate::chain(error), "a turn did not come");
            })
            .ok()
    }

    /// What follows a write. Returns whether it was done; with an error those inputs that are to be
    /// decided again. When it was not done, no copy is right any more, or what was decided on it is taken back.
    async fn ended(
        &mut self,
        result: Result<Written, Error>,
        next: Option<&Round>,
    ) -> Result<bool, Again> {
        let Some(Writing { mut round, .. }) = self.writing.take() else { return Ok(true) };
        let error = match result {
            Ok(Written::Done(found)) => {
                self.finish(round, found).await;
                self.let_go(next);
                return Ok(true);
            }
            Ok(Written::Lost) => None,
            Err(error) => Some(error),
        };
        for (group, mut copy) in std::mem::take(&mut self.held) {
            if error.is_some() {
                *copy = None;
            } else {
                let rounds = [Some(&round), next].into_iter().flatten();
                let parts = rounds.filter_map(|round| round.parts.get(&group));
                take_back(&mut copy, &self.inner, parts).await;
            }
        }
        let is_down = error
            .as_ref()
            .is_some_and(|error| error.is_unavailable() && !matches!(error, Error::GivenUp));
        // It may have been done: what was to be started next does not wait for its timer.
        if is_down {
            self.go_on(&mut round);
        }
        let left = inputs(round.parts);
        let Some(error) = error else {
            metrics::counter!("capstan_commits_lost_total").increment(1);
            return Err(Again::Together(left));
        };
        // One input that cannot be written must not fail its neighbours.
        if left.len() > 1 && !is_down {
            tracing::warn!(error = %crate::chain(&error), "inputs are written one by one");
            return Err(Again::OneByOne(left));
        }
        tracing::error!(error = %crate::chain(&error), "a transaction failed");
        let pause = is_down || left.is_empty();
        let error = Arc::new(error);
        if is_down {
            self.inner.note_write(Some(&error));
        }
        refuse_all(left, || SubmitError::Store(Error::Shared(Arc::clone(&error))));
        if pause {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(false)
    }

    /// Deployments with more to start than one decision may are woken again.
    fn go_on(&mut self, round: &mut Round) {
        for (group, part) in &mut round.parts {
            for id in part.more.drain(..) {
                let input = Box::new(Input::Woken { deployment: id });
                self.own.push_back(Submit { group: *group, input, asked: None, reply: None });
            }
        }
    }

    /// After the commit: work is handed out, whoever waits is answered.
    async fn finish(&mut self, mut round: Round, found: Vec<(Effect, i32)>) {
        self.go_on(&mut round);
        for (group, part) in &round.parts {
            if let Some(state) = self.held.get(group).and_then(|copy| copy.as_ref()) {
                tell(state, &part.changes.events);
            }
            for (id, seq) in &part.seqs {
                self.inner.watches.tell(*id, *seq);
            }
        }
        if round.parts.values().any(|part| !part.changes.is_empty()) {
            self.inner.watches.tell_all();
        }
        self.nudge(&round, &found);
        if round.looks() {
            let all = found.len() < round.capacity();
            let due = if all { self.ask_next_due().await } else { Some(Some(round.now)) };
            // Nothing may fail after the commit: what is not known is looked for soon. What is due and
            // was not taken is somebody else's just now.
            self.next_due = due.map_or(Some(round.now + PAUSE), |due| {
                due.map(|due| {
                    if all && due <= round.now {
                        round.now + crate::in_step::LOOK_EVERY
                    } else {
                        due
                    }
                })
            });
        }
        let parts = std::mem::take(&mut round.parts);
        self.hand_out(round, found).await;
        for part in parts.into_values() {
            part.answer();
        }
    }

    /// Lets others have the copies that are right, but for those on which `next` was decided.
    fn let_go(&mut self, next: Option<&Round>) {
        self.held.retain(|group, copy| {
            let is_ahead = next.is_some_and(|next| next.parts.contains_key(group));
            if !is_ahead && let Some(state) = copy.as_mut() {
                forget_ended(state);
            }
            is_ahead
        });
    }
}
