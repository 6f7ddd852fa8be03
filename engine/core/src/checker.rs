//! Checks the logs of deployments against the safety rules, as an outsider can: from events alone.
//!
//! The log must be enough to see S1–S13. What it cannot show is left out: whether the rows agree with
//! it (S8), what a dependency really did (S12), and whether a script is idempotent. Tests give this module
//! the events of simulated and of real releases; nothing in production calls it.
//!
//! Rules are named by their ids in the domain's table of safety rules; `table` stands for a change of
//! status that no row of a table allows.

mod fences;
mod log;
mod standing;

use std::collections::BTreeMap;

use crate::DeploymentId;
use crate::event::Event;

/// A rule that a log breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule: `S1` to `S13`, or `table`.
    pub rule: &'static str,
    /// The deployment in whose log it shows.
    pub deployment: DeploymentId,
    /// The event that breaks it, by its place in that log.
    pub seq: i64,
    /// What is wrong, for people.
    pub message: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rule, deployment, seq, message } = self;
        write!(f, "{rule} at event {seq} of deployment {deployment}: {message}")
    }
}

/// Checks the events of one deployment, or of several of one group. The events of each deployment
/// come in their order and from the first on; those of different deployments may be mixed. Events
/// outside any deployment are passed over.
///
/// # Errors
/// Every violation that was found, by deployment and place.
pub fn check(events: &[Event]) -> Result<(), Vec<Violation>> {
    let mut logs: BTreeMap<DeploymentId, log::Log> = BTreeMap::new();
    let mut fences = fences::Fences::default();
    for event in events {
        let Some(id) = event.deployment else { continue };
        logs.entry(id).or_insert_with(|| log::Log::new(id)).read(event);
        fences.read(id, event);
    }
    let mut found = fences.violations();
    found.extend(one_at_a_time(&logs));
    found.extend(logs.into_values().flat_map(|log| log.violations));
    found.sort_by_key(|violation| (violation.deployment, violation.seq));
    if found.is_empty() { Ok(()) } else { Err(found) }
}

/// S6: at most one deployment of a group is neither PENDING nor final.
fn one_at_a_time(logs: &BTreeMap<DeploymentId, log::Log>) -> Vec<Violation> {
    let mut spans: Vec<_> = logs
        .iter()
        .filter_map(|(id, log)| log.started.map(|start| (log.group, start, log.ended_at, *id)))
        .collect();
    // One that began and ended at an instant comes before the one that began at the same instant.
    spans.sort_by_key(|(group, start, ended_at, id)| {
        (*group, start.at, ended_at.is_none(), *ended_at, *id)
    });
    let overlap = |pair: &[(_, log::Start, Option<crate::Timestamp>, DeploymentId)]| {
        let ((group, _, ended_at, first), (other_group, start, _, second)) = (pair[0], pair[1]);
        let overlaps = group == other_group && ended_at.is_none_or(|ended_at| ended_at > start.at);
        overlaps.then(|| Violation {
            rule: "S6",
            deployment: second,
            seq: start.seq,
            message: format!("it started while deployment {first} was under way"),
        })
    };
    spans.windows(2).filter_map(overlap).collect()
}
