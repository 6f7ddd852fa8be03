//! What must be true when a stage starts.

use crate::deployment_status::DeploymentStatus;
use crate::event::Event;
use crate::record::HoldReason;
use crate::stage::VERIFY_FRESH;
use crate::target_status::TargetStatus;

use super::{Log, TargetLog};

impl Log {
    /// What must be true when a stage or a Check starts.
    pub(super) fn check_start(&mut self, event: &Event, target: &TargetLog, to: TargetStatus) {
        if self.is_final() || self.started.is_none() {
            self.say("S9", event, format!("{to} in a deployment that is not under way"));
        }
        if self.is_braked() {
            self.say("S2", event, format!("{to} while {:?} hold", self.holds));
        }
        if self.owes_hold {
            let message = "a server was drained again twice, and nothing holds".to_owned();
            self.say("S13", event, message);
        }
        if !self.held_by.is_empty() && !self.holds.contains(&HoldReason::Dependency) {
            self.say("S12", event, format!("{to} without {:?}, and nothing holds", self.held_by));
        }
        if target.status == TargetStatus::Pending {
            self.check_bastions_first(event, event.batch.unwrap_or(0));
        }
        if to == TargetStatus::MarkdownRunning
            && let Some(server) = event.server
        {
            self.drained_again.remove(&server);
        }
        self.check_proof(event, target, to);
        self.check_failures(event);
    }

    /// S5: Markup is ordered, ordered again or taken over on a fresh proof only.
    pub(super) fn check_proof(&mut self, event: &Event, target: &TargetLog, status: TargetStatus) {
        let fresh = target.proven_at.is_some_and(|at| event.at.since(at) <= VERIFY_FRESH);
        if status == TargetStatus::MarkupRunning && !fresh {
            let at = target.proven_at;
            self.say("S5", event, format!("Markup on a proof of {at:?}"));
        }
    }

    /// S2: nothing starts in a rollout whose failures reach the limit, but for a retry that passed
    /// them over.
    fn check_failures(&mut self, event: &Event) {
        let (Some(share), Some(total), Some(failed)) =
            (self.max_failure, event.data.total, event.data.failed_count)
        else {
            self.say("S2", event, "a stage starts without the figures of S2".into());
            return;
        };
        let limit = share.of(total).max(1);
        self.passed_over = self.passed_over.min(failed);
        let rolls = self.status == Some(DeploymentStatus::RollingOut);
        if rolls && failed >= limit && failed > self.passed_over {
            let message = format!("a stage starts: {failed} failed, the limit is {limit}");
            self.say("S2", event, message);
        }
    }
}
