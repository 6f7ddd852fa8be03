//! Events on their way to a consumer.

use std::time::Duration;

use capstan_core::event::Event;
use uuid::Uuid;

use super::epochs::Epochs;

/// Events to send, each stream in its order.
#[derive(Debug, Default)]
pub struct Batch {
    /// The streams that have any, each with its next events.
    pub streams: Vec<Vec<Event>>,
    /// Groups of which nothing is left once these are sent, with the versions that were looked at.
    pub(super) seen: Vec<(Uuid, i64)>,
    /// How long ago the oldest of these events happened.
    pub lag: Duration,
    /// Whether some groups must be asked thoroughly soon, even if nothing changes.
    pub looks_again: bool,
    pub(super) epochs: Epochs,
}

/// The stream of an event.
pub(super) fn stream_of(event: &Event) -> Uuid {
    event.deployment.map_or(event.group.0, |deployment| deployment.0)
}

impl Batch {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Whether there is nothing to send, and nothing to write either.
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty() && self.seen.is_empty()
    }

    /// The epoch of one of these events: the second of the restore from a backup after which it was written;
    /// 0: its log was not restored before.
    pub fn epoch(&self, event: &Event) -> i64 {
        self.epochs.of(event)
    }

    /// The events, stream by stream.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.streams.iter().flatten()
    }
}
