//! A deployment as people and programs see it.

use std::collections::BTreeMap;

use crate::DeploymentId;
use crate::action::{Action, ActionState};
use crate::plan::label;
use crate::state::{Counts, GroupState};
use crate::target_status::TargetStatus;
use crate::view::{BatchView, DeploymentView, HoldView, OwedView, PackageBrief};
use crate::waiting::waiting_for;

use super::command::{allowed, refusal};

/// The view of a loaded deployment; `None`: it is not loaded.
pub fn view(group: &GroupState, id: DeploymentId) -> Option<DeploymentView> {
    let state = group.deployment(id)?;
    let row = &state.deployment;
    let slots = group.slots(state);
    let actions = Action::ALL
        .into_iter()
        .map(|action| ActionState { action, refused_because: refusal(group, state, action) })
        .collect();
    let holds = row.holds.iter().map(|hold| HoldView {
        reason: hold.reason,
        by: hold.by.clone(),
        since: hold.since,
        detail: hold.detail.clone(),
        clears: hold.clears().to_owned(),
    });
    let batches = state.batches().iter().map(|batch| BatchView {
        index: batch.index,
        is_bastion: batch.is_bastion,
        status: batch.status,
        wait_until: batch.wait_until,
        counts: named(&state.counts_of(batch.index)),
    });
    Some(DeploymentView {
        id,
        group: row.group,
        group_name: row.frozen.group.clone(),
        application: row.frozen.application.clone(),
        package: PackageBrief {
            id: row.package.id,
            version: row.package.version.clone(),
            sha256: row.package.sha256.clone(),
        },
        flavor: row.flavor,
        status: row.status,
        shown_status: row.status.shown(row.is_braked()),
        status_since: row.status_since,
        holds: holds.collect(),
        total: slots.total,
        b: slots.b,
        l: slots.l,
        out: slots.out,
        free: slots.free(),
        failed: state.failed_or_unknown(),
        failure_limit: row.config.failure_limit(slots.total),
        counts: named(&state.counts()),
        batches: batches.collect(),
        config: row.config.clone(),
        seed: row.seed.clone(),
        plan_hash: row.plan_hash.clone(),
        parent: row.parent,
        origin: row.origin,
        restores: row.restores,
        superseded_by: row.superseded_by,
        created_by: row.created_by.clone(),
        ignore_verify_reason: row.ignore_verify_reason.clone(),
        created_at: row.created_at,
        started_at: row.started_at,
        ended_at: row.ended_at,
        last_seq: row.seq,
        allowed_actions: allowed(group, id),
        actions,
        waiting_for: waiting_for(group, state),
        ran_without: row.ran_without.clone(),
        most_ours: slots.most_ours.filter(|_| !row.status.is_final()),
        owed: owed(group, id),
    })
}

fn owed(group: &GroupState, id: DeploymentId) -> Vec<OwedView> {
    let owed = group.servers().iter().filter_map(|server| {
        let owed = server.markup_owed.as_ref().filter(|owed| owed.deployment == id)?;
        Some(OwedView {
            server: server.id,
            hostname: label(&server.hostname, &server.instance),
            is_drained: server.drained,
            since: owed.since,
        })
    });
    owed.collect()
}

fn named(counts: &Counts) -> BTreeMap<String, u32> {
    TargetStatus::ALL
        .into_iter()
        .filter(|status| counts.of(*status) > 0)
        .map(|status| (status.word().to_owned(), counts.of(status)))
        .collect()
}
