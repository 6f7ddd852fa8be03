//! What a person asks of a deployment, and whether it is allowed now.

use crate::DeploymentId;
use crate::action::Action;
use crate::batch_status::{BatchEvent, BatchStatus};
use crate::dependency::CMDB;
use crate::deployment_status::{DeploymentEvent, DeploymentStatus};
use crate::event::{EventData, EventType};
use crate::input::{Act, Answer, Refused};
use crate::record::{Flavor, Hold, HoldReason};
use crate::rollback::History;
use crate::state::{DeploymentState, GroupState};
use crate::target_status::{TargetEvent, TargetStatus};

use super::Decider;
use super::write::About;

/// Whether a person may do this now. The portal asks this for each button; `decide` asks it first.
///
/// # Errors
/// [`Refused`] with the status and what is allowed instead.
pub fn permitted(state: &GroupState, id: DeploymentId, action: Action) -> Result<(), Refused> {
    let Some(deployment) = state.deployment(id) else {
        return Err(Refused::new("deployment_unknown", format!("no deployment {id} here")));
    };
    refusal(state, deployment, action).map_or(Ok(()), |reason| {
        let row = &deployment.deployment;
        Err(Refused {
            deployment: Some(id),
            allowed: allowed(state, id),
            ..Refused::new(
                "action_not_allowed",
                format!(
                    "{action} is not allowed while the deployment is {}: {reason}",
                    row.status.shown(row.is_braked())
                ),
            )
        })
    })
}

/// Every action that is allowed now.
pub(super) fn allowed(state: &GroupState, id: DeploymentId) -> Vec<Action> {
    let Some(deployment) = state.deployment(id) else { return Vec::new() };
    let free = |action: &Action| refusal(state, deployment, *action).is_none();
    Action::ALL.into_iter().filter(free).collect()
}

/// Why an action is not allowed; `None`: it is.
#[expect(clippy::wildcard_enum_match_arm, reason = "what is not named is refused")]
pub(super) fn refusal(
    group: &GroupState,
    state: &DeploymentState,
    action: Action,
) -> Option<String> {
    use DeploymentStatus as Status;
    let row = &state.deployment;
    let (status, braked) = (row.status, row.is_braked());
    let because = |text: &str| Some(text.to_owned());
    match action {
        // The rest of the reasons speak of what can still come about.
        _ if status.is_final() && action != Action::Rollback => because("it has ended"),
        Action::Start => match (status, group.running()) {
            (Status::Pending, None) => None,
            (Status::Pending, Some(_)) => because("the group has another deployment under way"),
            _ => because("it was started already"),
        },
        Action::Bake => match status {
            Status::SmokeSuccess if braked => because("it is braked"),
            Status::SmokeSuccess => None,
            _ => because("the bastions must have verified, and not be in traffic yet"),
        },
        Action::Rollout => rollout_refusal(state),
        Action::Retry => match status {
            Status::SmokeFailure | Status::BakeFailure | Status::RolloutFailure => None,
            Status::RollingOut if braked => None,
            _ => because("nothing has failed for good, and no rollout is braked"),
        },
        Action::Brake => match status {
            _ if !status.is_running() => because("it is not under way"),
            _ if row.hold(HoldReason::User).is_some() => because("a person braked it already"),
            _ => None,
        },
        Action::Resume => resume_refusal(group, state),
        Action::Finish => match status {
            Status::SmokeFailure | Status::BakeFailure | Status::RolloutFailure => None,
            Status::RollingOut if braked && state.counts().under_way() == 0 => None,
            Status::RollingOut if braked => because("stages are still under way"),
            _ => because("it has not failed; revoke ends it"),
        },
        Action::Revoke => None,
        Action::Rollback => match group.running() {
            _ if status == Status::Pending => because("it was not started"),
            Some(running) if running.deployment.id != row.id => {
                because("the group has another deployment under way: roll that back")
            }
            _ => None,
        },
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what is not named is refused")]
fn rollout_refusal(state: &DeploymentState) -> Option<String> {
    let braked = state.deployment.is_braked();
    let waiting = state.batches().iter().any(|batch| batch.status == BatchStatus::Waiting);
    match state.deployment.status {
        DeploymentStatus::BakeSuccess | DeploymentStatus::RollingOut if braked => {
            Some("it is braked".to_owned())
        }
        DeploymentStatus::BakeSuccess => None,
        DeploymentStatus::RollingOut if waiting => None,
        DeploymentStatus::RollingOut => Some("no batch waits".to_owned()),
        _ => Some("the bastions must be in traffic first".to_owned()),
    }
}

fn resume_refusal(group: &GroupState, state: &DeploymentState) -> Option<String> {
    if !state.deployment.is_braked() {
        return Some("it is not braked".to_owned());
    }
    if clearable(group, state).is_empty() {
        let reasons: Vec<&str> = state.deployment.holds.iter().map(Hold::clears).collect();
        return Some(format!("what holds it is cleared by: {}", reasons.join("; ")));
    }
    None
}

/// The holds that `resume` may clear now.
fn clearable(group: &GroupState, state: &DeploymentState) -> Vec<HoldReason> {
    let limit = state.deployment.config.failure_limit(group.slots(state).total);
    let below = state.failed_or_unknown() < limit;
    state
        .deployment
        .holds
        .iter()
        .map(|hold| hold.reason)
        .filter(|reason| match reason {
            HoldReason::User => true,
            HoldReason::Failures => below,
            HoldReason::Slots | HoldReason::Dependency => false,
        })
        .collect()
}

impl Decider<'_> {
    pub(super) fn act(&mut self, act: &Act) -> Result<Answer, Refused> {
        let id = act.deployment;
        if act.action == Action::Rollback {
            return Err(Refused::new("invalid", "a rollback is asked of the group"));
        }
        if act.action == Action::Start {
            self.check_free()?;
        }
        permitted(self.state, id, act.action)?;
        if act.action == Action::Start {
            self.check_still_current(id, &act.history)?;
        }
        if act.action == Action::Rollout {
            self.check_batch(id, act.batch)?;
        }
        act.actor.clone_into(&mut self.actor);
        let word = act.action.word();
        let data = EventData {
            to: Some(word.to_owned()),
            message: Some(word.to_owned()),
            ..EventData::default()
        };
        self.event(id, EventType::ActionTaken, &About::default(), data);
        match act.action {
            Action::Start => {
                // What was true of the record when it was planned is not what it starts with.
                self.change_deployment(id, |deployment| {
                    deployment.ran_without.retain(|without| without.dependency != CMDB);
                });
                for without in &act.without {
                    self.keep_without(id, without.clone());
                }
                self.start(id, &act.history);
            }
            Action::Bake => self.ask(id, DeploymentEvent::BakeAsked),
            Action::Rollout => self.roll_out(id),
            Action::Retry => self.retry(id),
            Action::Brake => self.set_hold(id, HoldReason::User, "a person braked".to_owned()),
            Action::Resume => {
                for reason in clearable(self.state, self.of(id)) {
                    self.clear_hold(id, reason);
                }
            }
            Action::Revoke => self.ask(id, DeploymentEvent::RevokeAsked),
            Action::Finish => self.ask(id, DeploymentEvent::FinishAsked),
            Action::Rollback => {}
        }
        Ok(Answer::Done)
    }

    /// S4 once more for a draft: since it was made, the group may have gone to another version.
    fn check_still_current(&self, id: DeploymentId, history: &History) -> Result<(), Refused> {
        let row = &self.of(id).deployment;
        if row.flavor != Flavor::Scaleout {
            return Ok(());
        }
        Self::check_scaleout(&row.package, history).map_err(|refused| Refused {
            deployment: Some(id),
            allowed: allowed(self.state, id),
            ..refused
        })
    }

    fn ask(&mut self, id: DeploymentId, event: DeploymentEvent) {
        self.move_deployment(id, event);
    }

    /// The batch that the person means must be the next one.
    fn check_batch(&self, id: DeploymentId, batch: Option<u32>) -> Result<(), Refused> {
        let next = self.next_batch(id);
        match batch {
            Some(wanted) if next != Some(wanted) => Err(Refused {
                deployment: Some(id),
                allowed: allowed(self.state, id),
                ..Refused::new(
                    "wrong_batch",
                    match next {
                        Some(next) => {
                            format!("batch: {wanted} is not allowed; the next batch is {next}")
                        }
                        None => format!("batch: {wanted} is not allowed; no batch is left"),
                    },
                )
            }),
            _ => Ok(()),
        }
    }

    /// The lowest batch that has not begun and has something to do.
    pub(super) fn next_batch(&self, id: DeploymentId) -> Option<u32> {
        let state = self.of(id);
        let fresh = |status| matches!(status, BatchStatus::Pending | BatchStatus::Waiting);
        state
            .batches()
            .iter()
            .filter(|batch| !batch.is_bastion && fresh(batch.status))
            .map(|batch| batch.index)
            .find(|index| state.counts_of(*index).live() > 0)
    }

    /// `start` looks at the group again: members gone are set aside, new ones get a last batch.
    fn start(&mut self, id: DeploymentId, history: &History) {
        let parent = history.current().map(|past| past.id);
        self.change_deployment(id, |deployment| deployment.parent = parent);
        for place in 0..self.of(id).targets().len() {
            let server = self.state.server(self.target(id, place).server);
            if server.is_none_or(|server| server.retired || server.pulled_out.is_some()) {
                self.leave(id, place);
            }
        }
        let missing: Vec<_> = self
            .state
            .servers()
            .iter()
            .map(|server| server.id)
            .filter(|server| self.of(id).place_of_server(*server).is_none())
            .collect();
        for server in missing {
            self.add_target(id, server);
        }
        self.begin(id);
    }

    /// The deployment holds its group from here on, and its first batch starts.
    pub(super) fn begin(&mut self, id: DeploymentId) {
        let now = self.now;
        self.change_deployment(id, |deployment| deployment.started_at = Some(now));
        let has_bastion = self.of(id).batches().iter().any(|batch| batch.is_bastion);
        let event = if has_bastion {
            DeploymentEvent::StartedWithBastion
        } else {
            DeploymentEvent::StartedWithoutBastion
        };
        self.changes.delete(crate::effect::EffectKind::WakeDeployment(id));
        self.move_deployment(id, event);
        let first = if has_bastion { Some(1) } else { self.next_batch(id) };
        if let Some(first) = first {
            self.move_batch(id, first, BatchEvent::Started);
        }
        self.tell_absent(id);
        self.look_again(id);
    }

    fn roll_out(&mut self, id: DeploymentId) {
        let next = self.next_batch(id);
        self.move_deployment(id, DeploymentEvent::RolloutAsked);
        if let Some(next) = next {
            self.move_batch(id, next, BatchEvent::Started);
        }
    }

    fn retry(&mut self, id: DeploymentId) {
        self.clear_hold(id, HoldReason::User);
        self.clear_hold(id, HoldReason::Failures);
        let status = self.of(id).deployment.status;
        for place in 0..self.of(id).targets().len() {
            if self.target(id, place).status.is_failure() {
                self.move_target(id, place, TargetEvent::Retried, None, |target| {
                    target.attempt += 1;
                    target.checked = false;
                    target.verified_at = None;
                    target.unverified = false;
                    target.cause = None;
                    target.message = None;
                });
            }
        }
        if status == DeploymentStatus::SmokeFailure {
            self.ensure_bastion(id);
        }
        let unknown = self.of(id).failed_or_unknown();
        let limit = self.of(id).deployment.config.failure_limit(self.slots(id).total);
        let passed_over = if unknown < limit { 0 } else { unknown };
        self.change_deployment(id, |deployment| deployment.failed_seen = passed_over);
        self.move_deployment(id, DeploymentEvent::RetryAsked);
    }

    /// No bastion target is left: the next server of the plan becomes one.
    fn ensure_bastion(&mut self, id: DeploymentId) {
        let state = self.of(id);
        if state.counts_where(true).live() > 0 {
            return;
        }
        let bastion = state.batches().iter().find(|batch| batch.is_bastion).map(|row| row.index);
        let next = state.targets().iter().position(|target| target.status == TargetStatus::Pending);
        if let (Some(bastion), Some(place)) = (bastion, next) {
            self.move_to_batch(id, place, bastion);
        }
    }

    /// Puts a target that has not begun into another batch.
    pub(super) fn move_to_batch(&mut self, id: DeploymentId, place: usize, batch: u32) {
        let from = self.target(id, place).batch;
        self.change_target(id, place, |target| target.batch = batch);
        let data = EventData {
            from: Some(from.to_string()),
            to: Some(batch.to_string()),
            ..EventData::default()
        };
        let about = About { place: Some(place), ..About::default() };
        self.event(id, EventType::TargetMoved, &about, data);
    }
}
