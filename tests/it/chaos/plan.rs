//! How much of everything, and the seed that the rest follows from.

use std::time::Duration;

use fastrand::Rng;

/// The seed. A usual run of the tests has the same every time, in which nearly everything is broken once; long runs
/// are given others.
const SEED: &str = "CAPSTAN_CHAOS_SEED";
const USUAL_SEED: u64 = 3_667;
/// For how long things are broken, in seconds.
const SECONDS: &str = "CAPSTAN_CHAOS_SECONDS";
/// How many groups are released to at once.
const GROUPS: &str = "CAPSTAN_CHAOS_DEPLOYMENTS";
/// How many instances a group has: the fewest and the most, as in `50-500`.
const TARGETS: &str = "CAPSTAN_CHAOS_TARGETS";

/// What a run is made of.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) time: Duration,
    /// How many instances each group has.
    pub(crate) sizes: Vec<usize>,
}

impl Plan {
    /// What the environment asks for, and else a run that `make test` has time for.
    pub(crate) fn from_environment() -> Self {
        let seed = number(SEED).unwrap_or(USUAL_SEED);
        let targets = std::env::var(TARGETS).unwrap_or_else(|_| "8-14".to_owned());
        let size = |text: &str| text.parse::<usize>().ok();
        let bounds = targets.split_once('-').map(|(low, high)| (size(low), size(high)));
        let Some((Some(low), Some(high))) = bounds else {
            panic!("{TARGETS} is {targets:?}; it is the fewest and the most, as in 50-500");
        };
        let groups = number(GROUPS).unwrap_or(3);
        let mut rng = Rng::with_seed(seed);
        let sizes = (0..groups).map(|_| rng.usize(low..=high)).collect();
        Self { seed, time: Duration::from_secs(number(SECONDS).unwrap_or(10)), sizes }
    }

    /// Whether it is the run that is known to deal nearly everything.
    pub(crate) fn is_usual(&self) -> bool {
        self.seed == USUAL_SEED
    }

    /// Random numbers for one part of the run, whatever the others draw.
    pub(crate) fn rng(&self, part: u64) -> Rng {
        Rng::with_seed(self.seed.wrapping_add(part.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// How a person runs this again.
    pub(crate) fn told(&self) -> String {
        let Self { seed, time, sizes } = self;
        format!("{SEED}={seed}: {} s, groups of {sizes:?}", time.as_secs())
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, which is no number")))
}
