//! How many servers may be out at once (S1).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::dependency::Traffic;
use crate::record::{OutBecause, Server};
use crate::share::Share;

/// Counts over the servers of a group, retired ones left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// Members of the group.
    pub members: u32,
    /// Members that count as out.
    pub out: u32,
    /// Members in service.
    pub in_service: u32,
    /// Members that a person pulled out.
    pub pulled_out: u32,
    /// Members that nobody has looked at: they count as out, and may serve.
    pub unknown: u32,
    /// Members that are out by us: a target took them.
    pub ours: u32,
}

impl Census {
    /// Counts servers one by one.
    pub fn of<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Self {
        let mut census = Self::default();
        for server in servers {
            census.add(server);
        }
        census
    }

    /// Counts a server in.
    pub fn add(&mut self, server: &Server) {
        self.shift(server, 1);
    }

    /// Takes a server out of the count.
    pub fn remove(&mut self, server: &Server) {
        self.shift(server, -1);
    }

    fn shift(&mut self, server: &Server, by: i32) {
        if server.retired {
            return;
        }
        let shift = |count: &mut u32| *count = count.saturating_add_signed(by);
        shift(&mut self.members);
        if server.is_out() {
            shift(&mut self.out);
        }
        if server.service == crate::record::Service::In {
            shift(&mut self.in_service);
        }
        if server.pulled_out.is_some() {
            shift(&mut self.pulled_out);
        }
        if server.service == crate::record::Service::Unknown {
            shift(&mut self.unknown);
        }
        if is_ours(server) {
            shift(&mut self.ours);
        }
    }
}

/// Whether a server is out because of what Capstan did for a release.
pub(crate) fn is_ours(server: &Server) -> bool {
    server.is_out() && server.out_because.is_some_and(OutBecause::is_ours)
}

/// The bounds of S1 for one deployment at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Slots {
    /// Of which every share is a share.
    pub total: u32,
    /// `B = floor(total × max_unavailable)`, at least 1.
    pub b: u32,
    /// A server in service is taken only while fewer than `L` are out.
    pub l: u32,
    /// Servers that count as out.
    pub out: u32,
    /// Servers in service.
    pub in_service: u32,
    /// Servers that count as out and may serve, since nobody has looked at them.
    pub unknown: u32,
    /// Whether the last server in service may be taken.
    pub may_take_last: bool,
    /// Servers that are out by us.
    pub ours: u32,
    /// While the load balancer is bypassed: how many may be out by us (S12).
    pub most_ours: Option<u32>,
}

impl Slots {
    /// Applies S1. `planned` is the number of members when the plan was made.
    pub fn new(planned: u32, census: Census, max_unavailable: Share, may_go_dark: bool) -> Self {
        let total = planned.min(census.members);
        let may_take_last = total <= 1 || may_go_dark;
        let b = max_unavailable.of(total).max(1);
        let most = if may_take_last { total } else { total - 1 };
        Self {
            total,
            b,
            l: b.max(census.pulled_out + 1).min(most.max(1)),
            out: census.out,
            in_service: census.in_service,
            unknown: census.unknown,
            may_take_last,
            ours: census.ours,
            most_ours: None,
        }
    }

    /// The same while Markdown and Markup are bypassed: a server that restarts or fails may get traffic
    /// then, so at most half as many are taken, and at least one (S12).
    #[must_use]
    pub fn under(mut self, traffic: Traffic) -> Self {
        self.most_ours = (traffic == Traffic::Bypassed).then(|| (self.b / 2).max(1));
        self
    }

    /// How many servers more may be out by us.
    pub fn free_ours(self) -> u32 {
        self.most_ours.map_or(u32::MAX, |most| most.saturating_sub(self.ours))
    }

    /// How many servers in service may be taken now.
    pub fn free(self) -> u32 {
        let by_limit = self.l.saturating_sub(self.out);
        let spare = u32::from(!self.may_take_last);
        by_limit.min(self.in_service.saturating_sub(spare)).min(self.free_ours())
    }

    /// How many servers that nobody has looked at may be taken now. Each may be in service, and each
    /// may be among those that count as out: so they are taken only while fewer than `L` others are
    /// known to be out.
    pub fn free_unknown(self) -> u32 {
        let by_limit = self.l.saturating_sub(self.out.saturating_sub(self.unknown));
        by_limit.min(self.unknown).min(self.free_ours())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(total: u32, out: u32, pulled_out: u32, percent: u8) -> Slots {
        let census = Census {
            members: total,
            out,
            in_service: total - out,
            pulled_out,
            ..Census::default()
        };
        Slots::new(total, census, Share::percent(percent), false)
    }

    #[test]
    fn b_is_floored_and_at_least_one() {
        assert_eq!(slots(3, 0, 0, 25).b, 1);
        assert_eq!(slots(7, 0, 0, 50).b, 3);
        assert_eq!(slots(100, 0, 0, 25).b, 25);
    }

    #[test]
    fn a_pulled_out_server_makes_a_release_slower_and_does_not_stop_it() {
        let slots = slots(4, 1, 1, 25);
        assert_eq!((slots.b, slots.l, slots.free()), (1, 2, 1));
    }

    #[test]
    fn the_last_server_is_taken_only_alone_or_when_the_group_may_go_dark() {
        assert_eq!(slots(1, 0, 0, 25).free(), 1);
        assert_eq!(slots(2, 1, 1, 25).free(), 0);
        let census =
            Census { members: 2, out: 1, in_service: 1, pulled_out: 1, ..Census::default() };
        assert_eq!(Slots::new(2, census, Share::ALL, true).free(), 1);
    }

    #[test]
    fn what_nobody_has_looked_at_is_taken_as_if_it_served() {
        let census = Census { members: 8, out: 4, in_service: 4, unknown: 3, ..Census::default() };
        let slots = Slots::new(8, census, Share::percent(25), false);
        assert_eq!((slots.l, slots.free(), slots.free_unknown()), (2, 0, 1));
    }

    #[test]
    fn a_bypassed_load_balancer_halves_what_may_be_out_by_us() {
        let census = Census { members: 100, in_service: 100, ..Census::default() };
        let free = |census: Census, percent| {
            let slots = Slots::new(100, census, Share::percent(percent), false);
            (slots.free(), slots.under(Traffic::Bypassed).free())
        };
        assert_eq!(free(census, 25), (25, 12));
        assert_eq!(free(census, 1), (1, 1));
        let ours = Census { out: 10, ours: 10, in_service: 90, ..census };
        assert_eq!(free(ours, 25), (15, 2));
        let dead = Census { out: 20, in_service: 80, ..census };
        assert_eq!(free(dead, 25), (5, 5), "L applies as well");
    }

    #[test]
    fn what_failed_by_itself_takes_slots() {
        assert_eq!(slots(100, 25, 0, 25).free(), 0);
        assert_eq!(slots(100, 24, 0, 25).free(), 1);
    }
}
