//! Chaos: 3 engines and 2 controllers over a database server, Redis and `RabbitMQ`, with many releases
//! at once, while everything is killed, frozen, cut off and started again. Afterwards the rules must have
//! held, seen from the outside. `make test` runs a short form, `make chaos` a long one; CONTRIBUTING.md
//! says how a run is played again.

mod api;
mod check;
pub(crate) mod clock;
mod cmdb;
mod drive;
mod ear;
mod faults;
mod fleet;
mod group;
mod group_log;
mod plan;
mod process;
mod script;
mod services;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cmdb::Teller;
use plan::Plan;
use services::Kind;
use world::World;

/// More versions than a group comes to.
const VERSIONS: usize = 60;
/// How long what is under way may take to end, once nothing is broken any more: so long, and for each
/// instance so much longer.
const PATIENCE: Duration = Duration::from_mins(6);
const EACH: Duration = Duration::from_millis(300);

async fn survive(kind: Kind) {
    let plan = Plan::from_environment();
    println!("{kind:?}: {}", plan.told());
    let began = Instant::now();
    let world = Arc::new(World::start(&plan, kind, VERSIONS).await);
    println!("{:?}: everything runs", began.elapsed());
    let until = Instant::now() + plan.time;
    let instances = u32::try_from(plan.sizes.iter().sum::<usize>()).unwrap();
    let by = until + PATIENCE + EACH * instances;
    let releases: Vec<_> = (0..plan.sizes.len())
        .map(|group| {
            let (world, plan) = (Arc::clone(&world), plan.clone());
            tokio::spawn(async move { group::release(&world, &plan, group, until, by).await })
        })
        .collect();
    let teller =
        Teller::start(Arc::clone(&world.cmdb), &world.services.rabbit_url, plan.rng(3).u64(..));
    let faults = break_things(&world, &plan).await;
    println!("{:?}: nothing is broken any more", began.elapsed());
    let mut done = Vec::new();
    for release in releases {
        done.push(release.await.unwrap());
    }
    println!("{:?}: every release has ended", began.elapsed());
    let told = teller.end().await;
    let mut found = check::check(&world, &done).await;
    world.end().await;
    found.wrong.extend(done.iter().flat_map(|done| done.wrong.clone()));
    let unasked: usize = done.iter().map(|done| done.unasked).sum();
    let asked_again = world.api.asked_again.load(std::sync::atomic::Ordering::Relaxed);
    println!(
        "{:?}: {faults:?}; {} deployments, {} events, {} of them of groups alone, {} messages \
         came again, {told} came of the CMDB, {} scripts ran, {:?}; retries that no script asked for: {unasked}; requests \
         that were asked again: {asked_again}",
        began.elapsed(),
        found.deployments,
        found.events,
        found.of_groups,
        found.repeats,
        found.keys,
        found.failures,
    );
    assert!(found.wrong.is_empty(), "{}: {:#?}", plan.told(), found.wrong);
    let lost: usize = world.lines.iter().map(|lines| lines.database.lost_commits()).sum();
    println!("answers to commits that were lost: {lost}");
    // Another seed may deal the fault only to who has nothing to commit.
    assert!(lost > 0 || !plan.is_usual(), "{}: no answer to a commit was lost", plan.told());
    assert!(told > 0, "the CMDB has told nothing");
    assert!(found.deployments >= plan.sizes.len() && found.keys > 0, "nothing was released");
    world.is_good();
}

/// Does what the schedule says, and waits until the last of it is over. Gives how often what was done.
async fn break_things(world: &Arc<World>, plan: &Plan) -> BTreeMap<String, usize> {
    let began = Instant::now();
    let mut counts = BTreeMap::new();
    let mut striking = Vec::new();
    for (at, fault) in faults::schedule(plan.rng(2), plan.time) {
        tokio::time::sleep_until((began + at).into()).await;
        println!("{:?}: {fault:?}", began.elapsed());
        *counts.entry(fault.name()).or_default() += 1;
        let world = Arc::clone(world);
        striking.push(tokio::spawn(async move { fault.strike(&world).await }));
    }
    for strike in striking {
        strike.await.unwrap();
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn over_postgres_the_rules_hold_whatever_is_broken() {
    survive(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_mariadb_the_rules_hold_whatever_is_broken() {
    survive(Kind::MariaDb).await;
}
