//! A group with its servers and the deployments that are worked on: what `decide` reads and changes.
//!
//! This is a copy of rows, kept in step with them by the store; the rows are the truth. Counts are
//! kept beside the rows so that an input costs the same in a group of ten and of ten thousand;
//! [`DeploymentState::recount`] makes them anew, and every property test compares the two.

use std::collections::{BTreeMap, BTreeSet};

use crate::batch_status::BatchStatus;
use crate::dependency::{Traffic, holding};
use crate::event::StartingPoint;
use crate::record::{Batch, Binding, Deployment, Group, OutBecause, Server, Service, Target};
use crate::slots::{Census, Slots, is_ours};
use crate::tally::{Need, Tally, is_unknown};
use crate::target_status::TargetStatus;
use crate::{DeploymentId, GroupId, ServerId, TargetId};

pub use crate::tally::Counts;

/// One group.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupState {
    /// The group.
    pub group: Group,
    servers: Vec<Server>,
    server_places: BTreeMap<ServerId, usize>,
    census: Census,
    deployments: BTreeMap<DeploymentId, DeploymentState>,
}

/// One deployment with its batches and targets.
#[derive(Debug, Clone, PartialEq)]
pub struct DeploymentState {
    /// The deployment.
    pub deployment: Deployment,
    /// Its batches; the one with index `n` is at `n - 1`.
    pub(crate) batches: Vec<Batch>,
    targets: Vec<Target>,
    target_places: BTreeMap<TargetId, usize>,
    server_places: BTreeMap<ServerId, usize>,
    tally: Tally,
    /// A decision had more to start than it may, and its effect to be woken is due: until then other
    /// inputs start no PENDING target, so that outcomes are not written behind hundreds of starts.
    /// Not a row: a copy that is read anew starts more at once, which does no harm.
    pub(crate) starts_wait: bool,
}

impl GroupState {
    /// A group with its servers and no deployment loaded.
    pub fn new(group: Group, servers: Vec<Server>) -> Self {
        let census = Census::of(&servers);
        let server_places =
            servers.iter().enumerate().map(|(place, server)| (server.id, place)).collect();
        Self { group, servers, server_places, census, deployments: BTreeMap::new() }
    }

    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.group.id
    }

    /// All servers, retired ones too.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Counts over the servers.
    pub fn census(&self) -> Census {
        self.census
    }

    /// One server.
    pub fn server(&self, id: ServerId) -> Option<&Server> {
        self.server_places.get(&id).map(|place| &self.servers[*place])
    }

    /// Adds a deployment that was loaded or made.
    pub fn insert(&mut self, deployment: Deployment, batches: Vec<Batch>, targets: Vec<Target>) {
        let state = DeploymentState::new(deployment, batches, targets, self);
        self.deployments.insert(state.deployment.id, state);
    }

    /// Brings a deployment that is loaded up to date: its row, all its batches, and those targets that were
    /// written since.
    pub fn renew(
        &mut self,
        deployment: Deployment,
        mut batches: Vec<Batch>,
        mut targets: Vec<Target>,
    ) {
        let id = deployment.id;
        let Some(state) = self.deployments.get_mut(&id) else { return };
        batches.sort_by_key(|batch| batch.index);
        (state.deployment, state.batches, state.starts_wait) = (deployment, batches, false);
        targets.sort_by_key(|target| target.place);
        for target in targets {
            match self.deployments.get(&id).and_then(|state| state.place(target.id)) {
                Some(place) => self.change_target(id, place, |old| *old = target),
                None => self.insert_target(target),
            }
        }
    }

    /// Forgets a deployment.
    pub fn forget(&mut self, id: DeploymentId) {
        self.deployments.remove(&id);
    }

    /// A deployment that is loaded.
    pub fn deployment(&self, id: DeploymentId) -> Option<&DeploymentState> {
        self.deployments.get(&id)
    }

    /// The deployments that are loaded.
    pub fn deployments(&self) -> impl Iterator<Item = &DeploymentState> {
        self.deployments.values()
    }

    pub(crate) fn deployment_mut(&mut self, id: DeploymentId) -> Option<&mut DeploymentState> {
        self.deployments.get_mut(&id)
    }

    /// The deployment that holds the group (S6).
    pub fn running(&self) -> Option<&DeploymentState> {
        self.deployments.values().find(|state| state.deployment.status.is_running())
    }

    /// Adds a server.
    pub fn insert_server(&mut self, server: Server) {
        self.census.add(&server);
        self.server_places.insert(server.id, self.servers.len());
        self.servers.push(server);
    }

    /// Changes a server and everything that is counted from it.
    pub fn change_server(&mut self, id: ServerId, change: impl FnOnce(&mut Server)) {
        let Some(place) = self.server_places.get(&id).copied() else { return };
        let server = &mut self.servers[place];
        self.census.remove(server);
        change(server);
        self.census.add(server);
        let server = &self.servers[place];
        for state in self.deployments.values_mut() {
            state.retally_server(server);
        }
    }

    /// Changes a target and everything that is counted from it.
    pub fn change_target(
        &mut self,
        deployment: DeploymentId,
        place: usize,
        change: impl FnOnce(&mut Target),
    ) {
        let Some(state) = self.deployments.get_mut(&deployment) else { return };
        let server = state.targets[place].server;
        let server = self.server_places.get(&server).map(|place| &self.servers[*place]);
        state.untally(place);
        change(&mut state.targets[place]);
        state.tally(place, server);
    }

    /// Adds a target.
    pub(crate) fn insert_target(&mut self, target: Target) {
        let server = self.server_places.get(&target.server).map(|place| &self.servers[*place]);
        if let Some(state) = self.deployments.get_mut(&target.deployment) {
            let place = state.targets.len();
            state.target_places.insert(target.id, place);
            state.server_places.insert(target.server, place);
            state.targets.push(target);
            state.tally(place, server);
        }
    }

    /// The bounds of S1 for a deployment.
    pub fn slots(&self, state: &DeploymentState) -> Slots {
        Slots::new(
            state.deployment.total,
            self.census,
            state.deployment.config.max_unavailable,
            state.deployment.frozen.may_go_dark,
        )
        .under(self.traffic_of(&state.deployment))
    }

    /// The group's fields that count now: those that the running deployment froze, else the group's.
    pub fn binding(&self) -> &Binding {
        self.running().map_or(&self.group.binding, |row| &row.deployment.frozen)
    }

    /// What becomes of a deployment's Markdown and Markup now.
    pub fn traffic_of(&self, deployment: &Deployment) -> Traffic {
        Traffic::of(&self.group.dependencies, &deployment.frozen)
    }

    /// How the group stands, for the log of a deployment that begins to hold it.
    pub(crate) fn starting_point(&self, state: &DeploymentState) -> StartingPoint {
        let named = |wanted: fn(&Server) -> bool| {
            let members = self.servers.iter().filter(|server| !server.retired);
            members.filter(|server| wanted(server)).map(|server| server.id).collect()
        };
        let config = &state.deployment.config;
        StartingPoint {
            members: self.census.members,
            may_go_dark: state.deployment.frozen.may_go_dark,
            max_unavailable: config.max_unavailable,
            max_failure: config.max_failure,
            out: named(|server| server.is_out() && server.service != Service::Unknown),
            unknown: named(|server| server.service == Service::Unknown),
            new: named(|server| !server.is_out() && server.service != Service::In),
            ours: named(is_ours),
            never_drained: named(|server| server.out_because == Some(OutBecause::Bypassed)),
            bypassed: self.traffic_of(&state.deployment) == Traffic::Bypassed,
            held_by: holding(&self.group.dependencies, &state.deployment.frozen)
                .into_iter()
                .map(|(name, _)| name.to_owned())
                .collect(),
            // Who is no member now may come back, and is pulled out then.
            pulled_out: self
                .servers
                .iter()
                .filter(|server| server.pulled_out.is_some())
                .map(|server| server.id)
                .collect(),
        }
    }

    /// Replaces a server by a newer row.
    pub fn replace_server(&mut self, server: Server) {
        if self.server_places.contains_key(&server.id) {
            self.change_server(server.id, |old| *old = server);
        } else {
            self.insert_server(server);
        }
    }
}

impl DeploymentState {
    fn new(
        deployment: Deployment,
        mut batches: Vec<Batch>,
        mut targets: Vec<Target>,
        group: &GroupState,
    ) -> Self {
        batches.sort_by_key(|batch| batch.index);
        targets.sort_by_key(|target| target.place);
        let mut state = Self {
            deployment,
            batches,
            target_places: targets.iter().enumerate().map(|(at, target)| (target.id, at)).collect(),
            server_places: targets
                .iter()
                .enumerate()
                .map(|(at, target)| (target.server, at))
                .collect(),
            targets,
            tally: Tally::default(),
            starts_wait: false,
        };
        state.tally = state.recount_with(group);
        state
    }

    /// Its batches, by index.
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// The batch with this index.
    pub fn batch(&self, index: u32) -> Option<&Batch> {
        self.batches.get(usize::try_from(index).ok()?.checked_sub(1)?)
    }

    /// Its targets, by place.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The place of a target.
    pub fn place(&self, target: TargetId) -> Option<usize> {
        self.target_places.get(&target).copied()
    }

    /// The place of the target of a server.
    pub fn place_of_server(&self, server: ServerId) -> Option<usize> {
        self.server_places.get(&server).copied()
    }

    /// Whether the target's batch is the bastion batch.
    pub fn is_bastion(&self, target: &Target) -> bool {
        self.batch(target.batch).is_some_and(|batch| batch.is_bastion)
    }

    /// Counts over one batch.
    pub fn counts_of(&self, batch: u32) -> Counts {
        self.tally.batches.get(&batch).map(|tally| tally.counts).unwrap_or_default()
    }

    /// Counts over bastion batches, or over normal ones.
    pub fn counts_where(&self, is_bastion: bool) -> Counts {
        let mut counts = Counts::default();
        for batch in self.batches.iter().filter(|batch| batch.is_bastion == is_bastion) {
            counts.add(&self.counts_of(batch.index));
        }
        counts
    }

    /// Counts over all targets.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for tally in self.tally.batches.values() {
            counts.add(&tally.counts);
        }
        counts
    }

    /// Targets that failed, relapsed or are unknown (S2).
    pub fn failed_or_unknown(&self) -> u32 {
        self.counts().failed() + self.tally.unknown
    }

    /// Targets between two stages, by place.
    pub(crate) fn between_stages(&self) -> &BTreeSet<usize> {
        &self.tally.between
    }

    /// The first PENDING target of a batch with this need.
    pub(crate) fn first_waiting(&self, batch: u32, need: Need) -> Option<usize> {
        self.tally.batches.get(&batch)?.waiting[need as usize].first().copied()
    }

    /// PENDING targets of batches after `batch` with this need, by batch and place.
    pub(crate) fn waiting_after(&self, batch: u32, need: Need) -> impl Iterator<Item = usize> {
        self.tally
            .batches
            .range(batch + 1..)
            .flat_map(move |(_, tally)| tally.waiting[need as usize].iter().copied())
    }

    /// The running batch: the lowest that deploys (the bastion batch, while the deployment smokes).
    pub fn running_batch(&self) -> Option<&Batch> {
        self.batches.iter().find(|batch| batch.status == BatchStatus::Deploying)
    }

    /// Makes the counts anew from the rows and says whether those that are kept agree.
    pub fn recount(&self, group: &GroupState) -> bool {
        self.tally == self.recount_with(group)
    }

    fn recount_with(&self, group: &GroupState) -> Tally {
        let mut fresh = Self { tally: Tally::default(), ..self.clone() };
        for place in 0..fresh.targets.len() {
            let server = group.server(fresh.targets[place].server);
            fresh.tally(place, server);
        }
        fresh.tally
    }

    fn untally(&mut self, place: usize) {
        let target = &self.targets[place];
        if let Some(batch) = self.tally.batches.get_mut(&target.batch) {
            batch.counts.shift(target.status, -1);
            for list in &mut batch.waiting {
                list.remove(&place);
            }
            if batch.counts.all() == 0 {
                self.tally.batches.remove(&target.batch);
            }
        }
        self.tally.between.remove(&place);
        if is_unknown(target) {
            self.tally.unknown -= 1;
        }
    }

    fn tally(&mut self, place: usize, server: Option<&Server>) {
        let target = &self.targets[place];
        let batch = self.tally.batches.entry(target.batch).or_default();
        batch.counts.shift(target.status, 1);
        if target.status == TargetStatus::Pending {
            let need = Need::of(&self.deployment, target, server);
            batch.waiting[need as usize].insert(place);
        }
        if target.status.is_between_stages() {
            self.tally.between.insert(place);
        }
        if is_unknown(target) {
            self.tally.unknown += 1;
        }
    }

    fn retally_server(&mut self, server: &Server) {
        if let Some(place) = self.place_of_server(server.id) {
            self.untally(place);
            self.tally(place, Some(server));
        }
    }
}
