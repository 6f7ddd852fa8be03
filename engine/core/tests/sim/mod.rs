//! A small world around `decide`: a database that is written only through `Changes`, hosts that do
//! what a scenario says, and checks of the safety rules after every step.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]
#![allow(clippy::needless_pass_by_value, reason = "an input is given away")]

pub mod case;
pub mod check;
pub mod scenario;
pub mod shadow;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use capstan_core::action::Action;
use capstan_core::config::{ConfigRequest, Mode};
use capstan_core::decide::{decide, return_package};
use capstan_core::effect::EffectKind;
use capstan_core::event::Event;
use capstan_core::input::{
    Act, Again, Answer, Create, Input, Refused, RollBack, StageEnded, StageResult,
};
use capstan_core::order::{self, ScriptSet};
use capstan_core::ports::{CmdbApplication, CmdbGroup, CmdbServer, Report, Sight};
use capstan_core::record::{
    Application, BastionRule, Cause, Flavor, Group, OnLbFailure, PackageRef, Service,
};
use capstan_core::rollback::{History, Past};
use capstan_core::stage::{Stage, VERIFY_FRESH};
use capstan_core::state::{DeploymentState, GroupState};
use capstan_core::target_status::TargetStatus;
use capstan_core::{
    ApplicationId, DeploymentId, GroupId, OrderKey, PackageId, ServerId, TargetId, Timestamp,
};
use shadow::Shadow;

/// How a group begins.
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    pub servers: u32,
    pub marked: u32,
    pub pools: u32,
    pub dark: bool,
    pub bastion: bool,
    /// The group came with version 0 on every server.
    pub adopted: bool,
    pub first: First,
    /// The load balancer can take traffic away; else only health is seen.
    pub can_drain: bool,
}

/// What is known of the servers at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    In,
    Unknown,
    Out,
    New,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            servers: 4,
            marked: 0,
            pools: 1,
            dark: false,
            bastion: true,
            adopted: true,
            first: First::In,
            can_drain: true,
        }
    }
}

/// A host as it is, whatever Capstan thinks.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone, Default)]
pub struct Host {
    pub dead: bool,
    /// Nothing was ever installed on it.
    pub blank: bool,
    /// Our mark at the load balancer.
    pub mark: bool,
    /// Somebody else's mark.
    pub outside: bool,
    pub package: Option<PackageId>,
    /// It began to serve after it was last looked at: nobody can know.
    pub fresh: bool,
}

impl Host {
    pub fn answers(&self) -> bool {
        !self.dead && !self.blank
    }

    /// Whether it serves, were it not for our own mark.
    pub fn would_serve(&self) -> bool {
        self.answers() && !self.outside
    }

    pub fn sight(&self) -> Sight {
        match (self.answers(), self.outside, self.mark) {
            (false, ..) => Sight::Dead,
            (_, true, _) => Sight::TakenOut,
            (_, _, true) => Sight::Drained,
            _ => Sight::Serving,
        }
    }

    /// Something happens to it that nobody sees.
    pub fn changes(&mut self, change: impl FnOnce(&mut Self)) {
        let served = self.would_serve();
        change(self);
        self.fresh |= !served && self.would_serve();
    }
}

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
    /// Deployments with more to start than one decision may.
    more: BTreeSet<DeploymentId>,
    next_server: u32,
}

pub fn package(number: u32) -> PackageRef {
    let zero = Timestamp::from_micros(0);
    PackageRef {
        id: PackageId::derive(zero, &[b"package", &number.to_be_bytes()]),
        version: format!("v{number}"),
        sha256: format!("{number:064x}"),
    }
}

pub fn scripts() -> ScriptSet {
    let digest = |name: &str| (name.to_owned(), format!("{name}-digest"));
    ScriptSet {
        digests: ["download", "install", "verify", "report"].map(digest).into_iter().collect(),
    }
}

pub fn start_of_time() -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000)
}

fn cmdb_server(number: u32, setup: &Setup) -> CmdbServer {
    CmdbServer {
        id: format!("web-{number:03}"),
        hostname: format!("web-{number:03}"),
        instance: String::new(),
        ip_address: format!("10.0.{}.{}", number / 250, number % 250),
        port: None,
        root: None,
        idc: None,
        pool: format!("p{}", number % setup.pools.max(1)),
        is_bastion: number < setup.marked,
        retired: false,
    }
}

fn cmdb_group(setup: &Setup) -> CmdbGroup {
    CmdbGroup {
        id: "web-prod".into(),
        revision: 1,
        name: "web-prod".into(),
        application: CmdbApplication {
            id: "web".into(),
            name: "web".into(),
            owner: "ann".into(),
            environment: "prod".into(),
            kind: "generic".into(),
            bastion: if setup.bastion { BastionRule::One } else { BastionRule::None },
        },
        site: "main".into(),
        virtual_path: "/".into(),
        doc_base: "/srv/web".into(),
        port: 8080,
        health_check_url: "http://{ip}:{port}/healthz".into(),
        idc: "sh".into(),
        load_balancer: "edge".into(),
        executor: "local".into(),
        may_go_dark: setup.dark,
        on_lb_failure: OnLbFailure::Brake,
        settle_seconds: 5,
        keep_releases: 5,
        servers: (0..setup.servers).map(|number| cmdb_server(number, setup)).collect(),
    }
}

fn empty_group(record: &CmdbGroup, now: Timestamp) -> Group {
    let zero = Timestamp::from_micros(0);
    Group {
        id: GroupId::derive(zero, &[b"group"]),
        external_id: record.id.clone(),
        application: Application {
            id: ApplicationId::derive(zero, &[b"application"]),
            name: record.application.name.clone(),
            owner: String::new(),
            environment: String::new(),
            kind: record.application.kind.clone(),
            bastion: record.application.bastion,
        },
        binding: capstan_core::record::Binding::from_record(record),
        port: record.port,
        idc: record.idc.clone(),
        cmdb_revision: 0,
        synced_at: now,
        refresh_held: None,
        version: 1,
        observed_at: None,
        seq: 0,
    }
}

/// Strategies by number, for scenarios.
pub fn config(number: u32) -> ConfigRequest {
    let base = ConfigRequest::default();
    let pattern = |text: &str| Some(text.to_owned());
    match number % 9 {
        1 => ConfigRequest { max_unavailable: Some(50), batch_pattern: pattern("10%"), ..base },
        2 => ConfigRequest { mode: Some(Mode::Manual), ..base },
        3 => ConfigRequest { max_unavailable: Some(10), max_failure: Some(0), ..base },
        4 => ConfigRequest { batch_wait_seconds: Some(30), tail_wait_seconds: Some(10), ..base },
        5 => ConfigRequest { ignore_verify: Some(true), ..base },
        6 => ConfigRequest {
            max_unavailable: Some(50),
            batch_pattern: pattern("20%+30%+50%"),
            max_failure: Some(100),
            ..base
        },
        7 => ConfigRequest { max_unavailable: Some(100), ..base },
        8 => ConfigRequest { max_unavailable: Some(50), max_failure: Some(20), ..base },
        _ => base,
    }
}

impl World {
    pub fn new(setup: Setup) -> Self {
        Self::with(setup, true)
    }

    /// Without the checks after every input, for long runs whose logs are checked.
    pub fn unchecked(setup: Setup) -> Self {
        Self::with(setup, false)
    }

    fn with(setup: Setup, careful: bool) -> Self {
        let now = start_of_time();
        let record = cmdb_group(&setup);
        let group = empty_group(&record, now);
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
            self.give(Input::Synced { record: Box::new(seed), confirmed: true }).unwrap();
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
        if self.careful {
            check::after_input(self);
        }
        Ok(decision.answer)
    }

    pub fn sync(&mut self, confirmed: bool) -> Answer {
        let record = Box::new(self.record.clone());
        self.give(Input::Synced { record, confirmed }).unwrap()
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
        let act = Act { deployment, action, batch, actor: "ann".into(), history: self.history() };
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

    // The world.

    pub fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// What an engine is given to do for a stage.
    pub fn work(&self, stage: &Running) -> order::Work {
        self.find_work(stage).expect("it can be done")
    }

    fn find_work(&self, stage: &Running) -> Option<order::Work> {
        let row = self.of(stage.deployment);
        let target = &row.targets()[row.place(stage.target).unwrap()];
        let server = self.state.server(stage.server).unwrap();
        order::work(&row.deployment, target, server)
    }

    /// What a host truthfully answers when a stage is asked of it.
    fn truth(&mut self, stage: &Running) -> StageResult {
        let wanted = self.of(stage.deployment).deployment.package.id;
        let at = self.now.max(stage.due_at);
        let proven_at = self.find_work(stage).and_then(|work| work.verified_at);
        let too_old = proven_at.is_some_and(|proven_at| at.since(proven_at) > VERIFY_FRESH);
        let host = self.hosts.entry(stage.server).or_default();
        let failed = |again| StageResult::Failed { cause: Cause::Failed, again };
        match stage.stage {
            Stage::Check if host.package == Some(wanted) && host.answers() => {
                StageResult::Succeeded
            }
            Stage::Check => failed(Again::WillNot),
            Stage::Markdown => {
                host.mark = true;
                StageResult::Succeeded
            }
            Stage::Install => {
                host.package = Some(wanted);
                host.blank = false;
                StageResult::Succeeded
            }
            Stage::Verify if !host.answers() || host.package != Some(wanted) => {
                failed(Again::WillNot)
            }
            Stage::Download | Stage::Verify => StageResult::Succeeded,
            // The engine does not put a server into traffic on an old proof.
            Stage::Markup if too_old => failed(Again::WillNot),
            Stage::Markup if !host.answers() => failed(Again::May),
            Stage::Markup => {
                host.mark = false;
                let still_out = host.outside && self.can_drain;
                if still_out { StageResult::StillOut } else { StageResult::Succeeded }
            }
        }
    }

    /// Ends a stage well, as far as the host can.
    pub fn succeed(&mut self, stage: &Running) {
        let result = self.truth(stage);
        self.end(stage, result);
    }

    pub fn fail(&mut self, stage: &Running) {
        let again = Again::WillNot;
        self.end(stage, StageResult::Failed { cause: Cause::Failed, again });
    }

    /// The act is done on the host, and its outcome is lost with the engine that did it.
    pub fn act_and_crash(&mut self, stage: &Running) {
        self.truth(stage);
        self.crash();
    }

    /// A stage ends: not before its order was given out.
    pub fn end(&mut self, stage: &Running, result: StageResult) {
        self.now = self.now.max(stage.due_at);
        let ended = StageEnded {
            deployment: stage.deployment,
            target: stage.target,
            key: stage.key,
            result,
            message: None,
        };
        self.stash.push(ended.clone());
        self.give(Input::StageEnded(Box::new(ended))).unwrap();
    }

    pub fn lose(&mut self, stage: &Running) {
        let Running { deployment, target, key, .. } = *stage;
        let message = "no answer".to_owned();
        self.give(Input::AnswerLost { deployment, target, key, message }).unwrap();
    }

    pub fn find(&mut self, stage: &Running) {
        let Running { deployment, target, key, .. } = *stage;
        self.give(Input::AnswerFound { deployment, target, key }).unwrap();
    }

    /// Looks at every server.
    pub fn look(&mut self) {
        self.look_but(|_| false);
    }

    /// Looks at every server; nothing can be told of those for which `hidden` is true.
    pub fn look_but(&mut self, hidden: impl Fn(usize) -> bool) {
        let mut seen: Vec<(ServerId, Sight)> = Vec::new();
        for (place, server) in self.state.servers().iter().enumerate() {
            if server.retired {
                continue;
            }
            let host = self.hosts.entry(server.id).or_default();
            let sight = match host.sight() {
                _ if hidden(place) => Sight::Unknown,
                Sight::Drained | Sight::TakenOut if !self.can_drain => Sight::Serving,
                Sight::Serving
                | Sight::Drained
                | Sight::TakenOut
                | Sight::Dead
                | Sight::Unknown => host.sight(),
            };
            host.fresh &= hidden(place);
            seen.push((server.id, sight));
        }
        let deployment = self.running();
        let can_drain = self.can_drain;
        self.give(Input::Observed { deployment, seen, can_drain }).unwrap();
    }

    pub fn pull_out(&mut self, server: ServerId) -> Result<Answer, Refused> {
        self.give(Input::PullOut { server, actor: "ann".into(), reason: "disk".into() })
    }

    pub fn put_back(&mut self, server: ServerId) -> Result<Answer, Refused> {
        self.give(Input::PutBack { server, actor: "ann".into() })
    }

    fn servers_to(&self, wanted: i16) -> Vec<ServerId> {
        let effects = self.shadow.effects.iter();
        let due = effects.filter(|(_, effect)| effect.due_at <= self.now);
        due.filter(|((kind, _), _)| *kind == wanted).map(|((_, id), _)| ServerId(*id)).collect()
    }

    /// Drains what a person pulled out.
    pub fn drain(&mut self) {
        for server in self.servers_to(4) {
            self.hosts.entry(server).or_default().mark = true;
            self.give(Input::ServerDrained { server, problem: None }).unwrap();
        }
    }

    /// The load balancer does not take what is to be drained.
    pub fn fail_drains(&mut self) {
        for server in self.servers_to(4) {
            let problem = Some("busy".to_owned());
            self.give(Input::ServerDrained { server, problem }).unwrap();
        }
    }

    /// Asks servers that were put back, as the runner does.
    pub fn return_servers(&mut self) {
        for server in self.servers_to(5) {
            let current = self.history().current().map(|past| past.package.clone());
            let wanted = return_package(&self.state, server, current.as_ref());
            let host = self.hosts.entry(server).or_default();
            let runs = host.package;
            let right = wanted.filter(|wanted| Some(wanted.id) == runs && host.answers());
            if right.is_some() {
                host.mark = false;
            }
            let sight = host.sight();
            let report = host
                .answers()
                .then(|| (0..10).map(package).find(|package| Some(package.id) == runs))
                .flatten()
                .map(|package| Report { version: package.version, sha256: package.sha256 });
            self.give(Input::ServerReturned { server, report, sight, current }).unwrap();
        }
    }

    /// Wakes what is due.
    pub fn wake(&mut self) -> bool {
        let due: Vec<DeploymentId> = self
            .shadow
            .effects
            .values()
            .filter(|effect| effect.due_at <= self.now)
            .filter(|effect| matches!(effect.kind, EffectKind::WakeDeployment(_)))
            .filter_map(|effect| effect.kind.deployment())
            .chain(std::mem::take(&mut self.more))
            .collect();
        for deployment in &due {
            self.give(Input::Woken { deployment: *deployment }).unwrap();
        }
        !due.is_empty()
    }

    /// An engine dies between two steps: what is not in the rows is gone, and what was under way is
    /// taken over.
    pub fn crash(&mut self) {
        self.state = self.shadow.rebuild();
        self.more.clear();
        let now = self.now;
        let given_out = self.stages().into_iter().filter(|stage| stage.due_at <= now);
        for Running { deployment, target, .. } in given_out {
            self.give(Input::TakenOver { deployment, target }).unwrap();
        }
    }

    /// A new server, on which nothing was installed yet.
    pub fn add_server(&mut self) {
        self.add_host(Host { blank: true, ..Host::default() });
    }

    pub fn add_host(&mut self, host: Host) {
        let setup = Setup { marked: 0, ..Setup::default() };
        let entry = cmdb_server(self.next_server, &setup);
        let name = entry.id.clone();
        self.record.servers.push(entry);
        self.next_server += 1;
        self.record.revision += 1;
        self.sync(false);
        let known = self.state.servers().iter().find(|server| server.external_id == name);
        // A refresh that is held adds nobody.
        if let Some(id) = known.map(|server| server.id) {
            self.hosts.insert(id, host);
        }
    }

    /// The CMDB gives a host another id.
    pub fn rename_server(&mut self, server: ServerId) {
        let external = self.state.server(server).unwrap().external_id.clone();
        self.record.revision += 1;
        let revision = self.record.revision;
        for entry in self.record.servers.iter_mut().filter(|entry| entry.id == external) {
            entry.id = format!("{external}-{revision}");
        }
        self.sync(true);
    }

    pub fn remove_server(&mut self, server: ServerId, confirmed: bool) -> Answer {
        let external = self.state.server(server).unwrap().external_id.clone();
        self.record.servers.retain(|entry| entry.id != external);
        self.record.revision += 1;
        self.sync(confirmed)
    }

    /// Brings back a server that was removed.
    pub fn restore_server(&mut self, server: ServerId) {
        let row = self.state.server(server).unwrap().clone();
        if self.record.servers.iter().any(|entry| entry.id == row.external_id) {
            return;
        }
        let setup = Setup::default();
        let entry = CmdbServer {
            id: row.external_id,
            hostname: row.hostname,
            pool: row.pool,
            ..cmdb_server(0, &setup)
        };
        self.record.servers.push(entry);
        self.record.revision += 1;
        self.sync(false);
    }

    /// Does everything that is due, well, until nothing is left but clicks and time.
    pub fn run(&mut self) {
        for _ in 0..100_000 {
            let Some(stage) = self.stages().into_iter().next() else {
                if self.wake() {
                    continue;
                }
                return;
            };
            self.succeed(&stage);
        }
        panic!("it never comes to rest");
    }

    /// All stages under way end, in rounds, until none is: those of which `fails` is true fail.
    /// `watch` sees the world after every outcome.
    pub fn run_rounds(
        &mut self,
        fails: impl Fn(&Self, &Running) -> bool,
        mut watch: impl FnMut(&Self),
    ) {
        loop {
            let stages = self.stages();
            if stages.is_empty() && !self.wake() {
                return;
            }
            for stage in stages {
                if fails(self, &stage) {
                    self.fail(&stage);
                } else {
                    self.succeed(&stage);
                }
                watch(self);
            }
        }
    }

    pub fn in_service(&self) -> usize {
        self.state.servers().iter().filter(|server| server.service == Service::In).count()
    }
}
