//! The log of one deployment, read event by event.

mod starts;

use std::collections::{BTreeMap, BTreeSet};

use crate::action::Action;
use crate::batch_status::BatchStatus;
use crate::deployment_status::DeploymentStatus;
use crate::event::{Event, EventType};
use crate::record::{Cause, HoldReason};
use crate::share::Share;
use crate::target_status::TargetStatus;
use crate::{DeploymentId, GroupId, ServerId, TargetId, Timestamp};

use super::Violation;
use super::standing::Standing;

/// When a deployment began to hold its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Start {
    pub(super) at: Timestamp,
    pub(super) seq: i64,
}

/// What the log has said so far.
#[derive(Debug)]
pub(super) struct Log {
    id: DeploymentId,
    /// Who is out, since it began to hold its group.
    standing: Option<Standing>,
    /// Members when the plan was made.
    planned: u32,
    /// Share of the group whose failure brakes.
    max_failure: Option<Share>,
    pub(super) group: Option<GroupId>,
    pub(super) started: Option<Start>,
    pub(super) ended_at: Option<Timestamp>,
    pub(super) violations: Vec<Violation>,
    seq: i64,
    status: Option<DeploymentStatus>,
    has_bastion: bool,
    baked: bool,
    holds: BTreeSet<HoldReason>,
    batches: BTreeMap<u32, BatchStatus>,
    targets: BTreeMap<TargetId, TargetLog>,
    /// Failed and unknown targets, as last told.
    failed: u32,
    /// Of these, the ones that the last retry passed over.
    passed_over: u32,
    /// How often each server was drained again since a target took it.
    drained_again: BTreeMap<ServerId, u32>,
    /// A server was drained again twice, and no hold was set yet.
    owes_hold: bool,
    /// Dependencies that are broken or cut off and may not be bypassed.
    held_by: BTreeSet<String>,
}

/// What the log has said of a target.
#[derive(Debug, Clone, Copy)]
struct TargetLog {
    status: TargetStatus,
    attempt: u32,
    /// When this attempt last proved the package.
    proven_at: Option<Timestamp>,
    /// The answer of the stage under way was lost.
    was_unknown: bool,
}

impl Log {
    pub(super) fn new(id: DeploymentId) -> Self {
        Self {
            id,
            standing: None,
            planned: 0,
            max_failure: None,
            group: None,
            started: None,
            ended_at: None,
            violations: Vec::new(),
            seq: 0,
            status: None,
            has_bastion: false,
            baked: false,
            holds: BTreeSet::new(),
            batches: BTreeMap::new(),
            targets: BTreeMap::new(),
            failed: 0,
            passed_over: 0,
            drained_again: BTreeMap::new(),
            owes_hold: false,
            held_by: BTreeSet::new(),
        }
    }

    pub(super) fn read(&mut self, event: &Event) {
        if event.seq != self.seq + 1 {
            self.say("S8", event, format!("event {} does not follow {}", event.seq, self.seq));
        }
        self.seq = event.seq;
        if (event.kind == EventType::DeploymentCreated) != self.status.is_none() {
            self.say("S8", event, "a log begins with deployment.created and has it once".into());
        }
        self.follow_servers(event);
        match event.kind {
            EventType::DeploymentCreated => {
                self.group = Some(event.group);
                self.planned = event.data.total.unwrap_or_default();
                self.status = Some(DeploymentStatus::Pending);
            }
            EventType::DeploymentStatus => self.deployment_moved(event),
            EventType::BatchStatus => self.batch_moved(event),
            EventType::TargetStatus => self.target_moved(event),
            EventType::HoldSet | EventType::HoldCleared => self.hold_changed(event),
            EventType::ActionTaken => {
                if event.data.to.as_deref() == Some(Action::Retry.word()) {
                    self.passed_over = self.failed;
                }
            }
            EventType::TargetUnknown => {
                if let Some(target) = event.target.and_then(|id| self.targets.get_mut(&id)) {
                    target.was_unknown = true;
                }
            }
            EventType::ServerDrainedAgain => {
                let Some(server) = event.server else { return };
                let count = self.drained_again.entry(server).or_default();
                *count += 1;
                self.owes_hold |= *count > 1 && !self.holds.contains(&HoldReason::Dependency);
            }
            EventType::DependencyOpened
            | EventType::DependencyCutOff
            | EventType::DependencyRestored => {
                self.held_by = event.data.held_by.iter().flatten().cloned().collect();
            }
            EventType::TargetTry | EventType::TargetTakenOver => {
                let target = event.target.and_then(|id| self.targets.get(&id).copied());
                // An act whose answer was lost may have happened while the proof was fresh: whoever takes
                // it over asks for it (S11).
                let asks = event.kind == EventType::TargetTakenOver
                    && target.is_some_and(|target| target.was_unknown);
                if let Some(target) = target.filter(|_| !asks) {
                    self.check_proof(event, &target, target.status);
                }
            }
            EventType::DeploymentStale
            | EventType::TargetAdded
            | EventType::TargetMoved
            | EventType::LateOutcome
            | EventType::ServerOut
            | EventType::ServerIn
            | EventType::ServerPulledOut
            | EventType::ServerPutBack
            | EventType::ServerDrained
            | EventType::ServerAppeared
            | EventType::ServerLeft => {}
        }
        self.failed = event.data.failed_count.unwrap_or(self.failed);
    }

    /// S1 and S12, as long as the deployment holds its group.
    fn follow_servers(&mut self, event: &Event) {
        if self.is_final() {
            return;
        }
        if let Some(start) = &event.data.start {
            self.max_failure = Some(start.max_failure);
            self.held_by.extend(start.held_by.iter().cloned());
            self.standing = Some(Standing::new(self.planned, start));
        }
        let wrong = self.standing.as_mut().map(|standing| standing.read(event));
        for (rule, message) in wrong.unwrap_or_default() {
            self.say(rule, event, message);
        }
    }

    fn say(&mut self, rule: &'static str, event: &Event, message: String) {
        let violation = Violation { rule, deployment: self.id, seq: event.seq, message };
        self.violations.push(violation);
    }

    fn is_final(&self) -> bool {
        self.status.is_some_and(DeploymentStatus::is_final)
    }

    fn is_braked(&self) -> bool {
        !self.holds.is_empty()
    }

    fn deployment_moved(&mut self, event: &Event) {
        use DeploymentStatus as Status;
        let word = |word: &Option<String>| word.as_deref().and_then(Status::from_word);
        let (from, Some(to)) = (word(&event.data.from), word(&event.data.to)) else {
            self.say("table", event, "a change of status names no status".into());
            return;
        };
        let last = self.status.replace(to);
        // An adopted deployment is written as SUCCESS at once: its only change has no `from`.
        let adopted = from.is_none() && last == Some(Status::Pending) && to == Status::Success;
        if last.is_some_and(Status::is_final) {
            self.say("S9", event, "a final status changed".into());
        } else if !adopted {
            let is_edge = Status::EDGES.iter().any(|edge| Some(edge.0) == from && edge.2 == to);
            if from != last || !is_edge {
                self.say("table", event, format!("no row leads from {last:?} to {to}"));
            }
        }
        if from == Some(Status::Pending) && to.is_running() {
            self.started = Some(Start { at: event.at, seq: event.seq });
            if self.standing.is_none() {
                self.say("S1", event, "it begins and does not say who is out".into());
            }
            self.has_bastion = to == Status::Smoking;
        }
        if to == Status::BakeSuccess {
            self.baked = true;
        } else if from == Some(Status::BakeSuccess) && to == Status::SmokeFailure {
            self.baked = false;
        }
        if to == Status::Baking && from == Some(Status::SmokeSuccess) && self.is_braked() {
            self.say("S2", event, "it bakes while it is braked".into());
        }
        if to == Status::RollingOut && from == Some(Status::BakeSuccess) && self.is_braked() {
            self.say("S2", event, "it rolls out while it is braked".into());
        }
        if to.is_final() {
            self.ended_at = Some(event.at);
            self.holds.clear();
        }
        if to == Status::Success && !adopted {
            self.succeeded(event);
        }
    }

    /// S10: nothing verified is not success.
    fn succeeded(&mut self, event: &Event) {
        let count = |wanted: fn(TargetStatus) -> bool| {
            self.targets.values().filter(|target| wanted(target.status)).count()
        };
        let good = count(|status| status == TargetStatus::Success);
        let bad = count(|status| !matches!(status, TargetStatus::Success | TargetStatus::SetAside));
        if good == 0 || bad > 0 {
            let message = format!("SUCCESS with {good} targets that succeeded and {bad} others");
            self.say("S10", event, message);
        }
    }

    fn batch_moved(&mut self, event: &Event) {
        let word = |word: &Option<String>| word.as_deref().and_then(BatchStatus::from_word);
        let (from, to) = (word(&event.data.from), word(&event.data.to));
        let (Some(index), Some(to)) = (event.batch, to) else {
            self.say("table", event, "a change of a batch names no batch or status".into());
            return;
        };
        let last = self.batches.insert(index, to);
        let Some(from) = from else {
            if last.is_some() || to != BatchStatus::Pending {
                self.say("table", event, format!("batch {index} begins as {to}"));
            }
            return;
        };
        let is_edge = BatchStatus::EDGES.iter().any(|edge| (edge.0, edge.2) == (from, to));
        if last.unwrap_or(BatchStatus::Pending) != from || !is_edge {
            let message = format!("batch {index}: no row leads from {last:?} by {from} to {to}");
            self.say("table", event, message);
        }
        if self.is_final() && to != BatchStatus::Revoked {
            self.say("S9", event, format!("batch {index} goes to {to} after the end"));
        }
        let fresh = matches!(from, BatchStatus::Pending | BatchStatus::Waiting);
        if to == BatchStatus::Deploying && fresh {
            if self.is_braked() {
                self.say("S2", event, format!("batch {index} starts while {:?} hold", self.holds));
            }
            self.check_bastions_first(event, index);
        }
    }

    /// S4: no normal batch before the bastions baked. The bastion batch is the first.
    fn check_bastions_first(&mut self, event: &Event, batch: u32) {
        if self.has_bastion && batch > 1 && !self.baked {
            self.say("S4", event, format!("batch {batch} starts before the bastions baked"));
        }
    }

    fn target_moved(&mut self, event: &Event) {
        let word = |word: &Option<String>| word.as_deref().and_then(TargetStatus::from_word);
        let (Some(id), Some(from), Some(to)) =
            (event.target, word(&event.data.from), word(&event.data.to))
        else {
            self.say("table", event, "a change of a target names no target or status".into());
            return;
        };
        let fresh = TargetLog {
            status: TargetStatus::Pending,
            attempt: 1,
            proven_at: None,
            was_unknown: false,
        };
        let mut target = self.targets.get(&id).copied().unwrap_or(fresh);
        let is_edge = TargetStatus::EDGES.iter().any(|edge| (edge.0, edge.2) == (from, to));
        if target.status != from || !is_edge {
            let last = target.status;
            self.say(
                "table",
                event,
                format!("a target: no row leads from {last} by {from} to {to}"),
            );
        }
        self.check_attempt(event, &mut target, from, to);
        if to.is_failure() && event.cause == Some(Cause::Unreachable) && !target.was_unknown {
            self.say("S11", event, "unreachable, and its answer was never said to be lost".into());
        }
        if to.running().is_some() {
            self.check_start(event, &target, to);
            target.was_unknown = false;
        }
        if to == TargetStatus::VerifySuccess || from == TargetStatus::CheckRunning {
            let proves = matches!(to, TargetStatus::VerifySuccess | TargetStatus::Success);
            target.proven_at = proves.then_some(event.at);
        }
        target.status = to;
        self.targets.insert(id, target);
        if to == TargetStatus::Pending && from.is_failure() {
            self.passed_over = event.data.failed_count.unwrap_or(0);
        }
    }

    /// S3: all of a chain belongs to one attempt, and a new attempt begins at its start.
    fn check_attempt(
        &mut self,
        event: &Event,
        target: &mut TargetLog,
        from: TargetStatus,
        to: TargetStatus,
    ) {
        let is_new = to == TargetStatus::Pending && from != TargetStatus::CheckRunning;
        let expected = if is_new { target.attempt + 1 } else { target.attempt };
        let attempt = event.data.attempt.unwrap_or(0);
        if attempt != expected {
            let message = format!("a target goes to {to} in attempt {attempt}, not {expected}");
            self.say("S3", event, message);
        }
        target.attempt = attempt;
        if is_new {
            target.proven_at = None;
        }
    }

    fn hold_changed(&mut self, event: &Event) {
        let is_set = event.kind == EventType::HoldSet;
        let word = if is_set { &event.data.to } else { &event.data.from };
        let reason = word.as_ref().and_then(|word| {
            serde_json::from_value::<HoldReason>(serde_json::Value::from(word.as_str())).ok()
        });
        let Some(reason) = reason else {
            self.say("table", event, "a hold without its reason".into());
            return;
        };
        let runs = self.status.is_some_and(DeploymentStatus::is_running);
        let changed = if is_set { self.holds.insert(reason) } else { self.holds.remove(&reason) };
        if !changed || !runs {
            self.say("table", event, format!("the hold {reason:?} cannot change now"));
        }
        let told: BTreeSet<HoldReason> = event.data.holds.iter().flatten().copied().collect();
        if told != self.holds {
            let message = format!("the holds are told as {told:?} and are {:?}", self.holds);
            self.say("S8", event, message);
        }
        if is_set && reason == HoldReason::Dependency {
            self.owes_hold = false;
        }
    }
}
