//! How stages end: on the server, on the target, and what follows.

use crate::effect::EffectKind;
use crate::event::{EventData, EventType};
use crate::input::{Again, Answer, StageEnded, StageResult};
use crate::record::{Cause, OutBecause, Running, Service};
use crate::stage::{Stage, TRY_WAITS};
use crate::target_status::TargetEvent;
use crate::{DeploymentId, OrderKey, ServerId, TargetId};

use super::Decider;
use super::write::About;
use crate::deployment_status::DeploymentStatus;

impl Decider<'_> {
    pub(super) fn stage_ended(&mut self, ended: &StageEnded) -> Answer {
        let id = ended.deployment;
        let Some(place) = self.of(id).place(ended.target) else { return Answer::Done };
        let target = self.target(id, place);
        let server = target.server;
        let stage = target.status.running().filter(|_| target.order == Some(ended.key));
        let Some(stage) = stage else {
            self.late_outcome(ended, place);
            return Answer::Done;
        };
        let result = self.forgive(id, stage, ended.result);
        let before = self.state.server(server).map(|row| row.service);
        let is_last_word = self.note_on_server(ended, place, stage, result);
        self.changes.delete(EffectKind::RunStage(id, ended.target));
        let failed = matches!(result, StageResult::Failed { .. });
        if stage == Stage::Markdown && !failed {
            self.change_target(id, place, |target| target.took = false);
        }
        if self.of(id).deployment.status.is_final() {
            let message = Some(after_the_end(stage, result, ended.message.as_deref()));
            self.move_target(id, place, TargetEvent::Ended, None, |target| {
                target.message = message;
            });
            if is_last_word {
                self.tell_running(id, server, before);
                self.undo_failed_markdown(id, place);
                self.return_if_put_back(server);
            }
            return Answer::Done;
        }
        if self.target(id, place).leaving {
            self.set_aside(id, place);
        } else {
            self.note_on_target(ended, place, stage, result);
        }
        Answer::Done
    }

    /// An act of a deployment that has ended changed whether a server serves: the log of the one
    /// that holds the group now must say so, since its counts follow (S1).
    fn tell_running(&mut self, ended: DeploymentId, id: ServerId, before: Option<Service>) {
        let now = self.state.server(id).map(|row| row.service);
        if now == before || self.state.running().is_none() {
            return;
        }
        let serves = now == Some(Service::In);
        let kind = if serves { EventType::ServerIn } else { EventType::ServerOut };
        let message = Some(format!("by an act of deployment {ended}, which has ended"));
        self.server_event(id, kind, EventData { message, ..EventData::default() });
    }

    /// `ignore_verify` forgives a bad health answer of the right package, and nothing else (S5).
    fn forgive(&mut self, id: DeploymentId, stage: Stage, result: StageResult) -> StageResult {
        let forgives = self.of(id).deployment.config.ignore_verify && stage == Stage::Verify;
        if result == StageResult::Unhealthy && !forgives {
            return StageResult::Failed { cause: Cause::Failed, again: Again::WillNot };
        }
        result
    }

    /// What the outcome says of the server. Returns whether it does: a later act on the server has
    /// the last word.
    fn note_on_server(
        &mut self,
        ended: &StageEnded,
        place: usize,
        stage: Stage,
        result: StageResult,
    ) -> bool {
        let target = self.target(ended.deployment, place);
        let server = target.server;
        let ours = self.state.server(server).is_some_and(|row| row.order == Some(ended.key));
        if !ours {
            return false;
        }
        let package = self.of(ended.deployment).deployment.package.clone();
        let now = self.now;
        self.change_server(server, |server| {
            server.order = None;
            match (stage, result) {
                (Stage::Check | Stage::Verify, StageResult::Succeeded | StageResult::Unhealthy) => {
                    server.running = Some(Running {
                        package: package.id,
                        version: package.version,
                        proven_at: Some(now),
                    });
                }
                (Stage::Check | Stage::Verify, _) if server.may_run(package.id) => {
                    if let Some(running) = &mut server.running {
                        running.proven_at = None;
                    }
                }
                // A person pulled it out meanwhile: its mark is set again, by the effect below.
                (Stage::Markup, StageResult::Succeeded | StageResult::StillOut)
                    if server.pulled_out.is_some() => {}
                (Stage::Markup, StageResult::Succeeded) => {
                    server.drained = false;
                    server.dead_since = None;
                    server.observed_at = Some(now);
                    server.service = Service::In;
                    server.out_because = None;
                }
                (Stage::Markup, StageResult::StillOut) => {
                    server.drained = false;
                    server.dead_since = None;
                    server.service = Service::Out;
                    server.out_because = Some(OutBecause::Outside);
                    server.observed_at = Some(now);
                }
                _ => {}
            }
        });
        let pulled = self.state.server(server).is_some_and(|row| row.pulled_out.is_some());
        if stage == Stage::Markup && !matches!(result, StageResult::Failed { .. }) {
            // The Markup has removed our mark, however it had come there.
            self.changes.delete(EffectKind::AdmitServer(server));
        }
        if stage == Stage::Markup && pulled {
            self.put_effect(EffectKind::DrainServer(server));
        }
        true
    }

    fn note_on_target(
        &mut self,
        ended: &StageEnded,
        place: usize,
        stage: Stage,
        result: StageResult,
    ) {
        let id = ended.deployment;
        let message = ended.message.clone();
        let now = self.now;
        match result {
            StageResult::Succeeded | StageResult::StillOut | StageResult::Unhealthy => {
                let event = self.success_event(id, place, stage);
                let proves = matches!(stage, Stage::Check | Stage::Verify);
                self.move_target(id, place, event, None, |target| {
                    target.message = message;
                    if proves {
                        target.verified_at = Some(now);
                        target.unverified = result == StageResult::Unhealthy;
                    }
                    target.skipped = event == TargetEvent::CheckedInService;
                });
            }
            StageResult::Failed { cause, again } => {
                let tries = self.target(id, place).tries as usize;
                let braked = self.of(id).deployment.is_braked();
                match TRY_WAITS.get(tries) {
                    Some(wait) if again == Again::May && !braked && stage != Stage::Check => {
                        self.try_again(id, place, *wait, (cause, message));
                    }
                    _ => self.fail(id, place, stage, cause, message),
                }
            }
        }
    }

    fn success_event(&self, id: DeploymentId, place: usize, stage: Stage) -> TargetEvent {
        if stage != Stage::Check {
            return TargetEvent::StageSucceeded;
        }
        let server = self.state.server(self.target(id, place).server);
        if server.is_some_and(|server| server.service == Service::In) {
            TargetEvent::CheckedInService
        } else {
            TargetEvent::CheckedOut
        }
    }

    pub(super) fn fail(
        &mut self,
        id: DeploymentId,
        place: usize,
        stage: Stage,
        cause: Cause,
        message: Option<String>,
    ) {
        let baking = self.of(id).deployment.status == DeploymentStatus::Baking;
        let event = match stage {
            Stage::Check if baking => TargetEvent::CheckFailed,
            Stage::Check => TargetEvent::CheckedNothing,
            Stage::Markdown | Stage::Download | Stage::Install | Stage::Verify | Stage::Markup => {
                TargetEvent::StageFailed
            }
        };
        self.move_target(id, place, event, None, |target| {
            if event == TargetEvent::CheckedNothing {
                target.checked = true;
                target.message = None;
            } else {
                target.cause = Some(cause);
                target.message = message;
            }
        });
    }

    fn late_outcome(&mut self, ended: &StageEnded, place: usize) {
        let target = self.target(ended.deployment, place);
        let data = EventData {
            to: Some(target.status.word().to_owned()),
            key: Some(ended.key),
            message: Some(format!(
                "an outcome came after its act had ended: {:?}{}",
                ended.result,
                ended.message.as_deref().map(|text| format!(", {text}")).unwrap_or_default()
            )),
            ..EventData::default()
        };
        let about = About { place: Some(place), ..About::default() };
        self.event(ended.deployment, EventType::LateOutcome, &about, data);
    }

    pub(super) fn answer_lost(
        &mut self,
        id: DeploymentId,
        target: TargetId,
        key: OrderKey,
        message: &str,
    ) -> Answer {
        let Some(place) = self.place_under_way(id, target, key) else { return Answer::Done };
        if self.target(id, place).unknown_since.is_none() {
            let now = self.now;
            self.change_target(id, place, |target| target.unknown_since = Some(now));
            let data =
                EventData { key: Some(key), message: Some(message.to_owned()), ..self.figures(id) };
            let about = About { place: Some(place), ..About::default() };
            self.event(id, EventType::TargetUnknown, &about, data);
        }
        Answer::Done
    }

    pub(super) fn answer_found(
        &mut self,
        id: DeploymentId,
        target: TargetId,
        key: OrderKey,
    ) -> Answer {
        if let Some(place) = self.place_under_way(id, target, key) {
            self.change_target(id, place, |target| target.unknown_since = None);
        }
        Answer::Done
    }

    fn place_under_way(&self, id: DeploymentId, target: TargetId, key: OrderKey) -> Option<usize> {
        let place = self.of(id).place(target)?;
        let target = self.target(id, place);
        (target.status.running().is_some() && target.order == Some(key)).then_some(place)
    }
}

fn after_the_end(stage: Stage, result: StageResult, message: Option<&str>) -> String {
    let how = match result {
        StageResult::Succeeded | StageResult::StillOut | StageResult::Unhealthy => "succeeded",
        StageResult::Failed { .. } => "failed",
    };
    let detail = message.map(|text| format!(": {text}")).unwrap_or_default();
    format!("{stage} {how} after the deployment had ended{detail}")
}
