//! One group's part of a round: its inputs, decided one after the other on its copy.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use capstan_core::changes::Changes;
use capstan_core::decide::{Decision, decide};
use capstan_core::input::{Answer, Input, Refused};
use capstan_core::state::GroupState;
use capstan_core::{DeploymentId, GroupId, Timestamp};
use sea_orm::DbBackend;
use tokio::sync::oneshot;

use crate::apply::{EffectKey, statements};
use crate::bulk::Step;
use crate::cache::Copy;
use crate::changed;
use crate::{Asked, Error, NewAudit, RequestKey, SubmitError};

/// Whoever waits for the answer to an input.
pub(crate) type Reply = oneshot::Sender<Result<Answer, SubmitError>>;

/// An input on its way through the committer.
pub(crate) struct Submit {
    pub(crate) group: GroupId,
    pub(crate) input: Box<Input>,
    /// Who asked for it, if somebody did.
    pub(crate) asked: Option<Box<Asked>>,
    pub(crate) reply: Option<Reply>,
}

/// The parts of one round, in the order in which they are written.
pub(crate) type Parts = BTreeMap<GroupId, Part>;

/// One group's part of a round. It holds all that the transaction and what follows it need, so that
/// the next round can be decided on the same copy.
pub(crate) struct Part {
    pub(crate) changes: Changes,
    /// Deployments with more to start than one decision may.
    pub(crate) more: Vec<DeploymentId>,
    /// The last event of each deployment that changed.
    pub(crate) seqs: Vec<(DeploymentId, i64)>,
    /// The group's version before it.
    pub(crate) version: i64,
    answers: Vec<(Submit, Result<Answer, Refused>)>,
}

impl Part {
    /// Decides the inputs of one group on its copy, which is filled. A decision that panics is
    /// answered as a failure, its copy is thrown away, and the other inputs are given back to be
    /// decided on a fresh one: a bug that one group meets stops no other.
    pub(crate) fn decide(
        copy: &mut Copy,
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
        if !changes.is_empty() {
            state.group.version = version + 1;
        }
        let seq = |id: &DeploymentId| Some((*id, state.deployment(*id)?.deployment.seq));
        let seqs = changes.deployments.keys().filter_map(seq).collect();
        Ok(Self { changes, more, seqs, version, answers })
    }

    /// The statements that write the part; none if nothing changed.
    pub(crate) fn statements(
        &self,
        backend: DbBackend,
        state: &GroupState,
        owner: &str,
        claimed: &BTreeSet<EffectKey>,
    ) -> Result<Vec<Step>, Error> {
        if self.changes.is_empty() {
            return Ok(Vec::new());
        }
        statements(backend, state, &self.changes, self.version, owner, claimed)
    }

    /// The statements that tell other processes which rows the part writes.
    pub(crate) fn notes(&self, backend: DbBackend, state: &GroupState) -> Vec<Step> {
        if self.changes.is_empty() {
            return Vec::new();
        }
        changed::note(backend, state, &self.changes, self.version + 1)
    }

    /// The deployments that requests made, or that they clicked on.
    pub(crate) fn made(&self) -> impl Iterator<Item = (&RequestKey, DeploymentId)> {
        self.answers.iter().filter_map(|(submit, answer)| {
            let made = match (answer, &*submit.input) {
                (Ok(Answer::Created(id)), _) => *id,
                (Ok(Answer::Done), Input::Act(act)) => act.deployment,
                (Ok(_) | Err(_), _) => return None,
            };
            Some((submit.asked.as_ref()?.request.as_ref()?, made))
        })
    }

    /// The entries of the audit for what was accepted, each with its deployment.
    pub(crate) fn audits(&self) -> impl Iterator<Item = NewAudit> {
        self.answers.iter().filter_map(|(submit, answer)| {
            let audit = submit.asked.as_ref()?.audit.clone()?;
            let deployment = match answer {
                Ok(Answer::Created(id)) => Some(*id),
                Ok(Answer::NothingToRollBack { revoked }) => *revoked,
                Ok(Answer::Done | Answer::RefreshHeld(_) | Answer::ReadAlone) => audit.deployment,
                Err(_) => return None,
            };
            Some(NewAudit { deployment, ..audit })
        })
    }

    /// After the commit: whoever waits is answered.
    pub(crate) fn answer(self) {
        for (submit, result) in self.answers {
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

/// Gives the inputs back; their copies are wrong.
pub(crate) fn inputs(parts: Parts) -> Vec<Submit> {
    parts.into_values().flat_map(|part| part.answers).map(|(submit, _)| submit).collect()
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
        | Input::ServerAdmitted { .. }
        | Input::Dependency { .. }
        | Input::Synced { .. }
        | Input::Restored { .. }
        | Input::Adopt { .. } => None,
    }
}
