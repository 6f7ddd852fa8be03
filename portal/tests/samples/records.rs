//! Events, a plan, an audit.

use capstan_core::event::{Event, EventData, EventType};
use capstan_core::plan::{Named, Plan, PlannedBatch, PlannedServer};
use capstan_core::record::{Cause, HoldReason};
use capstan_core::view::{AuditView, Page, TargetView};

use super::before;
use super::fleet::{deployment_id, group_id, server_id, sha256};

pub(crate) fn events(targets: &[TargetView]) -> Vec<Event> {
    let mut events = Vec::new();
    let mut add = |kind: EventType, actor: &str, change: &dyn Fn(&mut Event)| {
        let seq = i64::try_from(events.len()).expect("few") + 100;
        let mut event = Event {
            seq,
            at: before(702 - (seq - 100) * 40),
            kind,
            group: group_id("shop-prod"),
            deployment: Some(deployment_id(1)),
            batch: None,
            target: None,
            server: None,
            actor: actor.to_owned(),
            cause: None,
            data: EventData::default(),
        };
        change(&mut event);
        events.push(event);
    };
    let words = |from: &str, to: &str| EventData {
        from: Some(from.to_owned()),
        to: Some(to.to_owned()),
        ..EventData::default()
    };
    add(EventType::DeploymentCreated, "ann.fischer", &|e| e.data.version = Some("2.14.0".into()));
    add(EventType::ActionTaken, "ann.fischer", &|e| e.data.message = Some("start".into()));
    add(EventType::DeploymentStatus, "capstan", &|e| e.data = words("PENDING", "SMOKING"));
    add(EventType::ServerOut, "capstan", &|e| {
        e.target = Some(targets[0].id);
        (e.data.out_count, e.data.limit) = (Some(1), Some(5));
    });
    add(EventType::DeploymentStatus, "capstan", &|e| e.data = words("SMOKING", "SMOKE_SUCCESS"));
    add(EventType::BatchStatus, "capstan", &|e| {
        e.batch = Some(2);
        e.data = words("DEPLOYING", "SUCCESS");
    });
    add(EventType::TargetTry, "capstan", &|e| {
        e.target = Some(targets[7].id);
        e.data.message = Some("connection refused; tried again in 8 s".into());
    });
    add(EventType::TargetStatus, "capstan", &|e| {
        e.target = Some(targets[6].id);
        e.cause = Some(Cause::Timeout);
        e.data = words("VERIFY_RUNNING", "VERIFY_FAILURE");
        e.data.attempt = Some(2);
        e.data.message.clone_from(&targets[6].message);
    });
    add(EventType::HoldSet, "capstan", &|e| e.data.holds = Some(vec![HoldReason::Failures]));
    add(EventType::HoldSet, "bo", &|e| {
        e.data.holds = Some(vec![HoldReason::Failures, HoldReason::User]);
        e.data.message = Some("Error rate of checkout is up, looking at it.".into());
    });
    add(EventType::ServerIn, "capstan", &|e| {
        e.server = Some(targets[5].server);
        (e.data.out_count, e.data.limit) = (Some(4), Some(5));
    });
    events
}

pub(crate) fn plan() -> Plan {
    let servers = |range: std::ops::Range<usize>| {
        range
            .map(|number| PlannedServer {
                server: server_id(number),
                hostname: format!("shop-sh-{number:02}"),
            })
            .collect()
    };
    let cuts = [1..2, 2..7, 7..12, 12..30];
    let named = |number: usize, why: &str| Named {
        server: server_id(number),
        hostname: format!("shop-sh-{number:02}"),
        why: why.to_owned(),
    };
    Plan {
        seed: "5f0c9d1a2b3c4d5e".to_owned(),
        total: 31,
        b: 7,
        l: 7,
        free: 5,
        out: vec![named(4, "does not answer"), named(30, "pulled out by bo: disk reports errors")],
        left_out: vec![named(30, "pulled out by bo: disk reports errors")],
        batches: (1..)
            .zip(cuts)
            .map(|(index, cut)| PlannedBatch {
                index,
                is_bastion: index == 1,
                servers: servers(cut),
            })
            .collect(),
        failure_limit: 7,
        notes: vec![
            "3 servers are marked as bastion and 1 may be taken at once: the others go with the \
             normal batches"
                .to_owned(),
        ],
        estimated_seconds: 200,
        plan_hash: sha256("plan"),
    }
}

pub(crate) fn audit() -> Page<AuditView> {
    let row = |seconds: i64, actor: &str, action: &str, answer: &str, detail: &str| AuditView {
        at: before(seconds),
        actor: actor.to_owned(),
        action: action.to_owned(),
        subject: "deployment".to_owned(),
        answer: answer.to_owned(),
        detail: detail.to_owned(),
    };
    Page {
        items: vec![
            row(31, "bo", "brake", "accepted", "Error rate of checkout is up, looking at it."),
            row(
                90,
                "ci",
                "bake",
                "not_allowed",
                "the deployment is ROLLING_OUT; allowed: brake, revoke, rollback",
            ),
            row(610, "ann.fischer", "bake", "accepted", ""),
            row(702, "ann.fischer", "start", "accepted", ""),
        ],
        next_cursor: None,
    }
}
