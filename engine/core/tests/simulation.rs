//! Random scenarios: clicks, outcomes, deaths, CMDB changes and crashes in any order. Every step is
//! checked (`sim::check`), and in the end a kind world must bring every deployment to its end.
//!
//! A failing case is printed as a scenario; paste it into `regressions.rs`.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "sim/random.rs"]
mod random;
mod sim;

use proptest::collection::vec;
use proptest::prelude::*;

use random::{a_setup, a_step, begun, cases};
use sim::scenario::{Step, run};
use sim::{Setup, World};

fn try_case(setup: Setup, steps: &[Step]) -> Result<(), TestCaseError> {
    random::try_case(setup, steps, |setup, steps| drop(run(World::new(setup), steps)))
}

proptest! {
    #![proptest_config(cases(800))]

    #[test]
    fn small_groups_keep_every_rule(
        setup in a_setup(1..8_u32),
        config in 0..9_u32,
        steps in vec(a_step(), 1..90),
    ) {
        try_case(setup, &begun(steps, config))?;
    }
}

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn groups_of_a_dozen_keep_every_rule(
        setup in a_setup(8..13_u32),
        config in 0..9_u32,
        steps in vec(a_step(), 1..160),
    ) {
        try_case(setup, &begun(steps, config))?;
    }
}

proptest! {
    #![proptest_config(cases(20))]

    #[test]
    fn groups_of_forty_keep_every_rule(
        setup in a_setup(38..41_u32),
        config in 0..9_u32,
        steps in vec(a_step(), 50..250),
    ) {
        try_case(setup, &begun(steps, config))?;
    }
}
