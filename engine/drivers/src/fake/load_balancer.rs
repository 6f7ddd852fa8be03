//! A load balancer in memory.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use capstan_core::ServerId;
use capstan_core::ports::{Call, DriverError, Endpoint, LoadBalancer, Seen, Sight};

use super::Fault;

/// A call to a load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// `drain`.
    Drain,
    /// `admit`.
    Admit,
    /// `observe`.
    Observe,
}

/// How often a server was acted on or looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calls {
    /// Drains that happened.
    pub drains: u32,
    /// Admits that happened.
    pub admits: u32,
    /// Looks that happened.
    pub looks: u32,
}

#[derive(Debug, Default)]
struct Member {
    is_marked: bool,
    is_taken_out: bool,
    is_dead: bool,
    in_flight: u32,
    calls: Calls,
    faults: HashMap<Act, VecDeque<Fault>>,
}

impl Member {
    fn sight(&self) -> Sight {
        if self.is_marked {
            Sight::Drained
        } else if self.is_taken_out {
            Sight::TakenOut
        } else if self.is_dead {
            Sight::Dead
        } else {
            Sight::Serving
        }
    }

    fn next_fault(&mut self, act: Act) -> Option<Fault> {
        self.faults.get_mut(&act)?.pop_front()
    }
}

#[derive(Debug, Default)]
struct State {
    members: HashMap<ServerId, Member>,
    standing: HashMap<Act, Fault>,
}

/// A load balancer that can drain. Servers that nobody spoke of are serving.
///
/// What it shows: our mark first, then the mark of others, then death. While a server is out of
/// traffic, each look at it ends one of its requests under way.
#[derive(Debug, Default)]
pub struct FakeLoadBalancer {
    state: Mutex<State>,
    must_probe: AtomicBool,
}

impl FakeLoadBalancer {
    /// A load balancer without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on it is one that must probe each server by itself.
    pub fn must_probe(&self) {
        self.must_probe.store(true, Ordering::SeqCst);
    }

    /// The next call of this kind for `server` meets `fault`; faults queue up. For a look at many
    /// servers, a refused, busy or lost one makes this server's sight unknown.
    pub fn fail_next(&self, server: ServerId, act: Act, fault: Fault) {
        self.change(server, |member| member.faults.entry(act).or_default().push_back(fault));
    }

    /// Every call of this kind meets `fault` until another is set; [`Fault::None`] ends it.
    pub fn fail_all(&self, act: Act, fault: Fault) {
        self.lock().standing.insert(act, fault);
    }

    /// Somebody else takes the server out.
    pub fn take_out(&self, server: ServerId) {
        self.change(server, |member| member.is_taken_out = true);
    }

    /// Somebody else puts the server back.
    pub fn put_back(&self, server: ServerId) {
        self.change(server, |member| member.is_taken_out = false);
    }

    /// Somebody removes our mark behind our back.
    pub fn remove_mark(&self, server: ServerId) {
        self.change(server, |member| member.is_marked = false);
    }

    /// The server stops answering.
    pub fn kill(&self, server: ServerId) {
        self.change(server, |member| member.is_dead = true);
    }

    /// The server answers again.
    pub fn revive(&self, server: ServerId) {
        self.change(server, |member| member.is_dead = false);
    }

    /// Sets the number of requests under way on the server.
    pub fn set_in_flight(&self, server: ServerId, count: u32) {
        self.change(server, |member| member.in_flight = count);
    }

    /// What the load balancer would show of the server.
    pub fn sight(&self, server: ServerId) -> Sight {
        self.lock().members.get(&server).map_or(Sight::Serving, Member::sight)
    }

    /// How often the server was acted on or looked at.
    pub fn calls(&self, server: ServerId) -> Calls {
        self.lock().members.get(&server).map_or_else(Calls::default, |member| member.calls)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, server: ServerId, change: impl FnOnce(&mut Member) -> T) -> T {
        change(self.lock().members.entry(server).or_default())
    }

    fn act(&self, server: ServerId, act: Act) -> Result<Fault, DriverError> {
        let mut state = self.lock();
        let standing = state.standing.get(&act).cloned().unwrap_or_default();
        let member = state.members.entry(server).or_default();
        let fault = member.next_fault(act).unwrap_or(standing);
        fault.before()?;
        match act {
            Act::Drain => {
                member.is_marked = true;
                member.calls.drains += 1;
            }
            Act::Admit => {
                member.is_marked = false;
                member.calls.admits += 1;
            }
            Act::Observe => {}
        }
        Ok(fault)
    }

    fn look(&self, servers: &[Endpoint]) -> Result<(Vec<Seen>, Fault), DriverError> {
        let mut state = self.lock();
        let standing = state.standing.get(&Act::Observe).cloned().unwrap_or_default();
        standing.before()?;
        let look = |server: &Endpoint| {
            let member = state.members.entry(server.server).or_default();
            let server = server.server;
            match member.next_fault(Act::Observe) {
                None | Some(Fault::None | Fault::Delay(_)) => {}
                Some(Fault::Refuse | Fault::Busy | Fault::LoseAnswer | Fault::LoseQuestion) => {
                    return Seen { server, sight: Sight::Unknown, in_flight: None };
                }
            }
            member.calls.looks += 1;
            if member.sight() != Sight::Serving {
                member.in_flight = member.in_flight.saturating_sub(1);
            }
            Seen { server, sight: member.sight(), in_flight: Some(member.in_flight) }
        };
        Ok((servers.iter().map(look).collect(), standing))
    }
}

impl LoadBalancer for FakeLoadBalancer {
    fn can_drain(&self) -> bool {
        true
    }

    fn sees_all_at_once(&self) -> bool {
        !self.must_probe.load(Ordering::SeqCst)
    }

    fn drain<'a>(&'a self, server: &'a Endpoint) -> Call<'a, ()> {
        Box::pin(async { self.act(server.server, Act::Drain)?.after(()).await })
    }

    fn admit<'a>(&'a self, server: &'a Endpoint) -> Call<'a, ()> {
        Box::pin(async { self.act(server.server, Act::Admit)?.after(()).await })
    }

    fn observe<'a>(&'a self, servers: &'a [Endpoint]) -> Call<'a, Vec<Seen>> {
        Box::pin(async {
            let (seen, fault) = self.look(servers)?;
            fault.after(seen).await
        })
    }
}
