//! Hosts in memory.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use capstan_core::ports::{
    Call, DriverError, Endpoint, Executor, Look, Order, OrderState, Report, Script,
};
use capstan_core::{OrderKey, ServerId};

use super::Fault;
use super::hosts::{Asked, Host, Outcome, Ran};

type Rule = Box<dyn Fn(&Asked<'_>) -> Outcome + Send + Sync>;

/// Gives orders to hosts in memory. Every order succeeds at once unless a test says otherwise.
///
/// An order that needs no time answers `Ended` when it is given, so nobody has to look again. Install
/// sets what the server runs, Verify and Check prove it, and a report tells it.
#[derive(Default)]
pub struct FakeExecutor {
    rule: Option<Rule>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hosts: HashMap<ServerId, Host>,
    scripted: HashMap<(ServerId, String, u32), Outcome>,
}

impl FakeExecutor {
    /// Hosts where everything succeeds at once.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hosts where `rule` says what becomes of an order for which nothing was scripted.
    pub fn with_rule(rule: impl Fn(&Asked<'_>) -> Outcome + Send + Sync + 'static) -> Self {
        Self { rule: Some(Box::new(rule)), ..Self::default() }
    }

    /// Scripts the `nth` order (from 1) of this stage, by its word in `CAPSTAN_STAGE`, on `server`.
    pub fn script(&self, server: ServerId, stage: &str, nth: u32, outcome: Outcome) {
        self.lock().scripted.insert((server, stage.to_owned(), nth), outcome);
    }

    /// No call reaches the host; what runs there goes on.
    pub fn cut_off(&self, server: ServerId) {
        self.host(server, |host| host.is_unreachable = true);
    }

    /// Calls reach the host again.
    pub fn reconnect(&self, server: ServerId) {
        self.host(server, |host| host.is_unreachable = false);
    }

    /// Says whether questions after orders are refused; what runs there goes on.
    pub fn refuse_looks(&self, server: ServerId, refuses: bool) {
        self.host(server, |host| host.refuses_looks = refuses);
    }

    /// The host starts again: the order under way is lost.
    pub fn reboot(&self, server: ServerId) {
        self.host(server, Host::reboot);
    }

    /// The host is set up anew: no order, no fence, nothing installed.
    pub fn wipe(&self, server: ServerId) {
        self.host(server, Host::wipe);
    }

    /// Says what the server runs.
    pub fn set_running(&self, server: ServerId, running: Option<Report>) {
        self.host(server, |host| host.running = running);
    }

    /// What the server runs.
    pub fn running(&self, server: ServerId) -> Option<Report> {
        self.host(server, |host| {
            host.settle();
            host.running.clone()
        })
    }

    /// The orders that the server took, oldest first.
    pub fn history(&self, server: ServerId) -> Vec<Ran> {
        self.host(server, |host| host.ran.clone())
    }

    /// How often a key ran, over all hosts.
    pub fn runs(&self, key: OrderKey) -> usize {
        let state = self.lock();
        state.hosts.values().flat_map(|host| &host.ran).filter(|ran| ran.key == key).count()
    }

    /// How many orders ran, over all hosts.
    pub fn total_runs(&self) -> usize {
        self.lock().hosts.values().map(|host| host.ran.len()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host<T>(&self, server: ServerId, act: impl FnOnce(&mut Host) -> T) -> T {
        act(self.lock().hosts.entry(server).or_default())
    }

    fn reach<T>(
        &self,
        server: ServerId,
        act: impl FnOnce(&mut Host) -> T,
    ) -> Result<T, DriverError> {
        self.host(
            server,
            |host| {
                if host.is_unreachable { Err(unreachable()) } else { Ok(act(host)) }
            },
        )
    }

    fn give(&self, server: ServerId, order: &Order) -> Result<(OrderState, Fault), DriverError> {
        let mut all = self.lock();
        let State { hosts, scripted } = &mut *all;
        let host = hosts.entry(server).or_default();
        if host.is_unreachable {
            return Err(unreachable());
        }
        if let Some(answer) = host.refuses(order.key, order.fence) {
            return Ok((answer, Fault::None));
        }
        let of = |name: &str| order.environment.get(name).map_or("", String::as_str);
        let stage = of("CAPSTAN_STAGE");
        let asked = Asked { server, stage, nth: host.nth(stage), version: of("CAPSTAN_VERSION") };
        let outcome = scripted
            .remove(&(server, stage.to_owned(), asked.nth))
            .or_else(|| self.rule.as_ref().map(|rule| rule(&asked)))
            .unwrap_or_else(|| Outcome::exit(0));
        let fault = outcome.fault.clone();
        fault.before()?;
        Ok((host.take(order, outcome), fault))
    }
}

impl Executor for FakeExecutor {
    fn start<'a>(&'a self, server: &'a Endpoint, order: &'a Order) -> Call<'a, OrderState> {
        Box::pin(async {
            let (state, fault) = self.give(server.server, order)?;
            fault.after(state).await
        })
    }

    fn look<'a>(&'a self, server: &'a Endpoint, key: OrderKey, offset: u64) -> Call<'a, Look> {
        Box::pin(async move {
            self.reach(server.server, |host| {
                if host.refuses_looks {
                    return Err(DriverError::Refused("the test refuses the look".to_owned()));
                }
                Ok(host.look(key, offset))
            })?
        })
    }

    fn cancel<'a>(
        &'a self,
        server: &'a Endpoint,
        key: OrderKey,
        fence: i64,
    ) -> Call<'a, OrderState> {
        Box::pin(async move { self.reach(server.server, |host| host.cancel(key, fence)) })
    }

    fn report<'a>(&'a self, server: &'a Endpoint, _script: &'a Script) -> Call<'a, Option<Report>> {
        Box::pin(async {
            self.reach(server.server, |host| {
                host.settle();
                host.running.clone()
            })
        })
    }
}

fn unreachable() -> DriverError {
    DriverError::Unknown("the test cut the host off".to_owned())
}
