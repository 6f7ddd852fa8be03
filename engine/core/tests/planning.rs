//! Which servers, in which order, in which batches.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use std::collections::{BTreeMap, BTreeSet};

use capstan_core::config::{ConfigRequest, DeploymentConfig};
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::plan::{Plan, PlanInput, plan};
use capstan_core::record::{Flavor, OutBecause, PulledOut, Running, Server, Service};
use capstan_core::spread::spread;
use capstan_core::{ServerId, Timestamp};

use sim::{Setup, World, package};

/// A group whose servers a test may change before it plans.
struct Bench {
    world: World,
    servers: Vec<Server>,
    flavor: Flavor,
    config: ConfigRequest,
    seed: Option<&'static str>,
}

fn bench(setup: Setup) -> Bench {
    let world = World::new(setup);
    let servers = world.state.servers().to_vec();
    let config = ConfigRequest::default();
    Bench { world, servers, flavor: Flavor::Rollout, config, seed: Some("seed") }
}

fn of(servers: u32, marked: u32) -> Bench {
    bench(Setup { servers, marked, ..Setup::default() })
}

impl Bench {
    fn plan(&self) -> Result<Plan, capstan_core::input::Refused> {
        let group = &self.world.state.group;
        let dark = group.binding.may_go_dark;
        let config = DeploymentConfig::complete(&self.config, self.flavor, dark).unwrap();
        plan(PlanInput {
            group,
            servers: &self.servers,
            package: &package(1),
            flavor: self.flavor,
            config: &config,
            seed: self.seed,
        })
    }

    fn named(&mut self, name: &str) -> &mut Server {
        self.servers.iter_mut().find(|server| server.hostname == name).unwrap()
    }

    fn out(&mut self, name: &str, because: OutBecause) {
        let server = self.named(name);
        server.service = Service::Out;
        server.out_because = Some(because);
    }

    fn pull(&mut self, name: &str) {
        self.out(name, OutBecause::Person);
        let since = Timestamp::from_micros(0);
        let pulled = PulledOut { by: "ann".into(), reason: "disk".into(), since };
        self.named(name).pulled_out = Some(pulled);
    }

    fn proves(&mut self, name: &str) {
        let package = package(1);
        self.named(name).running = Some(Running {
            package: package.id,
            version: package.version,
            proven_at: Some(Timestamp::from_micros(1)),
        });
    }
}

fn names(plan: &Plan) -> Vec<Vec<&str>> {
    plan.batches
        .iter()
        .map(|batch| batch.servers.iter().map(|server| server.hostname.as_str()).collect())
        .collect()
}

fn sizes(plan: &Plan) -> Vec<usize> {
    plan.batches.iter().filter(|batch| !batch.is_bastion).map(|it| it.servers.len()).collect()
}

fn bastions(plan: &Plan) -> Vec<&str> {
    let first = plan.batches.iter().filter(|batch| batch.is_bastion);
    first.flat_map(|batch| batch.servers.iter().map(|server| server.hostname.as_str())).collect()
}

#[test]
fn bastions_are_marked_servers_in_service_one_of_each_pool_first() {
    assert_eq!(bastions(&of(4, 0).plan().unwrap()), ["web-000"], "else the first by host name");
    let mut marked = of(12, 0);
    for name in ["web-002", "web-003", "web-005", "web-008"] {
        marked.named(name).is_bastion = true;
    }
    // B is 3; pools are made by hand.
    for (name, pool) in [("web-002", "a"), ("web-003", "a"), ("web-005", "b"), ("web-008", "c")] {
        marked.named(name).pool = pool.into();
    }
    let plan = marked.plan().unwrap();
    assert_eq!(bastions(&plan), ["web-002", "web-005", "web-008"]);
    assert_eq!(plan.notes.len(), 1, "the preview says that one goes with the normal batches");
    assert!(names(&plan)[1..].iter().flatten().any(|name| *name == "web-003"));
    marked.out("web-002", OutBecause::Dead);
    let plan = marked.plan().unwrap();
    assert_eq!(bastions(&plan).len(), 2, "never more than free slots");
    assert!(!bastions(&plan).contains(&"web-002"), "in service");
}

#[test]
fn without_a_free_slot_the_bastion_is_out_else_new_else_waits() {
    let mut full = of(4, 1);
    full.out("web-003", OutBecause::Dead);
    assert_eq!(full.plan().unwrap().free, 0);
    assert_eq!(bastions(&full.plan().unwrap()), ["web-003"]);

    let mut new = of(2, 0);
    new.pull("web-000");
    new.servers.push(Server {
        id: ServerId::derive(Timestamp::from_micros(9), &[b"new"]),
        hostname: "web-900".into(),
        pulled_out: None,
        service: Service::Out,
        out_because: Some(OutBecause::New),
        ..new.servers[1].clone()
    });
    new.named("web-001").service = Service::In;
    let plan = new.plan().unwrap();
    assert_eq!((plan.total, plan.l, plan.free), (3, 2, 0), "one other must stay in service");
    assert_eq!(bastions(&plan), ["web-900"]);

    let mut last = of(2, 0);
    last.pull("web-000");
    let plan = last.plan().unwrap();
    assert_eq!((plan.free, bastions(&plan)), (0, vec!["web-001"]), "it waits under slots");
}

#[test]
fn out_comes_first_and_new_last() {
    let mut bench = of(8, 1);
    bench.out("web-004", OutBecause::Outside);
    bench.named("web-006").service = Service::Unknown;
    bench.out("web-002", OutBecause::New);
    let plan = bench.plan().unwrap();
    assert_eq!(bastions(&plan), ["web-004"], "two are out, so no slot is free");
    let order: Vec<&str> = names(&plan)[1..].iter().flatten().copied().collect();
    assert_eq!(order.first(), Some(&"web-006"), "nobody has looked at it: it counts as out");
    assert_eq!(order.last(), Some(&"web-002"));
}

#[test]
fn who_is_left_out() {
    let mut bench = of(4, 0);
    bench.pull("web-001");
    bench.proves("web-002");
    bench.out("web-003", OutBecause::Dead);
    let left_out = |bench: &Bench| -> Vec<String> {
        bench.plan().unwrap().left_out.into_iter().map(|named| named.hostname).collect()
    };
    assert_eq!(left_out(&bench), ["web-001"], "health is never a reason");
    bench.flavor = Flavor::Rollback;
    assert_eq!(left_out(&bench), ["web-001", "web-002"]);
    bench.out("web-002", OutBecause::Outside);
    assert_eq!(left_out(&bench), ["web-001"], "proven and not in service");
    bench.flavor = Flavor::Scaleout;
    assert_eq!(left_out(&bench), ["web-001", "web-002"]);
    bench.flavor = Flavor::Rollout;
    bench.named("web-000").retired = true;
    let plan = bench.plan().unwrap();
    assert_eq!(plan.total, 3, "retired servers are no part of the group");
    for name in ["web-002", "web-003"] {
        bench.pull(name);
    }
    assert_eq!(bench.plan().unwrap_err().code, "empty_plan", "S10");
}

#[test]
fn normal_servers_are_cut_by_the_pattern() {
    let cut = |n: u32, share: u8, pattern: Option<&str>| {
        let mut bench = of(n, 0);
        bench.config.max_unavailable = Some(share);
        bench.config.batch_pattern = pattern.map(str::to_owned);
        sizes(&bench.plan().unwrap())
    };
    assert_eq!(cut(20, 25, None), [5, 5, 5, 4], "parts of B");
    assert_eq!(cut(20, 25, Some("5%+20%+25%+25%+25%")), [1, 4, 5, 5, 4]);
    assert_eq!(cut(4, 25, Some("5%+20%+25%+25%+25%")), [1, 1, 1], "empty parts are dropped");
    assert_eq!(cut(100, 50, Some("10%+10%+30%+50%")), [10, 10, 30, 49]);
    assert_eq!(cut(10, 50, Some("30%")), [3, 3, 3]);
    assert_eq!(cut(3, 25, Some("1%")), [1, 1]);
    let mut back = of(9, 0);
    back.flavor = Flavor::Rollback;
    assert_eq!(sizes(&back.plan().unwrap()), [4, 5], "the last part takes what is left");
}

#[test]
fn strategies_have_bounds() {
    let complete = |request: ConfigRequest, dark| {
        DeploymentConfig::complete(&request, Flavor::Rollout, dark).map_err(|error| error.field)
    };
    let base = ConfigRequest::default;
    let share = |share| ConfigRequest { max_unavailable: Some(share), ..base() };
    for good in [1, 25, 50] {
        assert!(complete(share(good), false).is_ok());
    }
    for (bad, dark) in [(0, true), (51, true), (99, true), (100, false), (101, true)] {
        assert_eq!(complete(share(bad), dark), Err("max_unavailable"));
    }
    assert!(complete(share(100), true).is_ok());
    let waits = |first, tail| ConfigRequest {
        batch_wait_seconds: first,
        tail_wait_seconds: tail,
        ..base()
    };
    assert_eq!(complete(waits(Some(1800), None), false).unwrap().tail_wait_seconds, 1800);
    assert_eq!(complete(waits(Some(1801), None), false), Err("batch_wait_seconds"));
    assert_eq!(complete(waits(None, Some(1801)), false), Err("tail_wait_seconds"));
    let verify = |seconds| ConfigRequest { startup_timeout_seconds: Some(seconds), ..base() };
    assert!(complete(verify(3), false).is_ok() && complete(verify(10_800), false).is_ok());
    for bad in [2, 10_801] {
        assert_eq!(complete(verify(bad), false), Err("startup_timeout_seconds"));
    }
    let pattern = |text: &str| ConfigRequest { batch_pattern: Some(text.into()), ..base() };
    for bad in ["26%", "50%+50%", "0%", "5%+5%", "10", ""] {
        assert_eq!(complete(pattern(bad), false), Err("batch_pattern"), "{bad}");
    }
    let config = complete(base(), false).unwrap();
    assert_eq!([0, 1, 3, 4, 100].map(|total| config.failure_limit(total)), [1, 1, 1, 1, 25]);
}

#[test]
fn a_plan_never_changes_by_accident() {
    let mut bench = bench(Setup { servers: 9, pools: 3, ..Setup::default() });
    bench.servers.iter_mut().zip(0_u8..).for_each(|(server, number)| {
        server.id = ServerId::derive(Timestamp::from_micros(5), &[&[number]]);
        server.hostname = format!("web-{number:03}");
        server.pool = format!("p{}", number % 3);
    });
    bench.pull("web-008");
    let plan = bench.plan().unwrap();
    assert_eq!(names(&plan), PINNED_ORDER);
    assert_eq!(plan.plan_hash, PINNED_HASH);
    let mut turned = bench;
    turned.servers.reverse();
    let again = turned.plan().unwrap();
    assert_eq!(again.batches, plan.batches, "the order of rows does not matter");
    assert_eq!(again.plan_hash, PINNED_HASH, "nor to the hash");
    turned.named("web-008").pulled_out.as_mut().unwrap().reason = "fan".into();
    turned.servers.reverse();
    assert_eq!(turned.plan().unwrap().plan_hash, PINNED_HASH, "words do not count");
    let port = turned.servers[0].port;
    turned.servers[0].port += 1;
    assert_ne!(turned.plan().unwrap().plan_hash, PINNED_HASH, "where a member is counts");
    turned.servers[0].port = port;
    turned.seed = Some("another");
    assert_ne!(turned.plan().unwrap().plan_hash, PINNED_HASH);
    turned.seed = None;
    let default = turned.plan().unwrap().seed;
    assert_eq!(default.len(), 16);
    turned.world.state.group.cmdb_revision += 1;
    assert_ne!(turned.plan().unwrap().seed, default);
}

const PINNED_ORDER: &[&[&str]] = &[
    &["web-000"],
    &["web-007", "web-005"],
    &["web-003", "web-004"],
    &["web-006", "web-002"],
    &["web-001"],
];

const PINNED_HASH: &str = "5c0af3456e41c419f88a2c7fa09a0196980be24d15deb1fc3bbd679ac29d9354";

#[test]
fn pools_lie_as_far_apart_as_can_be() {
    for (n, pools) in [(12, 3), (30, 5), (16, 2), (7, 7)] {
        let world = World::new(Setup { servers: n, pools, ..Setup::default() });
        for seed in ["a", "b", "c"] {
            let order = spread(seed, world.state.servers());
            let mut last: BTreeMap<&str, usize> = BTreeMap::new();
            for (place, server) in order.iter().enumerate() {
                if let Some(before) = last.insert(&server.pool, place) {
                    let gap = place - before;
                    assert!(gap < 2 * pools as usize, "{n} in {pools}: a gap of {gap}");
                }
            }
            // Every window of one round holds every pool once.
            for round in order.chunks_exact(pools as usize) {
                let kinds: BTreeSet<&str> =
                    round.iter().map(|server| server.pool.as_str()).collect();
                if n % pools == 0 {
                    assert_eq!(kinds.len(), pools as usize);
                }
            }
        }
    }
}

#[test]
fn a_host_more_or_less_moves_no_other_of_its_pool() {
    let world = World::new(Setup { servers: 20, ..Setup::default() });
    let all = world.state.servers();
    let whole: Vec<ServerId> = spread("seed", all).iter().map(|server| server.id).collect();
    for gone in all {
        let rest = spread("seed", all.iter().filter(|server| server.id != gone.id));
        let rest: Vec<ServerId> = rest.iter().map(|server| server.id).collect();
        let expected: Vec<ServerId> = whole.iter().copied().filter(|id| *id != gone.id).collect();
        assert_eq!(rest, expected);
    }
}

#[test]
fn a_stale_plan_is_refused_with_the_new_one() {
    let mut world = World::new(Setup::default());
    let mut create = world.create_input(1, ConfigRequest::default(), true);
    create.plan_hash = Some("0".into());
    let refused = world.create(create.clone()).unwrap_err();
    assert_eq!(refused.code, "stale_plan");
    create.plan_hash = Some(refused.plan.unwrap().plan_hash);
    let id = world.create(create.clone()).unwrap();
    assert_eq!(world.of(id).deployment.plan_hash, create.plan_hash.unwrap());
}

#[test]
fn create_refuses_what_the_rules_forbid() {
    let mut world = World::new(Setup::default());
    let base = world.create_input(1, ConfigRequest::default(), true);
    let refused = |world: &mut World, create| world.create(create).unwrap_err().code;
    for flavor in [Flavor::Rollback, Flavor::Adopted] {
        let create = capstan_core::input::Create { flavor, ..base.clone() };
        assert_eq!(refused(&mut world, create), "invalid");
    }
    let scaleout = capstan_core::input::Create { flavor: Flavor::Scaleout, ..base.clone() };
    assert_eq!(refused(&mut world, scaleout), "package_not_proven", "S4");
    let bad = capstan_core::input::Create { bad: Some("leaks".into()), ..base.clone() };
    assert_eq!(refused(&mut world, bad), "package_bad");
    let config = ConfigRequest { ignore_verify: Some(true), ..ConfigRequest::default() };
    let silent =
        capstan_core::input::Create { config, ignore_verify_reason: Some("  ".into()), ..base };
    assert_eq!(refused(&mut world, silent), "invalid", "ignore_verify needs a reason");
    let forgiving = ConfigRequest { ignore_verify: Some(true), ..ConfigRequest::default() };
    assert_eq!(world.roll_back(None, forgiving).unwrap_err().code, "invalid");
}

#[test]
fn a_scaleout_draft_is_refused_once_the_group_runs_another_version() {
    let mut world = World::new(Setup::default());
    world.add_server();
    let mut create = world.create_input(0, ConfigRequest::default(), false);
    create.flavor = Flavor::Scaleout;
    let draft = world.create(create).unwrap();
    let id = world.rollout(1, ConfigRequest::default());
    for action in ["bake", "rollout"] {
        world.run();
        world.act(id, capstan_core::action::Action::from_word(action).unwrap()).unwrap();
    }
    world.run();
    assert_eq!(world.of(id).deployment.status, Status::Success);
    let refused = world.act(draft, capstan_core::action::Action::Start).unwrap_err();
    assert_eq!(refused.code, "package_not_proven");
}
