//! What is counted and listed beside the rows of a deployment, so that an input costs the same in a
//! group of ten and of ten thousand.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{Deployment, Server, Service, Target};
use crate::slots::is_ours;
use crate::target_status::TargetStatus;

/// Counts over a set of targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts([u32; TargetStatus::ALL.len()]);

impl Counts {
    /// How many targets have this status.
    pub fn of(&self, status: TargetStatus) -> u32 {
        self.0[status.index()]
    }

    /// How many targets have a status for which `wanted` holds.
    pub fn sum(&self, wanted: impl Fn(TargetStatus) -> bool) -> u32 {
        TargetStatus::ALL.iter().filter(|status| wanted(**status)).map(|s| self.of(*s)).sum()
    }

    /// Targets that are not set aside.
    pub fn live(&self) -> u32 {
        self.sum(|status| status != TargetStatus::SetAside)
    }

    /// Targets whose last stage failed.
    pub fn failed(&self) -> u32 {
        self.sum(TargetStatus::is_failure)
    }

    /// Targets with a stage or a Check under way.
    pub fn under_way(&self) -> u32 {
        self.sum(|status| status.running().is_some())
    }

    /// Targets at rest, a bastion's `VERIFY_SUCCESS` not counted.
    pub fn at_rest(&self) -> u32 {
        self.sum(TargetStatus::is_at_rest)
    }

    /// All targets.
    pub fn all(&self) -> u32 {
        self.0.iter().sum()
    }

    pub(crate) fn shift(&mut self, status: TargetStatus, by: i32) {
        let count = &mut self.0[status.index()];
        *count = count.saturating_add_signed(by);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }
}

/// What is counted and listed beside the rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) batches: BTreeMap<u32, BatchTally>,
    /// Targets between two stages, by place.
    pub(crate) between: BTreeSet<usize>,
    /// Targets under way whose answer is lost.
    pub(crate) unknown: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct BatchTally {
    pub(crate) counts: Counts,
    /// PENDING targets by what they wait for, each list by place.
    pub(crate) waiting: [BTreeSet<usize>; Need::ALL.len()],
}

/// What a PENDING target must have before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: its server is out or new, or a Check comes first, which changes nothing there.
    Nothing,
    /// Nothing, unless the load balancer is bypassed: its server is out or new and not by us, and from
    /// its Markdown on it is (S12).
    Mend,
    /// A slot: its server is in service.
    Slot,
    /// A slot as if its server were in service, or a look at it: nobody knows whether it is.
    Look,
}

impl Need {
    pub(crate) const ALL: [Self; 4] = [Self::Nothing, Self::Mend, Self::Slot, Self::Look];

    /// What a PENDING target of a server needs.
    pub(crate) fn of(deployment: &Deployment, target: &Target, server: Option<&Server>) -> Self {
        let Some(server) = server else { return Self::Nothing };
        if check_comes_first(deployment, target, server) || server.pulled_out.is_some() {
            return Self::Nothing;
        }
        match server.service {
            Service::In => Self::Slot,
            Service::Unknown => Self::Look,
            Service::Out if is_ours(server) => Self::Nothing,
            Service::Out => Self::Mend,
        }
    }
}

pub(crate) fn is_unknown(target: &Target) -> bool {
    target.unknown_since.is_some() && target.status.running().is_some()
}

/// Whether the record says that the server may run the package and the attempt had no Check yet.
pub(crate) fn check_comes_first(deployment: &Deployment, target: &Target, server: &Server) -> bool {
    !target.checked && server.may_run(deployment.package.id)
}
