//! S7: every act has a key of its own, and the fences of a server only grow.

use std::collections::BTreeMap;

use crate::event::{Event, EventType};
use crate::target_status::TargetStatus;
use crate::{DeploymentId, OrderKey, ServerId, Timestamp};

use super::Violation;

/// An act on a server.
#[derive(Debug, Clone, Copy)]
struct Act {
    at: Timestamp,
    fence: i64,
    deployment: DeploymentId,
    seq: i64,
}

/// The acts on all servers.
#[derive(Debug, Default)]
pub(super) struct Fences {
    acts: BTreeMap<ServerId, Vec<Act>>,
    keys: BTreeMap<OrderKey, (DeploymentId, i64)>,
    violations: Vec<Violation>,
}

impl Fences {
    pub(super) fn read(&mut self, deployment: DeploymentId, event: &Event) {
        let starts = || {
            let to = event.data.to.as_deref().and_then(TargetStatus::from_word);
            to.is_some_and(|to| to.running().is_some())
        };
        let is_new =
            event.kind == EventType::TargetTry || event.kind == EventType::TargetStatus && starts();
        if !is_new && event.kind != EventType::TargetTakenOver {
            return;
        }
        let (seq, at) = (event.seq, event.at);
        let mut say = |message: String| {
            self.violations.push(Violation { rule: "S7", deployment, seq, message });
        };
        let (Some(server), Some(key), Some(fence)) =
            (event.server, event.data.key, event.data.fence)
        else {
            say("an act names no server, key or fence".to_owned());
            return;
        };
        if is_new {
            if let Some((other, place)) = self.keys.insert(key, (deployment, seq)) {
                say(format!("key {key} was given out at event {place} of deployment {other}"));
            }
        } else if !self.keys.contains_key(&key) {
            say(format!("key {key} is taken over and was never given out"));
        }
        self.acts.entry(server).or_default().push(Act { at, fence, deployment, seq });
    }

    /// What is wrong with keys and fences. Acts of one deployment are in the order of its log, acts
    /// of two are compared by their instants.
    pub(super) fn violations(mut self) -> Vec<Violation> {
        for (server, acts) in &mut self.acts {
            acts.sort_by_key(|act| act.fence);
            for pair in acts.windows(2) {
                let (low, high) = (pair[0], pair[1]);
                let same_log = low.deployment == high.deployment;
                let in_order = if same_log { low.seq < high.seq } else { low.at <= high.at };
                if low.fence < high.fence && in_order {
                    continue;
                }
                self.violations.push(Violation {
                    rule: "S7",
                    deployment: high.deployment,
                    seq: high.seq,
                    message: format!(
                        "fence {} of server {server} does not lie above fence {} of event {} of \
                         deployment {}",
                        high.fence, low.fence, low.seq, low.deployment
                    ),
                });
            }
        }
        self.violations
    }
}
