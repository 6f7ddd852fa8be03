//! The rows of each table; what a table is for stands in `capstan-migrations`.
#![allow(
    unreachable_pub,
    clippy::struct_excessive_bools,
    reason = "what sea-orm derives is public though the module is not; a row has the columns it has"
)]

pub(crate) mod actions;
pub(crate) mod applications;
pub(crate) mod batches;
pub(crate) mod dependencies;
pub(crate) mod deployments;
pub(crate) mod events;
pub(crate) mod groups;
pub(crate) mod idempotency;
pub(crate) mod login_links;
pub(crate) mod outputs;
pub(crate) mod packages;
pub(crate) mod scripts;
pub(crate) mod server_states;
pub(crate) mod servers;
pub(crate) mod sessions;
pub(crate) mod targets;
pub(crate) mod tokens;
pub(crate) mod webhook_deliveries;
pub(crate) mod webhooks;
