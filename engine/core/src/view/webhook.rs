//! Webhooks, and how they were called.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::event::EventType;
use crate::{Timestamp, WebhookId};

/// Somebody who is told of events by HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookView {
    /// Its id.
    pub id: WebhookId,
    /// Its name.
    pub name: String,
    /// What is called.
    pub url: String,
    /// Which events: types, or what types begin with and a star, with commas between them.
    pub events: String,
    /// Whether it is called.
    pub enabled: bool,
    /// Why Capstan has switched it off by itself.
    pub disabled_because: Option<String>,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// Since when every call failed; null: the last one did not.
    pub failing_since: Option<Timestamp>,
    /// How many calls failed since then.
    pub failures: u32,
    /// When it is called again after a failure.
    pub next_try_at: Option<Timestamp>,
    /// When a call last succeeded.
    pub delivered_at: Option<Timestamp>,
    /// What bodies are signed with. Shown once, when it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// One call of a webhook. The newest 1,000 of each are kept, for seven days at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryView {
    /// The event: the `id` of its message.
    pub event: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// Which try it was, from 1.
    pub attempt: u32,
    /// When.
    pub at: Timestamp,
    /// The HTTP status of the answer; null: there was none.
    pub status: Option<u16>,
    /// What went wrong; null: nothing did.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u32,
}
