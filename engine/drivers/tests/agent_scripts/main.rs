//! The scripts that run on hosts, run here as they run there: `agent-scripts/order` and the stages of the
//! kind `generic`, against a folder, real processes and a small HTTP server.

mod download;
mod host;
mod install;
mod orders;
mod server;
mod verify;
