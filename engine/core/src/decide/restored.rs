//! The record comes from a backup: hosts may be ahead of it, and nothing that it calls proven counts.

use crate::effect::EffectKind;
use crate::event::{EventData, EventType};
use crate::input::Answer;
use crate::order;
use crate::stage::Stage;
use crate::target_status::{TargetEvent, TargetStatus};
use crate::{DeploymentId, ServerId};

use super::Decider;
use super::write::About;

/// By how much the fences of a restored record rise: past everything that was given out after the backup.
pub const RESTORED_FENCES: i64 = 1 << 32;

const RESTORED: &str = "the record was restored from a backup";

impl Decider<'_> {
    /// Every fence rises, every proof is void, and no key that the backup knows is given out again: its
    /// host may have ended it long ago, and run something else since, or have forgotten it.
    pub(super) fn restored(&mut self, actor: &str) -> Answer {
        actor.clone_into(&mut self.actor);
        let servers: Vec<ServerId> = self.state.servers().iter().map(|server| server.id).collect();
        for server in servers {
            self.change_server(server, |server| {
                server.fence += RESTORED_FENCES;
                if let Some(running) = &mut server.running {
                    running.proven_at = None;
                }
            });
        }
        let deployments: Vec<DeploymentId> =
            self.state.deployments().map(|state| state.deployment.id).collect();
        // What is under way first: what relapses may brake, and then nothing may start (S2).
        for id in &deployments {
            for place in 0..self.of(*id).targets().len() {
                self.doubt_under_way(*id, place);
            }
        }
        for id in deployments {
            for place in 0..self.of(id).targets().len() {
                self.doubt_at_rest(id, place);
            }
        }
        Answer::Done
    }

    fn doubt_under_way(&mut self, id: DeploymentId, place: usize) {
        let target = self.target(id, place);
        let (stage, target) = (target.status.running(), target.id);
        let Some(stage) = stage else { return };
        if self.of(id).deployment.status.is_final() {
            self.changes.delete(EffectKind::RunStage(id, target));
            self.move_target(id, place, TargetEvent::Ended, None, |target| {
                target.message = Some(RESTORED.to_owned());
            });
        } else if stage == Stage::Markup {
            // Not done on a proof that is void: it verifies again, or has failed if nothing may start (S5).
            self.change_target(id, place, |target| {
                target.verified_at = None;
                target.unknown_since = None;
            });
            self.taken_over(id, target);
        } else {
            self.order_anew(id, place, stage);
        }
    }

    /// A success is asked for again by the next retry, which checks before it installs; a proof that
    /// waits for its Markup is made again before it. Who is no member, or pulled out, is asked when it is
    /// back.
    fn doubt_at_rest(&mut self, id: DeploymentId, place: usize) {
        let (target, is_final) = (self.target(id, place), self.of(id).deployment.status.is_final());
        if is_final || target.status.running().is_some() {
            return;
        }
        let server = self.state.server(target.server);
        let is_there = server.is_some_and(|row| !row.retired && row.pulled_out.is_none());
        if target.status == TargetStatus::Success && is_there {
            self.relapse(id, place, format!("{RESTORED}: what it runs is checked by a retry"));
        } else if target.verified_at.is_some() {
            self.change_target(id, place, |target| target.verified_at = None);
        }
    }

    /// The stage under way is ordered under a new key; the host ends what still runs under the old one.
    fn order_anew(&mut self, id: DeploymentId, place: usize, stage: Stage) {
        let key = self.next_key(id, place);
        self.give_order(id, place, key);
        let (now, limit) = (self.now, order::limit(&self.of(id).deployment, stage));
        self.change_target(id, place, |target| {
            target.order = Some(key);
            target.orders += 1;
            target.verified_at = None;
            target.unknown_since = None;
            target.deadline_at = Some(now + limit);
        });
        // It began before whatever holds the deployment (S2), and goes on.
        self.run_stage_at(id, place, self.target(id, place).status_since);
        let target = self.target(id, place);
        let data = EventData {
            to: Some(target.status.word().to_owned()),
            attempt: Some(target.attempt),
            key: Some(key),
            fence: self.state.server(target.server).map(|server| server.fence),
            message: Some(RESTORED.to_owned()),
            ..EventData::default()
        };
        let about = About { place: Some(place), ..About::default() };
        self.event(id, EventType::TargetTry, &about, data);
    }
}
