//! Events as messages: what goes to a message broker and to webhooks, and the ports to both.
//!
//! A message is a `CloudEvent` 1.0 in its structured JSON form. Everything in it follows from the event, so
//! a message that is sent again is the same, byte for byte, and has the same id.

use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::event::{Event, EventType};
use crate::ports::Call;

/// The content type of every body.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";
/// What the types of all messages begin with.
const PREFIX: &str = "capstan.";

/// An event on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Names the event for ever, see [`message_id`].
    pub id: String,
    /// Where a topic exchange sends it: `deployment.{status}`, `target.{status}`, `batch.{status}`; every
    /// other event has its type for a key, `deployment.hold_set` for example.
    pub key: String,
    /// The event's type, with what all types begin with.
    pub kind: String,
    /// The `CloudEvent`.
    pub body: String,
}

/// The id of an event's message: the stream (a deployment, or a group for what happens outside any), a slash
/// and the place in it. A database that was restored from a backup gives numbers anew that others had before,
/// so what is written then has the second of the restore, its epoch, in between; 0: there was none.
pub fn message_id(stream: Uuid, epoch: i64, seq: i64) -> String {
    match epoch {
        0 => format!("{stream}/{seq}"),
        epoch => format!("{stream}/{epoch}/{seq}"),
    }
}

impl Message {
    /// The message about an event that was written in this epoch, see [`message_id`].
    pub fn of(event: &Event, epoch: i64) -> Self {
        let (stream, source) = match event.deployment {
            Some(id) => (id.0, format!("/api/v1/deployments/{id}")),
            None => (event.group.0, format!("/api/v1/groups/{}", event.group)),
        };
        let id = message_id(stream, epoch, event.seq);
        let kind = format!("{PREFIX}{}", event.kind.word());
        let mut body = json!({
            "specversion": "1.0",
            "id": id,
            "source": source,
            "type": kind,
            "time": event.at,
            "datacontenttype": "application/json",
            // The extension `sequence`: texts whose order is that of the log, also over a restore.
            "sequence": match epoch {
                0 => format!("{:019}", event.seq),
                epoch => format!("{epoch:010}{:019}", event.seq),
            },
            "data": event,
        });
        if let (Some(target), Some(members)) = (event.target, body.as_object_mut()) {
            members.insert("subject".to_owned(), json!(format!("targets/{target}")));
        }
        Self { id, key: key(event), kind, body: body.to_string() }
    }
}

fn key(event: &Event) -> String {
    let subject = match event.kind {
        EventType::DeploymentStatus => "deployment",
        EventType::BatchStatus => "batch",
        EventType::TargetStatus => "target",
        EventType::DeploymentCreated
        | EventType::HoldSet
        | EventType::HoldCleared
        | EventType::ActionTaken
        | EventType::DeploymentStale
        | EventType::TargetAdded
        | EventType::TargetMoved
        | EventType::TargetTry
        | EventType::TargetUnknown
        | EventType::TargetTakenOver
        | EventType::LateOutcome
        | EventType::ServerOut
        | EventType::ServerIn
        | EventType::ServerPulledOut
        | EventType::ServerPutBack
        | EventType::ServerDrainedAgain
        | EventType::ServerDrained
        | EventType::ServerAppeared
        | EventType::ServerLeft
        | EventType::DependencyOpened
        | EventType::DependencyCutOff
        | EventType::DependencyRestored => return event.kind.word().to_owned(),
    };
    match &event.data.to {
        Some(status) => format!("{subject}.{status}"),
        None => event.kind.word().to_owned(),
    }
}

/// Which events somebody wants: types, or what types begin with, followed by a star.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFilter(Vec<String>);

impl EventFilter {
    /// Reads `deployment.*, target.status`; `*` stands for all.
    ///
    /// # Errors
    /// A pattern that no type of event fits.
    pub fn parse(text: &str) -> Result<Self, String> {
        let patterns: Vec<String> = text
            .split(',')
            .map(|part| part.trim().to_owned())
            .filter(|it| !it.is_empty())
            .collect();
        if patterns.is_empty() {
            return Err("it names no type of event".to_owned());
        }
        for pattern in &patterns {
            if !EventType::ALL.iter().any(|kind| fits(pattern, *kind)) {
                return Err(format!("no type of event fits {pattern:?}"));
            }
        }
        Ok(Self(patterns))
    }

    /// Whether an event of this type is wanted.
    pub fn wants(&self, kind: EventType) -> bool {
        self.0.iter().any(|pattern| fits(pattern, kind))
    }
}

impl std::fmt::Display for EventFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

fn fits(pattern: &str, kind: EventType) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => kind.word().starts_with(begin),
        None => kind.word() == pattern,
    }
}

/// Takes messages out to whoever listens.
pub trait Broker: Send + Sync {
    /// Sends messages in this order, and returns when all of them are safe with the broker. After a
    /// failure some may be: they are sent again.
    fn publish<'a>(&'a self, messages: &'a [Message]) -> Call<'a, ()>;
}

/// A call of a webhook.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookCall {
    /// Where.
    pub url: String,
    /// What the body is signed with; never shown.
    pub secret: String,
    /// The message.
    pub message: Message,
}

impl std::fmt::Debug for WebhookCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookCall")
            .field("url", &self.url)
            .field("message", &self.message.id)
            .finish_non_exhaustive()
    }
}

/// Calls webhooks.
pub trait WebhookCaller: Send + Sync {
    /// Whether this URL may be called at all, as far as that can be told without asking for addresses.
    ///
    /// # Errors
    /// Why not.
    fn check(&self, url: &str) -> Result<(), String>;
    /// Makes a call and gives the HTTP status of the answer, whatever it is.
    fn call<'a>(&'a self, call: &'a WebhookCall) -> Call<'a, u16>;
}

/// A message that came in: a group changed in the CMDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Under which the inbox knows it until it is settled.
    pub tag: u64,
    /// Its routing key.
    pub key: String,
    /// Its body.
    pub body: Vec<u8>,
}

/// What becomes of a message that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// What it asked for is stored.
    Done,
    /// It will never be understood: it is laid aside, with the reason.
    Poison(String),
}

/// How messages wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Waiting {
    /// In the queue.
    pub queued: u32,
    /// Laid aside.
    pub dead: u32,
}

/// What came of putting messages back that were laid aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replayed {
    /// So many are in the queue again.
    pub moved: u32,
    /// So many of those that were there are still laid aside.
    pub left: u32,
}

/// Messages about changes in the CMDB.
pub trait Inbox: Send + Sync {
    /// Waits for the next message. An error says that the connection is lost: what was not settled comes
    /// again.
    fn next(&self) -> Call<'_, Incoming>;
    /// Says what became of a message. One of a lost connection comes again whatever is said.
    fn settle(&self, tag: u64, verdict: Verdict) -> Call<'_, ()>;
    /// Gives the connection up: what is not settled comes again, to whoever asks. Whoever waits for the next
    /// message, or else whoever asks for it first, is told that the connection is lost.
    fn close(&self) -> Call<'_, ()>;
    /// How many messages wait.
    fn waiting(&self) -> Call<'_, Waiting>;
    /// Puts at most so many of those that were laid aside into the queue again, or as many as can be within
    /// the time of a call. None is lost wherever that is cut off; some may come twice.
    fn replay(&self, most: u32) -> Call<'_, Replayed>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventData;
    use crate::{DeploymentId, GroupId, TargetId, Timestamp};

    fn event(kind: EventType, to: Option<&str>) -> Event {
        Event {
            seq: 7,
            at: Timestamp::from_micros(1_700_000_000_000_000),
            kind,
            group: GroupId(Uuid::from_u128(1)),
            deployment: Some(DeploymentId(Uuid::from_u128(2))),
            batch: None,
            target: None,
            server: None,
            actor: "ada".to_owned(),
            cause: None,
            data: EventData { to: to.map(str::to_owned), ..EventData::default() },
        }
    }

    #[test]
    fn a_message_is_a_cloud_event_and_the_same_each_time() {
        let mut event = event(EventType::TargetStatus, Some("MARKUP_RUNNING"));
        event.target = Some(TargetId(Uuid::from_u128(3)));
        let message = Message::of(&event, 0);
        assert_eq!(message, Message::of(&event, 0));
        assert_eq!(message.key, "target.MARKUP_RUNNING");
        let body: serde_json::Value = serde_json::from_str(&message.body).expect("JSON");
        assert_eq!(body["specversion"], "1.0");
        assert_eq!(body["id"], "00000000-0000-0000-0000-000000000002/7");
        assert_eq!(body["source"], "/api/v1/deployments/00000000-0000-0000-0000-000000000002");
        assert_eq!(body["type"], "capstan.target.status");
        assert_eq!(body["time"], "2023-11-14T22:13:20Z");
        assert_eq!(body["subject"], "targets/00000000-0000-0000-0000-000000000003");
        assert_eq!(body["sequence"], "0000000000000000007");
        assert_eq!(serde_json::from_value::<Event>(body["data"].clone()).expect("ours"), event);
    }

    #[test]
    fn what_is_written_after_a_restore_is_another_event_and_a_later_one() {
        let event = event(EventType::HoldSet, None);
        let (before, after) = (Message::of(&event, 0), Message::of(&event, 1_700_000_000));
        assert_eq!(after.id, "00000000-0000-0000-0000-000000000002/1700000000/7");
        let sequence = |message: &Message| {
            let body: serde_json::Value = serde_json::from_str(&message.body).expect("JSON");
            assert_eq!(body["id"], message.id);
            body["sequence"].as_str().expect("a text").to_owned()
        };
        assert!(sequence(&before) < sequence(&after));
        let late = Event { seq: 9_999_999_999, ..event };
        assert!(sequence(&Message::of(&late, 0)) < sequence(&after));
    }

    #[test]
    fn statuses_are_keys_and_everything_else_has_its_type() {
        for (kind, to, key) in [
            (EventType::DeploymentStatus, Some("SUCCESS"), "deployment.SUCCESS"),
            (EventType::BatchStatus, Some("FAILURE"), "batch.FAILURE"),
            (EventType::HoldSet, None, "deployment.hold_set"),
            (EventType::ServerOut, Some("out"), "server.out"),
        ] {
            assert_eq!(Message::of(&event(kind, to), 0).key, key);
        }
    }

    #[test]
    fn a_filter_takes_what_it_names() {
        let filter = EventFilter::parse("deployment.*, target.status").expect("known");
        assert!(filter.wants(EventType::HoldSet) && filter.wants(EventType::TargetStatus));
        assert!(!filter.wants(EventType::TargetTry) && !filter.wants(EventType::ServerOut));
        assert!(EventFilter::parse("*").expect("all").wants(EventType::ServerOut));
        for wrong in ["", " , ", "deployment", "moon.*", "deployment.*, x"] {
            assert!(EventFilter::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
