//! Servers that come and go, are pulled out and put back.

use std::collections::{BTreeMap, BTreeSet};

use crate::batch_status::BatchStatus;
use crate::deployment_status::DeploymentStatus;
use crate::effect::{Effect, EffectKind};
use crate::event::{EventData, EventType};
use crate::input::{Answer, Refused};
use crate::ports::{CmdbGroup, CmdbServer, Report, Sight};
use crate::record::{
    Batch, Binding, Flavor, OutBecause, PackageRef, PulledOut, Running, Server, Service, Target,
};
use crate::target_status::{TargetEvent, TargetStatus};
use crate::{DeploymentId, ServerId, TargetId};

use super::Decider;
use super::observe::return_package;
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
            server.service = Service::Out;
            server.out_because = Some(OutBecause::Person);
        });
        let data = EventData { message: Some(reason.to_owned()), ..EventData::default() };
        self.server_event(id, EventType::ServerPulledOut, data);
        self.put_effect(EffectKind::DrainServer(id));
        self.changes.delete(EffectKind::ReturnServer(id));
        self.member_left(id);
        Ok(Answer::Done)
    }

    pub(super) fn put_back(&mut self, id: ServerId, actor: &str) -> Result<Answer, Refused> {
        if self.known_server(id)?.pulled_out.is_none() {
            return Err(Refused::new("not_pulled_out", "nobody pulled this server out"));
        }
        actor.clone_into(&mut self.actor);
        self.change_server(id, |server| {
            server.pulled_out = None;
            server.out_because = Some(OutBecause::Person);
        });
        self.server_event(id, EventType::ServerPutBack, EventData::default());
        self.changes.delete(EffectKind::DrainServer(id));
        if !self.member_appeared(id) {
            self.put_effect(EffectKind::ReturnServer(id));
        }
        Ok(Answer::Done)
    }

    fn known_server(&self, id: ServerId) -> Result<&Server, Refused> {
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

    pub(super) fn server_returned(
        &mut self,
        id: ServerId,
        report: Option<&Report>,
        sight: Sight,
        current: Option<&PackageRef>,
    ) -> Answer {
        self.changes.delete(EffectKind::ReturnServer(id));
        let waits = self.state.server(id).is_some_and(|server| {
            server.pulled_out.is_none() && server.out_because == Some(OutBecause::Person)
        });
        if !waits {
            return Answer::Done;
        }
        let right = return_package(self.state, id, current)
            .filter(|package| report.is_some_and(|report| report.sha256 == package.sha256));
        match (right, sight) {
            (Some(package), Sight::Serving) => {
                let running = Running {
                    package: package.id,
                    version: package.version.clone(),
                    proven_at: Some(self.now),
                };
                self.change_server(id, |server| {
                    server.running = Some(running);
                    server.drained = false;
                });
                self.changes.delete(EffectKind::DrainServer(id));
                self.server_in(id, "it was put back and proved the group's package");
            }
            (right, _) => self.does_not_return(id, report, right.is_some()),
        }
        Answer::Done
    }

    fn does_not_return(&mut self, id: ServerId, report: Option<&Report>, is_right: bool) {
        let message = match report {
            None => "it was put back and does not say what it runs: it stays out".to_owned(),
            Some(report) if is_right => {
                format!("it was put back with {} and does not serve: it stays out", report.version)
            }
            Some(report) => format!(
                "it was put back and runs {}, not the group's package: it stays out",
                report.version
            ),
        };
        let data = EventData { message: Some(message.clone()), ..EventData::default() };
        self.server_event(id, EventType::ServerOut, data);
        let Some(state) = self.state.running() else { return };
        let deployment = state.deployment.id;
        if let Some(place) = state.place_of_server(id)
            && state.targets()[place].status == TargetStatus::Success
        {
            self.relapse(deployment, place, message);
        }
    }

    /// Its server left: the target is set aside, at once or when its stage has ended.
    fn member_left(&mut self, server: ServerId) {
        let Some(state) = self.state.running() else { return };
        let id = state.deployment.id;
        if let Some(place) = state.place_of_server(server) {
            self.leave(id, place);
        }
    }

    /// Sets a target aside, or marks it so when a stage is under way.
    pub(super) fn leave(&mut self, id: DeploymentId, place: usize) {
        let status = self.target(id, place).status;
        if status.running().is_some() {
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

    /// The last batch, if it is a normal one that has not begun; else a new one.
    pub(super) fn last_open_batch(&mut self, id: DeploymentId) -> u32 {
        let batches = self.of(id).batches();
        if let Some(last) = batches.last()
            && !last.is_bastion
            && last.status == BatchStatus::Pending
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

    pub(super) fn synced(&mut self, record: &CmdbGroup, confirmed: bool) -> Answer {
        if record.revision < self.state.group.cmdb_revision {
            return Answer::Done;
        }
        let gone = self.gone(record);
        let members = self.state.census().members as usize;
        if gone.len() * 2 > members && !confirmed {
            let text = format!(
                "revision {} would remove {} of {members} servers; a person must confirm it",
                record.revision,
                gone.len()
            );
            self.state.group.refresh_held = Some(text.clone());
            self.changes.group = true;
            return Answer::RefreshHeld(text);
        }
        let is_first = self.state.servers().is_empty();
        self.state.group.take_record(record, self.now);
        self.changes.group = true;
        for id in gone {
            self.retire(id);
        }
        let known: BTreeMap<String, ServerId> = self
            .state
            .servers()
            .iter()
            .map(|server| (server.external_id.clone(), server.id))
            .collect();
        let retired: BTreeMap<(String, String), ServerId> = self
            .state
            .servers()
            .iter()
            .filter(|server| server.retired)
            .map(|server| ((server.hostname.clone(), server.instance.clone()), server.id))
            .collect();
        for entry in record.servers.iter().filter(|entry| !entry.retired) {
            // A host that comes back under a new id is the same instance: its row goes on, with the
            // fence that the host has seen (S7).
            let name = (entry.hostname.clone(), entry.instance.clone());
            match known.get(&entry.id).or_else(|| retired.get(&name)) {
                Some(id) => self.sync_server(*id, record, entry),
                None => self.new_server(record, entry, is_first),
            }
        }
        Answer::Done
    }

    /// Members that the record no longer has.
    fn gone(&self, record: &CmdbGroup) -> Vec<ServerId> {
        let staying: BTreeSet<&str> = record
            .servers
            .iter()
            .filter(|entry| !entry.retired)
            .map(|entry| entry.id.as_str())
            .collect();
        let stays = |server: &Server| staying.contains(server.external_id.as_str());
        let members = self.state.servers().iter().filter(|server| !server.retired);
        members.filter(|server| !stays(server)).map(|server| server.id).collect()
    }

    fn retire(&mut self, id: ServerId) {
        self.changes.server_records.insert(id);
        self.change_server(id, |server| server.retired = true);
        self.server_event(id, EventType::ServerLeft, EventData::default());
        self.member_left(id);
    }

    fn sync_server(&mut self, id: ServerId, record: &CmdbGroup, entry: &CmdbServer) {
        let Some(server) = self.state.server(id) else { return };
        let was_retired = server.retired;
        if !was_retired && !server.differs(record, entry) {
            return;
        }
        self.changes.server_records.insert(id);
        self.change_server(id, |server| {
            server.take_record(record, entry);
            if was_retired {
                // Where our own mark is still on it, a person or a target took it out.
                server.out_because = Some(match (&server.pulled_out, server.drained) {
                    (Some(_), _) => OutBecause::Person,
                    (None, true) => OutBecause::Target,
                    (None, false) => OutBecause::New,
                });
                server.service = Service::Out;
            }
        });
        if was_retired {
            self.appear(id);
        }
    }

    fn new_server(&mut self, record: &CmdbGroup, entry: &CmdbServer, is_first: bool) {
        let names: &[&[u8]] = &[self.state.group.id.0.as_bytes(), entry.id.as_bytes(), b"server"];
        let id = ServerId::derive(self.now, names);
        let server = Server::from_record(id, record, entry, is_first);
        self.changes.server_records.insert(id);
        self.changes.servers.insert(id);
        self.state.insert_server(server);
        self.appear(id);
    }

    fn appear(&mut self, id: ServerId) {
        self.server_event(id, EventType::ServerAppeared, EventData::default());
        self.member_appeared(id);
    }
}

impl crate::record::Group {
    fn take_record(&mut self, record: &CmdbGroup, now: crate::Timestamp) {
        self.binding = Binding::from_record(record);
        self.application.name.clone_from(&record.application.name);
        self.application.owner.clone_from(&record.application.owner);
        self.application.environment.clone_from(&record.application.environment);
        self.application.kind.clone_from(&record.application.kind);
        self.application.bastion = record.application.bastion;
        self.port = record.port;
        self.idc.clone_from(&record.idc);
        self.cmdb_revision = record.revision;
        self.synced_at = now;
        self.refresh_held = None;
    }
}

impl Binding {
    /// The fields that a deployment freezes, from the CMDB's record.
    pub fn from_record(record: &CmdbGroup) -> Self {
        Self {
            application: record.application.name.clone(),
            kind: record.application.kind.clone(),
            group: record.name.clone(),
            site: record.site.clone(),
            virtual_path: record.virtual_path.clone(),
            doc_base: record.doc_base.clone(),
            health_check_url: record.health_check_url.clone(),
            load_balancer: record.load_balancer.clone(),
            executor: record.executor.clone(),
            may_go_dark: record.may_go_dark,
            on_lb_failure: record.on_lb_failure,
            settle_seconds: record.settle_seconds,
            keep_releases: record.keep_releases,
        }
    }
}

impl Server {
    fn from_record(id: ServerId, group: &CmdbGroup, entry: &CmdbServer, is_first: bool) -> Self {
        let (service, out_because) =
            if is_first { (Service::Unknown, None) } else { (Service::Out, Some(OutBecause::New)) };
        let mut server = Self {
            id,
            external_id: entry.id.clone(),
            hostname: String::new(),
            instance: String::new(),
            ip_address: String::new(),
            port: 0,
            root: String::new(),
            idc: String::new(),
            pool: String::new(),
            is_bastion: false,
            retired: false,
            pulled_out: None,
            service,
            out_because,
            observed_at: None,
            dead_since: None,
            drained: false,
            drained_again: false,
            running: None,
            order: None,
            fence: 0,
        };
        server.take_record(group, entry);
        server
    }

    fn take_record(&mut self, group: &CmdbGroup, entry: &CmdbServer) {
        self.external_id.clone_from(&entry.id);
        self.hostname.clone_from(&entry.hostname);
        self.instance.clone_from(&entry.instance);
        self.ip_address.clone_from(&entry.ip_address);
        self.port = entry.port.unwrap_or(group.port);
        self.root = entry.root.clone().unwrap_or_else(|| group.doc_base.clone());
        self.idc = entry.idc.clone().unwrap_or_else(|| group.idc.clone());
        self.pool.clone_from(&entry.pool);
        self.is_bastion = entry.is_bastion;
        self.retired = entry.retired;
    }

    fn differs(&self, group: &CmdbGroup, entry: &CmdbServer) -> bool {
        let mut other = self.clone();
        other.take_record(group, entry);
        other != *self
    }
}

impl Target {
    /// A target that has not begun.
    pub fn new(
        id: TargetId,
        deployment: DeploymentId,
        batch: u32,
        place: u32,
        server: &Server,
        now: crate::Timestamp,
    ) -> Self {
        Self {
            id,
            deployment,
            batch,
            place,
            server: server.id,
            hostname: server.hostname.clone(),
            instance: server.instance.clone(),
            ip_address: server.ip_address.clone(),
            status: TargetStatus::Pending,
            status_since: now,
            attempt: 1,
            orders: 0,
            tries: 0,
            order: None,
            order_digest: None,
            deadline_at: None,
            unknown_since: None,
            checked: false,
            verified_at: None,
            unverified: false,
            skipped: false,
            took: false,
            leaving: false,
            cause: None,
            message: None,
        }
    }
}
