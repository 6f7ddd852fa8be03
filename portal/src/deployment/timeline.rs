//! What happened last.

use capstan_core::event::{Event, EventType};
use capstan_core::sentence::{Names, sentence};
use capstan_core::view::DeploymentView;
use maud::{Markup, html};

use crate::moment;
use crate::tone::Tone;

/// How many events the page shows.
const MOST: usize = 50;
/// Who acts when no person does.
const ENGINE: &str = "capstan";

pub(super) fn list(events: &[Event], names: &Names, view: &DeploymentView) -> Markup {
    let mut newest: Vec<&Event> = events.iter().collect();
    newest.sort_by_key(|event| std::cmp::Reverse(event.seq));
    newest.truncate(MOST);
    html! {
        div.section-head {
            h2 id="timeline-title" { "Timeline" }
            p.fine {
                "Times in UTC. "
                a href={ "/deployments/" (view.id) "/actions" } { "Who asked for what" }
            }
        }
        @if newest.is_empty() {
            p.fine { "Nothing happened yet." }
        } @else {
            ol.timeline {
                @for event in newest { li.(tone(event).class()) { (entry(event, names)) } }
            }
        }
    }
}

fn entry(event: &Event, names: &Names) -> Markup {
    html! {
        span.at { (moment::clock(event.at)) }
        div {
            p {
                @match event.target {
                    Some(target) => a href={ "/targets/" (target) } { (sentence(event, names)) },
                    None => (sentence(event, names)),
                }
                @if event.actor != ENGINE { span.actor { " by " (event.actor) } }
            }
            @if let Some(message) = &event.data.message { p.fine { (message) } }
        }
    }
}

/// The colour of an event's mark.
fn tone(event: &Event) -> Tone {
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
        | EventType::ServerDrainedAgain
        | EventType::ServerDrained
        | EventType::DependencyOpened
        | EventType::DependencyCutOff => Tone::Warning,
        EventType::ServerIn | EventType::DependencyRestored => Tone::Good,
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
