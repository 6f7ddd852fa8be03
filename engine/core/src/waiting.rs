//! What a deployment waits for: every state that waits has an owner.

use crate::Timestamp;
use crate::batch_status::BatchStatus;
use crate::dependency::holding;
use crate::deployment_status::DeploymentStatus;
use crate::record::HoldReason;
use crate::state::{DeploymentState, GroupState};
use crate::view::{HOLD, WaitKind, WaitingFor};

/// How many hosts are named singly; of more, the number is told.
const NAMED_HOSTS: usize = 5;

/// What the deployment waits for; empty only in final states.
pub(crate) fn waiting_for(group: &GroupState, state: &DeploymentState) -> Vec<WaitingFor> {
    let row = &state.deployment;
    if row.status.is_final() {
        return Vec::new();
    }
    let mut waits: Vec<WaitingFor> = holds(group, state);
    if let Some(click) = click(group, state) {
        waits.push(click);
    }
    waits.extend(batches(state));
    waits.extend(hosts(state));
    if waits.is_empty() {
        waits.push(WaitingFor {
            what: WaitKind::Predecessor,
            on: "engine".to_owned(),
            since: row.status_since,
            who: "capstan".to_owned(),
            until: None,
            text: "the engine starts what comes next".to_owned(),
        });
    }
    waits
}

fn holds(group: &GroupState, state: &DeploymentState) -> Vec<WaitingFor> {
    let wait = |hold: &crate::record::Hold| {
        let (what, who) = match hold.reason {
            HoldReason::User | HoldReason::Failures => (WaitKind::Click, "a person"),
            HoldReason::Slots => (WaitKind::Slot, "a person, or a server that comes back"),
            HoldReason::Dependency => (WaitKind::Dependency, "the dependency"),
        };
        WaitingFor {
            what,
            on: format!("{HOLD}{}", hold.reason.word()),
            since: hold.since,
            who: who.to_owned(),
            until: (hold.reason == HoldReason::Dependency)
                .then(|| usable_at(group, state))
                .flatten(),
            text: format!("Braked: {}. Cleared by {}.", hold.detail, hold.clears()),
        }
    };
    state.deployment.holds.iter().map(wait).collect()
}

/// When everything that holds the deployment will be called again by itself, as far as is known.
fn usable_at(group: &GroupState, state: &DeploymentState) -> Option<Timestamp> {
    let holding = holding(&group.group.dependencies, &state.deployment.frozen);
    let ends: Option<Vec<Timestamp>> =
        holding.into_iter().map(|(_, impaired)| impaired.until).collect();
    ends?.into_iter().max()
}

fn click(group: &GroupState, state: &DeploymentState) -> Option<WaitingFor> {
    use DeploymentStatus as Status;
    let row = &state.deployment;
    let (on, text) = match row.status {
        Status::Pending if group.running().is_some() => {
            ("start", "Start it once the deployment under way has ended.")
        }
        Status::Pending => ("start", "Planned: start it, or revoke it."),
        Status::SmokeSuccess => {
            ("bake", "The bastions verified. Look at them, then bake: they get production traffic.")
        }
        Status::SmokeFailure => {
            ("retry, finish or rollback", "A bastion failed: retry, finish, or roll back.")
        }
        Status::BakeSuccess => {
            ("rollout", "The bastions serve production traffic. Roll out the other batches.")
        }
        Status::BakeFailure => (
            "retry, finish or rollback",
            "A bastion could not be brought into traffic: retry, finish, or roll back.",
        ),
        Status::RolloutFailure => (
            "retry, finish or rollback",
            "Some servers failed: retry, pull them out, finish, or roll back.",
        ),
        Status::Smoking
        | Status::Baking
        | Status::RollingOut
        | Status::Success
        | Status::Failure
        | Status::Revoked => return None,
    };
    Some(WaitingFor {
        what: WaitKind::Click,
        on: on.to_owned(),
        since: row.status_since,
        who: row.created_by.clone(),
        until: None,
        text: text.to_owned(),
    })
}

/// The next batch, if it waits. Under a brake it waits for the holds, which stand above.
fn batches(state: &DeploymentState) -> Vec<WaitingFor> {
    if state.deployment.is_braked() {
        return Vec::new();
    }
    let waiting = state.batches().iter().filter(|batch| batch.status == BatchStatus::Waiting);
    let ended = state.batches().iter().filter_map(|batch| batch.ended_at).max();
    let since = ended.unwrap_or(state.deployment.status_since);
    let wait = |batch: &crate::record::Batch| WaitingFor {
        what: if batch.wait_until.is_some() { WaitKind::Timer } else { WaitKind::Click },
        on: format!("batch {}", batch.index),
        since,
        who: if batch.wait_until.is_some() { "time" } else { "a person" }.to_owned(),
        until: batch.wait_until,
        text: if batch.wait_until.is_some() {
            format!("Batch {} starts by itself; rollout starts it now.", batch.index)
        } else {
            format!("Batch {} waits for a click: rollout.", batch.index)
        },
    };
    waiting.map(wait).collect()
}

fn hosts(state: &DeploymentState) -> Vec<WaitingFor> {
    let counts = state.counts();
    let under_way = counts.under_way() as usize;
    if under_way == 0 {
        return Vec::new();
    }
    let running = state.targets().iter().filter(|target| target.status.running().is_some());
    let first: Vec<_> = running.take(NAMED_HOSTS).collect();
    let since = first.iter().map(|target| target.status_since).min();
    let until = first.iter().filter_map(|target| target.deadline_at).max();
    let names: Vec<String> =
        first.iter().map(|target| format!("{} ({})", target.hostname, target.status)).collect();
    let rest = under_way - first.len();
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    let unknown = first.iter().filter(|target| target.unknown_since.is_some()).count();
    let lost = if unknown > 0 { "; an answer is lost and is asked for again" } else { "" };
    vec![WaitingFor {
        what: WaitKind::Host,
        on: first.first().map(|target| target.hostname.clone()).unwrap_or_default(),
        since: since.unwrap_or(state.deployment.status_since),
        who: "the hosts".to_owned(),
        until,
        text: format!("{}{more}{lost}.", names.join(", ")),
    }]
}
