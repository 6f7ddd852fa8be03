//! Readers of the log that send it somewhere: to a message broker, to webhooks.
//!
//! A reader is a *consumer* with a name. One process at a time works for a consumer; how far it has come is
//! kept per stream (a deployment's log or a group's), so that each log is sent in its order and nothing is
//! sent from memory. The log itself is the outbox: nothing is written for a message but the cursor, after
//! it was sent ([ADR 0017](../../../../docs/adr/0017-messages-out.md)).
//!
//! * who works for a consumer: `consumer`
//! * what is new for it: `feed`; what was written after a restore from a backup: `epochs`
//! * who is called by HTTP, and how that went: `webhooks`, `deliveries`

mod batch;
mod consumer;
mod deliveries;
mod epochs;
mod feed;
mod webhooks;

pub use batch::Batch;
pub use consumer::Begin;
pub use deliveries::NewDelivery;
pub use feed::Feed;
pub use webhooks::{NewWebhook, Webhook, WebhookChange};
