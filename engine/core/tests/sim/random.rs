//! Random scenarios: what they are made of, how many there are, and how one that fails is shown.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use proptest::sample::select;

use super::sim::scenario::{Step, WORDS, text};
use super::sim::{First, Setup};

fn a_word() -> impl Strategy<Value = usize> {
    let weighted: Vec<usize> = WORDS
        .iter()
        .enumerate()
        .flat_map(|(number, (_, weight))| std::iter::repeat_n(number, *weight as usize))
        .collect();
    select(weighted)
}

pub fn a_step() -> impl Strategy<Value = Step> {
    (a_word(), 0..40_u32, 0..18_u32).prop_map(|(word, a, b)| Step::numbered(word, a, b))
}

pub fn a_setup(servers: impl Strategy<Value = u32>) -> impl Strategy<Value = Setup> {
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

/// A release under way from the first step on, so that the steps fall into it.
pub fn begun(steps: Vec<Step>, config: u32) -> Vec<Step> {
    let first = Step { word: "create", a: 1, b: config };
    std::iter::once(first).chain(steps).collect()
}

/// Runs a case; when it fails, its scenario is printed.
pub fn try_case(
    setup: Setup,
    steps: &[Step],
    run: impl FnOnce(Setup, &[Step]),
) -> Result<(), TestCaseError> {
    let result = catch_unwind(AssertUnwindSafe(|| run(setup, steps)));
    result.map_err(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        TestCaseError::fail(format!("{message}\n--- scenario\n{}---", text(&setup, steps)))
    })
}

/// As many cases as `CAPSTAN_SIM_CASES` said when this was compiled.
pub fn cases(default: u32) -> ProptestConfig {
    let wanted = std::option_env!("CAPSTAN_SIM_CASES").and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: wanted.unwrap_or(default),
        max_shrink_iters: 600,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}
