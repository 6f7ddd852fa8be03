//! The only ways to change a row: each keeps the counts, notes the row and appends the event.

use crate::batch_status::BatchEvent;
use crate::deployment_status::{DeploymentEvent, DeploymentStatus};
use crate::effect::{Effect, EffectKind};
use crate::event::{Event, EventData, EventType};
use crate::record::{Cause, Deployment, Hold, HoldReason, OutBecause, Server, Service, Target};
use crate::slots::Slots;
use crate::state::DeploymentState;
use crate::target_status::{TargetEvent, TargetStatus};
use crate::{DeploymentId, ServerId, Timestamp};

use super::Decider;

/// What an event is about.
#[derive(Default)]
pub(super) struct About {
    pub(super) batch: Option<u32>,
    pub(super) place: Option<usize>,
    pub(super) server: Option<ServerId>,
    pub(super) cause: Option<Cause>,
}

impl Decider<'_> {
    /// A deployment that the input names; the store has loaded it.
    pub(super) fn of(&self, id: DeploymentId) -> &DeploymentState {
        self.state.deployment(id).expect("the store loads the deployment that an input names")
    }

    /// One of its targets.
    pub(super) fn target(&self, id: DeploymentId, place: usize) -> &Target {
        &self.of(id).targets()[place]
    }

    /// The bounds of S1.
    pub(super) fn slots(&self, id: DeploymentId) -> Slots {
        self.state.slots(self.of(id))
    }

    /// Appends an event to a deployment's log.
    pub(super) fn event(
        &mut self,
        id: DeploymentId,
        kind: EventType,
        about: &About,
        data: EventData,
    ) {
        let group = self.state.id();
        let state = self.of(id);
        let target = about.place.map(|place| &state.targets()[place]);
        let server = about.server.or(target.map(|target| target.server));
        let row = server.and_then(|server| self.state.server(server));
        let data = EventData {
            service: row.map(|row| row.service),
            out_because: row.and_then(|row| row.out_because),
            ..data
        };
        let event = Event {
            seq: state.deployment.seq + 1,
            at: self.now,
            kind,
            group,
            deployment: Some(id),
            batch: about.batch.or(target.map(|target| target.batch)),
            target: target.map(|target| target.id),
            server,
            actor: self.actor.clone(),
            cause: about.cause,
            data,
        };
        self.changes.events.push(event);
        self.change_deployment(id, |deployment| deployment.seq += 1);
    }

    /// Appends an event about a server: to the running deployment's log, else to the group's.
    pub(super) fn server_event(&mut self, server: ServerId, kind: EventType, data: EventData) {
        self.group_event(Some(server), kind, data);
    }

    /// Appends an event about the group or a server of it: to the running deployment's log, else to the
    /// group's.
    pub(super) fn group_event(
        &mut self,
        server: Option<ServerId>,
        kind: EventType,
        data: EventData,
    ) {
        let running = self.state.running().map(|state| state.deployment.id);
        if let Some(id) = running {
            let slots = self.slots(id);
            let place = server.and_then(|server| self.of(id).place_of_server(server));
            let about = About { place, server, ..About::default() };
            let data = EventData {
                out_count: Some(slots.out),
                limit: Some(slots.l),
                total: Some(slots.total),
                ..data
            };
            self.event(id, kind, &about, data);
            return;
        }
        self.state.group.seq += 1;
        self.changes.group = true;
        self.changes.events.push(Event {
            seq: self.state.group.seq,
            at: self.now,
            kind,
            group: self.state.id(),
            deployment: None,
            batch: None,
            target: None,
            server,
            actor: self.actor.clone(),
            cause: None,
            data: EventData { out_count: Some(self.state.census().out), ..data },
        });
    }

    /// Changes a deployment's row.
    pub(super) fn change_deployment(
        &mut self,
        id: DeploymentId,
        change: impl FnOnce(&mut Deployment),
    ) {
        self.changes.deployments.entry(id).or_default();
        if let Some(state) = self.state.deployment_mut(id) {
            change(&mut state.deployment);
        }
    }

    /// Moves a deployment on by its table. Returns whether the table has such a row.
    pub(super) fn move_deployment(&mut self, id: DeploymentId, event: DeploymentEvent) -> bool {
        let from = self.of(id).deployment.status;
        let Some(to) = from.on(event) else { return false };
        if from == to {
            return true;
        }
        let now = self.now;
        self.change_deployment(id, |deployment| {
            deployment.status = to;
            deployment.status_since = now;
            deployment.stale = false;
            match (from, to) {
                (_, DeploymentStatus::BakeSuccess) => deployment.baked = true,
                (DeploymentStatus::BakeSuccess, DeploymentStatus::SmokeFailure) => {
                    deployment.baked = false;
                }
                _ => {}
            }
        });
        let data = EventData {
            from: Some(from.word().to_owned()),
            to: Some(to.word().to_owned()),
            version: Some(self.of(id).deployment.package.version.clone()),
            start: (from == DeploymentStatus::Pending && to.is_running())
                .then(|| self.state.starting_point(self.of(id))),
            ..self.figures(id)
        };
        self.event(id, EventType::DeploymentStatus, &About::default(), data);
        if to.is_final() {
            self.end(id);
        } else if super::advance::waits_for_click(to) {
            self.wake_next(id);
        }
        true
    }

    /// The figures of S1 and S2, for events.
    pub(super) fn figures(&self, id: DeploymentId) -> EventData {
        let slots = self.slots(id);
        let state = self.of(id);
        EventData {
            out_count: Some(slots.out),
            limit: Some(slots.l),
            total: Some(slots.total),
            failed_count: Some(state.failed_or_unknown()),
            holds: Some(state.deployment.holds.iter().map(|hold| hold.reason).collect()),
            ..EventData::default()
        }
    }

    /// Moves a batch on by its table. Returns whether it moved.
    pub(super) fn move_batch(&mut self, id: DeploymentId, index: u32, event: BatchEvent) -> bool {
        let now = self.now;
        let Some(state) = self.state.deployment_mut(id) else { return false };
        let Some(batch) = state.batches.get_mut(index as usize - 1) else { return false };
        let from = batch.status;
        let Some(to) = from.on(event) else { return false };
        batch.status = to;
        match event {
            BatchEvent::Succeeded | BatchEvent::Failed | BatchEvent::Ended => {
                batch.ended_at = Some(now);
                batch.wait_until = None;
            }
            BatchEvent::Started | BatchEvent::Reopened => batch.wait_until = None,
            BatchEvent::Queued => {}
        }
        self.changes.deployments.entry(id).or_default().batches.insert(index);
        let data = EventData {
            from: Some(from.word().to_owned()),
            to: Some(to.word().to_owned()),
            ..EventData::default()
        };
        let about = About { batch: Some(index), ..About::default() };
        self.event(id, EventType::BatchStatus, &about, data);
        true
    }

    /// Changes a target's row without moving it on.
    pub(super) fn change_target(
        &mut self,
        id: DeploymentId,
        place: usize,
        change: impl FnOnce(&mut Target),
    ) {
        self.changes.deployments.entry(id).or_default().targets.insert(place);
        self.state.change_target(id, place, change);
    }

    /// Moves a target on by its table, changes its row and appends the event. Returns whether the
    /// table has such a row; without one nothing changes.
    pub(super) fn move_target(
        &mut self,
        id: DeploymentId,
        place: usize,
        event: TargetEvent,
        already_out: Option<bool>,
        change: impl FnOnce(&mut Target),
    ) -> bool {
        let from = self.target(id, place).status;
        let Some(to) = from.on(event) else { return false };
        let now = self.now;
        self.change_target(id, place, |target| {
            target.status = to;
            target.status_since = now;
            target.unknown_since = None;
            if to.running().is_none() {
                target.deadline_at = None;
            }
            if to.running().is_none() && !to.is_failure() {
                target.cause = None;
            }
            change(target);
        });
        let target = self.target(id, place);
        let fence = self.state.server(target.server).map(|server| server.fence);
        let (ran, is_running) = (from.running().is_some(), to.running().is_some());
        let cause = target.cause.filter(|_| to.is_failure());
        let data = EventData {
            from: Some(from.word().to_owned()),
            to: Some(to.word().to_owned()),
            attempt: Some(target.attempt),
            version: Some(self.of(id).deployment.package.version.clone()),
            key: target.order.filter(|_| is_running),
            fence: fence.filter(|_| is_running),
            already_out,
            bypassed: target.bypassed.then_some(true).filter(|_| is_running || ran),
            message: target.message.clone(),
            ..self.figures(id)
        };
        let about = About { place: Some(place), cause, ..About::default() };
        self.event(id, EventType::TargetStatus, &about, EventData { holds: None, ..data });
        true
    }

    /// Changes a server's row.
    pub(super) fn change_server(&mut self, id: ServerId, change: impl FnOnce(&mut Server)) {
        self.changes.servers.insert(id);
        self.state.change_server(id, change);
    }

    /// A server is out from here on, for another reason than a target's Markdown.
    pub(super) fn server_out(&mut self, id: ServerId, because: OutBecause, message: &str) {
        let now = self.now;
        self.forget_late_mark(id);
        // Its load balancer has been seen, so nothing is left to be confirmed. Who is dead may be drained
        // or not when it is back.
        let is_seen = because != OutBecause::Dead;
        if is_seen && self.state.server(id).is_some_and(|row| row.markup_owed.is_some()) {
            self.changes.delete(EffectKind::ReturnServer(id));
        }
        self.change_server(id, |server| {
            if is_seen {
                server.markup_owed = None;
            }
            server.service = Service::Out;
            server.out_because = Some(because);
            server.observed_at = Some(now);
        });
        let data = EventData { message: Some(message.to_owned()), ..EventData::default() };
        self.server_event(id, EventType::ServerOut, data);
    }

    /// A server is in service from here on, for another reason than a target's Markup.
    pub(super) fn server_in(&mut self, id: ServerId, message: &str) {
        let now = self.now;
        self.forget_late_mark(id);
        self.change_server(id, |server| {
            server.service = Service::In;
            server.out_because = None;
            server.dead_since = None;
            server.observed_at = Some(now);
            server.markup_owed = None;
        });
        let data = EventData { message: Some(message.to_owned()), ..EventData::default() };
        self.server_event(id, EventType::ServerIn, data);
    }

    /// Sets a hold, if none with its reason is there.
    pub(super) fn set_hold(&mut self, id: DeploymentId, reason: HoldReason, detail: String) {
        if self.of(id).deployment.hold(reason).is_some() {
            return;
        }
        let (by, since) = (self.actor.clone(), self.now);
        let hold = Hold { detail: detail.clone(), ..Hold::new(reason, by, since) };
        self.change_deployment(id, |deployment| {
            deployment.holds.push(hold);
            deployment.stale = false;
        });
        self.hold_event(id, EventType::HoldSet, reason, detail);
        self.fail_awaited_tries(id);
        self.wake_next(id);
    }

    /// Clears a hold. Returns whether it was there.
    pub(super) fn clear_hold(&mut self, id: DeploymentId, reason: HoldReason) -> bool {
        if self.of(id).deployment.hold(reason).is_none() {
            return false;
        }
        self.change_deployment(id, |deployment| {
            deployment.holds.retain(|hold| hold.reason != reason);
        });
        self.hold_event(id, EventType::HoldCleared, reason, String::new());
        self.wake_next(id);
        true
    }

    fn hold_event(
        &mut self,
        id: DeploymentId,
        kind: EventType,
        reason: HoldReason,
        detail: String,
    ) {
        let word = serde_json::to_value(reason).ok();
        let word = word.and_then(|value| value.as_str().map(str::to_owned));
        let (from, to) = if kind == EventType::HoldSet { (None, word) } else { (word, None) };
        let message = Some(detail).filter(|detail| !detail.is_empty());
        let data = EventData { from, to, message, ..self.figures(id) };
        self.event(id, kind, &About::default(), data);
    }

    /// Asks for the deployment to be looked at again at an instant.
    pub(super) fn wake_at(&mut self, id: DeploymentId, due_at: Timestamp) {
        let group = self.state.id();
        self.changes.put(Effect { kind: EffectKind::WakeDeployment(id), group, due_at });
    }

    /// A deployment has become final: what has not started never will.
    fn end(&mut self, id: DeploymentId) {
        let now = self.now;
        self.change_deployment(id, |deployment| {
            deployment.ended_at = Some(now);
            deployment.holds.clear();
        });
        for place in 0..self.of(id).targets().len() {
            if self.awaits_try(id, place) {
                self.revoke_awaited_try(id, place);
            }
            let status = self.target(id, place).status;
            if status == TargetStatus::Pending || status.is_between_stages() {
                self.move_target(id, place, TargetEvent::Ended, None, |_| {});
            }
            if status.running().is_none() {
                self.undo_failed_markdown(id, place);
                self.return_if_put_back(self.target(id, place).server);
            }
        }
        for index in 1..=u32::try_from(self.of(id).batches().len()).unwrap_or(0) {
            self.move_batch(id, index, BatchEvent::Ended);
        }
        self.changes.delete(EffectKind::WakeDeployment(id));
        self.changes.delete(EffectKind::ObserveServers(id));
        // The group's own load balancer counts from here on, and may be another one.
        self.pay_debts();
    }

    /// A server that was in service and whose Markdown failed counts as in service again (S1).
    pub(super) fn undo_failed_markdown(&mut self, id: DeploymentId, place: usize) {
        let target = self.target(id, place);
        let (took, server) = (target.took, target.server);
        let ours = self.state.server(server).is_some_and(|server| {
            server.out_because == Some(OutBecause::Target) && server.pulled_out.is_none()
        });
        if took && ours {
            self.change_target(id, place, |target| target.took = false);
            self.change_server(server, |server| server.drained = false);
            self.changes.delete(EffectKind::DrainServer(server));
            self.server_in(server, "its Markdown had failed and its target is at its end");
        }
    }
}
