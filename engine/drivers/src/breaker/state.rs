//! What a breaker remembers of calls.

use std::collections::VecDeque;
use std::time::Duration;

use capstan_core::dependency::BreakerState;
use tokio::time::Instant;

/// Parts of a window in which answers are counted together.
const PARTS: u32 = 10;

#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// Calls without an answer, and whom each was about, if one.
    pub(super) lost: VecDeque<(Instant, Option<u64>)>,
    /// Answers by part of the window.
    pub(super) answers: VecDeque<(Instant, usize)>,
    pub(super) error: Option<String>,
    /// Calls without an answer since the last answer.
    pub(super) in_a_row: usize,
    /// When a call was answered last.
    pub(super) answered_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { under_way: u32, answered: u32 },
}

impl Phase {
    pub(super) fn state(self) -> BreakerState {
        match self {
            Self::Closed => BreakerState::Closed,
            Self::Open { .. } => BreakerState::Open,
            Self::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }
}

impl State {
    pub(super) fn forget(&mut self, now: Instant, window: Duration) {
        let is_old = |at: Instant| now.duration_since(at) > window;
        while self.lost.front().is_some_and(|(at, _)| is_old(*at)) {
            self.lost.pop_front();
        }
        while self.answers.front().is_some_and(|(at, _)| is_old(*at)) {
            self.answers.pop_front();
        }
    }

    pub(super) fn count_answer(&mut self, window: Duration) {
        let now = Instant::now();
        match self.answers.back_mut() {
            Some((at, count)) if now.duration_since(*at) < window / PARTS => *count += 1,
            Some(_) | None => {
                self.forget(now, window);
                self.answers.push_back((now, 1));
            }
        }
    }
}
