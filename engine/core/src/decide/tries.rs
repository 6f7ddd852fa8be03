//! Acts that are done again: the automatic tries of a stage, and acts that an engine takes over.

use std::time::Duration;

use crate::effect::EffectKind;
use crate::event::{EventData, EventType};
use crate::input::{Again, Answer, StageEnded, StageResult};
use crate::order;
use crate::record::Cause;
use crate::stage::{Stage, VERIFY_FRESH};
use crate::target_status::TargetEvent;
use crate::{DeploymentId, OrderKey, TargetId, Timestamp};

use super::Decider;
use super::write::About;

/// Why a Markup is not done: freshness is a condition at the act, not only when its stage starts.
const STALE_PROOF: &str = "the proof is older than a minute";

impl Decider<'_> {
    /// A stage failed and may succeed yet: it is ordered again, after `wait`.
    pub(super) fn try_again(
        &mut self,
        id: DeploymentId,
        place: usize,
        wait: Duration,
        (cause, message): (Cause, Option<String>),
    ) {
        if !self.proof_lasts(id, place, self.now + wait) {
            let said = message.map(|text| format!("{text}; ")).unwrap_or_default();
            let message = format!("{said}it is not tried again, since {STALE_PROOF}");
            self.fail(id, place, Stage::Markup, cause, Some(message));
            return;
        }
        let key = self.start_try(id, place, wait, (cause, message.clone()));
        let target = self.target(id, place);
        let data = EventData {
            to: Some(target.status.word().to_owned()),
            attempt: Some(target.attempt),
            key: Some(key),
            fence: self.state.server(target.server).map(|server| server.fence),
            message,
            ..EventData::default()
        };
        let about = About { place: Some(place), cause: Some(cause), ..About::default() };
        self.event(id, EventType::TargetTry, &about, data);
    }

    fn start_try(
        &mut self,
        id: DeploymentId,
        place: usize,
        wait: Duration,
        (cause, message): (Cause, Option<String>),
    ) -> OrderKey {
        let stage = self.target(id, place).status.running().unwrap_or(Stage::Check);
        let limit = order::limit(&self.of(id).deployment, stage);
        let key = self.next_key(id, place);
        self.give_order(id, place, key);
        let due = self.now + wait;
        self.change_target(id, place, |target| {
            target.order = Some(key);
            target.orders += 1;
            target.tries += 1;
            target.unknown_since = None;
            target.deadline_at = Some(due + limit);
            // Should the try never begin, the stage fails for the reason that it has now.
            target.cause = Some(cause);
            target.message = message;
        });
        self.run_stage_at(id, place, due);
        key
    }

    /// S5: whether the stage under way may still bring the server into traffic at an instant.
    fn proof_lasts(&self, id: DeploymentId, place: usize, at: Timestamp) -> bool {
        let target = self.target(id, place);
        target.status.running() != Some(Stage::Markup)
            || target.verified_at.is_some_and(|proven| at.since(proven) <= VERIFY_FRESH)
    }

    /// Whether the stage under way waits for a try that is not due: its order is not given out.
    pub(super) fn awaits_try(&self, id: DeploymentId, place: usize) -> bool {
        let state = self.of(id);
        let target = &state.targets()[place];
        let begins = order::act_at(&state.deployment, target);
        target.tries > 0 && begins.is_some_and(|at| at > self.now)
    }

    /// The try that a target waits for never begins. What follows is up to the caller.
    pub(super) fn drop_try(&mut self, id: DeploymentId, place: usize) {
        let target = self.target(id, place);
        let (target, server, order) = (target.id, target.server, target.order);
        self.changes.delete(EffectKind::RunStage(id, target));
        if self.state.server(server).is_some_and(|row| row.order == order) {
            self.change_server(server, |server| server.order = None);
        }
    }

    /// A try is a new order, and a brake stops orders: who waits for one has failed (S2).
    pub(super) fn fail_awaited_tries(&mut self, id: DeploymentId) {
        let waiting: Vec<(usize, Stage)> = self
            .of(id)
            .targets()
            .iter()
            .enumerate()
            .filter_map(|(place, target)| Some((place, target.status.running()?)))
            .filter(|(place, _)| self.awaits_try(id, *place))
            .collect();
        for (place, stage) in waiting {
            self.drop_try(id, place);
            let target = self.target(id, place);
            let (cause, message) = (target.cause.unwrap_or(Cause::Failed), target.message.clone());
            self.fail(id, place, stage, cause, message);
        }
    }

    /// An engine takes over what another one had begun: the fence rises, and the act has its whole
    /// limit before it, however long nobody was there. (A script on the host keeps its own.)
    pub(super) fn taken_over(&mut self, id: DeploymentId, target: TargetId) -> Answer {
        let Some(place) = self.of(id).place(target) else { return Answer::Done };
        let row = self.target(id, place);
        let (server, order, stage) = (row.server, row.order, row.status.running());
        let ours = self.state.server(server).is_some_and(|row| row.order == order);
        let (Some(stage), Some(key), true) = (stage, order, ours) else { return Answer::Done };
        // An act whose answer was lost may have happened while the proof was fresh: it is asked for (S11).
        let is_unknown = self.target(id, place).unknown_since.is_some();
        let lasts = is_unknown || self.proof_lasts(id, place, self.now);
        if !lasts && self.may_start(id, place) {
            self.start_stage(id, place, Stage::Verify, TargetEvent::ProofExpired);
            return Answer::Done;
        }
        if !lasts {
            let result = StageResult::Failed { cause: Cause::Failed, again: Again::WillNot };
            let message = Some(STALE_PROOF.to_owned());
            let ended = StageEnded { deployment: id, target, key, result, message };
            return self.stage_ended(&ended);
        }
        let deadline_at = self.now + order::limit(&self.of(id).deployment, stage);
        self.change_target(id, place, |target| {
            target.deadline_at = target.deadline_at.max(Some(deadline_at));
        });
        self.change_server(server, |server| server.fence += 1);
        let data = EventData {
            key: order,
            fence: self.state.server(server).map(|server| server.fence),
            ..EventData::default()
        };
        let about = About { place: Some(place), ..About::default() };
        self.event(id, EventType::TargetTakenOver, &about, data);
        Answer::Done
    }

    /// Whether another stage may start on a target whose stage under way is given up.
    fn may_start(&self, id: DeploymentId, place: usize) -> bool {
        let deployment = &self.of(id).deployment;
        deployment.status.is_running() && !deployment.is_braked() && !self.target(id, place).leaving
    }

    /// A deployment has ended: a try that was not due never begins.
    pub(super) fn revoke_awaited_try(&mut self, id: DeploymentId, place: usize) {
        self.drop_try(id, place);
        self.move_target(id, place, TargetEvent::Ended, None, |_| {});
    }
}
