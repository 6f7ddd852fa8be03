//! One host in memory: what `agent-scripts/order` and the scripts do there.

use std::collections::HashMap;
use std::time::Duration;

use capstan_core::ports::{Look, Order, OrderState, Report};
use capstan_core::{OrderKey, ServerId};
use tokio::time::Instant;

use super::Fault;

/// How much output one look gives.
const CHUNK: usize = 64 * 1024;
/// Exit codes of host scripts.
const ALREADY_SO: i32 = 10;
const WILL_NOT_SUCCEED: i32 = 20;
/// Exit code of a script that passed its time limit.
const TIMED_OUT: i32 = 124;

/// An order that a host is asked to run, for [`super::FakeExecutor::with_rule`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The server.
    pub server: ServerId,
    /// `CAPSTAN_STAGE` of the order.
    pub stage: &'a str,
    /// How many orders of this stage the server has had, this one included; from 1.
    pub nth: u32,
    /// `CAPSTAN_VERSION` of the order.
    pub version: &'a str,
}

/// How a script ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this exit code. A success of `VERIFY` or `CHECK` becomes 20 on a server that does not run
    /// the order's package.
    Exit(i32),
    /// The process is gone without an exit code.
    Vanish,
    /// The host forgets that it ever had the order.
    Forget,
}

/// What becomes of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How its script ends.
    pub end: End,
    /// How long the script runs.
    pub after: Duration,
    /// What it prints, all at its start.
    pub output: Vec<u8>,
    /// What goes wrong with the call that gives the order.
    pub fault: Fault,
}

impl Outcome {
    /// The script ends at once with this code.
    pub fn exit(code: i32) -> Self {
        Self { end: End::Exit(code), after: Duration::ZERO, output: Vec::new(), fault: Fault::None }
    }

    /// The script ends at once like this.
    pub fn ends(end: End) -> Self {
        Self { end, ..Self::exit(0) }
    }

    /// The same, but the script runs this long.
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        self.after = time;
        self
    }

    /// The same, but the script never ends by itself.
    #[must_use]
    pub fn never(self) -> Self {
        self.after(Duration::MAX)
    }

    /// The same with this output.
    #[must_use]
    pub fn printing(mut self, output: impl Into<Vec<u8>>) -> Self {
        self.output = output.into();
        self
    }

    /// The same, but the call that gives the order meets `fault`.
    #[must_use]
    pub fn with(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }
}

/// An order that a host took, in the order in which it took them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its key.
    pub key: OrderKey,
    /// Its fence.
    pub fence: i64,
    /// Its stage.
    pub stage: String,
}

#[derive(Debug)]
struct Taken {
    state: OrderState,
    end: End,
    ends_at: Option<Instant>,
    stage: String,
    package: Report,
    output: Vec<u8>,
}

/// What one server knows and runs.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) is_unreachable: bool,
    pub(super) refuses_looks: bool,
    pub(super) running: Option<Report>,
    pub(super) ran: Vec<Ran>,
    fence: i64,
    orders: HashMap<OrderKey, Taken>,
    under_way: Option<OrderKey>,
    asked: HashMap<String, u32>,
}

impl Host {
    /// How often this stage was asked for, once more now.
    pub(super) fn nth(&mut self, stage: &str) -> u32 {
        if let Some(count) = self.asked.get_mut(stage) {
            *count += 1;
            return *count;
        }
        self.asked.insert(stage.to_owned(), 1);
        1
    }

    /// The state of a key that must not be run, or of an order that is too old.
    pub(super) fn refuses(&mut self, key: OrderKey, fence: i64) -> Option<OrderState> {
        self.settle();
        if let Some(taken) = self.orders.get(&key) {
            return Some(taken.state.clone());
        }
        (fence < self.fence).then_some(OrderState::Stale(self.fence))
    }

    /// Takes an order that [`Self::refuses`] nothing about.
    pub(super) fn take(&mut self, order: &Order, outcome: Outcome) -> OrderState {
        self.fence = self.fence.max(order.fence);
        if let Some(old) = self.under_way.take().and_then(|key| self.orders.get_mut(&key)) {
            old.state = OrderState::Cancelled;
        }
        let of = |name: &str| order.environment.get(name).cloned().unwrap_or_default();
        let (end, after) = if outcome.after > order.time_limit {
            (End::Exit(TIMED_OUT), order.time_limit)
        } else {
            (outcome.end, outcome.after)
        };
        let taken = Taken {
            state: OrderState::Running,
            end,
            // Who needs no time needs no clock either.
            ends_at: (!after.is_zero()).then(|| Instant::now() + after),
            stage: of("CAPSTAN_STAGE"),
            package: Report {
                version: of("CAPSTAN_VERSION"),
                sha256: of("CAPSTAN_PACKAGE_SHA256"),
            },
            output: outcome.output,
        };
        self.ran.push(Ran { key: order.key, fence: order.fence, stage: taken.stage.clone() });
        self.orders.insert(order.key, taken);
        self.under_way = Some(order.key);
        self.settle();
        self.orders.get(&order.key).map_or(OrderState::Running, |taken| taken.state.clone())
    }

    pub(super) fn look(&mut self, key: OrderKey, offset: u64) -> Look {
        self.settle();
        let Some(taken) = self.orders.get(&key) else {
            return Look { state: OrderState::Unknown, output: Vec::new() };
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(taken.output.len());
        let to = taken.output.len().min(from + CHUNK);
        Look { state: taken.state.clone(), output: taken.output[from..to].to_vec() }
    }

    pub(super) fn cancel(&mut self, key: OrderKey, fence: i64) -> OrderState {
        self.settle();
        if fence < self.fence {
            return OrderState::Stale(self.fence);
        }
        self.fence = fence;
        if self.under_way == Some(key) {
            self.under_way = None;
        }
        // A key that has not come yet is noted too: it may still be on its way.
        let taken = self.orders.entry(key).or_insert_with(|| Taken {
            state: OrderState::Running,
            end: End::Vanish,
            ends_at: None,
            stage: String::new(),
            package: Report { version: String::new(), sha256: String::new() },
            output: Vec::new(),
        });
        if taken.state == OrderState::Running {
            taken.state = OrderState::Cancelled;
        }
        taken.state.clone()
    }

    /// The machine starts again: what ran is gone, what is written stays.
    pub(super) fn reboot(&mut self) {
        self.settle();
        if let Some(taken) = self.under_way.take().and_then(|key| self.orders.get_mut(&key)) {
            taken.state = OrderState::Lost;
        }
    }

    /// The machine is set up anew.
    pub(super) fn wipe(&mut self) {
        *self = Self { ran: std::mem::take(&mut self.ran), ..Self::default() };
    }

    /// Ends the order under way if its time has come.
    pub(super) fn settle(&mut self) {
        let Some(key) = self.under_way else { return };
        let taken = self.orders.get_mut(&key).expect("the order under way is known");
        if taken.ends_at.is_some_and(|ends_at| Instant::now() < ends_at) {
            return;
        }
        self.under_way = None;
        match taken.end {
            End::Exit(code) => {
                let code = effect(code, &taken.stage, &taken.package, &mut self.running);
                taken.state = OrderState::Ended(code);
            }
            End::Vanish => taken.state = OrderState::Lost,
            End::Forget => {
                self.orders.remove(&key);
            }
        }
    }
}

/// What a script that ends with `code` has done; the code that it really ends with.
fn effect(code: i32, stage: &str, package: &Report, running: &mut Option<Report>) -> i32 {
    let is_success = code == 0 || code == ALREADY_SO;
    match stage {
        "INSTALL" if is_success => {
            *running = Some(package.clone());
            code
        }
        "VERIFY" | "CHECK" if is_success && running.as_ref() != Some(package) => WILL_NOT_SUCCEED,
        _ => code,
    }
}
