//! Drivers that do nothing but note when they were called.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use capstan_core::ports::{
    Call, DriverError, Endpoint, Executor, LoadBalancer, Look, Order, OrderState, Report, Script,
    Seen, Sight,
};
use capstan_core::{OrderKey, ServerId};

/// Drivers that succeed at once and note when they were called and when they answered.
#[derive(Default)]
pub(crate) struct Recorder {
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    answered: BTreeMap<ServerId, Instant>,
    gaps: Vec<Duration>,
    last_call: Option<Instant>,
    calls: usize,
}

impl Recorder {
    fn noted(&self) -> std::sync::MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn called(&self, server: ServerId) {
        self.noted().called(server);
    }

    /// Its first stage of a rollout: what lies before it is the rollout before.
    fn begins(&self, server: ServerId) {
        let mut noted = self.noted();
        noted.answered.remove(&server);
        noted.called(server);
    }

    pub(crate) fn gaps(&self) -> (Duration, Duration) {
        let mut gaps = std::mem::take(&mut self.noted().gaps);
        gaps.sort_unstable();
        let at = |share: usize| gaps.get(gaps.len() * share / 100).copied().unwrap_or_default();
        (at(50), at(99))
    }

    pub(crate) fn last_call(&self) -> Option<Instant> {
        self.noted().last_call
    }

    pub(crate) fn calls(&self) -> usize {
        self.noted().calls
    }
}

impl Noted {
    fn called(&mut self, server: ServerId) {
        let now = Instant::now();
        self.calls += 1;
        self.last_call = Some(now);
        if let Some(answered) = self.answered.insert(server, now) {
            self.gaps.push(now.duration_since(answered));
        }
    }
}

impl LoadBalancer for Recorder {
    fn can_drain(&self) -> bool {
        false
    }

    fn sees_all_at_once(&self) -> bool {
        true
    }

    fn drain<'a>(&'a self, server: &'a Endpoint) -> Call<'a, ()> {
        self.begins(server.server);
        Box::pin(std::future::ready(Ok(())))
    }

    fn admit<'a>(&'a self, server: &'a Endpoint) -> Call<'a, ()> {
        self.called(server.server);
        Box::pin(std::future::ready(Ok(())))
    }

    fn observe<'a>(&'a self, servers: &'a [Endpoint]) -> Call<'a, Vec<Seen>> {
        let seen = |server: &Endpoint| Seen {
            server: server.server,
            sight: Sight::Serving,
            in_flight: Some(0),
        };
        Box::pin(std::future::ready(Ok(servers.iter().map(seen).collect())))
    }
}

impl Executor for Recorder {
    fn start<'a>(&'a self, server: &'a Endpoint, _: &'a Order) -> Call<'a, OrderState> {
        self.called(server.server);
        Box::pin(std::future::ready(Ok(OrderState::Ended(0))))
    }

    fn look<'a>(&'a self, _: &'a Endpoint, _: OrderKey, _: u64) -> Call<'a, Look> {
        let look = Look { state: OrderState::Ended(0), output: Vec::new() };
        Box::pin(std::future::ready(Ok(look)))
    }

    fn cancel<'a>(&'a self, _: &'a Endpoint, _: OrderKey, _: i64) -> Call<'a, OrderState> {
        Box::pin(std::future::ready(Ok(OrderState::Cancelled)))
    }

    fn report<'a>(&'a self, _: &'a Endpoint, _: &'a Script) -> Call<'a, Option<Report>> {
        Box::pin(std::future::ready(Err(DriverError::Refused("nothing runs here".into()))))
    }
}
