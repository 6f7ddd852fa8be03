//! Dependencies that break, are cut off and come back: what holds, what is bypassed, and how debts
//! are paid (S12).

use std::time::Duration;

use crate::dependency::{
    Condition, Impaired, OwedMarkup, Traffic, Without, executor, executor_in_use, load_balancer,
    without,
};
use crate::effect::EffectKind;
use crate::event::{EventData, EventType};
use crate::input::Answer;
use crate::record::{HoldReason, OutBecause, Service, Target};
use crate::stage::Stage;
use crate::state::GroupState;
use crate::target_status::{TargetEvent, TargetStatus};
use crate::{DeploymentId, ServerId};

use super::Decider;
use super::observe::LOOK_INTERVAL;

/// So long after the last look at a whole group its load balancer is taken to answer.
const SEEN_FOR: Duration = LOOK_INTERVAL.saturating_mul(2);
/// Markdowns at the same time of a deployment whose load balancer has not answered yet.
const TRIED_AT_ONCE: u32 = 2;

/// Whether a target that stands so was drained by a call that was answered, unless it was bypassed.
fn follows_markdown(status: TargetStatus) -> bool {
    use TargetStatus as Status;
    matches!(
        status,
        Status::MarkdownSuccess
            | Status::DownloadRunning
            | Status::DownloadSuccess
            | Status::InstallRunning
            | Status::InstallSuccess
    )
}

impl Decider<'_> {
    pub(super) fn dependency_changed(&mut self, name: &str, impaired: Option<&Impaired>) -> Answer {
        if self.state.group.dependencies.get(name) == impaired {
            return Answer::Done;
        }
        let before = match impaired {
            Some(impaired) => {
                self.actor.clone_from(&impaired.by);
                self.state.group.dependencies.insert(name.to_owned(), impaired.clone())
            }
            None => self.state.group.dependencies.remove(name),
        };
        self.changes.group = true;
        let running = self.state.running().map(|state| state.deployment.id);
        let is_noted = running.is_some_and(|id| self.note_absent(id).iter().any(|it| it == name));
        // What every group uses is told to those that release, once and when a person is at the switch: it may
        // break again and again, and holds nothing.
        let by_hand =
            |it: Option<&Impaired>| it.is_some_and(|it| it.condition == Condition::CutOff);
        let is_switched = by_hand(impaired) || by_hand(before.as_ref());
        if without(name).is_none() || is_noted || (is_switched && running.is_some()) {
            self.dependency_event(name, impaired);
        }
        let balancers = self.state.deployments().map(|row| &row.deployment.frozen.load_balancer);
        let own = &self.state.group.binding.load_balancer;
        if balancers.chain([own]).any(|balancer| load_balancer(balancer) == name) {
            let lost = running.is_some_and(|id| self.has_lost_acts(id));
            self.bypass_under_way();
            if let Some(id) = running.filter(|_| lost) {
                self.forgive_lost_acts(id);
            }
            self.forget_doubts();
            self.pay_debts();
        }
        Answer::Done
    }

    fn dependency_event(&mut self, name: &str, impaired: Option<&Impaired>) {
        let kind = match impaired.map(|impaired| impaired.condition) {
            Some(Condition::Open) => EventType::DependencyOpened,
            Some(Condition::CutOff) => EventType::DependencyCutOff,
            None => EventType::DependencyRestored,
        };
        let binding = self.state.binding();
        let dependencies = &self.state.group.dependencies;
        let bypassed = (load_balancer(&binding.load_balancer) == name)
            .then(|| Traffic::of(dependencies, binding) == Traffic::Bypassed);
        // One that is cut off may bring in the next executor, and hold by that.
        let held_by = crate::dependency::holding(dependencies, binding).into_iter();
        let held_by: Vec<String> = held_by.map(|(name, _)| name.to_owned()).collect();
        let data = EventData {
            dependency: Some(name.to_owned()),
            bypassed,
            holds_for_it: Some(held_by.iter().any(|holding| holding == name)),
            held_by: Some(held_by),
            message: impaired.map(|impaired| impaired.reason.clone()),
            ..EventData::default()
        };
        self.group_event(None, kind, data);
    }

    /// Markdown or Markup of a target is recorded without a call. What was really drained before keeps
    /// its mark and stays out. Who was in service when it was taken, and was not drained, is so again: it
    /// has proved its package, and nothing of ours keeps traffic from it (S12).
    pub(super) fn bypass(&mut self, id: DeploymentId, place: usize, stage: Stage) {
        let target = self.target(id, place);
        let (target_id, server, order) = (target.id, target.server, target.order);
        self.changes.delete(EffectKind::RunStage(id, target_id));
        let package = self.of(id).deployment.package.clone();
        let owed = OwedMarkup { deployment: id, package, since: self.now };
        let pulled = self.state.server(server).is_some_and(|row| row.pulled_out.is_some());
        let now = self.now;
        self.change_server(server, |row| {
            if row.order == order {
                row.order = None;
            }
            row.dead_since = None;
            // Who was seen in traffic meanwhile is in service, whatever was to be done.
            if stage == Stage::Markup && !pulled && row.service != Service::In {
                row.markup_owed = Some(owed);
                if row.out_because == Some(OutBecause::Bypassed) {
                    row.service = Service::In;
                    row.out_because = None;
                    row.observed_at = Some(now);
                }
            }
        });
        if stage == Stage::Markup && pulled {
            self.put_effect(EffectKind::DrainServer(server));
        }
        let message = self.note_bypass(id);
        self.change_target(id, place, |target| {
            target.took = false;
            target.bypassed = true;
        });
        if self.of(id).deployment.status.is_final() {
            self.move_target(id, place, TargetEvent::Ended, None, |target| {
                target.message = Some(message);
            });
        } else if self.target(id, place).leaving {
            self.set_aside(id, place);
        } else {
            self.move_target(id, place, TargetEvent::StageSucceeded, None, |target| {
                target.message = Some(message);
            });
        }
    }

    /// Notes that the deployment goes on without its load balancer. Gives the sentence.
    fn note_bypass(&mut self, id: DeploymentId) -> String {
        let dependency = load_balancer(&self.of(id).deployment.frozen.load_balancer);
        self.note_without(id, dependency, "bypassed")
    }

    /// Notes that orders go through an executor that is not the group's first.
    pub(super) fn note_executor(&mut self, id: DeploymentId) {
        let (all, frozen) = (&self.state.group.dependencies, &self.of(id).deployment.frozen);
        if all.is_empty() {
            return;
        }
        let in_use = executor_in_use(all, frozen);
        let without: Vec<String> =
            frozen.executors().take_while(|name| *name != in_use).map(executor).collect();
        let what = format!("by {} instead", executor(in_use));
        for dependency in without {
            self.note_without(id, dependency, &what);
        }
    }

    /// A deployment that begins says what it goes on without.
    pub(super) fn tell_absent(&mut self, id: DeploymentId) {
        for name in self.note_absent(id) {
            let impaired = self.state.group.dependencies.get(&name).cloned();
            let by = impaired.as_ref().map_or_else(|| self.actor.clone(), |it| it.by.clone());
            let actor = std::mem::replace(&mut self.actor, by);
            self.dependency_event(&name, impaired.as_ref());
            self.actor = actor;
        }
    }

    /// Notes what every group uses and this deployment goes on without. Returns what was not noted before.
    fn note_absent(&mut self, id: DeploymentId) -> Vec<String> {
        let known = self.of(id).deployment.ran_without.len();
        let all = self.state.group.dependencies.keys();
        let absent: Vec<(String, &str)> =
            all.filter_map(|name| Some((name.clone(), without(name)?))).collect();
        for (dependency, how) in absent {
            self.note_without(id, dependency, how);
        }
        let new = self.of(id).deployment.ran_without.iter().skip(known);
        new.map(|without| without.dependency.clone()).collect()
    }

    /// Notes what the deployment goes on without, once. Gives the sentence.
    fn note_without(&mut self, id: DeploymentId, dependency: String, what: &str) -> String {
        let impaired = self.state.group.dependencies.get(&dependency);
        let why = impaired.map_or_else(|| dependency.clone(), |it| it.sentence(&dependency));
        let text = format!("{what}: {why}");
        self.keep_without(id, Without { dependency, since: self.now, text: text.clone() });
        text
    }

    /// Notes what is told of a dependency first.
    pub(super) fn keep_without(&mut self, id: DeploymentId, without: Without) {
        let mut known = self.of(id).deployment.ran_without.iter();
        if known.all(|known| known.dependency != without.dependency) {
            self.change_deployment(id, |deployment| deployment.ran_without.push(without));
        }
    }

    /// Acts at a load balancer that is not asked any more end here. Whether they happened is not
    /// known, so a server that was to be drained counts as drained.
    fn bypass_under_way(&mut self) {
        let acts: Vec<(DeploymentId, usize, Stage)> = self
            .state
            .deployments()
            .filter(|row| self.state.traffic_of(&row.deployment) == Traffic::Bypassed)
            .flat_map(|row| {
                let targets = row.targets().iter().enumerate();
                targets.filter_map(|(place, target)| {
                    let stage = target.status.running().filter(|stage| !stage.is_order())?;
                    Some((row.deployment.id, place, stage))
                })
            })
            .collect();
        for (id, place, stage) in acts {
            self.bypass(id, place, stage);
        }
    }

    /// Whether enough Markdowns are under way to find out whether the load balancer answers, of which nothing was
    /// heard of late: an act whose answer is lost leaves its server in doubt, and a batch of them would leave no
    /// place for a release that then goes on without the load balancer.
    pub(super) fn tries_balancer(&self, id: DeploymentId) -> bool {
        let state = self.of(id);
        let row = &state.deployment;
        let is_seen = self.state.group.observed_at.is_some_and(|at| self.now.since(at) < SEEN_FOR);
        if is_seen || self.state.traffic_of(row) != Traffic::Asked {
            return false;
        }
        let counts = state.counts();
        let balancer = load_balancer(&row.frozen.load_balancer);
        let was_bypassed = row.ran_without.iter().any(|without| without.dependency == balancer);
        let has_answered = !was_bypassed && counts.sum(follows_markdown) > 0;
        !has_answered && counts.of(TargetStatus::MarkdownRunning) >= TRIED_AT_ONCE
    }

    /// When a balancer dies, the acts of a whole batch lose their answers before its breaker opens, and too many
    /// that are unknown brake a deployment (S2). Where they are bypassed instead, and fewer fail without them, that
    /// brake is over: a person cut the balancer off, or the group was told to do as if.
    fn forgive_lost_acts(&mut self, id: DeploymentId) {
        let state = self.of(id);
        let row = &state.deployment;
        let limit = row.config.failure_limit(self.slots(id).total);
        let is_theirs = row.hold(HoldReason::Failures).is_some_and(|hold| hold.by_lost_acts);
        let is_bypassed = self.state.traffic_of(row) == Traffic::Bypassed;
        if is_theirs && is_bypassed && row.status.is_running() && state.failed_or_unknown() < limit
        {
            self.clear_hold(id, HoldReason::Failures);
        }
    }

    /// Whether acts at the load balancer are still without an answer.
    fn has_lost_acts(&self, id: DeploymentId) -> bool {
        self.of(id).targets().iter().any(|target| {
            let is_act = target.status.running().is_some_and(|stage| !stage.is_order());
            is_act && target.unknown_since.is_some()
        })
    }

    /// Whether acts at the load balancer whose answers were lost just now, and nothing else, make one failure too
    /// many.
    pub(super) fn brakes_by_lost_acts(&self, id: DeploymentId) -> bool {
        let targets = self.of(id).targets();
        let lost = |is_order| {
            targets.iter().any(|it| {
                let is_such = it.status.running().is_some_and(|stage| stage.is_order() == is_order);
                it.unknown_since == Some(self.now) && is_such
            })
        };
        let fails = |it: &Target| it.status.is_failure() && it.status_since == self.now;
        lost(false) && !lost(true) && !targets.iter().any(fails)
    }

    /// Nobody looks whether servers that were drained again stay out, so nothing waits for it.
    fn forget_doubts(&mut self) {
        let Some(state) = self.state.running() else { return };
        let id = state.deployment.id;
        if self.state.traffic_of(&state.deployment) == Traffic::Bypassed {
            self.change_doubted(id, std::collections::BTreeSet::clear);
        }
    }

    /// Servers whose Markup is owed are asked what they run and brought into traffic, now that their
    /// load balancer is asked again.
    pub(super) fn pay_debts(&mut self) {
        if Traffic::of(&self.state.group.dependencies, self.state.binding()) != Traffic::Asked {
            return;
        }
        let owed: Vec<ServerId> = self
            .state
            .servers()
            .iter()
            .filter(|server| server.markup_owed.is_some() && !server.retired)
            .map(|server| server.id)
            .collect();
        for server in owed {
            self.change_server(server, |row| {
                if row.out_because != Some(OutBecause::Dead) {
                    row.dead_since = None;
                }
            });
            self.put_effect(EffectKind::ReturnServer(server));
        }
    }

    /// The hold `dependency`: as long as something that the deployment needs is not usable, or servers
    /// that were drained again were not seen to stay out since.
    pub(super) fn hold_for_dependencies(&mut self, id: DeploymentId) -> bool {
        let wanted = trouble(self.state, id);
        let hold = self.of(id).deployment.hold(HoldReason::Dependency);
        match (wanted, hold) {
            (Some(detail), None) => {
                self.set_hold(id, HoldReason::Dependency, detail);
                true
            }
            (Some(detail), Some(hold)) if hold.detail != detail => {
                self.change_hold_detail(id, &detail);
                false
            }
            (None, Some(hold)) if hold.doubted.is_empty() => {
                self.clear_hold(id, HoldReason::Dependency)
            }
            (None, Some(hold)) if hold.detail != super::observe::DOUBT => {
                self.change_hold_detail(id, super::observe::DOUBT);
                false
            }
            (Some(_) | None, Some(_)) | (None, None) => false,
        }
    }

    fn change_hold_detail(&mut self, id: DeploymentId, detail: &str) {
        self.change_deployment(id, |deployment| {
            let holds = deployment.holds.iter_mut();
            for hold in holds.filter(|hold| hold.reason == HoldReason::Dependency) {
                detail.clone_into(&mut hold.detail);
            }
        });
    }
}

/// What is wrong with the dependencies that a deployment cannot do without.
fn trouble(state: &GroupState, id: DeploymentId) -> Option<String> {
    let frozen = &state.deployment(id)?.deployment.frozen;
    let holding = crate::dependency::holding(&state.group.dependencies, frozen);
    let sentences: Vec<String> =
        holding.into_iter().map(|(name, impaired)| impaired.sentence(name)).collect();
    (!sentences.is_empty()).then(|| sentences.join("; "))
}
