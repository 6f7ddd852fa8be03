//! The controller: REST API, portal routes, authentication, the cache of the CMDB, and the front of
//! the package store.
//!
//! **What it is for.** It takes every command from outside. A command becomes an input of the one
//! decision in `capstan-core`, which the store carries out; a question is answered from the store's
//! views. [`Controller::router`] gives all routes, [`Controller::run_sync`] keeps the cache of the
//! CMDB right.
//!
//! **What it must not do.** Decide what a click may do (the core does), write SQL (the store does),
//! order anything of a host (the engine does). It only looks: at load balancers before a plan is
//! made, and at hosts that it has never released to, for what they run.
//!
//! **Arrows.** It points at `capstan-core`, `capstan-store` and `capstan-portal`. Drivers come in
//! as ports, from `src/`.
//!
//! Where to look:
//! * the calls of the API, one file each: `api`; what they do, shared with the pages: `commands`
//! * who may call: `auth`; repeats of a write: `idempotency`; who did what: `audit`
//! * what a refusal looks like: `problem`
//! * how long requests take: `measure`
//! * the cache of the CMDB: `sync`; looks at servers: `look`; what groups run already: `adopt`
//! * messages out to the broker and to webhooks, and in from the CMDB: `messages`
//! * pages, forms and sessions: `portal`

mod adopt;
mod api;
mod app;
mod audit;
mod auth;
mod commands;
mod controller;
mod download;
mod extract;
mod flight;
mod headers;
mod health;
mod idempotency;
mod look;
mod measure;
mod messages;
mod portal;
mod problem;
mod scale_out;
mod settings;
mod sync;

pub use controller::{Controller, Error};
pub use measure::describe_metrics;
pub use settings::{Ports, Settings};
