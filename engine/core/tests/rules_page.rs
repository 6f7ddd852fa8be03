//! The tables of `docs/rules.md` are those of the code.

use std::collections::BTreeSet;

use capstan_core::batch_status::BatchStatus;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::target_status::TargetStatus;

/// The rows `| FROM | Event | TO |` of the page.
fn rows() -> BTreeSet<String> {
    include_str!("../../../docs/rules.md")
        .lines()
        .filter(|line| line.starts_with("| ") && line.matches('|').count() == 4)
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_row_of_the_code_stands_on_the_page() {
    let rows = rows();
    let deployment =
        DeploymentStatus::EDGES.iter().map(|(from, on, to)| format!("| {from} | {on:?} | {to} |"));
    let target =
        TargetStatus::EDGES.iter().map(|(from, on, to)| format!("| {from} | {on:?} | {to} |"));
    let batch =
        BatchStatus::EDGES.iter().map(|(from, on, to)| format!("| {from} | {on:?} | {to} |"));
    for row in deployment.chain(target).chain(batch) {
        assert!(rows.contains(&row), "docs/rules.md lacks: {row}");
    }
}

#[test]
fn no_transition_stands_on_the_page_that_the_code_lacks() {
    let known: BTreeSet<String> = DeploymentStatus::EDGES
        .iter()
        .map(|(from, on, to)| format!("| {from} | {on:?} | {to} |"))
        .chain(
            TargetStatus::EDGES.iter().map(|(from, on, to)| format!("| {from} | {on:?} | {to} |")),
        )
        .chain(
            BatchStatus::EDGES.iter().map(|(from, on, to)| format!("| {from} | {on:?} | {to} |")),
        )
        .collect();
    let is_status = |word: &str| {
        DeploymentStatus::from_word(word).is_some()
            || TargetStatus::from_word(word).is_some()
            || BatchStatus::from_word(word).is_some()
    };
    for row in rows() {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        if is_status(cells[1]) && is_status(cells[3]) {
            assert!(known.contains(&row), "docs/rules.md has a row of its own: {row}");
        }
    }
}
