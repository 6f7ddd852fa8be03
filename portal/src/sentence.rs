//! Events as sentences.

use std::collections::BTreeMap;

use capstan_core::event::{Event, EventType};
use capstan_core::view::TargetView;
use capstan_core::{ServerId, TargetId};

use crate::tone::Tone;

/// Every type of event, under whose names the event stream sends them.
pub(crate) const TYPES: [EventType; 21] = [
    EventType::DeploymentCreated,
    EventType::DeploymentStatus,
    EventType::HoldSet,
    EventType::HoldCleared,
    EventType::ActionTaken,
    EventType::DeploymentStale,
    EventType::BatchStatus,
    EventType::TargetAdded,
    EventType::TargetMoved,
    EventType::TargetStatus,
    EventType::TargetTry,
    EventType::TargetUnknown,
    EventType::TargetTakenOver,
    EventType::LateOutcome,
    EventType::ServerOut,
    EventType::ServerIn,
    EventType::ServerPulledOut,
    EventType::ServerPutBack,
    EventType::ServerDrainedAgain,
    EventType::ServerAppeared,
    EventType::ServerLeft,
];

/// Host names of the targets and servers that events speak of.
#[derive(Debug, Default)]
pub(crate) struct Names<'a> {
    targets: BTreeMap<TargetId, &'a TargetView>,
    servers: BTreeMap<ServerId, &'a TargetView>,
}

impl<'a> Names<'a> {
    pub(crate) fn of(targets: &'a [TargetView]) -> Self {
        Self {
            targets: targets.iter().map(|target| (target.id, target)).collect(),
            servers: targets.iter().map(|target| (target.server, target)).collect(),
        }
    }

    fn of_event(&self, event: &Event) -> String {
        let by_target = event.target.and_then(|id| self.targets.get(&id));
        let by_server = || event.server.and_then(|id| self.servers.get(&id));
        match (by_target.or_else(by_server), event.target) {
            (Some(target), _) => host(target),
            (None, Some(_)) => "A target".to_owned(),
            (None, None) => "A server".to_owned(),
        }
    }
}

/// Host name and instance, as people name a target.
pub(crate) fn host(target: &TargetView) -> String {
    capstan_core::plan::label(&target.hostname, &target.instance)
}

/// The sentence of an event, without its message.
pub(crate) fn sentence(event: &Event, names: &Names<'_>) -> String {
    let data = &event.data;
    let host = || names.of_event(event);
    let batch =
        || event.batch.map_or_else(|| "a batch".to_owned(), |index| format!("batch {index}"));
    match event.kind {
        EventType::DeploymentCreated => match &data.version {
            Some(version) => format!("Deployment of {version} created"),
            None => "Deployment created".to_owned(),
        },
        EventType::DeploymentStatus => format!("Deployment {}", change(event)),
        EventType::HoldSet => format!("Braked{}", reasons(event, " by ")),
        EventType::HoldCleared => match data.holds.as_deref() {
            Some([_, ..]) => format!("Hold cleared; still braked{}", reasons(event, " by ")),
            Some([]) | None => "No longer braked".to_owned(),
        },
        EventType::ActionTaken => "Asked".to_owned(),
        EventType::DeploymentStale => "Nobody has decided for a day".to_owned(),
        EventType::BatchStatus => format!("{} {}", capital(&batch()), change(event)),
        EventType::TargetAdded => format!("{} joins {}", host(), batch()),
        EventType::TargetMoved => format!("{} moves to {}", host(), batch()),
        EventType::TargetStatus => {
            let attempt = match data.attempt {
                Some(attempt) if attempt > 1 => format!(", attempt {attempt}"),
                Some(_) | None => String::new(),
            };
            let cause = event.cause.map(|cause| format!(" ({})", cause.word())).unwrap_or_default();
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

/// The colour of an event's mark.
pub(crate) fn tone(event: &Event) -> Tone {
    match event.kind {
        EventType::DeploymentStatus | EventType::BatchStatus | EventType::TargetStatus => {
            event.data.to.as_deref().map_or(Tone::Idle, Tone::of_word)
        }
        EventType::HoldSet
        | EventType::DeploymentStale
        | EventType::TargetTry
        | EventType::TargetUnknown
        | EventType::TargetTakenOver
        | EventType::LateOutcome
        | EventType::ServerDrainedAgain => Tone::Warning,
        EventType::ServerIn => Tone::Good,
        EventType::DeploymentCreated
        | EventType::HoldCleared
        | EventType::ActionTaken
        | EventType::TargetAdded
        | EventType::TargetMoved
        | EventType::ServerOut
        | EventType::ServerPulledOut
        | EventType::ServerPutBack
        | EventType::ServerAppeared
        | EventType::ServerLeft => Tone::Idle,
    }
}

fn change(event: &Event) -> String {
    match (&event.data.from, &event.data.to) {
        (Some(from), Some(to)) => format!("{from} → {to}"),
        (None, Some(to)) => to.clone(),
        (_, None) => "changed".to_owned(),
    }
}

fn reasons(event: &Event, before: &str) -> String {
    let words: Vec<&str> = event
        .data
        .holds
        .iter()
        .flatten()
        .map(|reason| crate::deployment::hold_word(*reason))
        .collect();
    if words.is_empty() { String::new() } else { format!("{before}{}", words.join(", ")) }
}

fn census(event: &Event) -> String {
    match (event.data.out_count, event.data.limit) {
        (Some(out), Some(limit)) => format!("; {out} of at most {limit} out"),
        (Some(out), None) => format!("; {out} out"),
        (None, _) => String::new(),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
