//! One stage of one target starts: its row, its server's fence and its effect, together.

use crate::dependency::Traffic;
use crate::effect::{Effect, EffectKind};
use crate::order;
use crate::record::{OutBecause, Running, Service};
use crate::stage::Stage;
use crate::target_status::TargetEvent;
use crate::{DeploymentId, OrderKey, ServerId, Timestamp};

use super::Decider;

impl Decider<'_> {
    /// Starts a stage. What was done by whom is written here, before any call to the outside (S13).
    pub(super) fn start_stage(
        &mut self,
        id: DeploymentId,
        place: usize,
        stage: Stage,
        event: TargetEvent,
    ) {
        let traffic = self.state.traffic_of(&self.of(id).deployment);
        let bypassed = !stage.is_order() && traffic == Traffic::Bypassed;
        let already_out = (stage == Stage::Markdown).then(|| self.take_server(id, place, traffic));
        if stage.is_order() {
            self.note_executor(id);
        }
        if stage == Stage::Install {
            self.note_install(id, place);
        }
        if stage == Stage::Markup {
            let server = self.target(id, place).server;
            self.changes.delete(EffectKind::DrainServer(server));
            // This Markup pays what an earlier one owes.
            if self.state.server(server).is_some_and(|row| row.markup_owed.is_some()) {
                self.changes.delete(EffectKind::ReturnServer(server));
                self.change_server(server, |row| row.markup_owed = None);
            }
        }
        let key = self.next_key(id, place);
        let limit = order::limit(&self.of(id).deployment, stage);
        self.give_order(id, place, key);
        let now = self.now;
        let took = already_out == Some(false);
        self.move_target(id, place, event, already_out, |target| {
            target.order = Some(key);
            target.orders += 1;
            target.tries = 0;
            target.took |= took;
            target.bypassed = bypassed;
            target.deadline_at = Some(now + limit);
            target.cause = None;
            target.message = None;
        });
        self.note_digest(id, place);
        if bypassed {
            self.bypass(id, place, stage);
        } else {
            self.run_stage_at(id, place, now);
        }
    }

    pub(super) fn run_stage_at(&mut self, id: DeploymentId, place: usize, due_at: Timestamp) {
        let kind = EffectKind::RunStage(id, self.target(id, place).id);
        let group = self.state.id();
        self.changes.put(Effect { kind, group, due_at });
    }

    /// The next key of a target: one per act, the same if the same decision is taken again.
    pub(super) fn next_key(&self, id: DeploymentId, place: usize) -> OrderKey {
        let target = self.target(id, place);
        let number = (target.orders + 1).to_be_bytes();
        OrderKey::derive(self.now, &[target.id.0.as_bytes(), &number])
    }

    /// One act per server at a time: the newest key, and a fence above all before it (S7).
    pub(super) fn give_order(&mut self, id: DeploymentId, place: usize, key: OrderKey) {
        let server = self.target(id, place).server;
        self.supersede(id, server);
        self.change_server(server, |server| {
            server.order = Some(key);
            server.fence += 1;
        });
    }

    /// What another deployment, which has ended, still had under way on the server ends here: the
    /// host ends the old script before it takes the new order.
    fn supersede(&mut self, id: DeploymentId, server: ServerId) {
        let old: Vec<(DeploymentId, usize)> = self
            .state
            .deployments()
            .filter(|state| state.deployment.id != id)
            .filter_map(|state| {
                let place = state.place_of_server(server)?;
                let is_running = state.targets()[place].status.running().is_some();
                is_running.then_some((state.deployment.id, place))
            })
            .collect();
        for (other, place) in old {
            self.changes.delete(EffectKind::RunStage(other, self.target(other, place).id));
            self.move_target(other, place, TargetEvent::Ended, None, |target| {
                target.message = Some(format!("deployment {id} gave its server a later order"));
            });
        }
    }

    /// Counts the server as out from here on. Returns whether it was out (or new) before, so that it
    /// took no slot.
    fn take_server(&mut self, id: DeploymentId, place: usize, traffic: Traffic) -> bool {
        let server = self.target(id, place).server;
        // The target brings it in now, whoever put it back.
        self.changes.delete(EffectKind::ReturnServer(server));
        self.changes.delete(EffectKind::AdmitServer(server));
        let mut already_out = true;
        let now = self.now;
        self.change_server(server, |server| {
            already_out = server.is_out() || server.out_because == Some(OutBecause::New);
            // A mark that is on it already stays; without a call none comes onto it.
            server.drained |= traffic != Traffic::Bypassed;
            let gets_traffic = !already_out || server.out_because == Some(OutBecause::Bypassed);
            server.drained_again = false;
            server.markup_owed = None;
            if !already_out || server.out_because == Some(OutBecause::New) {
                server.observed_at = Some(now);
            }
            // Whatever kept it out before: from here on only a proof brings it back (S1).
            server.service = Service::Out;
            server.out_because = Some(if gets_traffic && !server.drained {
                OutBecause::Bypassed
            } else {
                OutBecause::Target
            });
        });
        already_out
    }

    /// From here on the host may run the package, and nothing is proven.
    fn note_install(&mut self, id: DeploymentId, place: usize) {
        let package = &self.of(id).deployment.package;
        let running =
            Running { package: package.id, version: package.version.clone(), proven_at: None };
        let server = self.target(id, place).server;
        self.change_server(server, |server| server.running = Some(running));
    }

    /// Keeps the digest of the order that the stage sends (T5).
    fn note_digest(&mut self, id: DeploymentId, place: usize) {
        let state = self.of(id);
        let target = &state.targets()[place];
        let digest = self
            .state
            .server(target.server)
            .and_then(|server| order::work(&state.deployment, target, server))
            .and_then(|work| work.script.map(|script| order::digest(&script, &work.environment)));
        if digest.is_some() {
            self.change_target(id, place, |target| target.order_digest = digest);
        }
    }
}
