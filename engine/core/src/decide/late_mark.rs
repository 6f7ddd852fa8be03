//! Our own mark on a server that we do not keep out: a drain that was given up on landed after all.

use crate::effect::{Effect, EffectKind};
use crate::input::Answer;
use crate::ports::Sight;
use crate::record::{OutBecause, Server, Service};
use crate::state::GroupState;
use crate::{ServerId, Timestamp};

use super::Decider;
use super::observe::LOOK_INTERVAL;
use super::restored::RESTORED_FENCES;

impl Decider<'_> {
    /// It carries our mark, and nothing in the record asks for it: it is out until the mark is off (S13).
    pub(super) fn remove_late_mark(&mut self, id: ServerId) {
        let message =
            "it carries our own mark and should not: a drain came late, the mark is removed";
        self.server_out(id, OutBecause::LateMark, message);
        self.put_effect(EffectKind::AdmitServer(id));
    }

    pub(super) fn server_admitted(&mut self, id: ServerId, sight: Sight) -> Answer {
        if !wants_admit(self.state, id) {
            self.changes.delete(EffectKind::AdmitServer(id));
            self.undo_late_admit(id);
            return Answer::Done;
        }
        let now = self.now;
        match sight {
            Sight::Serving => self.late_mark_is_off(id),
            Sight::TakenOut => {
                self.changes.delete(EffectKind::AdmitServer(id));
                let message = "our own mark is off again, and somebody else keeps it out";
                self.server_out(id, OutBecause::Outside, message);
                self.visit_left_out(id);
            }
            Sight::Dead => {
                self.changes.delete(EffectKind::AdmitServer(id));
                self.change_server(id, |server| server.dead_since = Some(now));
                self.server_out(
                    id,
                    OutBecause::Dead,
                    "our own mark is off again, and it does not answer",
                );
            }
            Sight::Drained | Sight::Unknown => self.admit_at(id, now + LOOK_INTERVAL),
        }
        Answer::Done
    }

    /// It serves again.
    pub(super) fn late_mark_is_off(&mut self, id: ServerId) {
        self.changes.delete(EffectKind::AdmitServer(id));
        self.server_in(id, "our own mark is off again");
    }

    /// What it is out for is another thing from here on, or nothing: no mark that came late is removed.
    pub(super) fn forget_late_mark(&mut self, id: ServerId) {
        let row = self.state.server(id);
        if row.is_some_and(has_late_mark) {
            self.changes.delete(EffectKind::AdmitServer(id));
        }
    }

    fn admit_at(&mut self, id: ServerId, due_at: Timestamp) {
        let group = self.state.id();
        self.changes.put(Effect { kind: EffectKind::AdmitServer(id), group, due_at });
    }
}

/// Whether our mark on it, if it is seen, came late. Only a server that serves by the record, or to
/// which an order was given once, can have got it from us.
pub(super) fn came_late(server: &Server) -> bool {
    let ours = server.service == Service::In || server.fence > 0;
    // A record from a backup does not know what was done since: the mark may be wanted, and the server is
    // not put into traffic before it has proved something again.
    let is_known = server.fence < RESTORED_FENCES
        || server.running.as_ref().is_some_and(|running| running.proven_at.is_some());
    ours && is_known && !server.drained && server.pulled_out.is_none() && !has_late_mark(server)
}

/// Whether it is out because of a mark that came late.
pub(super) fn has_late_mark(server: &Server) -> bool {
    server.out_because == Some(OutBecause::LateMark)
}

/// Whether a mark that came late is still to be removed. Whoever is about to do so asks: a target may
/// have taken the server, or a person pulled it out.
pub fn wants_admit(state: &GroupState, server: ServerId) -> bool {
    state.server(server).is_some_and(|row| !row.retired && has_late_mark(row))
}
