//! Circuit breakers: a dependency that does not answer is not asked for a while, and one that a person
//! cut off is not asked at all.
//!
//! A breaker counts calls that got no answer ([`DriverError::Unknown`], a time limit too; of a question to the
//! CMDB or the package store [`DriverError::Busy`] as well). A refusal is an answer. It opens when so many calls
//! of a window got none as its threshold says, and no fewer than got one. Calls to an executor count once per
//! server, since one dead host is no broken executor; what is busy when it is asked about one group or package
//! counts for half of the threshold at most. That of a load balancer also opens when so many calls in a row got
//! none and nothing was heard for [`SILENCE`]. While a breaker is open calls answer [`DriverError::Busy`]: nothing
//! happened. After a while it lets single calls through as probes, and closes when enough of them were answered.

mod state;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use capstan_core::dependency::{BreakerReport, BreakerState, DependencyKind};
use capstan_core::ports::DriverError;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::state::{Phase, State};

pub use crate::switchboard::Switchboard;

/// Gauge of what becomes of calls to a dependency: 0 they are made, 1 probes are, 2 none is since it was
/// found broken, 3 none is since a person cut it off.
pub const STATE_METRIC: &str = "capstan_dependency_state";
/// Counter of calls that were not made.
pub const REFUSED_METRIC: &str = "capstan_dependency_refused_calls_total";

/// A load balancer of which nothing is heard for so long is broken, however much it answered before.
pub const SILENCE: Duration = Duration::from_secs(5);
/// Calls without an answer that are remembered; more of them say nothing new.
const REMEMBERED: usize = 1024;

/// When a breaker opens and closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Calls so long ago do not count any more.
    pub window: Duration,
    /// How many calls without an answer open it.
    pub threshold: usize,
    /// How long it stays open before a call is let through as a probe.
    pub open: Duration,
    /// How many probes must be answered before it closes; at most so many are under way at a time.
    pub probes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            threshold: 5,
            open: Duration::from_secs(10),
            probes: 2,
        }
    }
}

/// The breaker of one dependency.
#[derive(Debug)]
pub struct Breaker {
    name: String,
    kind: DependencyKind,
    settings: Settings,
    state: Mutex<State>,
    /// Whether a person cut the dependency off.
    is_cut_off: watch::Sender<bool>,
    changed: Arc<Notify>,
}

/// How a call that was let through ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended<'a> {
    /// There was an answer.
    Answered,
    /// The other side did nothing, and nothing follows from it.
    Idle,
    /// There was none.
    Lost(&'a str),
}

/// A call that was let through.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
    is_over: bool,
}

impl Breaker {
    /// A closed breaker on its own, for a driver that nobody watches.
    pub fn new(name: &str, kind: DependencyKind, settings: Settings) -> Self {
        Self::with_changes(name, kind, settings, Arc::default())
    }

    pub(crate) fn with_changes(
        name: &str,
        kind: DependencyKind,
        settings: Settings,
        changed: Arc<Notify>,
    ) -> Self {
        let state = State {
            phase: Phase::Closed,
            lost: VecDeque::new(),
            answers: VecDeque::new(),
            error: None,
            in_a_row: 0,
            answered_at: None,
        };
        let breaker = Self {
            name: name.to_owned(),
            kind,
            settings,
            state: Mutex::new(state),
            is_cut_off: watch::Sender::new(false),
            changed,
        };
        breaker.tell_metric(BreakerState::Closed);
        breaker
    }

    /// Whether a call may be made now.
    pub(crate) fn ask(&self) -> Result<Permit<'_>, DriverError> {
        if *self.is_cut_off.borrow() {
            return Err(self.refuse("cut_off", "is cut off"));
        }
        let mut state = self.lock();
        let is_probe = match state.phase {
            Phase::Closed => false,
            Phase::Open { until } if Instant::now() < until => {
                return Err(self.refuse("open", "does not answer, and is asked again later"));
            }
            Phase::Open { .. } => {
                self.enter(&mut state, Phase::HalfOpen { under_way: 1, answered: 0 });
                true
            }
            Phase::HalfOpen { under_way, answered } => {
                if under_way + answered >= self.settings.probes {
                    return Err(self.refuse("open", "does not answer, and is being probed"));
                }
                state.phase = Phase::HalfOpen { under_way: under_way + 1, answered };
                true
            }
        };
        Ok(Permit { breaker: self, is_probe, is_over: false })
    }

    fn refuse(&self, why: &'static str, text: &str) -> DriverError {
        metrics::counter!(REFUSED_METRIC, "dependency" => self.name.clone(), "why" => why)
            .increment(1);
        DriverError::Busy(format!("{} {text}", self.name))
    }

    fn answered(&self, is_probe: bool) {
        let mut state = self.lock();
        state.in_a_row = 0;
        state.answered_at = Some(Instant::now());
        match state.phase {
            Phase::Closed => state.count_answer(self.settings.window),
            Phase::HalfOpen { under_way, answered } if is_probe => {
                let (under_way, answered) = (under_way.saturating_sub(1), answered + 1);
                if answered >= self.settings.probes {
                    state.lost.clear();
                    state.answers.clear();
                    self.enter(&mut state, Phase::Closed);
                } else {
                    state.phase = Phase::HalfOpen { under_way, answered };
                }
            }
            Phase::Open { .. } | Phase::HalfOpen { .. } => {}
        }
    }

    fn idle(&self, is_probe: bool) {
        let mut state = self.lock();
        if let (Phase::HalfOpen { under_way, answered }, true) = (state.phase, is_probe) {
            let under_way = under_way.saturating_sub(1);
            state.phase = Phase::HalfOpen { under_way, answered };
        }
    }

    fn lost(&self, is_probe: bool, subject: Option<u64>, error: &str) {
        let mut state = self.lock();
        state.in_a_row += 1;
        let now = Instant::now();
        let opens = match state.phase {
            Phase::Closed => {
                state.forget(now, self.settings.window);
                state.lost.push_back((now, subject));
                if state.lost.len() > REMEMBERED {
                    state.lost.pop_front();
                }
                self.is_too_much(&state)
            }
            Phase::HalfOpen { .. } => is_probe,
            Phase::Open { .. } => false,
        };
        if opens {
            if matches!(state.phase, Phase::Closed) {
                state.error = Some(error.to_owned());
            }
            self.enter(&mut state, Phase::Open { until: now + self.settings.open });
        }
    }

    fn is_too_much(&self, state: &State) -> bool {
        let answers: usize = state.answers.iter().map(|(_, count)| count).sum();
        let most = self.settings.threshold.max(1);
        let all = state.lost.len();
        // A dead host is asked as often as the others, so all calls are compared with all answers.
        let (lost, compared) = match self.kind {
            DependencyKind::Executor => (counted(state, 1), all),
            // One group or package that cannot be had does not make them broken for all others.
            DependencyKind::Cmdb | DependencyKind::PackageStore => {
                let lost = counted(state, most.div_ceil(2));
                (lost, lost)
            }
            DependencyKind::LoadBalancer | DependencyKind::Broker | DependencyKind::Queue => {
                (all, all)
            }
        };
        let is_silent = self.kind == DependencyKind::LoadBalancer
            && state.in_a_row >= most
            && state.answered_at.is_none_or(|at| at.elapsed() >= SILENCE);
        lost >= most && (compared >= answers || is_silent)
    }

    fn enter(&self, state: &mut State, phase: Phase) {
        let before = state.phase.state();
        state.phase = phase;
        let after = phase.state();
        if before == after {
            return;
        }
        let error = state.error.as_deref().unwrap_or_default();
        let (from, to) = (before.word(), after.word());
        match after {
            BreakerState::Open => {
                tracing::warn!(dependency = self.name, from, to, error, "a dependency is broken");
            }
            BreakerState::HalfOpen => {
                tracing::info!(dependency = self.name, from, to, "a dependency is probed");
            }
            BreakerState::Closed => {
                tracing::info!(dependency = self.name, from, to, "a dependency answers again");
            }
        }
        self.tell_metric(after);
        self.changed.notify_one();
    }

    fn tell_metric(&self, state: BreakerState) {
        let value = match state {
            _ if self.is_cut_off() => 3.0,
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 1.0,
            BreakerState::Open => 2.0,
        };
        metrics::gauge!(STATE_METRIC, "dependency" => self.name.clone()).set(value);
    }

    /// Sets or takes back the hand switch.
    pub(crate) fn switch(&self, is_cut_off: bool) {
        let changed = self
            .is_cut_off
            .send_if_modified(|now| std::mem::replace(now, is_cut_off) != is_cut_off);
        if changed {
            tracing::info!(dependency = self.name, is_cut_off, "the hand switch was set");
            let state = self.lock().phase.state();
            self.tell_metric(state);
        }
    }

    /// Whether the hand switch is set.
    pub(crate) fn is_cut_off(&self) -> bool {
        *self.is_cut_off.borrow()
    }

    /// Whether calls are refused now.
    pub(crate) fn refuses(&self) -> bool {
        let is_open = match self.lock().phase {
            Phase::Closed | Phase::HalfOpen { .. } => false,
            // Then somebody must ask, or it would never be known to answer again.
            Phase::Open { until } => Instant::now() < until,
        };
        is_open || self.is_cut_off()
    }

    /// Waits until the hand switch stands so.
    pub(crate) async fn until_cut_off(&self, is_cut_off: bool) {
        let mut switch = self.is_cut_off.subscribe();
        // The sender lives as long as this breaker.
        drop(switch.wait_for(|now| *now == is_cut_off).await);
    }

    /// Waits until a call may be made, if only a probe.
    pub(crate) async fn until_asked(&self) {
        loop {
            self.until_cut_off(false).await;
            let phase = self.lock().phase;
            match phase {
                Phase::Open { until } if Instant::now() < until => {
                    tokio::time::sleep_until(until).await;
                }
                Phase::Closed | Phase::Open { .. } | Phase::HalfOpen { .. } => return,
            }
        }
    }

    pub(crate) fn report(&self) -> BreakerReport {
        let state = self.lock();
        // Told each time: whoever installs a recorder may do so later.
        self.tell_metric(state.phase.state());
        BreakerReport {
            name: self.name.clone(),
            kind: self.kind,
            state: state.phase.state(),
            error: state.error.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls without an answer, those about one subject counted so often at most.
fn counted(state: &State, most: usize) -> usize {
    let mut counts = BTreeMap::<Option<u64>, usize>::new();
    for (_, subject) in &state.lost {
        *counts.entry(*subject).or_default() += 1;
    }
    let of_one = |(subject, count): (&Option<u64>, &usize)| {
        if subject.is_some() { most.min(*count) } else { *count }
    };
    counts.iter().map(of_one).sum()
}

impl Permit<'_> {
    /// Whether it finds out whether the dependency answers again.
    pub(crate) const fn is_probe(&self) -> bool {
        self.is_probe
    }

    pub(crate) fn end(mut self, ended: Ended<'_>, subject: Option<u64>) {
        self.is_over = true;
        match ended {
            Ended::Answered => self.breaker.answered(self.is_probe),
            Ended::Idle => self.breaker.idle(self.is_probe),
            Ended::Lost(error) => self.breaker.lost(self.is_probe, subject, error),
        }
    }
}

impl Drop for Permit<'_> {
    /// Who asked has gone: nothing is known, and the next probe may be made.
    fn drop(&mut self) {
        if !self.is_over {
            self.breaker.idle(self.is_probe);
        }
    }
}
