//! Every line of SQL: the records of `capstan-core` kept in a database.
//!
//! **What it is for.** [`Store`] opens the database, brings its schema up to date and is the only
//! way to it. A method is one use case and one transaction. What a group, its servers or its
//! deployments become is never written by a method of its own: an input goes through
//! `Store::submit`, is decided by `capstan-core`, and the changes, the events and what must happen
//! next are written in one transaction (S8).
//!
//! **What it must not do.** Decide anything; show its rows: entities stay inside, records and views
//! of `capstan-core` come out; see a secret: only hashes reach it.
//!
//! **Arrows.** It points at `capstan-core` and `capstan-migrations`, and neither points back.
//!
//! Where to look:
//! * the tables, each with its doc: `capstan-migrations`
//! * how a record becomes a row and back: `rows`
//! * decide and write, many inputs at once: `commit`, `part`; the write itself, the hot path: `apply`,
//!   `bulk`
//! * the copies of groups that are decided on: `cache`, filled by `load`
//! * other processes over the same database: `processes`, `in_step`, `watches`
//! * who may do what is due: `claims`; how it gets it: `hand_out`, `work`
//! * who sends the log elsewhere, and how far it has come: `messages`
//! * everything else lies in files by what it is about

mod access;
mod after_write;
mod answering;
mod applications;
mod apply;
mod arrays;
mod audit;
mod begin;
mod bulk;
mod cache;
mod changed;
mod claims;
mod clock;
mod commit;
mod connect;
pub mod crash;
mod cursor;
mod dependencies;
mod deployments;
mod entities;
mod error;
mod events;
mod group_put;
mod groups;
mod hand_out;
mod idempotency;
mod in_step;
mod inner;
mod listen;
mod load;
mod merged;
mod messages;
mod operation;
mod output;
mod packages;
mod part;
mod processes;
mod queue;
mod refreshes;
mod restored;
mod round;
mod rows;
mod scripts;
mod servers;
mod store;
mod submit;
mod tables;
mod targets;
#[cfg(test)]
mod tests;
mod told;
mod types;
mod watches;
mod work;

use std::sync::Arc;

use tokio::sync::mpsc;

use commit::Request;
use inner::Inner;

pub use connect::migrate;
pub use error::{Error, SubmitError, chain};
pub use messages::{Batch, Begin, Feed, NewDelivery, NewWebhook, Webhook, WebhookChange};
pub use refreshes::{RefreshTurn, RefreshWish, Refreshing};
pub use told::describe_metrics;
pub use types::{
    Asked, DeploymentFilter, Idempotency, NewAudit, NewPackage, OutputChunk, PageRequest,
    QueueMetrics, Registered, RequestKey, SessionRow, Settings, TargetFilter, TokenRow,
};
pub use work::{Claim, Claimed, Task};

/// The database. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
    requests: mpsc::Sender<Request>,
}
