//! One group's part of a transaction: its inputs, decided one after the other on its copy.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use capstan_core::changes::Changes;
use capstan_core::decide::{Decision, decide};
use capstan_core::input::{Answer, Input, Refused};
use capstan_core::state::GroupState;
use capstan_core::{DeploymentId, GroupId, Timestamp};
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::cache::{Copy, forget_ended};
use crate::{Error, RequestKey, SubmitError};

/// Whoever waits for the answer to an input.
pub(crate) type Reply = oneshot::Sender<Result<Answer, SubmitError>>;

/// An input on its way through the committer.
pub(crate) struct Submit {
    pub(crate) group: GroupId,
    pub(crate) input: Box<Input>,
    /// The request that it comes from, if a repeat must not make another deployment.
    pub(crate) request: Option<RequestKey>,
    pub(crate) reply: Option<Reply>,
}

/// The parts of one transaction, in the order in which they are written.
pub(crate) type Parts = BTreeMap<GroupId, Part>;

/// One group's part of a transaction.
pub(crate) struct Part {
    pub(crate) copy: OwnedMutexGuard<Copy>,
    pub(crate) changes: Changes,
    pub(crate) version: i64,
    /// Deployments with more to start than one decision may.
    pub(crate) more: Vec<DeploymentId>,
    answers: Vec<(Submit, Result<Answer, Refused>)>,
}

impl Part {
    /// Decides the inputs of one group on its copy, which is filled. A decision that panics is
    /// answered as a failure, its copy is thrown away, and the other inputs are given back to be
    /// decided on a fresh one: a bug that one group meets stops no other.
    pub(crate) fn decide(
        mut copy: OwnedMutexGuard<Copy>,
        submits: Vec<Submit>,
        now: Timestamp,
    ) -> Result<Self, Vec<Submit>> {
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
        Ok(Self { copy, changes, version, more, answers })
    }

    /// The deployments that requests made.
    pub(crate) fn made(&self) -> impl Iterator<Item = (&RequestKey, DeploymentId)> {
        self.answers.iter().filter_map(|(submit, answer)| match answer {
            Ok(Answer::Created(id)) => submit.request.as_ref().map(|request| (request, *id)),
            Ok(Answer::Done | Answer::NothingToRollBack { .. } | Answer::RefreshHeld(_))
            | Err(_) => None,
        })
    }

    /// After the commit: the copy is free for others, and whoever waits is answered.
    pub(crate) fn finish(self) {
        let Self { mut copy, answers, .. } = self;
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
}

fn decide_one(state: &mut GroupState, input: &Input, now: Timestamp) -> Result<Decision, Refused> {
    match named(input).filter(|id| state.deployment(*id).is_none()) {
        Some(id) => {
            Err(Refused::new("deployment_unknown", format!("no deployment {id} in this group")))
        }
        None => decide(state, input, now),
    }
}

/// The copies are wrong from here on; gives the inputs back.
pub(crate) fn throw_away(parts: Parts) -> Vec<Submit> {
    let mut submits = Vec::new();
    for mut part in parts.into_values() {
        *part.copy = None;
        submits.extend(part.answers.into_iter().map(|(submit, _)| submit));
    }
    submits
}

pub(crate) fn refuse_all(submits: Vec<Submit>, error: impl Fn() -> SubmitError) {
    for reply in submits.into_iter().filter_map(|submit| submit.reply) {
        answer(reply, Err(error()));
    }
}

/// Whoever asked may have gone; then nobody needs the answer.
fn answer(reply: Reply, result: Result<Answer, SubmitError>) {
    drop(reply.send(result));
}

/// The deployment that an input is about.
pub(crate) fn named(input: &Input) -> Option<DeploymentId> {
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
