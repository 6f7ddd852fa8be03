//! Scenarios: a setup and steps, one per line, that can be printed, read and run again.

use std::fmt::Write;
use std::time::Duration;

use capstan_core::DeploymentId;
use capstan_core::action::Action;
use capstan_core::dependency::Condition;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::input::{Again, StageResult};
use capstan_core::record::{Cause, Flavor, HoldReason};
use capstan_core::stage::Stage;

use super::hosts::{EDGE, HOSTS, SPARE};
use super::{First, Host, Running, Setup, World, check, config};

/// One step: a word and two numbers, whose meaning depends on the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub word: &'static str,
    pub a: u32,
    pub b: u32,
}

/// The words, each with its weight in random scenarios.
pub const WORDS: [(&str, u32); 56] = [
    ("ok", 40),
    ("ok_all", 8),
    ("may", 4),
    ("wont", 5),
    ("unhealthy", 3),
    ("lose", 3),
    ("find", 2),
    ("unreachable", 2),
    ("late", 2),
    ("take_over", 2),
    ("create", 5),
    ("draft", 3),
    ("scaleout", 2),
    ("start", 4),
    ("bake", 6),
    ("rollout", 6),
    ("retry", 6),
    ("brake", 2),
    ("resume", 3),
    ("revoke", 1),
    ("finish", 2),
    ("rollback", 2),
    ("rollback_to", 1),
    ("pass", 6),
    ("wake", 4),
    ("look", 6),
    ("die", 3),
    ("revive", 3),
    ("outside", 1),
    ("unmark", 1),
    ("pull", 4),
    ("back", 4),
    ("add", 2),
    ("remove", 2),
    ("restore", 2),
    ("crash", 2),
    ("acted", 2),
    ("blind", 2),
    ("rename", 2),
    ("held", 1),
    ("frozen", 1),
    ("drain", 3),
    ("drain_fails", 1),
    ("returns", 2),
    ("bad", 1),
    ("lands", 4),
    ("admits", 2),
    ("lb_dies", 1),
    ("lb_open", 2),
    ("lb_cut", 3),
    ("lb_back", 3),
    ("hosts_open", 1),
    ("hosts_back", 2),
    ("spare_open", 1),
    ("spare_back", 1),
    ("backup", 1),
];

impl Step {
    pub fn numbered(word: usize, a: u32, b: u32) -> Self {
        Self { word: WORDS[word].0, a, b }
    }
}

/// The text of a scenario, which [`parse`] reads.
pub fn text(setup: &Setup, steps: &[Step]) -> String {
    let Setup { servers, marked, pools, dark, bastion, adopted, first, can_drain, bypass, spare } =
        setup;
    let mut text = format!(
        "group servers={servers} marked={marked} pools={pools} dark={dark} bastion={bastion} \
         adopted={adopted} first={first:?} can_drain={can_drain} bypass={bypass} spare={spare}\n"
    );
    for Step { word, a, b } in steps {
        writeln!(text, "{word} {a} {b}").unwrap();
    }
    text
}

pub fn parse(text: &str) -> (Setup, Vec<Step>) {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut setup = Setup::default();
    for word in lines.next().expect("a setup").split_whitespace().skip(1) {
        let (name, value) = word.split_once('=').expect("name=value");
        match name {
            "servers" => setup.servers = value.parse().unwrap(),
            "marked" => setup.marked = value.parse().unwrap(),
            "pools" => setup.pools = value.parse().unwrap(),
            "dark" => setup.dark = value.parse().unwrap(),
            "bastion" => setup.bastion = value.parse().unwrap(),
            "can_drain" => setup.can_drain = value.parse().unwrap(),
            "bypass" => setup.bypass = value.parse().unwrap(),
            "spare" => setup.spare = value.parse().unwrap(),
            "adopted" => setup.adopted = value.parse().unwrap(),
            "first" => {
                let all = [First::In, First::Unknown, First::Out, First::New];
                setup.first = all.into_iter().find(|first| format!("{first:?}") == value).unwrap();
            }
            other => panic!("{other} is no part of a setup"),
        }
    }
    let steps = lines.map(|line| {
        let mut words = line.split_whitespace();
        let word = words.next().unwrap();
        let (word, _) = WORDS.into_iter().find(|known| known.0 == word).expect("a known word");
        let mut number = || words.next().map_or(0, |word| word.parse().unwrap());
        Step { word, a: number(), b: number() }
    });
    (setup, steps.collect())
}

/// Runs a scenario from its text, checks included, and then lets the world be kind.
pub fn replay(text: &str) -> World {
    let (setup, steps) = parse(text);
    run(World::new(setup), &steps)
}

pub fn run(mut world: World, steps: &[Step]) -> World {
    for step in steps {
        apply(&mut world, step);
    }
    check::logs(&world);
    be_kind(&mut world);
    check::logs(&world);
    world
}

fn pick(world: &World, number: u32) -> Option<Running> {
    let stages = world.stages();
    stages.get((number as usize).checked_rem(stages.len())?).copied()
}

/// A refusal is an answer like any other here.
fn click(world: &mut World, id: Option<DeploymentId>, action: Action) {
    if let Some(id) = id {
        drop(world.act(id, action));
    }
}

pub fn apply(world: &mut World, step: &Step) {
    let Step { word, a, b } = *step;
    match word {
        "ok" | "may" | "wont" | "unhealthy" | "lose" | "find" | "unreachable" | "take_over"
        | "acted" => {
            if let Some(stage) = pick(world, a) {
                on_stage(world, word, &stage);
            }
        }
        "ok_all" => world.stages().iter().for_each(|stage| {
            if world.stages().iter().any(|now| now.key == stage.key) {
                world.succeed(stage);
            }
        }),
        "late" if !world.stash.is_empty() => {
            let ended = world.stash[a as usize % world.stash.len()].clone();
            world.give(capstan_core::input::Input::StageEnded(Box::new(ended))).unwrap();
        }
        "create" | "draft" | "scaleout" => {
            let number = if word == "scaleout" { a % 3 } else { a % 4 };
            let mut create = world.create_input(number, config(b), word != "draft");
            if word == "scaleout" {
                create.flavor = Flavor::Scaleout;
                create.start = b.is_multiple_of(2);
            }
            drop(world.create(create));
        }
        "start" => {
            let is_draft = |row: &&capstan_core::state::DeploymentState| {
                row.deployment.status == DeploymentStatus::Pending
            };
            let draft = world.state.deployments().find(is_draft).map(|row| row.deployment.id);
            click(world, draft, Action::Start);
        }
        "rollback" => drop(world.roll_back(None, capstan_core::config::ConfigRequest::default())),
        "rollback_to" => {
            let past = world.history().0;
            let to = past.get((a as usize).checked_rem(past.len()).unwrap_or(0)).map(|it| it.id);
            drop(world.roll_back(to, config(b)));
        }
        "pass" => {
            world.pass(Duration::from_secs([1, 3, 5, 8, 30, 61, 4000, 90_000][a as usize % 8]));
        }
        "wake" => drop(world.wake()),
        "look" => world.look(),
        "crash" => world.crash(),
        "add" => {
            let blank = a.is_multiple_of(2);
            world.add_host(Host { blank, fresh: !blank, ..Host::default() });
        }
        "blind" => world.look_but(|place| place % 3 == a as usize % 3),
        "held" => hold_a_refresh(world, a),
        "frozen" => {
            world.record.settle_seconds = if a.is_multiple_of(2) { 5 } else { 7 };
            world.record.may_go_dark = a.is_multiple_of(3);
            world.record.revision += 1;
            world.sync(false);
        }
        "drain" => world.drain(),
        "drain_fails" => world.fail_drains(),
        "returns" => world.return_servers(),
        "lands" => world.land(a),
        "admits" => world.admit_servers(),
        "lb_dies" | "lb_open" | "lb_cut" => {
            world.some_acts_happen(b);
            world.balancer_answers = false;
            match word {
                "lb_open" => world.impair(EDGE, Condition::Open),
                "lb_cut" => world.impair(EDGE, Condition::CutOff),
                _ => {}
            }
        }
        "lb_back" => world.balancer_is_back(),
        "hosts_open" | "spare_open" => world.impair(
            if word == "hosts_open" { HOSTS } else { SPARE },
            if a.is_multiple_of(2) { Condition::Open } else { Condition::CutOff },
        ),
        "hosts_back" => world.restore(HOSTS),
        "spare_back" => world.restore(SPARE),
        "backup" => world.restored(),
        "bad" => drop(world.bad.insert(super::package(a % 4).id)),
        _ => match Action::from_word(word) {
            Some(action) => click(world, world.current(), action),
            None => on_server(world, word, a),
        },
    }
}

/// The CMDB loses most servers. A person confirms that, or it finds them again.
fn hold_a_refresh(world: &mut World, number: u32) {
    let all = world.record.servers.clone();
    world.record.servers.truncate(all.len().div_ceil(3));
    world.record.revision += 1;
    drop(world.sync(false));
    if number.is_multiple_of(3) {
        drop(world.sync(true));
        return;
    }
    world.record.servers = all;
    world.record.revision += 1;
    if number % 3 == 1 {
        drop(world.sync(false));
    }
}

fn on_stage(sim: &mut World, word: &str, stage: &Running) {
    let failed = |cause, again| StageResult::Failed { cause, again };
    match word {
        "ok" => sim.succeed(stage),
        "may" => sim.end(stage, failed(Cause::Timeout, Again::May)),
        "wont" => sim.end(stage, failed(Cause::Failed, Again::WillNot)),
        "unhealthy" if stage.stage == Stage::Verify => sim.end(stage, StageResult::Unhealthy),
        "acted" => sim.act_and_crash(stage),
        "lose" => sim.lose(stage),
        "find" => sim.find(stage),
        "unreachable" if stage.unknown => {
            sim.end(stage, failed(Cause::Unreachable, Again::WillNot));
        }
        "take_over" => {
            let Running { deployment, target, .. } = *stage;
            sim.give(capstan_core::input::Input::TakenOver { deployment, target }).unwrap();
        }
        _ => {}
    }
}

fn on_server(sim: &mut World, word: &str, number: u32) {
    let Some(server) = sim.server_at(number) else { return };
    let retired = sim.state.server(server).unwrap().retired;
    let host = sim.hosts.entry(server).or_default();
    match word {
        "die" => host.dead = true,
        "revive" => host.changes(|host| (host.dead, host.outside) = (false, false)),
        "outside" => host.outside = true,
        "unmark" => host.mark = false,
        "pull" => drop(sim.pull_out(server)),
        "back" => {
            drop(sim.put_back(server));
            if number.is_multiple_of(2) {
                sim.return_servers();
            }
        }
        "remove" if !retired => drop(sim.remove_server(server, number.is_multiple_of(2))),
        "rename" if !retired => sim.rename_server(server),
        "restore" if retired => sim.restore_server(server),
        _ => {}
    }
}

/// The world stops failing and a person clicks what is allowed: every deployment must end.
pub fn be_kind(world: &mut World) {
    world.balancer_is_back();
    world.restore(HOSTS);
    world.restore(SPARE);
    for host in world.hosts.values_mut() {
        host.changes(|host| (host.dead, host.outside) = (false, false));
    }
    for _ in 0..2000 {
        world.drain();
        world.return_servers();
        world.admit_servers();
        let before = world.shadow.events.len();
        if let Some(stage) = world.stages().into_iter().next() {
            world.succeed(&stage);
            continue;
        }
        world.wake();
        world.look();
        if world.shadow.events.len() > before {
            continue;
        }
        let Some(id) = world.running() else {
            world.admit_servers();
            pay_all(world);
            return check::marks(world);
        };
        if !help(world, id) {
            world.pass(Duration::from_secs(6));
        }
    }
    let id = world.running().expect("it runs");
    let view = capstan_core::decide::view(&world.state, id).unwrap();
    let out: Vec<_> =
        world.state.servers().iter().filter(|row| !row.retired && row.is_out()).collect();
    panic!(
        "it does not end: {} {:?} {:#?}\nout: {out:#?}",
        view.shown_status, view.counts, view.waiting_for
    );
}

/// Debts are paid once the load balancer is back (S12).
fn pay_all(world: &mut World) {
    for _ in 0..5 {
        world.drain();
        world.return_servers();
        world.pass(Duration::from_secs(61));
    }
    let is_debtor =
        |server: &&capstan_core::record::Server| server.markup_owed.is_some() && !server.retired;
    let owed = world.state.servers().iter().find(is_debtor);
    assert_eq!(owed, None, "S12: a Markup is owed for ever");
}

/// One click that is allowed. Returns whether there was one.
fn help(world: &mut World, id: DeploymentId) -> bool {
    if world.of(id).deployment.hold(HoldReason::Slots).is_some() {
        let pulled =
            world.state.servers().iter().find(|row| row.pulled_out.is_some() && !row.retired);
        if let Some(server) = pulled.map(|server| server.id) {
            world.put_back(server).unwrap();
            return true;
        }
        // A scale-out visits no server that is out and proves the version: who left them out must
        // bring them back.
        if world.of(id).deployment.flavor == Flavor::Scaleout {
            return world.act(id, Action::Revoke).is_ok();
        }
    }
    let clicks = [Action::Resume, Action::Retry, Action::Bake, Action::Rollout];
    for action in clicks {
        // A retry of a rollout that is only held by a dependency or by slots changes nothing.
        let idle = action == Action::Retry && world.of(id).counts().failed() == 0;
        let rolling = world.of(id).deployment.status == DeploymentStatus::RollingOut;
        if idle && rolling {
            continue;
        }
        if world.act(id, action).is_ok() {
            return true;
        }
    }
    false
}
