//! After every input: the rows of the tables, then the holds, then the next steps, until nothing
//! changes. Conditions are states, never edges, so a fresh start does the same thing.

use crate::batch_status::{BatchEvent, BatchStatus};
use crate::config::Mode;
use crate::deployment_status::{DeploymentEvent, DeploymentStatus};
use crate::effect::EffectKind;
use crate::event::{EventData, EventType};
use crate::input::Answer;
use crate::record::{Batch, HoldReason};
use crate::stage::{Stage, VERIFY_FRESH};
use crate::state::{Counts, DeploymentState};
use crate::tally::{Need, check_comes_first};
use crate::target_status::{TargetEvent, TargetStatus};
use crate::{DeploymentId, Timestamp};

use super::write::About;
use super::{DRAFT_KEPT, Decider, MORE_STARTS_WITHIN, STARTS_AT_ONCE};

/// Whether a person's click is the only way on from a status.
pub(super) fn waits_for_click(status: DeploymentStatus) -> bool {
    use DeploymentStatus as Status;
    matches!(
        status,
        Status::SmokeSuccess
            | Status::SmokeFailure
            | Status::BakeSuccess
            | Status::BakeFailure
            | Status::RolloutFailure
    )
}

/// Whether a bastion's `VERIFY_SUCCESS` is at rest: the deployment smokes, or has just done so.
fn verified_rests(status: DeploymentStatus) -> bool {
    use DeploymentStatus as Status;
    matches!(status, Status::Smoking | Status::SmokeSuccess | Status::SmokeFailure)
}

impl Decider<'_> {
    /// Whatever came in may concern the deployment that holds the group: a server of it, a slot.
    pub(super) fn settle_running(&mut self) {
        if let Some(id) = self.state.running().map(|state| state.deployment.id)
            && !self.more.contains(&id)
        {
            self.settle(id);
        }
    }

    pub(super) fn settle(&mut self, id: DeploymentId) {
        let mut starts_left = STARTS_AT_ONCE;
        loop {
            if !self.of(id).deployment.status.is_running() {
                return;
            }
            // Batches first: the end of a deployment revokes those that have not ended.
            let moved = self.apply_batches(id) | self.apply_rows(id);
            if !self.of(id).deployment.status.is_running() {
                return;
            }
            let held = self.apply_holds(id);
            let started = self.next_steps(id, &mut starts_left);
            if starts_left == 0 {
                self.starts_wait(id, true);
                self.more.push(id);
                self.wake_at(id, self.now + MORE_STARTS_WITHIN);
                return;
            }
            if !(moved || held || started) {
                return;
            }
        }
    }

    fn starts_wait(&mut self, id: DeploymentId, wait: bool) {
        if let Some(state) = self.state.deployment_mut(id) {
            state.starts_wait = wait;
        }
    }

    /// Time has passed, or the engine has just started.
    pub(super) fn woken(&mut self, id: DeploymentId) -> Answer {
        self.changes.delete(EffectKind::WakeDeployment(id));
        self.starts_wait(id, false);
        let deployment = &self.of(id).deployment;
        if deployment.status == DeploymentStatus::Pending {
            if self.now.since(deployment.created_at) >= DRAFT_KEPT {
                self.move_deployment(id, DeploymentEvent::RevokeAsked);
            } else {
                self.wake_at(id, deployment.created_at + DRAFT_KEPT);
            }
            return Answer::Done;
        }
        self.say_stale(id);
        self.settle(id);
        if self.of(id).deployment.status.is_running() && !self.more.contains(&id) {
            self.wake_next(id);
        }
        Answer::Done
    }

    fn say_stale(&mut self, id: DeploymentId) {
        let state = self.of(id);
        let row = &state.deployment;
        let Some(since) = waits_for_person_since(state)
            .filter(|since| !row.stale && self.now.since(*since) >= row.frozen.stale_after())
        else {
            return;
        };
        let choices: Vec<&str> =
            super::command::allowed(self.state, id).iter().map(|action| action.word()).collect();
        let message = format!(
            "{} has not decided since {since}; allowed now: {}",
            row.created_by,
            choices.join(", ")
        );
        self.change_deployment(id, |deployment| deployment.stale = true);
        let data = EventData { message: Some(message), ..EventData::default() };
        self.event(id, EventType::DeploymentStale, &About::default(), data);
    }

    /// Asks for the deployment to be looked at again when it must be though nothing comes in.
    pub(super) fn wake_next(&mut self, id: DeploymentId) {
        if let Some(due) = self.next_wake(id) {
            self.wake_at(id, due);
        }
    }

    fn next_wake(&self, id: DeploymentId) -> Option<Timestamp> {
        let state = self.of(id);
        let row = &state.deployment;
        let said = waits_for_person_since(state)
            .filter(|_| !row.stale)
            .map(|since| since + row.frozen.stale_after());
        let wait = state
            .batches()
            .iter()
            .filter(|batch| batch.status == BatchStatus::Waiting)
            .find_map(|batch| batch.wait_until)
            .filter(|until| *until > self.now);
        [said, wait].into_iter().flatten().min()
    }

    // Rows of the tables.

    fn apply_rows(&mut self, id: DeploymentId) -> bool {
        match deployment_event(self.of(id)) {
            Some(event) => self.move_deployment(id, event),
            None => false,
        }
    }

    fn apply_batches(&mut self, id: DeploymentId) -> bool {
        let state = self.of(id);
        let status = state.deployment.status;
        let events: Vec<(u32, BatchEvent)> = state
            .batches()
            .iter()
            .filter_map(|batch| {
                let rests = batch.is_bastion && verified_rests(status);
                batch_event(batch.status, &state.counts_of(batch.index), rests)
                    .map(|event| (batch.index, event))
            })
            .collect();
        let mut moved = false;
        for (index, event) in events {
            moved |= self.move_batch(id, index, event);
        }
        moved
    }

    // Next steps.

    fn next_steps(&mut self, id: DeploymentId, starts_left: &mut usize) -> bool {
        use DeploymentStatus as Status;
        let status = self.of(id).deployment.status;
        if !matches!(status, Status::Smoking | Status::Baking | Status::RollingOut) {
            return false;
        }
        let braked = self.of(id).deployment.is_braked();
        let queued = status == Status::RollingOut && self.queue_next_batch(id, braked);
        if braked {
            return queued;
        }
        let went_on = self.go_on(id, starts_left);
        let started = !self.of(id).starts_wait && self.start_waiting(id, starts_left);
        queued || went_on || started
    }

    /// Targets between two stages go on, of all batches.
    #[expect(clippy::wildcard_enum_match_arm, reason = "only these four are between stages")]
    fn go_on(&mut self, id: DeploymentId, starts_left: &mut usize) -> bool {
        let places: Vec<usize> = self
            .of(id)
            .between_stages()
            .iter()
            .copied()
            .filter(|place| self.may_go_on(id, *place))
            .take(*starts_left)
            .collect();
        for place in &places {
            let target = self.target(id, *place);
            let fresh = target.verified_at.is_some_and(|at| self.now.since(at) <= VERIFY_FRESH);
            let (stage, event) = match target.status {
                TargetStatus::MarkdownSuccess => (Stage::Download, TargetEvent::StageStarted),
                TargetStatus::DownloadSuccess => (Stage::Install, TargetEvent::StageStarted),
                TargetStatus::InstallSuccess => (Stage::Verify, TargetEvent::StageStarted),
                TargetStatus::VerifySuccess if fresh => (Stage::Markup, TargetEvent::StageStarted),
                _ => (Stage::Verify, TargetEvent::ProofExpired),
            };
            self.start_stage(id, *place, stage, event);
        }
        *starts_left -= places.len();
        !places.is_empty()
    }

    /// Whether a target between two stages has a next one: a bastion's Markup comes with bake.
    pub(super) fn may_go_on(&self, id: DeploymentId, place: usize) -> bool {
        let state = self.of(id);
        let target = &state.targets()[place];
        target.status != TargetStatus::VerifySuccess
            || !state.is_bastion(target)
            || state.deployment.baked
            || !verified_rests(state.deployment.status)
    }

    /// PENDING targets of the running batch start, as far as slots allow.
    fn start_waiting(&mut self, id: DeploymentId, starts_left: &mut usize) -> bool {
        let Some(batch) = self.of(id).running_batch().map(|batch| batch.index) else {
            return false;
        };
        let baking = self.of(id).deployment.status == DeploymentStatus::Baking;
        let mut started = false;
        while *starts_left > 0 && !self.tries_balancer(id) {
            let Some(place) = self.first_startable(id, batch) else { break };
            let target = self.target(id, place);
            let check = self
                .state
                .server(target.server)
                .is_some_and(|row| check_comes_first(&self.of(id).deployment, target, row));
            let (first, event) = if check || baking {
                (Stage::Check, TargetEvent::CheckStarted)
            } else {
                (Stage::Markdown, TargetEvent::StageStarted)
            };
            self.start_stage(id, place, first, event);
            *starts_left -= 1;
            started = true;
        }
        started
    }

    /// The first PENDING target of a batch that may start now.
    pub(super) fn first_startable(&self, id: DeploymentId, batch: u32) -> Option<usize> {
        let (state, slots) = (self.of(id), self.slots(id));
        let first = |need: Need| {
            let is_met = match need {
                Need::Nothing => true,
                Need::Mend => slots.free_ours() > 0,
                Need::Slot => slots.free() > 0,
                Need::Look => slots.free_unknown() > 0,
            };
            state.first_waiting(batch, need).filter(|_| is_met)
        };
        Need::ALL.into_iter().find_map(first)
    }

    /// When no batch runs, the next one is queued, and starts when its wait is over.
    fn queue_next_batch(&mut self, id: DeploymentId, braked: bool) -> bool {
        if self.of(id).running_batch().is_some() {
            return false;
        }
        let Some(index) = self.next_batch(id) else { return false };
        let state = self.of(id);
        let batch = &state.batches()[index as usize - 1];
        if batch.status == BatchStatus::Waiting {
            let over = batch.wait_until.is_some_and(|until| until <= self.now);
            return over && !braked && self.move_batch(id, index, BatchEvent::Started);
        }
        let before = state.batches().iter().filter(|row| !row.is_bastion && row.index < index);
        let place = before.clone().count();
        if place == 0 {
            return !braked && self.move_batch(id, index, BatchEvent::Started);
        }
        let until = match state.deployment.config.mode {
            Mode::Manual => None,
            Mode::Auto => {
                let ended = before.filter_map(|row| row.ended_at).max().unwrap_or(self.now);
                Some(ended + state.deployment.config.wait_before(place))
            }
        };
        if until.is_some_and(|until| until <= self.now) && !braked {
            return self.move_batch(id, index, BatchEvent::Started);
        }
        if let Some(state) = self.state.deployment_mut(id) {
            state.batches[index as usize - 1].wait_until = until;
        }
        let queued = self.move_batch(id, index, BatchEvent::Queued);
        self.change_deployment(id, |deployment| deployment.stale = false);
        self.wake_next(id);
        queued
    }
}

/// Since when the deployment waits for a person: its status, the newest hold that a person clears, or
/// a batch that waits for a click.
fn waits_for_person_since(state: &DeploymentState) -> Option<Timestamp> {
    let row = &state.deployment;
    if waits_for_click(row.status) {
        return Some(row.status_since);
    }
    let holds = row.holds.iter().filter(|hold| hold.reason != HoldReason::Dependency);
    let click = |batch: &&Batch| batch.status == BatchStatus::Waiting && batch.wait_until.is_none();
    let batch = state.batches().iter().find(click);
    let ended = || state.batches().iter().filter_map(|batch| batch.ended_at).max();
    let batch_since = batch.map(|_| ended().unwrap_or(row.status_since));
    holds.map(|hold| hold.since).chain(batch_since).max().filter(|_| row.status.is_running())
}

/// The row of the deployment's table whose condition is true now, if one is.
#[expect(clippy::wildcard_enum_match_arm, reason = "no condition moves the others on")]
fn deployment_event(state: &DeploymentState) -> Option<DeploymentEvent> {
    use DeploymentEvent as Event;
    use DeploymentStatus as Status;
    let status = state.deployment.status;
    let (all, bastions) = (state.counts(), state.counts_where(true));
    let others = all.live() - bastions.live();
    if all.live() == 0 {
        return Some(Event::NoTargetLeft);
    }
    let serve = if others > 0 { Event::BastionsServe } else { Event::AllServe };
    let settled = |rests: bool| is_settled(&bastions, rests);
    match status {
        Status::Smoking if settled(true) => {
            let good = bastions.live() > 0 && bastions.failed() == 0;
            Some(if good { Event::BastionsVerified } else { Event::BastionsFailed })
        }
        Status::SmokeSuccess if bastions.live() == 0 || bastions.failed() > 0 => {
            Some(Event::BastionsFailed)
        }
        Status::Baking if settled(false) => Some(match bastions.failed() {
            _ if bastions.live() == 0 => Event::BastionsFailed,
            0 => serve,
            failed if failed == bastions.of(TargetStatus::MarkupFailure) => Event::MarkupsFailed,
            _ => Event::BastionsFailed,
        }),
        Status::BakeFailure => match bastions.failed() {
            0 if bastions.of(TargetStatus::Success) > 0 => Some(serve),
            0 => Some(Event::BastionsFailed),
            failed if failed > bastions.of(TargetStatus::MarkupFailure) => {
                Some(Event::BastionsFailed)
            }
            _ => None,
        },
        Status::BakeSuccess if bastions.failed() > 0 => Some(Event::BastionsFailed),
        Status::BakeSuccess if others == 0 => Some(Event::AllServe),
        Status::RollingOut if is_settled(&all, false) => {
            Some(if all.failed() > 0 { Event::SomeFailed } else { Event::AllServe })
        }
        Status::RolloutFailure
            if all.failed() == 0
                && all.of(TargetStatus::Success) > 0
                && is_settled(&all, false) =>
        {
            Some(Event::AllServe)
        }
        _ => None,
    }
}

/// Whether every target is at rest; `verified_rests`: a `VERIFY_SUCCESS` is.
fn is_settled(counts: &Counts, verified_rests: bool) -> bool {
    let verified = if verified_rests { counts.of(TargetStatus::VerifySuccess) } else { 0 };
    counts.at_rest() + verified == counts.all()
}

/// The row of the batch's table whose condition is true now, if one is.
fn batch_event(status: BatchStatus, counts: &Counts, verified_rests: bool) -> Option<BatchEvent> {
    let done = is_settled(counts, false);
    let failed = counts.failed() > 0;
    match status {
        BatchStatus::Pending | BatchStatus::Waiting => {
            (counts.live() == 0).then_some(BatchEvent::Succeeded)
        }
        BatchStatus::Deploying if failed && is_settled(counts, verified_rests) => {
            Some(BatchEvent::Failed)
        }
        BatchStatus::Deploying => (done && !failed).then_some(BatchEvent::Succeeded),
        BatchStatus::Success if failed => Some(BatchEvent::Failed),
        BatchStatus::Failure if failed && is_settled(counts, verified_rests) => None,
        BatchStatus::Failure if done => Some(BatchEvent::Succeeded),
        BatchStatus::Success | BatchStatus::Failure => {
            (counts.of(TargetStatus::Pending) > 0).then_some(BatchEvent::Reopened)
        }
        BatchStatus::Revoked => None,
    }
}
