//! Servers that a person puts back: asked what they run, and brought into traffic if that is right.

use std::time::Duration;

use crate::ServerId;
use crate::dependency::Traffic;
use crate::effect::{Effect, EffectKind};
use crate::event::{EventData, EventType};
use crate::input::{Answer, Refused};
use crate::ports::{Report, Sight};
use crate::record::{OutBecause, PackageRef, Running, Service};
use crate::state::GroupState;
use crate::target_status::TargetStatus;

use super::Decider;
use super::observe::LOOK_INTERVAL;

/// How long a server that was put back is asked again when its answer is lost.
pub const RETURN_PATIENCE: Duration = Duration::from_mins(5);
/// Wait before who has been asked for so long and must be asked on is asked again.
const RETURN_LATER: Duration = Duration::from_mins(1);

/// What came of asking a server that was put back.
enum Returned {
    /// It proved the package and gets traffic.
    Serves(PackageRef),
    /// It proved the package, and somebody else keeps it out.
    StillOut(PackageRef),
    /// It runs something else.
    Wrong(String),
    /// It did not say what it runs, or is not seen to serve: that may be so for a moment only.
    NotYet(String),
}

impl Decider<'_> {
    pub(super) fn put_back(&mut self, id: ServerId, actor: &str) -> Result<Answer, Refused> {
        if self.known_server(id)?.pulled_out.is_none() {
            return Err(Refused::new("not_pulled_out", "nobody pulled this server out"));
        }
        actor.clone_into(&mut self.actor);
        self.change_server(id, |server| {
            server.pulled_out = None;
            server.out_because = Some(OutBecause::Person);
            server.dead_since = None;
        });
        self.server_event(id, EventType::ServerPutBack, EventData::default());
        self.changes.delete(EffectKind::DrainServer(id));
        if !self.member_appeared(id) {
            self.put_effect(EffectKind::ReturnServer(id));
        }
        Ok(Answer::Done)
    }

    pub(super) fn server_returned(
        &mut self,
        id: ServerId,
        report: Option<&Report>,
        sight: Sight,
        current: Option<&PackageRef>,
    ) -> Answer {
        self.changes.delete(EffectKind::ReturnServer(id));
        if !wants_return(self.state, id) {
            self.undo_late_admit(id);
            return Answer::Done;
        }
        let owed = self.state.server(id).is_some_and(|row| row.markup_owed.is_some());
        let how = if owed { "its Markup was bypassed" } else { "it was put back" };
        match returned(how, return_package(self.state, id, current), report, sight) {
            Returned::Serves(package) => {
                self.proves_again(id, package);
                self.changes.delete(EffectKind::DrainServer(id));
                self.server_in(id, &format!("{how}, and it proved its package"));
            }
            Returned::StillOut(package) => {
                self.proves_again(id, package);
                let message = format!("{how}, and somebody else keeps it out");
                self.server_out(id, OutBecause::Outside, &message);
            }
            Returned::Wrong(what) => self.does_not_return(id, &what),
            // It is in service by the record, and what is seen of it counts as from any look.
            Returned::NotYet(what) if self.is_in(id) => {
                self.see(id, sight, true);
                if self.state.server(id).is_some_and(|row| row.markup_owed.is_some()) {
                    self.ask_again(id, &what);
                }
            }
            Returned::NotYet(what) => self.ask_again(id, &what),
        }
        Answer::Done
    }

    fn is_in(&self, id: ServerId) -> bool {
        self.state.server(id).is_some_and(|row| row.service == Service::In)
    }

    /// Our mark was removed too late: a person pulled the server out meanwhile, or a target has it. It may
    /// be in traffic now, so our mark is set again.
    pub(super) fn undo_late_admit(&mut self, id: ServerId) {
        let is_ours = self.state.server(id).is_some_and(|row| row.drained && !row.retired);
        if is_ours && !self.moves_in_traffic(id) {
            self.put_effect(EffectKind::DrainServer(id));
        }
    }

    /// It runs the package, and our own mark is off.
    fn proves_again(&mut self, id: ServerId, package: PackageRef) {
        let running =
            Running { package: package.id, version: package.version, proven_at: Some(self.now) };
        self.change_server(id, |server| {
            server.running = Some(running);
            server.drained = false;
            server.dead_since = None;
            server.markup_owed = None;
        });
    }

    /// One lost answer does not leave a server out for good. The row keeps since when it has given
    /// none; after [`RETURN_PATIENCE`] it stays out.
    fn ask_again(&mut self, id: ServerId, what: &str) {
        let (since, owed) = self
            .state
            .server(id)
            .map_or((None, false), |row| (row.dead_since, row.markup_owed.is_some()));
        let asked =
            Traffic::of(&self.state.group.dependencies, self.state.binding()) == Traffic::Asked;
        if owed && !asked {
            // It is asked again as soon as its load balancer is.
            return;
        }
        let too_long = since.is_some_and(|since| self.now.since(since) >= RETURN_PATIENCE);
        if too_long && asked && !owed {
            self.does_not_return(id, what);
            return;
        }
        if since.is_none() && !self.is_in(id) {
            let now = self.now;
            self.change_server(id, |server| server.dead_since = Some(now));
            let minutes = RETURN_PATIENCE.as_secs() / 60;
            let message = if owed {
                format!("{what}: it is asked again until it does")
            } else {
                format!("{what}: it is asked again, for {minutes} minutes")
            };
            let data = EventData { message: Some(message), ..EventData::default() };
            self.server_event(id, EventType::ServerOut, data);
        }
        // What is owed, or waits for a dependency, is asked for without end, and so less often.
        let wait = if too_long { RETURN_LATER } else { LOOK_INTERVAL };
        let (group, due_at) = (self.state.id(), self.now + wait);
        self.changes.put(Effect { kind: EffectKind::ReturnServer(id), group, due_at });
    }

    fn does_not_return(&mut self, id: ServerId, what: &str) {
        // Whatever it proved once does not count any more, wherever it comes in again.
        self.change_server(id, |server| {
            if let Some(running) = &mut server.running {
                running.proven_at = None;
            }
        });
        let message = if self.is_in(id) {
            self.server_out(id, OutBecause::Outside, what);
            what.to_owned()
        } else {
            let message = format!("{what}: it stays out");
            self.change_server(id, |server| {
                server.dead_since = None;
                server.markup_owed = None;
            });
            let data = EventData { message: Some(message.clone()), ..EventData::default() };
            self.server_event(id, EventType::ServerOut, data);
            message
        };
        let Some(state) = self.state.running() else { return };
        let deployment = state.deployment.id;
        if let Some(place) = state.place_of_server(id)
            && state.targets()[place].status == TargetStatus::Success
        {
            self.relapse(deployment, place, message);
        }
    }

    /// A server that a person put back, and that no deployment takes care of any more, is asked what
    /// it runs.
    pub(super) fn return_if_put_back(&mut self, id: ServerId) {
        let is_member = self.state.server(id).is_some_and(|server| !server.retired);
        if is_member && wants_return(self.state, id) {
            self.change_server(id, |server| server.dead_since = None);
            self.put_effect(EffectKind::ReturnServer(id));
        }
    }
}

fn returned(
    how: &str,
    wanted: Option<PackageRef>,
    report: Option<&Report>,
    sight: Sight,
) -> Returned {
    let Some(wanted) = wanted else {
        return Returned::Wrong(format!("{how}, and nothing was released to its group"));
    };
    let Some(report) = report else {
        return Returned::NotYet(format!("{how}, and it does not say what it runs"));
    };
    let version = &report.version;
    if report.sha256 != wanted.sha256 {
        let what = format!("{how}, and it runs {version}, not the package that it must");
        return Returned::Wrong(what);
    }
    match sight {
        Sight::Serving => Returned::Serves(wanted),
        Sight::TakenOut => Returned::StillOut(wanted),
        Sight::Drained | Sight::Dead | Sight::Unknown => {
            Returned::NotYet(format!("{how}, and it runs {version} and does not serve"))
        }
    }
}

/// Whether a server that was put back, or whose Markup is owed, still waits to be brought into traffic. Whoever is about to do so
/// asks: a person may have pulled it out again, or a target taken it.
pub fn wants_return(state: &GroupState, server: ServerId) -> bool {
    state.server(server).is_some_and(|row| {
        let waits = row.out_because == Some(OutBecause::Person) || row.markup_owed.is_some();
        row.pulled_out.is_none() && waits
    })
}

/// The package that a server must prove to go into traffic when it is put back: what it proved before
/// its Markup was bypassed, else that of its SUCCESS target in the running deployment, else the one that
/// the group runs.
pub fn return_package(
    state: &GroupState,
    server: ServerId,
    current: Option<&PackageRef>,
) -> Option<PackageRef> {
    let owed = state.server(server).and_then(|row| row.markup_owed.as_ref());
    if let Some(owed) = owed {
        return Some(owed.package.clone());
    }
    let by_target = state.running().and_then(|running| {
        let place = running.place_of_server(server)?;
        (running.targets()[place].status == TargetStatus::Success)
            .then(|| running.deployment.package.clone())
    });
    by_target.or_else(|| current.cloned())
}
