//! The engine over a real store, scripted hosts and a scripted load balancer.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test says what is wrong by failing")]

mod dependencies;
mod emergency;
mod nudges;
mod outage;
mod split_brain;
mod traffic;
mod traps;
mod world;
