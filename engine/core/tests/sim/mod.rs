//! A small world around `decide`: a database that is written only through `Changes`, hosts that do
//! what a scenario says, and checks of the safety rules after every step.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]
#![allow(clippy::needless_pass_by_value, reason = "an input is given away")]

pub mod case;
pub mod check;
pub mod hosts;
pub mod keeper;
pub mod scenario;
pub mod setup;
pub mod shadow;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use capstan_core::action::Action;
use capstan_core::config::ConfigRequest;
use capstan_core::decide::{HOLD_ABOVE, decide};
use capstan_core::effect::EffectKind;
use capstan_core::event::Event;
use capstan_core::input::{Act, Answer, Create, Input, Reading, Refused, RollBack, StageEnded};
use capstan_core::ports::CmdbGroup;
use capstan_core::record::Flavor;
use capstan_core::rollback::{History, Past};
use capstan_core::stage::Stage;
use capstan_core::state::{DeploymentState, GroupState};
use capstan_core::target_status::TargetStatus;
use capstan_core::{DeploymentId, OrderKey, PackageId, ServerId, TargetId, Timestamp};

pub use hosts::Host;
pub use keeper::Keeper;
pub use setup::{
    First, Setup, cmdb_group, cmdb_server, config, empty_group, package, scripts, start_of_time,
};
use shadow::Shadow;

/// A stage under way.
#[derive(Debug, Clone, Copy)]
pub struct Running {
    pub deployment: DeploymentId,
    pub target: TargetId,
    pub server: ServerId,
    pub stage: Stage,
    pub key: OrderKey,
    pub unknown: bool,
    /// When it is given out.
    pub due_at: Timestamp,
}

#[derive(Debug)]
pub struct World {
    pub now: Timestamp,
    /// What new deployments are created with.
    pub stale_after: Duration,
    pub state: GroupState,
    pub shadow: Shadow,
    pub record: CmdbGroup,
    pub hosts: BTreeMap<ServerId, Host>,
    pub bad: BTreeSet<PackageId>,
    /// Outcomes that were given, to be given again.
    pub stash: Vec<StageEnded>,
    /// Compares clones before and after; off for large groups.
    pub careful: bool,
    pub can_drain: bool,
    /// Drains that were given up on and may land yet.
    pub late_drains: Vec<ServerId>,
    /// Whether calls to the load balancer are made and answered.
    pub balancer_answers: bool,
    /// Who keeps the record elsewhere, too.
    keeper: Option<Box<dyn Keeper>>,
    /// Deployments with more to start than one decision may.
    more: BTreeSet<DeploymentId>,
    next_server: u32,
}

impl World {
    pub fn new(setup: Setup) -> Self {
        Self::with(setup, true, None)
    }

    /// Without the checks after every input, for long runs whose logs are checked.
    pub fn unchecked(setup: Setup) -> Self {
        Self::with(setup, false, None)
    }

    /// A world whose record is kept elsewhere, too: that is what a crash leaves.
    pub fn kept(setup: Setup, keeper: Box<dyn Keeper>) -> Self {
        Self::with(setup, true, Some(keeper))
    }

    fn with(setup: Setup, careful: bool, mut keeper: Option<Box<dyn Keeper>>) -> Self {
        let now = start_of_time();
        let record = cmdb_group(&setup);
        let group = empty_group(&record, now);
        if let Some(keeper) = &mut keeper {
            keeper.begin(&group);
        }
        let state = GroupState::new(group, Vec::new());
        let shadow = Shadow::of(&state);
        let mut world = Self {
            now,
            stale_after: capstan_core::decide::STALE_AFTER,
            state,
            shadow,
            record,
            hosts: BTreeMap::new(),
            bad: BTreeSet::new(),
            stash: Vec::new(),
            careful,
            can_drain: setup.can_drain,
            late_drains: Vec::new(),
            balancer_answers: true,
            keeper,
            more: BTreeSet::new(),
            next_server: setup.servers,
        };
        world.begin(setup);
        world
    }

    fn begin(&mut self, setup: Setup) {
        let record = self.record.clone();
        if setup.first == First::New {
            // A group that is known with no server first: all that come later are new.
            let seed = CmdbGroup { servers: vec![cmdb_server(999, &setup)], ..record.clone() };
            self.give(Input::Synced {
                record: Box::new(seed),
                hold_above: None,
                reading: Reading::Alone,
            })
            .unwrap();
        }
        self.record.revision += 1;
        self.sync(true);
        let ids: Vec<ServerId> = self.state.servers().iter().map(|server| server.id).collect();
        for id in &ids {
            let fresh = setup.first == First::New;
            self.hosts.insert(*id, Host { fresh, ..Host::default() });
        }
        if setup.adopted {
            for host in self.hosts.values_mut() {
                host.package = Some(package(0).id);
            }
            self.adopt().unwrap();
        }
        if setup.first == First::Out {
            self.hosts.values_mut().for_each(|host| host.outside = true);
        }
        if matches!(setup.first, First::In | First::Out) {
            self.look();
        }
    }

    /// Every host says that it runs version 0.
    pub fn adopt(&mut self) -> Result<Answer, Refused> {
        let servers = self.state.servers().iter().filter(|server| !server.retired);
        self.give(Input::Adopt {
            package: package(0),
            scripts: scripts(),
            servers: servers.map(|server| server.id).collect(),
            history: self.history(),
        })
    }

    // Inputs.

    /// Gives an input and writes what follows; a refusal must leave the state as it was.
    pub fn give(&mut self, input: Input) -> Result<Answer, Refused> {
        let before = self.careful.then(|| self.state.clone());
        let result = decide(&mut self.state, &input, self.now);
        if let Some(before) = &before {
            let mut twin = before.clone();
            let again = decide(&mut twin, &input, self.now);
            assert_eq!(result, again, "a decision is a function of its arguments");
            assert!(twin == self.state, "a decision is a function of its arguments");
            if result.is_err() {
                assert!(*before == self.state, "refused input changed the state: {input:?}");
            }
        }
        let decision = result?;
        if let Some(before) = &before {
            check::took_in_truth(self, before, &decision.changes.events);
        }
        self.shadow.write(&self.state, &decision.changes);
        if !decision.changes.is_empty() {
            self.state.group.version += 1;
            self.shadow.group.version += 1;
        }
        for id in &decision.more {
            let key = (2, id.0);
            let wake = self.shadow.effects.get(&key).map(|effect| effect.due_at);
            let latest = self.now + capstan_core::decide::MORE_STARTS_WITHIN;
            assert!(
                wake.is_some_and(|due| due <= latest),
                "what was left to start must not be forgotten"
            );
            self.more.insert(*id);
        }
        check::took(self, &decision.changes.events);
        if let Some(before) = &before {
            check::took_from(self, before, &decision.changes.events);
            check::after_input(self);
        }
        self.with_keeper(|keeper, world| keeper.decided(world, &input, &decision.changes));
        Ok(decision.answer)
    }

    pub fn sync(&mut self, confirmed: bool) -> Answer {
        let record = Box::new(self.record.clone());
        let hold_above = (!confirmed).then_some(HOLD_ABOVE);
        self.give(Input::Synced { record, hold_above, reading: Reading::Alone }).unwrap()
    }

    pub fn history(&self) -> History {
        let mut past: Vec<_> = self
            .state
            .deployments()
            .map(|state| &state.deployment)
            .filter(|row| row.started_at.is_some())
            .collect();
        past.sort_by_key(|row| std::cmp::Reverse((row.started_at, row.id)));
        let entry = |row: &&capstan_core::record::Deployment| Past {
            id: row.id,
            flavor: row.flavor,
            status: row.status,
            package: row.package.clone(),
            bad: self.bad.contains(&row.package.id),
            parent: row.parent,
            restores: row.restores,
            seed: row.seed.clone(),
        };
        History(past.iter().map(entry).collect())
    }

    pub fn create_input(&self, number: u32, config: ConfigRequest, start: bool) -> Create {
        Create {
            package: package(number),
            bad: self.bad.contains(&package(number).id).then(|| "broken".to_owned()),
            flavor: Flavor::Rollout,
            ignore_verify_reason: config.ignore_verify.map(|_| "a known fault".to_owned()),
            config,
            seed: None,
            plan_hash: None,
            start,
            actor: "ann".into(),
            scripts: scripts(),
            stale_after: self.stale_after,
            without: Vec::new(),
            history: self.history(),
        }
    }

    pub fn create(&mut self, create: Create) -> Result<DeploymentId, Refused> {
        let answer = self.give(Input::Create(Box::new(create)))?;
        let Answer::Created(id) = answer else { panic!("create answers {answer:?}") };
        Ok(id)
    }

    /// A started rollout of a package.
    pub fn rollout(&mut self, number: u32, config: ConfigRequest) -> DeploymentId {
        self.create(self.create_input(number, config, true)).unwrap()
    }

    pub fn roll_back(
        &mut self,
        to: Option<DeploymentId>,
        config: ConfigRequest,
    ) -> Result<Answer, Refused> {
        let rollback = RollBack {
            to,
            config,
            actor: "bob".into(),
            scripts: scripts(),
            stale_after: self.stale_after,
            without: Vec::new(),
            history: self.history(),
        };
        self.give(Input::Rollback(Box::new(rollback)))
    }

    pub fn act(&mut self, id: DeploymentId, action: Action) -> Result<Answer, Refused> {
        self.act_on(id, action, None)
    }

    pub fn act_on(
        &mut self,
        deployment: DeploymentId,
        action: Action,
        batch: Option<u32>,
    ) -> Result<Answer, Refused> {
        let act = Act {
            deployment,
            action,
            batch,
            without: Vec::new(),
            actor: "ann".into(),
            history: self.history(),
        };
        self.give(Input::Act(Box::new(act)))
    }

    // Reading.

    pub fn of(&self, id: DeploymentId) -> &DeploymentState {
        self.state.deployment(id).unwrap()
    }

    pub fn running(&self) -> Option<DeploymentId> {
        self.state.running().map(|state| state.deployment.id)
    }

    /// The deployment that a person would look at: the running one, else the newest.
    pub fn current(&self) -> Option<DeploymentId> {
        let newest = || {
            self.state
                .deployments()
                .max_by_key(|state| (state.deployment.created_at, state.deployment.id))
                .map(|state| state.deployment.id)
        };
        self.running().or_else(newest)
    }

    pub fn server_at(&self, number: u32) -> Option<ServerId> {
        let servers = self.state.servers();
        let place = (number as usize).checked_rem(servers.len())?;
        Some(servers[place].id)
    }

    pub fn server_named(&self, hostname: &str) -> ServerId {
        self.state.servers().iter().find(|server| server.hostname == hostname).unwrap().id
    }

    pub fn status_of(&self, id: DeploymentId, server: ServerId) -> TargetStatus {
        let state = self.of(id);
        state.targets()[state.place_of_server(server).unwrap()].status
    }

    /// The stages whose effects are there, in the order of targets.
    pub fn stages(&self) -> Vec<Running> {
        let effects = self.shadow.effects.values();
        let mut running: Vec<(u32, Running)> = effects
            .filter_map(|effect| {
                let EffectKind::RunStage(deployment, id) = effect.kind else { return None };
                let state = self.state.deployment(deployment)?;
                let target = &state.targets()[state.place(id)?];
                let running = Running {
                    deployment,
                    target: id,
                    server: target.server,
                    stage: target.status.running()?,
                    key: target.order?,
                    unknown: target.unknown_since.is_some(),
                    due_at: effect.due_at,
                };
                Some((target.place, running))
            })
            .collect();
        running.sort_by_key(|(place, running)| (*place, running.deployment));
        running.into_iter().map(|(_, running)| running).collect()
    }

    pub fn events_of(&self, id: DeploymentId) -> impl Iterator<Item = &Event> {
        self.shadow.events.iter().filter(move |event| event.deployment == Some(id))
    }
}
