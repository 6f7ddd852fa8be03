//! Events as sentences.

use std::collections::BTreeMap;

use capstan_core::event::{Event, EventType};
use capstan_core::plan::label;
use capstan_core::record::HoldReason;
use capstan_core::view::TargetView;
use capstan_core::{ServerId, TargetId};

use super::context::word;
use super::moment;
use super::table::clean;

/// Host names of the targets and servers that events speak of.
#[derive(Debug, Default)]
pub(crate) struct Names {
    targets: BTreeMap<TargetId, String>,
    servers: BTreeMap<ServerId, String>,
}

impl Names {
    /// From the targets of a deployment.
    pub(crate) fn of(targets: &[TargetView]) -> Self {
        let mut names = Self::default();
        for target in targets {
            let name = label(&target.hostname, &target.instance);
            names.servers.insert(target.server, name.clone());
            names.targets.insert(target.id, name);
        }
        names
    }

    /// Whether an event speaks of a target that is not known: one that was added.
    pub(crate) fn lack(&self, event: &Event) -> bool {
        event.target.is_some_and(|id| !self.targets.contains_key(&id))
    }

    fn host(&self, event: &Event) -> String {
        let target = event.target.and_then(|id| self.targets.get(&id));
        let server = || event.server.and_then(|id| self.servers.get(&id));
        match (target.or_else(server), event.target) {
            (Some(name), _) => name.clone(),
            (None, Some(_)) => "a target".to_owned(),
            (None, None) => "a server".to_owned(),
        }
    }
}

/// One line for an event: when, what, by whom, and what it says.
pub(crate) fn line(event: &Event, names: &Names) -> String {
    let by = match event.actor.as_str() {
        "capstan" => String::new(),
        actor => format!(", by {actor}"),
    };
    let message = event.data.message.as_deref().map(|text| format!(": {text}"));
    let text = format!("{}{by}{}", sentence(event, names), message.unwrap_or_default());
    format!("{}  {:>4}  {}", moment::clock(event.at), event.seq, clean(&text))
}

fn sentence(event: &Event, names: &Names) -> String {
    let data = &event.data;
    let host = || names.host(event);
    let batch =
        || event.batch.map_or_else(|| "a batch".to_owned(), |index| format!("batch {index}"));
    match event.kind {
        EventType::DeploymentCreated => match &data.version {
            Some(version) => format!("deployment of {version} created"),
            None => "deployment created".to_owned(),
        },
        EventType::DeploymentStatus => format!("deployment {}", change(event)),
        EventType::HoldSet => format!("braked{}", reasons(" by ", data.holds.as_deref())),
        EventType::HoldCleared => match data.holds.as_deref() {
            holds @ Some([_, ..]) => {
                format!("hold cleared; still braked{}", reasons(" by ", holds))
            }
            Some([]) | None => "no longer braked".to_owned(),
        },
        EventType::ActionTaken => "asked".to_owned(),
        EventType::DeploymentStale => "nobody has decided for a day".to_owned(),
        EventType::BatchStatus => format!("{} {}", batch(), change(event)),
        EventType::TargetAdded => format!("{} joins {}", host(), batch()),
        EventType::TargetMoved => format!("{} moves to {}", host(), batch()),
        EventType::TargetStatus => {
            let cause = event.cause.map(|cause| format!(" ({})", cause.word())).unwrap_or_default();
            let attempt = data.attempt.filter(|attempt| *attempt > 1);
            let attempt = attempt.map(|attempt| format!(", attempt {attempt}")).unwrap_or_default();
            format!("{} {}{cause}{attempt}", host(), change(event))
        }
        EventType::TargetTry => format!("{} tries its stage again", host()),
        EventType::TargetUnknown => format!("{} does not say how its stage ended", host()),
        EventType::TargetTakenOver => format!("{} taken over from an engine that died", host()),
        EventType::LateOutcome => format!("{} answered after its stage had ended", host()),
        EventType::ServerOut => format!("{} out of service{}", host(), census(event)),
        EventType::ServerIn => format!("{} in service{}", host(), census(event)),
        EventType::ServerPulledOut => format!("{} pulled out", host()),
        EventType::ServerPutBack => format!("{} put back", host()),
        EventType::ServerDrainedAgain => format!("{} was in traffic and is drained again", host()),
        EventType::ServerAppeared => format!("{} appeared in the CMDB", host()),
        EventType::ServerLeft => format!("{} left the group", host()),
    }
}

fn change(event: &Event) -> String {
    match (&event.data.from, &event.data.to) {
        (Some(from), Some(to)) => format!("{from} → {to}"),
        (None, Some(to)) => to.clone(),
        (_, None) => "changed".to_owned(),
    }
}

fn reasons(before: &str, holds: Option<&[HoldReason]>) -> String {
    let words: Vec<String> = holds.unwrap_or_default().iter().map(word).collect();
    if words.is_empty() { String::new() } else { format!("{before}{}", words.join(", ")) }
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

    fn names() -> Names {
        let (target, server) = (TARGET.parse().expect("an id"), SERVER.parse().expect("an id"));
        Names {
            targets: BTreeMap::from([(target, "web-1".to_owned())]),
            servers: BTreeMap::from([(server, "web-1".to_owned())]),
        }
    }

    fn told(mut event: Value) -> String {
        event["seq"] = 7.into();
        event["at"] = "2023-11-14T22:13:20Z".into();
        event["group"] = GROUP.into();
        if event.get("actor").is_none() {
            event["actor"] = "capstan".into();
        }
        line(&serde_json::from_value(event).expect("an event"), &names())
    }

    #[test]
    fn events_are_told_in_words() {
        for (event, expected) in [
            (
                json!({"type": "target.status", "target": TARGET, "cause": "timeout",
                    "data": {"from": "VERIFY_RUNNING", "to": "VERIFY_FAILURE", "attempt": 2,
                        "message": "no answer"}}),
                "web-1 VERIFY_RUNNING → VERIFY_FAILURE (timeout), attempt 2: no answer",
            ),
            (
                json!({"type": "server.out", "server": SERVER,
                    "data": {"out_count": 2, "limit": 3}}),
                "web-1 out of service; 2 of at most 3 out",
            ),
            (
                json!({"type": "deployment.hold_set", "actor": "ann",
                    "data": {"holds": ["user", "failures"]}}),
                "braked by user, failures, by ann",
            ),
            (json!({"type": "deployment.hold_cleared", "data": {"holds": []}}), "no longer braked"),
            (
                json!({"type": "batch.status", "batch": 2,
                    "data": {"from": "WAITING", "to": "DEPLOYING"}}),
                "batch 2 WAITING → DEPLOYING",
            ),
            (
                json!({"type": "deployment.created", "actor": "ann", "data": {"version": "1.1.0"}}),
                "deployment of 1.1.0 created, by ann",
            ),
            (
                json!({"type": "target.added", "target": GROUP, "batch": 4, "data": {}}),
                "a target joins batch 4",
            ),
            (
                json!({"type": "server.left", "server": SERVER, "data": {"message": "\u{1b}[2J"}}),
                "web-1 left the group: \u{fffd}[2J",
            ),
        ] {
            assert_eq!(told(event), format!("22:13:20     7  {expected}"));
        }
    }
}
