//! Servers that come and go, and are pulled out.

use crate::batch_status::BatchStatus;
use crate::deployment_status::DeploymentStatus;
use crate::effect::{Effect, EffectKind};
use crate::event::{EventData, EventType};
use crate::input::{Answer, Refused};
use crate::record::{Batch, Flavor, OutBecause, PulledOut, Server, Service, Target};
use crate::target_status::{TargetEvent, TargetStatus};
use crate::{DeploymentId, ServerId, TargetId};

use super::Decider;
use super::create::is_planned;
use super::write::About;

impl Decider<'_> {
    pub(super) fn pull_out(
        &mut self,
        id: ServerId,
        actor: &str,
        reason: &str,
    ) -> Result<Answer, Refused> {
        let server = self.known_server(id)?;
        if let Some(pulled) = &server.pulled_out {
            return Err(Refused::new(
                "already_pulled_out",
                format!("{} pulled this server out already: {}", pulled.by, pulled.reason),
            ));
        }
        actor.clone_into(&mut self.actor);
        let pulled = PulledOut { by: actor.to_owned(), reason: reason.to_owned(), since: self.now };
        self.change_server(id, |server| {
            server.pulled_out = Some(pulled);
            server.drained = true;
            server.markup_owed = None;
            server.service = Service::Out;
            server.out_because = Some(OutBecause::Person);
        });
        let data = EventData { message: Some(reason.to_owned()), ..EventData::default() };
        self.server_event(id, EventType::ServerPulledOut, data);
        self.put_effect(EffectKind::DrainServer(id));
        self.changes.delete(EffectKind::ReturnServer(id));
        self.changes.delete(EffectKind::AdmitServer(id));
        self.member_left(id);
        Ok(Answer::Done)
    }

    pub(super) fn known_server(&self, id: ServerId) -> Result<&Server, Refused> {
        self.state
            .server(id)
            .filter(|server| !server.retired)
            .ok_or_else(|| Refused::new("server_unknown", format!("no server {id} in this group")))
    }

    pub(super) fn put_effect(&mut self, kind: EffectKind) {
        let (group, due_at) = (self.state.id(), self.now);
        self.changes.put(Effect { kind, group, due_at });
    }

    pub(super) fn server_drained(&mut self, id: ServerId, problem: Option<&str>) -> Answer {
        self.changes.delete(EffectKind::DrainServer(id));
        if problem.is_some() && self.state.server(id).is_some_and(|row| row.pulled_out.is_some()) {
            let (group, due_at) = (self.state.id(), self.now + super::LOOK_INTERVAL);
            self.changes.put(Effect { kind: EffectKind::DrainServer(id), group, due_at });
        }
        Answer::Done
    }

    /// Its server left: the target is set aside, at once or when its stage has ended.
    pub(super) fn member_left(&mut self, server: ServerId) {
        let Some(state) = self.state.running() else { return };
        let id = state.deployment.id;
        if let Some(place) = state.place_of_server(server) {
            self.leave(id, place);
        }
    }

    /// Sets a target aside, or marks it so when a stage is under way.
    pub(super) fn leave(&mut self, id: DeploymentId, place: usize) {
        let status = self.target(id, place).status;
        if self.awaits_try(id, place) {
            self.drop_try(id, place);
            self.set_aside(id, place);
        } else if status.running().is_some() {
            self.change_target(id, place, |target| target.leaving = true);
        } else if status.on(TargetEvent::ServerLeft).is_some() {
            self.set_aside(id, place);
        }
    }

    pub(super) fn set_aside(&mut self, id: DeploymentId, place: usize) {
        self.undo_failed_markdown(id, place);
        self.move_target(id, place, TargetEvent::ServerLeft, None, |target| {
            target.leaving = false;
            target.message = None;
        });
    }

    /// A server is there (again): it gets a target if the running deployment is for it. Returns
    /// whether a deployment takes care of it.
    pub(super) fn member_appeared(&mut self, server: ServerId) -> bool {
        let Some(state) = self.state.running() else { return false };
        let id = state.deployment.id;
        match state.place_of_server(server) {
            Some(place) => self.come_back(id, place),
            None => self.add_target(id, server),
        }
    }

    fn come_back(&mut self, id: DeploymentId, place: usize) -> bool {
        let target = self.target(id, place);
        let server = self.state.server(target.server);
        if server.is_none_or(|server| server.retired || server.pulled_out.is_some()) {
            return false;
        }
        if target.leaving {
            self.change_target(id, place, |target| target.leaving = false);
            return true;
        }
        if target.status != TargetStatus::SetAside {
            return false;
        }
        let state = self.of(id);
        let smoking = state.deployment.status == DeploymentStatus::Smoking;
        let moves = match state.batch(target.batch) {
            Some(batch) if batch.is_bastion => !smoking,
            Some(batch) => !matches!(
                batch.status,
                BatchStatus::Pending | BatchStatus::Waiting | BatchStatus::Deploying
            ),
            None => true,
        };
        let batch = if moves { self.last_open_batch(id) } else { target.batch };
        self.move_target(id, place, TargetEvent::ServerReturned, None, |target| {
            target.batch = batch;
            target.attempt += 1;
            target.checked = false;
            target.verified_at = None;
            target.unverified = false;
            target.cause = None;
        });
        true
    }

    /// Gives a server a target in a new last batch. Returns whether the deployment is for it.
    pub(super) fn add_target(&mut self, id: DeploymentId, server: ServerId) -> bool {
        let Some(row) = self.state.server(server).cloned() else { return false };
        let state = self.of(id);
        let package = state.deployment.package.id;
        let wanted = match state.deployment.flavor {
            Flavor::Rollout | Flavor::Adopted => true,
            Flavor::Scaleout => !row.proves(package),
            Flavor::Rollback => !(row.proves(package) && row.service == Service::In),
        };
        if !wanted || row.retired || row.pulled_out.is_some() {
            return false;
        }
        let batch = self.last_open_batch(id);
        let place = self.of(id).targets().len();
        let target_id =
            TargetId::derive(self.now, &[id.0.as_bytes(), server.0.as_bytes(), b"target"]);
        let place_number = u32::try_from(place).unwrap_or(u32::MAX);
        let target = Target::new(target_id, id, batch, place_number, &row, self.now);
        self.state.insert_target(target);
        self.changes.deployments.entry(id).or_default().targets.insert(place);
        let about = About { place: Some(place), ..About::default() };
        let data = EventData {
            to: Some(TargetStatus::Pending.word().to_owned()),
            attempt: Some(1),
            ..EventData::default()
        };
        self.event(id, EventType::TargetAdded, &about, data);
        true
    }

    /// The last batch for servers that appear or come back, if it has not begun; else a new one.
    /// They join no batch of the plan: who is new goes after all that were planned.
    pub(super) fn last_open_batch(&mut self, id: DeploymentId) -> u32 {
        let state = self.of(id);
        let batches = state.batches();
        if let Some(last) = batches.last()
            && !last.is_bastion
            && last.status == BatchStatus::Pending
            && !state.targets().iter().any(|target| {
                let came_back = target.attempt > 1;
                target.batch == last.index && !came_back && is_planned(&state.deployment, target)
            })
        {
            return last.index;
        }
        let index = u32::try_from(batches.len()).unwrap_or(u32::MAX - 1) + 1;
        let batch = Batch {
            deployment: id,
            index,
            is_bastion: false,
            status: BatchStatus::Pending,
            wait_until: None,
            ended_at: None,
        };
        if let Some(state) = self.state.deployment_mut(id) {
            state.batches.push(batch);
        }
        self.changes.deployments.entry(id).or_default().batches.insert(index);
        let about = About { batch: Some(index), ..About::default() };
        let to = Some(BatchStatus::Pending.word().to_owned());
        self.event(id, EventType::BatchStatus, &about, EventData { to, ..EventData::default() });
        index
    }
}
