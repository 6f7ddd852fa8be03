//! What is done to the processes and services, and when: all of it follows from the seed.

use std::time::Duration;

use fastrand::Rng;

use super::process::{Process, Role};
use super::world::World;

/// Longer than a lease, so that others have taken over what a process was doing.
const LONG: u64 = 7_000;

/// One thing that goes wrong. Numbers name processes by their places, times are milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    KillEngine { who: usize, away: u64 },
    KillController { who: usize, away: u64 },
}

/// Every kind, to be filled in.
type Kind = fn(&mut Rng) -> Fault;
const KINDS: [Kind; 2] = [
    |rng| Fault::KillEngine { who: rng.usize(..), away: rng.u64(0..3_000) },
    |rng| Fault::KillController { who: rng.usize(..), away: rng.u64(0..3_000) },
];

/// What goes wrong after how much time.
pub(crate) fn schedule(mut rng: Rng, time: Duration) -> Vec<(Duration, Fault)> {
    let mut faults = Vec::new();
    let mut left: Vec<Kind> = Vec::new();
    let mut at = Duration::from_millis(rng.u64(500..1_500));
    while at < time {
        if left.is_empty() {
            left = KINDS.to_vec();
            rng.shuffle(&mut left);
        }
        let kind = left.pop().expect("it was filled just now");
        faults.push((at, kind(&mut rng)));
        at += Duration::from_millis(rng.u64(200..2_000));
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
        }
    }
}

fn pick(world: &World, role: Role, who: usize) -> &Process {
    let of_role: Vec<_> = world.processes.iter().filter(|it| it.role == role).collect();
    of_role[who % of_role.len()]
}
