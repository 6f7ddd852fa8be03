//! What is done to the processes and services, and when: all of it follows from the seed.

use std::sync::Arc;
use std::time::Duration;

use capstan_services::Proxy;
use fastrand::Rng;

use super::process::{Process, Role};
use super::world::World;

/// Longer than a lease (3 s), so that others have taken over what a process was doing.
const OUTLIVES_LEASE: std::ops::Range<u64> = 4_500..9_000;
/// Shorter than a lease, so that nobody notices.
const WITHIN_LEASE: std::ops::Range<u64> = 300..2_500;
/// A run that is shorter has no time for pauses.
const SHORT: Duration = Duration::from_mins(1);
const SHORT_GAPS: std::ops::Range<u64> = 200..2_000;
/// Long ones have calm moments, too, in which releases get far.
const LONG_GAPS: std::ops::Range<u64> = 200..6_000;
/// How far a clock is off.
const SKEW_SECONDS: i64 = 60;
/// How many nudges a flood holds, in mailboxes that are made to take as many.
const FLOOD: usize = 2_000;

/// Which service a line leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    Database,
    Redis,
    Rabbit,
    Cmdb,
}

/// One thing that goes wrong. Numbers name processes by their places, times are milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    KillEngine {
        who: usize,
        away: u64,
    },
    KillController {
        who: usize,
        away: u64,
    },
    FreezeEngine {
        who: usize,
        time: u64,
    },
    FreezeController {
        who: usize,
        time: u64,
    },
    Skew {
        who: usize,
        seconds: i64,
    },
    KillDatabase {
        away: u64,
    },
    KillRedis {
        away: u64,
    },
    FreezeRedis {
        time: u64,
    },
    KillRabbit {
        away: u64,
    },
    /// Connections are cut, new ones let through.
    Cut {
        who: usize,
        to: To,
    },
    /// Connections are cut, and no new ones let through.
    Refuse {
        who: usize,
        to: To,
        time: u64,
    },
    /// Nothing arrives, and nobody is told.
    Silence {
        who: usize,
        to: To,
        time: u64,
    },
    /// What a process sends arrives late.
    Delay {
        who: usize,
        to: To,
        by: u64,
        time: u64,
    },
    /// Commits are done, and their answers lost.
    LoseCommits {
        who: usize,
        count: usize,
    },
    /// The mailboxes of all engines are full of nudges.
    Flood,
}

/// Every kind, to be filled in.
type Kind = fn(&mut Rng) -> Fault;
const KINDS: [Kind; 17] = [
    |rng| Fault::KillEngine { who: who(rng), away: rng.u64(0..3_000) },
    |rng| Fault::KillController { who: who(rng), away: rng.u64(0..3_000) },
    |rng| Fault::FreezeEngine { who: who(rng), time: rng.u64(OUTLIVES_LEASE) },
    |rng| Fault::FreezeEngine { who: who(rng), time: rng.u64(WITHIN_LEASE) },
    |rng| Fault::FreezeController { who: who(rng), time: rng.u64(OUTLIVES_LEASE) },
    |rng| Fault::FreezeController { who: who(rng), time: rng.u64(WITHIN_LEASE) },
    |rng| Fault::Skew {
        who: who(rng),
        seconds: if rng.bool() { SKEW_SECONDS } else { -SKEW_SECONDS },
    },
    |rng| Fault::KillDatabase { away: rng.u64(0..6_000) },
    |rng| Fault::KillRedis { away: rng.u64(0..6_000) },
    |rng| Fault::FreezeRedis { time: rng.u64(500..6_000) },
    |rng| Fault::KillRabbit { away: rng.u64(0..3_000) },
    |rng| Fault::Cut { who: who(rng), to: to(rng) },
    |rng| Fault::Refuse { who: who(rng), to: to(rng), time: rng.u64(500..6_000) },
    |rng| Fault::Silence { who: who(rng), to: to(rng), time: rng.u64(500..8_000) },
    |rng| Fault::Delay {
        who: who(rng),
        to: to(rng),
        by: rng.u64(5..300),
        time: rng.u64(1_000..8_000),
    },
    |rng| Fault::LoseCommits { who: who(rng), count: rng.usize(1..5) },
    |_| Fault::Flood,
];

/// What befalls the database, which must not lose or repeat anything whatever becomes of it. It comes first, so
/// that short runs have it, too.
const OF_DATABASE: [Kind; 4] = [
    |rng| Fault::KillDatabase { away: rng.u64(0..3_000) },
    |rng| Fault::Cut { who: who(rng), to: To::Database },
    |rng| Fault::Silence { who: who(rng), to: To::Database, time: rng.u64(500..3_000) },
    |rng| Fault::LoseCommits { who: who(rng), count: rng.usize(1..5) },
];

fn who(rng: &mut Rng) -> usize {
    rng.usize(0..60)
}

/// Most often the database: the others are hints.
fn to(rng: &mut Rng) -> To {
    [To::Database, To::Database, To::Redis, To::Rabbit, To::Cmdb][rng.usize(0..5)]
}

/// What goes wrong after how much time.
pub(crate) fn schedule(mut rng: Rng, time: Duration) -> Vec<(Duration, Fault)> {
    let mut faults = Vec::new();
    let mut left = OF_DATABASE.to_vec();
    rng.shuffle(&mut left);
    let gaps = if time < SHORT { SHORT_GAPS } else { LONG_GAPS };
    let mut at = Duration::from_millis(rng.u64(500..1_500));
    while at < time {
        if left.is_empty() {
            left = KINDS.to_vec();
            rng.shuffle(&mut left);
        }
        let kind = left.pop().expect("it was filled just now");
        faults.push((at, kind(&mut rng)));
        at += Duration::from_millis(rng.u64(gaps.clone()));
    }
    faults
}

impl Fault {
    /// What kind it is.
    pub(crate) fn name(self) -> String {
        let text = format!("{self:?}");
        text.split([' ', '{']).next().unwrap_or_default().to_owned()
    }

    /// Does it, and ends it.
    pub(crate) async fn strike(self, world: &World) {
        let ms = Duration::from_millis;
        match self {
            Self::KillEngine { who, away } => pick(world, Role::Engine, who).kill(ms(away)).await,
            Self::KillController { who, away } => {
                pick(world, Role::Controller, who).kill(ms(away)).await;
            }
            Self::FreezeEngine { who, time } => {
                pick(world, Role::Engine, who).freeze(ms(time)).await;
            }
            Self::FreezeController { who, time } => {
                pick(world, Role::Controller, who).freeze(ms(time)).await;
            }
            Self::Skew { who, seconds } => skew(world, who, seconds).await,
            Self::KillDatabase { away } => {
                let mut held = Arc::clone(&world.services.database).lock_owned().await;
                blocking(move || {
                    held.kill();
                    std::thread::sleep(ms(away));
                    held.resume();
                })
                .await;
            }
            Self::KillRedis { away } => {
                let mut held = Arc::clone(&world.services.redis).lock_owned().await;
                blocking(move || {
                    held.kill();
                    std::thread::sleep(ms(away));
                    held.run();
                })
                .await;
            }
            Self::FreezeRedis { time } => {
                let held = world.services.redis.lock().await;
                held.freeze();
                tokio::time::sleep(ms(time)).await;
                held.go_on();
            }
            Self::KillRabbit { away } => {
                let mut held = Arc::clone(&world.services.rabbit).lock_owned().await;
                blocking(move || {
                    held.kill();
                    std::thread::sleep(ms(away));
                    held.resume();
                })
                .await;
            }
            Self::Cut { who, to } => line(world, who, to).cut(),
            Self::Refuse { who, to, time } => {
                line(world, who, to).refuse();
                open_after(world, who, to, ms(time)).await;
            }
            Self::Silence { who, to, time } => {
                line(world, who, to).silence();
                open_after(world, who, to, ms(time)).await;
            }
            Self::Delay { who, to, by, time } => {
                line(world, who, to).slow(ms(by));
                open_after(world, who, to, ms(time)).await;
            }
            Self::LoseCommits { who, count } => {
                world.lines[who % world.lines.len()].database.lose_commits(count);
            }
            Self::Flood => flood(world).await,
        }
    }
}

fn line(world: &World, who: usize, to: To) -> &Proxy {
    let lines = &world.lines[who % world.lines.len()];
    match to {
        To::Database => &lines.database,
        To::Redis => &lines.redis,
        To::Rabbit => &lines.rabbit,
        To::Cmdb => &lines.cmdb,
    }
}

/// Two faults may meet on a line; whoever comes first to its end opens it.
async fn open_after(world: &World, who: usize, to: To, time: Duration) {
    tokio::time::sleep(time).await;
    line(world, who, to).open();
}

/// One process at a time has a clock that is off; the one before goes right again.
async fn skew(world: &World, who: usize, seconds: i64) {
    let place = who % world.processes.len();
    for (other, process) in world.processes.iter().enumerate() {
        if other != place && process.is_skewed() {
            process.skew(0).await;
        }
    }
    world.processes[place].skew(seconds).await;
}

/// Fills the mailbox of every engine that Redis knows, as a process would that sends without end.
async fn flood(world: &World) {
    let held = Arc::clone(&world.services.redis).lock_owned().await;
    let count = blocking(move || held.command(&["EVAL", FILL, "0", &FLOOD.to_string()])).await;
    println!("flooded with {count} nudges");
}

/// Each mailbox gets nudges that stand for all groups.
const FILL: &str = include_str!("flood.lua");

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn pick(world: &World, role: Role, who: usize) -> &Process {
    let of_role: Vec<_> = world.processes.iter().filter(|it| it.role == role).collect();
    of_role[who % of_role.len()]
}

/// A seed gives the same faults again, and a run of the usual length meets every kind.
#[test]
fn a_schedule_follows_from_its_seed_and_has_every_kind() {
    let of = |seed: u64| schedule(Rng::with_seed(seed), Duration::from_secs(40));
    assert_eq!(of(7), of(7));
    assert_ne!(of(7), of(8));
    let kinds: std::collections::BTreeSet<String> =
        of(7).into_iter().map(|(_, fault)| fault.name()).collect();
    assert_eq!(kinds.len(), 15, "{kinds:?}");
}
