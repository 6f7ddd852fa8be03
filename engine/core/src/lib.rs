//! The rules of a release: records, state tables, `plan`, `slots`, `decide`, and the ports to the outside.
//!
//! Everything here is pure and synchronous: no I/O, no clock, no randomness. Instants, ids and the
//! outcomes of outside acts come in as arguments; what should happen outside goes out as
//! [`effect::Effect`]s. The crate depends on no other crate of Capstan; all others point at it.
//!
//! Where to look:
//! * may this click happen, what follows: [`decide`], with the tables [`deployment_status`],
//!   [`batch_status`] and [`target_status`]
//! * which servers, in which order, in which batches: [`plan`]
//! * how many servers may be out: [`slots`]
//! * what is broken or cut off, and what follows: [`dependency`]
//! * what outsiders read: [`event`] and [`view`]; events as words: [`sentence`]
//! * whether a log keeps the rules: [`checker`]
//! * what drivers implement: [`ports`]; messages out and in: [`message`]

mod tally;
mod transitions;

pub mod action;
pub mod batch_status;
pub mod changes;
pub mod checker;
pub mod config;
pub mod decide;
pub mod dependency;
pub mod deployment_status;
pub mod effect;
pub mod event;
pub mod id;
pub mod input;
pub mod message;
pub mod order;
pub mod outages;
pub mod plan;
pub mod ports;
pub mod record;
pub mod rollback;
pub mod sentence;
pub mod share;
pub mod slots;
pub mod spread;
pub mod stage;
pub mod state;
pub mod target_status;
pub mod timestamp;
pub mod view;
mod waiting;

pub use id::{
    ApplicationId, DeploymentId, GroupId, OrderKey, PackageId, ServerId, TargetId, TokenId,
    WebhookId,
};
pub use timestamp::Timestamp;
