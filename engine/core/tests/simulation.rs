//! Random scenarios: clicks, outcomes, deaths, CMDB changes and crashes in any order. Every step is
//! checked (`sim::check`), and in the end a kind world must bring every deployment to its end.
//!
//! A failing case is printed as a scenario; paste it into `regressions.rs`.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use sim::scenario::{Step, WORDS, run, text};
use sim::{First, Setup};

fn a_word() -> impl Strategy<Value = usize> {
    let weighted: Vec<usize> = WORDS
        .iter()
        .enumerate()
        .flat_map(|(number, (_, weight))| std::iter::repeat_n(number, *weight as usize))
        .collect();
    select(weighted)
}

fn a_step() -> impl Strategy<Value = Step> {
    (a_word(), 0..40_u32, 0..18_u32).prop_map(|(word, a, b)| Step::numbered(word, a, b))
}

fn a_setup(servers: impl Strategy<Value = u32>) -> impl Strategy<Value = Setup> {
    let first =
        select(vec![First::In, First::In, First::In, First::Unknown, First::Out, First::New]);
    let flags = (0..6_u32, 0..4_u32, any::<bool>(), 0..3_u32, any::<bool>(), any::<bool>());
    (servers, 0..4_u32, 1..4_u32, flags, first).prop_map(
        |(servers, marked, pools, (dark, bastion, adopted, drain, bypass, spare), first)| Setup {
            servers,
            marked,
            pools,
            dark: dark == 0,
            bastion: bastion != 0,
            adopted,
            first,
            can_drain: drain != 0,
            bypass,
            spare,
        },
    )
}

/// Runs a case; when it fails, its scenario is printed.
fn try_case(setup: Setup, steps: &[Step]) -> Result<(), TestCaseError> {
    let result = std::panic::catch_unwind(|| drop(run(setup, steps)));
    result.map_err(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        TestCaseError::fail(format!("{message}\n--- scenario\n{}---", text(&setup, steps)))
    })
}

fn cases(default: u32) -> ProptestConfig {
    let wanted = std::option_env!("CAPSTAN_SIM_CASES").and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: wanted.unwrap_or(default),
        max_shrink_iters: 600,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// A release under way from the first step on, so that the steps fall into it.
fn begun(steps: Vec<Step>, config: u32) -> Vec<Step> {
    let first = Step { word: "create", a: 1, b: config };
    std::iter::once(first).chain(steps).collect()
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
