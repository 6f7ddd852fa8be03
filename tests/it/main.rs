//! Whole processes: the real binary, a real database, real instances on this machine.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test says what is wrong by failing")]

mod arrows;
mod browser;
mod chaos;
mod cli;
mod cmdb;
mod cmdb_messages;
mod controllers;
mod crash;
mod crash_writes;
mod database;
mod dependencies;
mod disk;
mod emergency;
mod faults;
mod harness;
mod host_faults;
mod many;
mod messages;
mod nudges;
mod outages;
mod refreshes;
mod restore;
mod split_brain;
mod story;
mod upgrade;
