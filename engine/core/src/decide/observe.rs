//! What is seen of servers (S13): traffic state is observed, not assumed.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::dependency::Traffic;
use crate::effect::{Effect, EffectKind};
use crate::event::{EventData, EventType};
use crate::input::Answer;
use crate::ports::Sight;
use crate::record::{Cause, Flavor, HoldReason, OutBecause, Server, Service};
use crate::state::GroupState;
use crate::target_status::{TargetEvent, TargetStatus};
use crate::{DeploymentId, ServerId, Timestamp};

use super::Decider;
use super::late_mark::{came_late, has_late_mark};

/// Time between two looks at the servers of a deployment under way.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// What the hold `dependency` says of servers that do not stay drained.
pub(super) const DOUBT: &str = "a server that was drained is in traffic for the second time";

impl Decider<'_> {
    pub(super) fn observed(
        &mut self,
        asked_by: Option<DeploymentId>,
        seen: &[(ServerId, Sight)],
        can_drain: bool,
    ) -> Answer {
        for (server, sight) in seen {
            self.see(*server, *sight, can_drain);
        }
        // Of a load balancer that shows nothing of anybody nothing was heard.
        let is_seen = seen.iter().any(|(_, sight)| *sight != Sight::Unknown);
        if is_seen && seen.len() >= self.state.census().members as usize {
            self.state.group.observed_at = Some(self.now);
            self.changes.group = true;
        }
        if let Some(id) = asked_by {
            self.look_again(id);
        }
        if can_drain {
            self.trust_again(seen);
        }
        Answer::Done
    }

    /// The next look at the servers, as long as the deployment is under way.
    pub(super) fn look_again(&mut self, id: DeploymentId) {
        let kind = EffectKind::ObserveServers(id);
        if self.of(id).deployment.status.is_running() {
            let (group, due_at) = (self.state.id(), self.now + LOOK_INTERVAL);
            self.changes.put(Effect { kind, group, due_at });
        } else {
            self.changes.delete(kind);
        }
    }

    pub(super) fn see(&mut self, id: ServerId, sight: Sight, can_drain: bool) {
        let Some(server) = self.state.server(id).filter(|server| !server.retired) else { return };
        let is_out = server.service == Service::Out;
        let is_kept_out = server
            .out_because
            .is_some_and(|because| because.is_ours() || because == OutBecause::Person);
        let was_dead = server.dead_since.is_some() && !is_kept_out;
        match sight {
            Sight::Serving => self.see_serving(id, can_drain),
            Sight::Dead => self.see_dead(id),
            // Its Markdown was bypassed, and the call that was given up on came through: it is drained.
            Sight::Drained
                if matches!(
                    server.out_because,
                    Some(OutBecause::Target | OutBecause::Bypassed)
                ) =>
            {
                if !server.drained {
                    self.is_drained(id);
                }
            }
            Sight::Drained if came_late(server) => self.remove_late_mark(id),
            Sight::Drained | Sight::TakenOut if !is_out => {
                self.server_out(id, OutBecause::Outside, "the load balancer does not send traffic");
                self.visit_left_out(id);
            }
            Sight::Drained | Sight::TakenOut if was_dead => {
                self.change_server(id, |server| {
                    server.dead_since = None;
                    server.out_because = Some(OutBecause::Outside);
                });
                self.visit_left_out(id);
            }
            Sight::Drained | Sight::TakenOut | Sight::Unknown => {}
        }
    }

    fn see_serving(&mut self, id: ServerId, can_drain: bool) {
        let Some(server) = self.state.server(id) else { return };
        match (server.service, server.out_because) {
            (Service::In | Service::Out, _)
                if server.markup_owed.is_some() && server.pulled_out.is_none() =>
            {
                self.change_server(id, |server| server.drained = false);
                self.changes.delete(EffectKind::ReturnServer(id));
                self.changes.delete(EffectKind::DrainServer(id));
                self.server_in(id, "its Markup was bypassed, and it is seen in traffic");
            }
            (Service::Unknown, _) => self.server_in(id, "it serves"),
            // Whoever put it to work: it serves, and so it is not taken without a slot.
            (Service::Out, Some(OutBecause::New)) => self.server_in(id, "it is new and serves"),
            (Service::Out, Some(OutBecause::Dead)) => self.server_in(id, "it answers again"),
            (Service::Out, Some(OutBecause::Outside)) if can_drain => {
                self.server_in(id, "the load balancer sends traffic again");
            }
            (Service::Out, _) if can_drain && has_late_mark(server) => self.late_mark_is_off(id),
            (Service::Out, Some(OutBecause::Target | OutBecause::Person))
                if can_drain && server.drained && !self.moves_in_traffic(id) =>
            {
                self.drain_again(id);
            }
            (Service::Out, Some(OutBecause::Target | OutBecause::Bypassed))
                if can_drain && !server.drained =>
            {
                self.drain_now(id);
            }
            (Service::In | Service::Out, _) => {}
        }
    }

    /// The load balancer is bypassed, and the server was asked itself: one in service that does not answer
    /// is dead all the same, and one that was in service before it died is so again (S13). In every other
    /// case the load balancer alone says how a server stands.
    pub(super) fn see_health(&mut self, id: ServerId, answers: bool) {
        let traffic = Traffic::of(&self.state.group.dependencies, self.state.binding());
        let Some(server) = self.state.server(id).filter(|server| !server.retired) else { return };
        if traffic != Traffic::Bypassed || server.service == Service::Unknown {
            return;
        }
        let was_in_service = server.out_because == Some(OutBecause::Dead);
        match answers {
            false => self.see_dead(id),
            true if was_in_service && server.pulled_out.is_none() => {
                let owed = server.markup_owed.clone();
                self.server_in(id, "it answers again");
                // Its load balancer is still to confirm it.
                self.change_server(id, |server| server.markup_owed = owed);
            }
            true => {}
        }
    }

    /// Whether its target is being taken out of traffic or put back just now.
    pub(super) fn moves_in_traffic(&self, server: ServerId) -> bool {
        has_target_in(self.state, server, TargetStatus::MarkdownRunning)
            || has_target_in(self.state, server, TargetStatus::MarkupRunning)
    }

    /// Its Markdown was bypassed, and its load balancer is back while it is still out by us.
    fn drain_now(&mut self, id: ServerId) {
        self.is_drained(id);
        let message = "its Markdown had been bypassed; it is drained now";
        let data = EventData { message: Some(message.to_owned()), ..EventData::default() };
        self.server_event(id, EventType::ServerDrained, data);
        self.put_effect(EffectKind::DrainServer(id));
    }

    /// It is out by us and carries our mark from here on.
    fn is_drained(&mut self, id: ServerId) {
        self.change_server(id, |server| {
            server.drained = true;
            server.out_because = Some(OutBecause::Target);
        });
    }

    /// Out by us and in traffic: drained again and reported, the second time with a hold (S13).
    fn drain_again(&mut self, id: ServerId) {
        let twice = self.state.server(id).is_some_and(|server| server.drained_again);
        self.change_server(id, |server| server.drained_again = true);
        self.forget_failed_markdown(id);
        let message = "it is in traffic although it was drained; it is drained again";
        let data = EventData { message: Some(message.to_owned()), ..EventData::default() };
        self.server_event(id, EventType::ServerDrainedAgain, data);
        self.put_effect(EffectKind::DrainServer(id));
        let Some(running) = self.state.running().map(|state| state.deployment.id) else { return };
        let hold = self.of(running).deployment.hold(HoldReason::Dependency);
        if hold.is_some_and(|hold| twice || !hold.doubted.is_empty()) {
            self.change_doubted(running, |doubted| {
                doubted.insert(id);
            });
        } else if twice {
            self.set_hold(running, HoldReason::Dependency, DOUBT.to_owned());
            let doubted: Vec<ServerId> = self
                .state
                .servers()
                .iter()
                .filter(|row| is_doubtful(row))
                .map(|row| row.id)
                .collect();
            self.change_doubted(running, |all| all.extend(doubted));
        }
    }

    /// Changes which servers the hold `dependency` waits for.
    pub(super) fn change_doubted(
        &mut self,
        id: DeploymentId,
        change: impl FnOnce(&mut BTreeSet<ServerId>),
    ) {
        let Some(hold) = self.of(id).deployment.hold(HoldReason::Dependency) else { return };
        let mut doubted: BTreeSet<ServerId> = hold.doubted.iter().copied().collect();
        change(&mut doubted);
        if doubted.iter().eq(&hold.doubted) {
            return;
        }
        self.change_deployment(id, |deployment| {
            let holds = deployment.holds.iter_mut();
            for hold in holds.filter(|hold| hold.reason == HoldReason::Dependency) {
                hold.doubted = doubted.iter().copied().collect();
            }
        });
    }

    /// Its Markdown had failed, and now it is drained after all: the end of its target does not give
    /// it back, since our own mark is on it.
    fn forget_failed_markdown(&mut self, server: ServerId) {
        let taken = self.state.running().and_then(|state| {
            let place = state.place_of_server(server)?;
            state.targets()[place].took.then_some((state.deployment.id, place))
        });
        if let Some((id, place)) = taken {
            self.change_target(id, place, |target| target.took = false);
        }
    }

    /// The hold of [`Self::drain_again`] ends when every server that was drained again was seen to
    /// stay out of traffic since, be it in several looks: the load balancer does again what it is told.
    fn trust_again(&mut self, seen: &[(ServerId, Sight)]) {
        let Some(id) = self.state.running().map(|state| state.deployment.id) else { return };
        let Some(hold) = self.of(id).deployment.hold(HoldReason::Dependency) else { return };
        let stay_out: BTreeSet<ServerId> = seen
            .iter()
            .filter(|(_, sight)| matches!(sight, Sight::Drained | Sight::TakenOut | Sight::Dead))
            .map(|(server, _)| *server)
            .collect();
        let is_doubted = |server: &ServerId| {
            !stay_out.contains(server) && self.state.server(*server).is_some_and(is_doubtful)
        };
        let left: BTreeSet<ServerId> = hold.doubted.iter().copied().filter(is_doubted).collect();
        // Without any the hold is cleared with the others, unless a dependency holds as well.
        self.change_doubted(id, |doubted| *doubted = left);
    }

    fn see_dead(&mut self, id: ServerId) {
        let Some(server) = self.state.server(id) else { return };
        let now = self.now;
        match (server.service, server.out_because, server.dead_since) {
            (Service::In | Service::Unknown, ..) => {
                self.change_server(id, |server| server.dead_since = Some(now));
                self.server_out(id, OutBecause::Dead, "it does not answer");
            }
            (Service::Out, Some(OutBecause::Dead | OutBecause::Outside), None) => {
                self.change_server(id, |server| server.dead_since = Some(now));
            }
            (Service::Out, Some(OutBecause::Dead | OutBecause::Outside), Some(since)) => {
                self.dead_for_good(id, since);
            }
            (Service::Out, ..) => {}
        }
    }

    /// Dead for longer than the settle time: a relapse if its target had succeeded.
    fn dead_for_good(&mut self, server: ServerId, since: Timestamp) {
        let Some(state) = self.state.running() else { return };
        if self.now.since(since) < state.deployment.frozen.settle_time() {
            return;
        }
        let id = state.deployment.id;
        match state.place_of_server(server) {
            Some(place) if state.targets()[place].status == TargetStatus::Success => {
                let version = &state.deployment.package.version;
                let message = format!("it served {version} and does not answer any more");
                self.relapse(id, place, message);
            }
            Some(_) => {}
            None => self.visit_left_out(server),
        }
    }

    /// A rollback left a server out as already right, and it does not serve any more: it gets a
    /// target after all.
    pub(super) fn visit_left_out(&mut self, server: ServerId) {
        let Some(state) = self.state.running() else { return };
        let (id, flavor) = (state.deployment.id, state.deployment.flavor);
        if flavor == Flavor::Rollback && state.place_of_server(server).is_none() {
            self.add_target(id, server);
        }
    }

    /// A target that had succeeded does not serve its package any more (S2).
    pub(super) fn relapse(&mut self, id: DeploymentId, place: usize, message: String) {
        let server = self.target(id, place).server;
        self.change_server(server, |server| {
            if let Some(running) = &mut server.running {
                running.proven_at = None;
            }
        });
        self.move_target(id, place, TargetEvent::Relapsed, None, |target| {
            target.cause = Some(Cause::Relapsed);
            target.message = Some(message);
            target.skipped = false;
        });
    }
}

/// Whether our own mark is on it, and it was in traffic all the same.
fn is_doubtful(server: &Server) -> bool {
    !server.retired && server.drained && server.drained_again
}

fn has_target_in(state: &GroupState, server: ServerId, status: TargetStatus) -> bool {
    state.deployments().any(|row| {
        row.place_of_server(server).is_some_and(|place| row.targets()[place].status == status)
    })
}

/// Whether a server is still to be drained. Whoever is about to do so asks: a later decision may bring
/// the server into traffic, and no load balancer refuses an act that comes too late.
pub fn wants_drain(state: &GroupState, server: ServerId) -> bool {
    state.server(server).is_some_and(|row| row.drained && !row.retired)
        && !has_target_in(state, server, TargetStatus::MarkupRunning)
}
