//! Deployments and their targets.

use std::collections::BTreeMap;

use capstan_core::TargetId;
use capstan_core::action::{Action, ActionState};
use capstan_core::batch_status::BatchStatus;
use capstan_core::config::{ConfigRequest, DeploymentConfig};
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::record::{Cause, Flavor, HoldReason};
use capstan_core::target_status::TargetStatus;
use capstan_core::view::{BatchView, DeploymentView, HoldView, TargetView, WaitKind, WaitingFor};

use super::fleet::{brief_of, deployment_id, group_id, server_id, sha256};
use super::{after, before, now};

fn target(number: usize, batch: u32, status: TargetStatus) -> TargetView {
    TargetView {
        id: TargetId::derive(now(), &[b"target", &(number as u64).to_be_bytes()]),
        deployment: deployment_id(1),
        batch,
        place: u32::try_from(number).expect("numbers are small"),
        server: server_id(number),
        hostname: format!(
            "shop-{}-{number:02}",
            if number.is_multiple_of(2) { "pd" } else { "sh" }
        ),
        instance: String::new(),
        ip_address: format!("10.20.{}.{}", number / 250, number % 250),
        status,
        status_since: before(41),
        attempt: 1,
        cause: None,
        message: None,
        unknown_since: None,
        skipped: false,
        unverified: false,
        bypassed: false,
        order_digest: Some(sha256("order")),
    }
}

fn counts(targets: &[TargetView]) -> BTreeMap<String, u32> {
    targets.iter().fold(BTreeMap::new(), |mut counts, target| {
        *counts.entry(target.status.word().to_owned()).or_default() += 1;
        counts
    })
}

fn batches(targets: &[TargetView], statuses: &[BatchStatus]) -> Vec<BatchView> {
    (1..)
        .zip(statuses)
        .map(|(index, status)| {
            let of: Vec<TargetView> =
                targets.iter().filter(|target| target.batch == index).cloned().collect();
            BatchView {
                index,
                is_bastion: index == 1,
                status: *status,
                wait_until: (*status == BatchStatus::Waiting).then(|| after(95)),
                counts: counts(&of),
            }
        })
        .collect()
}

fn actions(allowed: &[Action], because: &str) -> Vec<ActionState> {
    Action::ALL
        .into_iter()
        .map(|action| ActionState {
            action,
            refused_because: (!allowed.contains(&action)).then(|| because.to_owned()),
        })
        .collect()
}

fn view(targets: &[TargetView], statuses: &[BatchStatus], allowed: &[Action]) -> DeploymentView {
    DeploymentView {
        id: deployment_id(1),
        group: group_id("shop-prod"),
        group_name: "shop-prod".to_owned(),
        application: "shop".to_owned(),
        package: brief_of("2.14.0"),
        flavor: Flavor::Rollout,
        status: DeploymentStatus::RollingOut,
        shown_status: "ROLLING_OUT".to_owned(),
        status_since: before(210),
        holds: Vec::new(),
        total: 20,
        b: 5,
        l: 5,
        out: 4,
        free: 1,
        failed: 0,
        failure_limit: 5,
        counts: counts(targets),
        batches: batches(targets, statuses),
        config: DeploymentConfig::complete(&ConfigRequest::default(), Flavor::Rollout, false)
            .expect("the defaults are within bounds"),
        seed: "5f0c9d1a2b3c4d5e".to_owned(),
        plan_hash: sha256("plan"),
        parent: Some(deployment_id(10)),
        origin: None,
        restores: None,
        superseded_by: None,
        created_by: "ann.fischer".to_owned(),
        ignore_verify_reason: None,
        created_at: before(741),
        started_at: Some(before(702)),
        ended_at: None,
        last_seq: 118,
        allowed_actions: allowed.to_vec(),
        actions: actions(allowed, "the deployment is ROLLING_OUT and no batch waits"),
        ran_without: Vec::new(),
        most_ours: None,
        owed: Vec::new(),
        waiting_for: vec![WaitingFor {
            what: WaitKind::Host,
            on: "shop-sh-09".to_owned(),
            since: before(41),
            who: "capstan".to_owned(),
            until: None,
            text: "The INSTALL of shop-sh-09 and 2 others is under way.".to_owned(),
        }],
    }
}

/// A deployment in `status`, with a bastion batch and two others.
pub(crate) fn stage(status: DeploymentStatus) -> DeploymentView {
    use DeploymentStatus as D;
    use TargetStatus as T;
    let (bastion, rest) = match status {
        D::Pending => (T::Pending, T::Pending),
        D::Smoking => (T::InstallRunning, T::Pending),
        D::SmokeSuccess => (T::VerifySuccess, T::Pending),
        D::SmokeFailure => (T::VerifyFailure, T::Pending),
        D::Baking => (T::MarkupRunning, T::Pending),
        D::BakeSuccess => (T::Success, T::Pending),
        D::BakeFailure => (T::MarkupFailure, T::Pending),
        D::RollingOut => (T::Success, T::InstallRunning),
        D::RolloutFailure | D::Failure => (T::Success, T::VerifyFailure),
        D::Success => (T::Success, T::Success),
        D::Revoked => (T::Revoked, T::Revoked),
    };
    let targets: Vec<TargetView> = (1..=5)
        .map(|number| match number {
            1 => target(number, 1, bastion),
            2 | 3 => target(number, 2, rest),
            _ => target(number, 3, rest),
        })
        .collect();
    let of = |status: TargetStatus| match status.word() {
        "SUCCESS" => BatchStatus::Success,
        "PENDING" => BatchStatus::Pending,
        "REVOKED" => BatchStatus::Revoked,
        word if word.ends_with("_FAILURE") => BatchStatus::Failure,
        _ => BatchStatus::Deploying,
    };
    let mut view = view(&targets, &[of(bastion), of(rest), of(rest)], &[Action::Revoke]);
    view.status = status;
    status.word().clone_into(&mut view.shown_status);
    view.ended_at = status.is_final().then(|| before(11));
    view.started_at = (status != D::Pending).then(|| before(702));
    view
}

/// Targets as many and as far as the batches of `view` say.
pub(crate) fn targets_of(view: &DeploymentView) -> Vec<TargetView> {
    let mut number = 0;
    let mut targets = Vec::new();
    for batch in &view.batches {
        for (word, count) in &batch.counts {
            for _ in 0..*count {
                number += 1;
                let status = TargetStatus::from_word(word).expect("samples use known words");
                targets.push(target(number, batch.index, status));
            }
        }
    }
    targets
}

/// A rollout that was braked by failures while a person had braked it too.
pub(crate) fn braked() -> (DeploymentView, Vec<TargetView>) {
    use TargetStatus as T;
    let mut targets: Vec<TargetView> = (1..=20)
        .map(|number| match number {
            1 => target(number, 1, T::Success),
            2..=6 => target(number, 2, T::Success),
            7 => target(number, 3, T::VerifyFailure),
            8 => target(number, 3, T::DownloadFailure),
            9 => target(number, 3, T::InstallRunning),
            10 => target(number, 3, T::VerifyRunning),
            11 => target(number, 3, T::MarkdownSuccess),
            12..=16 => target(number, 4, T::Pending),
            _ => target(number, 5, T::Pending),
        })
        .collect();
    targets[3].skipped = true;
    targets[4].unverified = true;
    targets[15].status = T::SetAside;
    targets[6].attempt = 2;
    targets[6].cause = Some(Cause::Timeout);
    targets[6].message = Some(
        "http://10.20.0.7:8080/healthz answered 503 for 180 s: waiting for redis://cache-sh-01:6379"
            .to_owned(),
    );
    targets[7].cause = Some(Cause::Unreachable);
    targets[7].message = Some("no answer from the host; no store of pd has the package".to_owned());
    targets[9].unknown_since = Some(before(64));
    targets[9].message = Some("salt-master did not return; asked again by key".to_owned());
    let statuses = [
        BatchStatus::Success,
        BatchStatus::Success,
        BatchStatus::Deploying,
        BatchStatus::Pending,
        BatchStatus::Pending,
    ];
    let allowed = [Action::Retry, Action::Resume, Action::Revoke, Action::Rollback];
    let mut view = view(&targets, &statuses, &allowed);
    "ROLLOUT_BRAKED".clone_into(&mut view.shown_status);
    (view.failed, view.failure_limit) = (3, 3);
    view.holds = holds();
    view.actions = actions(&allowed, "the deployment is braked; retry or resume it first");
    for state in &mut view.actions {
        if state.action == Action::Finish {
            state.refused_because = Some("3 stages are still under way on hosts".to_owned());
        } else if state.action == Action::Start {
            state.refused_because = Some("it was started already".to_owned());
        }
    }
    view.waiting_for = waits(view.waiting_for);
    (view, targets)
}

fn waits(under_way: Vec<WaitingFor>) -> Vec<WaitingFor> {
    let click = WaitingFor {
        what: WaitKind::Click,
        on: "hold failures".to_owned(),
        since: before(64),
        who: "a person".to_owned(),
        until: None,
        text: "Braked: 3 of 20 servers failed; the limit is 3. Cleared by retry.".to_owned(),
    };
    let timer = WaitingFor {
        what: WaitKind::Timer,
        on: "shop-pd-10".to_owned(),
        since: before(64),
        who: "capstan".to_owned(),
        until: Some(after(56)),
        text: "VERIFY of shop-pd-10 ends as a failure if the host stays silent.".to_owned(),
    };
    [vec![click], under_way, vec![timer]].concat()
}

fn holds() -> Vec<HoldView> {
    let hold = |reason: HoldReason, by: &str, seconds: i64, detail: &str| HoldView {
        reason,
        by: by.to_owned(),
        since: before(seconds),
        detail: detail.to_owned(),
        clears: reason.clears().to_owned(),
    };
    vec![
        hold(
            HoldReason::Failures,
            "capstan",
            64,
            "3 of 20 targets failed or are unknown; the limit is 3.",
        ),
        hold(HoldReason::User, "bo", 31, "Error rate of checkout is up, looking at it."),
    ]
}

/// A rollout to 840 servers.
pub(crate) fn huge() -> (DeploymentView, Vec<TargetView>) {
    use TargetStatus as T;
    let mut targets: Vec<TargetView> = (1..=840)
        .map(|number| {
            let batch = u32::try_from(1 + (number + 82) / 84).expect("numbers are small");
            let status = match (batch, number % 12) {
                (..=4, 5) if number > 200 => T::InstallFailure,
                (..=4, _) | (5, 5..=8) => T::Success,
                (5, 0) => T::DownloadRunning,
                (5, 1..=3) => T::InstallRunning,
                (5, 4) => T::MarkupRunning,
                (5 | 6.., _) => T::Pending,
            };
            target(number, if number == 1 { 1 } else { batch.max(2) }, status)
        })
        .collect();
    for failed in targets.iter_mut().filter(|target| target.status.is_failure()) {
        failed.cause = Some(Cause::Failed);
        failed.message = Some("hook capstan/pre-install ended with 3".to_owned());
    }
    let mut statuses = vec![BatchStatus::Success; 3];
    statuses.extend([BatchStatus::Failure, BatchStatus::Deploying, BatchStatus::Waiting]);
    statuses.extend([BatchStatus::Pending; 5]);
    let allowed = [Action::Rollout, Action::Brake, Action::Revoke, Action::Rollback];
    let mut view = view(&targets, &statuses, &allowed);
    (view.total, view.b, view.l, view.out, view.free) = (840, 84, 84, 52, 32);
    (view.failed, view.failure_limit) = (2, 84);
    (view, targets)
}
