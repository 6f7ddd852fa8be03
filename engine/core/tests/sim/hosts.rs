//! Hosts, and what happens in the world outside: stages end, servers are looked at, time passes.

use std::time::Duration;

use capstan_core::decide::return_package;
use capstan_core::dependency::{Condition, Impaired};
use capstan_core::effect::EffectKind;
use capstan_core::input::{Again, Answer, Input, Refused, StageEnded, StageResult};
use capstan_core::order::{self};
use capstan_core::ports::{CmdbServer, Report, Sight};
use capstan_core::record::{Cause, Service};
use capstan_core::stage::{Stage, VERIFY_FRESH};
use capstan_core::{DeploymentId, PackageId, ServerId};

use super::setup::{Setup, cmdb_server, package};
use super::{Running, World};

/// The group's load balancer and executors.
pub const EDGE: &str = "load_balancer.edge";
pub const HOSTS: &str = "executor.local";
pub const SPARE: &str = "executor.spare";

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

    /// What its load balancer says. A driver that cannot drain sees health alone.
    fn shown(&self, can_drain: bool) -> Sight {
        let sight = self.sight();
        let is_marked = matches!(sight, Sight::Drained | Sight::TakenOut);
        if is_marked && !can_drain { Sight::Serving } else { sight }
    }

    /// Something happens to it that nobody sees.
    pub fn changes(&mut self, change: impl FnOnce(&mut Self)) {
        let served = self.would_serve();
        change(self);
        self.fresh |= !served && self.would_serve();
    }
}

impl World {
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

    fn is_out_of_reach(&self, stage: &Running) -> bool {
        !stage.stage.is_order() && !self.balancer_answers
    }

    /// Ends a stage well, as far as the host can.
    pub fn succeed(&mut self, stage: &Running) {
        if self.is_out_of_reach(stage) {
            self.lose(stage);
            return;
        }
        let result = self.truth(stage);
        self.end(stage, result);
    }

    pub fn fail(&mut self, stage: &Running) {
        let again = Again::WillNot;
        self.end(stage, StageResult::Failed { cause: Cause::Failed, again });
    }

    /// The act is done on the host, and its outcome is lost with the engine that did it.
    pub fn act_and_crash(&mut self, stage: &Running) {
        if !self.is_out_of_reach(stage) {
            self.truth(stage);
        }
        self.crash();
    }

    /// A dependency is not usable from here on.
    pub fn impair(&mut self, name: &str, condition: Condition) {
        let by = if condition == Condition::CutOff { "ann" } else { "capstan" };
        let impaired = Impaired {
            condition,
            since: self.now,
            by: by.to_owned(),
            reason: "no answer".to_owned(),
            until: None,
        };
        self.give(Input::Dependency { name: name.to_owned(), impaired: Some(impaired) }).unwrap();
    }

    pub fn restore(&mut self, name: &str) {
        self.give(Input::Dependency { name: name.to_owned(), impaired: None }).unwrap();
    }

    pub fn balancer_is_back(&mut self) {
        self.balancer_answers = true;
        self.restore(EDGE);
    }

    /// Some of the acts that are under way at the load balancer happen, and their answers are lost.
    pub fn some_acts_happen(&mut self, number: u32) {
        let acts = self.stages().into_iter().zip(0..);
        for (stage, place) in acts.filter(|(stage, _)| !stage.stage.is_order()) {
            if self.balancer_answers
                && stage.due_at <= self.now
                && (place + number).is_multiple_of(2)
            {
                self.truth(&stage);
            }
        }
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
        if stage.stage == Stage::Markdown {
            self.late_drains.push(stage.server);
        }
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
        let (mut seen, mut answering) = (Vec::new(), Vec::new());
        for (place, server) in self.state.servers().iter().enumerate() {
            if server.retired {
                continue;
            }
            let host = self.hosts.entry(server.id).or_default();
            let is_seen = !hidden(place) && self.balancer_answers;
            if !hidden(place) && !self.balancer_answers {
                answering.push((server.id, host.answers()));
            }
            let sight = if is_seen { host.shown(self.can_drain) } else { Sight::Unknown };
            host.fresh &= hidden(place) || !self.balancer_answers;
            seen.push((server.id, sight));
        }
        let deployment = self.running();
        let can_drain = self.can_drain;
        self.give(Input::Observed { deployment, seen, can_drain, answering }).unwrap();
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
        if !self.balancer_answers {
            return self.fail_drains();
        }
        for server in self.servers_to(4) {
            self.hosts.entry(server).or_default().mark = true;
            self.give(Input::ServerDrained { server, problem: None }).unwrap();
        }
    }

    /// The load balancer does not say whether it drains what is to be drained.
    pub fn fail_drains(&mut self) {
        for server in self.servers_to(4) {
            self.late_drains.push(server);
            let problem = Some("no answer".to_owned());
            self.give(Input::ServerDrained { server, problem }).unwrap();
        }
    }

    /// A drain that was given up on lands after all.
    pub fn land(&mut self, number: u32) {
        if let Some(place) = (number as usize).checked_rem(self.late_drains.len()) {
            let server = self.late_drains.swap_remove(place);
            self.hosts.entry(server).or_default().mark = true;
        }
    }

    /// Removes marks that came late.
    pub fn admit_servers(&mut self) {
        for server in self.servers_to(6) {
            let host = self.hosts.entry(server).or_default();
            host.mark = false;
            let sight = host.sight();
            self.give(Input::ServerAdmitted { server, sight }).unwrap();
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
            if right.is_some() && self.balancer_answers {
                host.mark = false;
            }
            let sight =
                if self.balancer_answers { host.shown(self.can_drain) } else { Sight::Unknown };
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
        self.state = self.read_again();
        self.more.clear();
        let now = self.now;
        let given_out = self.stages().into_iter().filter(|stage| stage.due_at <= now);
        for Running { deployment, target, .. } in given_out {
            self.give(Input::TakenOver { deployment, target }).unwrap();
        }
    }

    /// The record came from a backup.
    pub fn restored(&mut self) {
        self.give(Input::Restored { actor: "ann".to_owned() }).unwrap();
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
