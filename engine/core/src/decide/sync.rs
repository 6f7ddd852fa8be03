//! The group's record in the CMDB: who is a member, and what is said of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::ServerId;
use crate::effect::EffectKind;
use crate::event::{EventData, EventType};
use crate::input::{Answer, Reading};
use crate::ports::{CmdbGroup, CmdbServer, is_cached_revision};
use crate::record::{Binding, OutBecause, Server, Service};
use crate::share::Share;

use super::{Decider, STALE_AFTER};

impl Decider<'_> {
    pub(super) fn synced(
        &mut self,
        record: &CmdbGroup,
        hold_above: Option<Share>,
        reading: Reading,
    ) -> Answer {
        let cached = self.state.group.cmdb_revision;
        if record.revision == 0 {
            // Nothing says whether a list is newer than what was stored since it was read.
            if reading == Reading::Listed && cached >= 0 && !self.is_cached(record) {
                return Answer::ReadAlone;
            }
        } else if record.revision != cached && is_cached_revision(record.revision, cached) {
            return Answer::Done;
        }
        let gone = self.gone(record);
        let members = self.state.census().members as usize;
        let is_more = |share: &Share| gone.len() * 100 > members * usize::from(share.as_percent());
        if let Some(share) = hold_above.filter(is_more) {
            let text = format!(
                "{} would remove {} of {members} servers, more than {share}; a person must confirm it",
                if record.revision == 0 {
                    "the record".to_owned()
                } else {
                    format!("revision {}", record.revision)
                },
                gone.len()
            );
            self.state.group.refresh_held = Some(text.clone());
            self.changes.group = true;
            return Answer::RefreshHeld(text);
        }
        let is_first = self.state.servers().is_empty();
        let balancer = self.state.binding().load_balancer.clone();
        self.state.group.take_record(record, self.now);
        self.changes.group = true;
        if self.state.binding().load_balancer != balancer {
            self.pay_debts();
        }
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

    /// Whether the cache says what the record says.
    fn is_cached(&self, record: &CmdbGroup) -> bool {
        let cached = &self.state.group;
        let mut group = cached.clone();
        group.take_record(record, cached.synced_at);
        let is_same = (&group.binding, &group.application, group.port, &group.idc)
            == (&cached.binding, &cached.application, cached.port, &cached.idc);
        let known: BTreeMap<&str, &Server> = self
            .state
            .servers()
            .iter()
            .filter(|server| !server.retired)
            .map(|server| (server.external_id.as_str(), server))
            .collect();
        let mut entries = record.servers.iter().filter(|entry| !entry.retired);
        is_same
            && self.gone(record).is_empty()
            && entries.all(|entry| {
                known.get(entry.id.as_str()).is_some_and(|server| !server.differs(record, entry))
            })
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
        self.changes.delete(EffectKind::ReturnServer(id));
        self.changes.delete(EffectKind::AdmitServer(id));
        self.server_event(id, EventType::ServerLeft, EventData::default());
        self.member_left(id);
    }

    fn sync_server(&mut self, id: ServerId, record: &CmdbGroup, entry: &CmdbServer) {
        let Some(server) = self.state.server(id) else { return };
        let was_retired = server.retired;
        if !was_retired && !server.differs(record, entry) {
            return;
        }
        self.free_name(id, entry);
        self.changes.server_records.insert(id);
        self.change_server(id, |server| {
            server.take_record(record, entry);
            if was_retired {
                server.come_back();
            }
        });
        if was_retired {
            let is_owed = self.state.server(id).is_some_and(|row| row.markup_owed.is_some());
            if !self.appear(id) || is_owed {
                self.return_if_put_back(id);
            }
            self.look_soon();
        }
    }

    /// Names are unique, retired servers have theirs still, and a member takes precedence: a retired
    /// server whose name it gets keeps its id in the CMDB in place of its instance.
    fn free_name(&mut self, id: ServerId, entry: &CmdbServer) {
        let holder = self.state.servers().iter().find(|row| {
            row.retired
                && row.id != id
                && row.hostname == entry.hostname
                && row.instance == entry.instance
        });
        let Some(holder) = holder.map(|row| row.id) else { return };
        self.changes.server_records.insert(holder);
        self.change_server(holder, |row| row.instance = format!("retired {}", row.external_id));
    }

    /// Who appears may serve already, and who came back all the while: the next look says so, and
    /// must not be far.
    fn look_soon(&mut self) {
        if let Some(id) = self.state.running().map(|state| state.deployment.id) {
            self.put_effect(EffectKind::ObserveServers(id));
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
        self.look_soon();
    }

    /// Returns whether a deployment takes care of it.
    fn appear(&mut self, id: ServerId) -> bool {
        self.server_event(id, EventType::ServerAppeared, EventData::default());
        self.member_appeared(id)
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
            executor: record.executors.first().cloned().unwrap_or_default(),
            next_executors: record.executors.iter().skip(1).cloned().collect(),
            may_go_dark: record.may_go_dark,
            on_lb_failure: record.on_lb_failure,
            scale_out: record.scale_out,
            settle_seconds: record.settle_seconds,
            keep_releases: record.keep_releases,
            stale_after_seconds: 0,
        }
        .with_stale_after(STALE_AFTER)
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
            markup_owed: None,
            running: None,
            order: None,
            fence: 0,
        };
        server.take_record(group, entry);
        server
    }

    /// It was no member for a while, and nobody looked at it or kept others from it.
    fn come_back(&mut self) {
        if let Some(running) = &mut self.running {
            running.proven_at = None;
        }
        self.dead_since = None;
        if self.pulled_out.is_some() {
            self.service = Service::Out;
            self.out_because = Some(OutBecause::Person);
        } else if self.drained
            || matches!(self.out_because, Some(OutBecause::Target | OutBecause::Bypassed))
        {
            // Our own mark is still on it, or it was taken without one: what took it out must bring it
            // back.
            self.service = Service::Out;
            let by_person = self.out_because == Some(OutBecause::Person);
            let because = if by_person { OutBecause::Person } else { OutBecause::Target };
            self.out_because = Some(because);
        } else if self.out_because != Some(OutBecause::New) {
            self.service = Service::Unknown;
            self.out_because = None;
        }
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
