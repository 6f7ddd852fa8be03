//! Events as sentences, the same on every page and on the command line.

use std::collections::BTreeMap;

use crate::event::{Event, EventType};
use crate::plan::label;
use crate::view::TargetView;
use crate::{ServerId, TargetId};

/// Host names of the targets and servers that events speak of.
#[derive(Debug, Clone, Default)]
pub struct Names {
    targets: BTreeMap<TargetId, String>,
    servers: BTreeMap<ServerId, String>,
}

impl Names {
    /// From targets of the deployment whose events are told. Who is missing is called “a target” or
    /// “a server”.
    pub fn of(targets: &[TargetView]) -> Self {
        let mut names = Self::default();
        for target in targets {
            let name = label(&target.hostname, &target.instance);
            names.servers.insert(target.server, name.clone());
            names.targets.insert(target.id, name);
        }
        names
    }

    /// Whether an event speaks of a target that is not known: one that was added.
    pub fn lack(&self, event: &Event) -> bool {
        event.target.is_some_and(|id| !self.targets.contains_key(&id))
    }

    fn host(&self, event: &Event) -> &str {
        let target = event.target.and_then(|id| self.targets.get(&id));
        let server = || event.server.and_then(|id| self.servers.get(&id));
        match (target.or_else(server), event.target) {
            (Some(name), _) => name,
            (None, Some(_)) => "A target",
            (None, None) => "A server",
        }
    }
}

/// The sentence of an event, without its actor, its message and a full stop.
pub fn sentence(event: &Event, names: &Names) -> String {
    let data = &event.data;
    let host = names.host(event);
    let batch = event.batch.map_or_else(|| "a batch".to_owned(), |index| format!("batch {index}"));
    match event.kind {
        EventType::DeploymentCreated => match &data.version {
            Some(version) => format!("Deployment of {version} created"),
            None => "Deployment created".to_owned(),
        },
        EventType::DeploymentStatus => format!("Deployment {}", change(event)),
        EventType::HoldSet => format!("Braked{}", reasons(event)),
        EventType::HoldCleared => match data.holds.as_deref() {
            Some([_, ..]) => format!("Hold cleared; still braked{}", reasons(event)),
            Some([]) | None => "No longer braked".to_owned(),
        },
        EventType::ActionTaken => "Asked".to_owned(),
        EventType::DeploymentStale => "Nobody has decided for a day".to_owned(),
        EventType::BatchStatus => match event.batch {
            Some(index) => format!("Batch {index} {}", change(event)),
            None => format!("A batch {}", change(event)),
        },
        EventType::TargetAdded => format!("{host} joins {batch}"),
        EventType::TargetMoved => format!("{host} moves to {batch}"),
        EventType::TargetStatus => {
            let cause = event.cause.map(|cause| format!(" ({})", cause.word())).unwrap_or_default();
            let attempt = data.attempt.filter(|attempt| *attempt > 1);
            let attempt = attempt.map(|attempt| format!(", attempt {attempt}")).unwrap_or_default();
            let bypassed = if data.bypassed == Some(true) { ", bypassed" } else { "" };
            format!("{host} {}{cause}{attempt}{bypassed}", change(event))
        }
        EventType::TargetTry => format!("{host} tries its stage again"),
        EventType::TargetUnknown => format!("{host} does not say how its stage ended"),
        EventType::TargetTakenOver => format!("{host} taken over from an engine that died"),
        EventType::LateOutcome => format!("{host} answered after its stage had ended"),
        EventType::ServerOut => format!("{host} out of service{}", census(event)),
        EventType::ServerIn => format!("{host} in service{}", census(event)),
        EventType::ServerPulledOut => format!("{host} pulled out"),
        EventType::ServerPutBack => format!("{host} put back"),
        EventType::ServerDrainedAgain => format!("{host} was in traffic and is drained again"),
        EventType::ServerAppeared => format!("{host} appeared in the CMDB"),
        EventType::ServerLeft => format!("{host} left the group"),
        EventType::ServerDrained => format!("{host} was in traffic and is drained"),
        EventType::DependencyOpened => {
            format!("{} does not answer{}", dependency(event), bypass(event))
        }
        EventType::DependencyCutOff => format!("{} is cut off{}", dependency(event), bypass(event)),
        EventType::DependencyRestored => format!("{} is usable again", dependency(event)),
    }
}

fn change(event: &Event) -> String {
    match (&event.data.from, &event.data.to) {
        (Some(from), Some(to)) => format!("{from} → {to}"),
        (None, Some(to)) => to.clone(),
        (_, None) => "changed".to_owned(),
    }
}

fn dependency(event: &Event) -> &str {
    event.data.dependency.as_deref().unwrap_or("A dependency")
}

fn bypass(event: &Event) -> &'static str {
    if event.data.bypassed == Some(true) { "; Markdown and Markup are bypassed" } else { "" }
}

fn reasons(event: &Event) -> String {
    let words: Vec<&str> = event.data.holds.iter().flatten().map(|reason| reason.word()).collect();
    if words.is_empty() { String::new() } else { format!(" by {}", words.join(", ")) }
}

fn census(event: &Event) -> String {
    match (event.data.out_count, event.data.limit) {
        (Some(out), Some(limit)) => format!("; {out} of at most {limit} out"),
        (Some(out), None) => format!("; {out} out"),
        (None, _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TARGET: &str = "018bcfe5-687b-7000-8000-000000000001";
    const SERVER: &str = "018bcfe5-687b-7000-8000-000000000002";
    const GROUP: &str = "018bcfe5-687b-7000-8000-000000000003";

    fn told(mut event: Value) -> String {
        event["seq"] = 7.into();
        event["at"] = "2023-11-14T22:13:20Z".into();
        event["group"] = GROUP.into();
        event["actor"] = "capstan".into();
        let names = Names {
            targets: BTreeMap::from([(TARGET.parse().expect("an id"), "web-1".to_owned())]),
            servers: BTreeMap::from([(SERVER.parse().expect("an id"), "web-1".to_owned())]),
        };
        sentence(&serde_json::from_value(event).expect("an event"), &names)
    }

    #[test]
    fn events_are_told_in_words() {
        for (event, expected) in [
            (
                json!({"type": "target.status", "target": TARGET, "cause": "timeout",
                    "data": {"from": "VERIFY_RUNNING", "to": "VERIFY_FAILURE", "attempt": 2}}),
                "web-1 VERIFY_RUNNING → VERIFY_FAILURE (timeout), attempt 2",
            ),
            (
                json!({"type": "server.out", "server": SERVER,
                    "data": {"out_count": 2, "limit": 3}}),
                "web-1 out of service; 2 of at most 3 out",
            ),
            (
                json!({"type": "deployment.hold_set", "data": {"holds": ["user", "failures"]}}),
                "Braked by user, failures",
            ),
            (json!({"type": "deployment.hold_cleared", "data": {"holds": []}}), "No longer braked"),
            (
                json!({"type": "batch.status", "batch": 2,
                    "data": {"from": "WAITING", "to": "DEPLOYING"}}),
                "Batch 2 WAITING → DEPLOYING",
            ),
            (
                json!({"type": "deployment.created", "data": {"version": "1.1.0"}}),
                "Deployment of 1.1.0 created",
            ),
            (
                json!({"type": "target.added", "target": GROUP, "batch": 4, "data": {}}),
                "A target joins batch 4",
            ),
            (
                json!({"type": "target.status", "target": TARGET,
                    "data": {"from": "MARKUP_RUNNING", "to": "SUCCESS", "bypassed": true}}),
                "web-1 MARKUP_RUNNING → SUCCESS, bypassed",
            ),
            (
                json!({"type": "dependency.cut_off",
                    "data": {"dependency": "load_balancer.edge", "bypassed": true}}),
                "load_balancer.edge is cut off; Markdown and Markup are bypassed",
            ),
            (json!({"type": "server.left", "server": SERVER, "data": {}}), "web-1 left the group"),
        ] {
            assert_eq!(told(event), expected);
        }
    }
}
