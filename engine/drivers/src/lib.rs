//! How Capstan talks to the outside: load balancers, hosts, the CMDB and the package store.
//!
//! Each file implements one port of [`capstan_core::ports`] for one kind of system. A driver decides
//! nothing: it does what it is asked, says what it sees, and tells apart what is refused, what may
//! work later and what nobody knows ([`capstan_core::ports::DriverError`]). Every error carries a
//! sentence for people. The crate depends on `capstan-core` and on no other crate of Capstan.
//!
//! | port | drivers |
//! |---|---|
//! | load balancer | [`none`], [`noop`], [`fake`] |
//! | executor | [`local`], [`noop`], [`fake`] |
//! | CMDB | [`file_cmdb`], [`http_cmdb`], [`netbox_cmdb`] |
//! | package store | [`packages`] |
//! | scripts | [`scripts`] |
//! | message broker | [`amqp`] |
//! | webhooks | [`webhooks`] |
//! | queue | [`nudges`] |
//!
//! [`guard`] puts a [`breaker`], a time limit, metrics and tracing around any of them;
//! [`cmdb_records`] says which records of a CMDB count.

pub mod amqp;
pub mod breaker;
pub mod cmdb_records;
pub mod fake;
pub mod file_cmdb;
pub mod guard;
pub mod http_cmdb;
pub mod local;
pub mod netbox_cmdb;
pub mod none;
pub mod noop;
pub mod nudges;
pub mod packages;
pub mod scripts;
mod switchboard;
pub mod webhooks;
