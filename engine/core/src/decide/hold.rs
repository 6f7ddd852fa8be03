//! What brakes a deployment by itself (S2): too many failures, and waiting where no slot can come free.

use crate::DeploymentId;
use crate::batch_status::BatchStatus;
use crate::deployment_status::DeploymentStatus;
use crate::record::HoldReason;
use crate::tally::Need;
use crate::target_status::TargetStatus;

use super::Decider;

impl Decider<'_> {
    pub(super) fn apply_holds(&mut self, id: DeploymentId) -> bool {
        self.hold_for_failures(id) | self.hold_for_dependencies(id) | self.hold_for_slots(id)
    }

    fn hold_for_failures(&mut self, id: DeploymentId) -> bool {
        let state = self.of(id);
        let row = &state.deployment;
        if row.status != DeploymentStatus::RollingOut {
            return false;
        }
        let (failed, seen) = (state.failed_or_unknown(), row.failed_seen);
        let total = self.slots(id).total;
        let limit = row.config.failure_limit(total);
        let passed_over = if failed < limit { 0 } else { seen.min(failed) };
        if passed_over != seen {
            self.change_deployment(id, |deployment| deployment.failed_seen = passed_over);
        }
        let is_new = self.of(id).deployment.hold(HoldReason::Failures).is_none();
        if failed <= passed_over || failed < limit || !is_new {
            return false;
        }
        let detail = format!("{failed} of {total} servers failed; the limit is {limit}");
        let by_lost_acts = self.brakes_by_lost_acts(id);
        self.set_hold(id, HoldReason::Failures, detail);
        if by_lost_acts {
            self.change_deployment(id, |deployment| {
                let holds = deployment.holds.iter_mut();
                for hold in holds.filter(|hold| hold.reason == HoldReason::Failures) {
                    hold.by_lost_acts = true;
                }
            });
        }
        true
    }

    fn hold_for_slots(&mut self, id: DeploymentId) -> bool {
        let Some(batch) = self.batch_without_slots(id) else {
            return self.clear_hold(id, HoldReason::Slots);
        };
        if self.join(id, batch) {
            return true;
        }
        if self.of(id).deployment.hold(HoldReason::Slots).is_some() {
            return false;
        }
        let slots = self.slots(id);
        let mut detail = format!(
            "{} of {} servers are out and at most {} may be when another is taken, {} in service",
            slots.out, slots.total, slots.l, slots.in_service
        );
        if let Some(most) = slots.most_ours {
            detail = format!(
                "{detail}; the load balancer is bypassed, so at most {most} may be out by us, and {} \
                 are: what is drained stays out until the load balancer is restored and shows it in \
                 traffic",
                slots.ours
            );
        }
        self.set_hold(id, HoldReason::Slots, detail);
        true
    }

    /// S2, `slots`: a target of the running batch waits, none that waits may start, no stage or
    /// Check is under way and no target is held. Gives the running batch.
    fn batch_without_slots(&self, id: DeploymentId) -> Option<u32> {
        use DeploymentStatus as Status;
        let state = self.of(id);
        let status = state.deployment.status;
        if !matches!(status, Status::Smoking | Status::RollingOut) {
            return None;
        }
        let batch = state.running_batch()?.index;
        let waits = self.waits_for_slot(id, batch).is_some();
        let may_start = self.first_startable(id, batch).is_some();
        let under_way = state.counts().under_way() > 0;
        let held = state.between_stages().iter().any(|place| self.may_go_on(id, *place));
        (waits && !may_start && !under_way && !held).then_some(batch)
    }

    /// The first target of a batch that must have a slot.
    fn waits_for_slot(&self, id: DeploymentId, batch: u32) -> Option<usize> {
        let state = self.of(id);
        let needs = [Need::Slot, Need::Look, Need::Mend];
        needs.into_iter().find_map(|need| state.first_waiting(batch, need))
    }

    /// Targets that need no slot go first. Returns whether any moved.
    fn join(&mut self, id: DeploymentId, batch: u32) -> bool {
        let state = self.of(id);
        let slots = self.slots(id);
        let unknown = state.waiting_after(batch, Need::Look);
        let mend = state.waiting_after(batch, Need::Mend).take(slots.free_ours() as usize);
        let ready: Vec<usize> = state
            .waiting_after(batch, Need::Nothing)
            .chain(mend)
            .chain(unknown.take(slots.free_unknown() as usize))
            .collect();
        let Some(waiting) = self.waits_for_slot(id, batch) else { return false };
        if state.deployment.status == DeploymentStatus::RollingOut {
            for place in &ready {
                self.move_to_batch(id, *place, batch);
            }
            return !ready.is_empty();
        }
        let counts = state.counts_of(batch);
        let settled = counts.of(TargetStatus::VerifySuccess)
            + counts.of(TargetStatus::Success)
            + counts.failed();
        if settled > 0 {
            let next = self.batch_after(id, batch);
            self.move_to_batch(id, waiting, next);
            return true;
        }
        let Some(first) = ready.first().copied() else { return false };
        let other = self.target(id, first).batch;
        self.move_to_batch(id, first, batch);
        self.move_to_batch(id, waiting, other);
        true
    }

    fn batch_after(&mut self, id: DeploymentId, batch: u32) -> u32 {
        let next = self
            .of(id)
            .batches()
            .iter()
            .find(|row| row.index > batch && row.status == BatchStatus::Pending)
            .map(|row| row.index);
        next.unwrap_or_else(|| self.last_open_batch(id))
    }
}
