//! The ports: what Capstan asks of the outside, in its own words. Drivers implement them.
//!
//! Every call ends within about two seconds; longer work is ordered and looked at again. Every act
//! is idempotent, and every act has an observation.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::record::{BastionRule, OnLbFailure, ScaleOut};
use crate::{GroupId, OrderKey, ServerId, Timestamp};

/// A call under way.
pub type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T, DriverError>> + Send + 'a>>;

/// Why a call gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// The other side said no and will say so again.
    #[error("refused: {0}")]
    Refused(String),
    /// The other side did nothing and may later.
    #[error("busy: {0}")]
    Busy(String),
    /// No answer: the act may have happened. Look before acting again.
    #[error("no answer: {0}")]
    Unknown(String),
}

/// Tells the time. Instants that two processes compare come from one clock.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The instant now. It never lies before one that was given out.
    fn now(&self) -> Timestamp;
    /// From now on no instant before this one is given out: it stands in the database already.
    fn not_before(&self, at: Timestamp);
}

/// Where a server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The server.
    pub server: ServerId,
    /// Host name.
    pub hostname: String,
    /// Instance on the host.
    pub instance: String,
    /// Address.
    pub ip_address: String,
    /// Port.
    pub port: u16,
    /// Folder of the instance on the host.
    pub root: String,
    /// Data centre.
    pub idc: String,
    /// Health URL with everything filled in.
    pub health_url: String,
}

/// What a load balancer shows of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sight {
    /// It gets traffic and answers.
    Serving,
    /// It carries our mark and gets no new traffic.
    Drained,
    /// Somebody else took it out.
    TakenOut,
    /// It does not answer.
    Dead,
    /// The load balancer does not say.
    Unknown,
}

/// One server as a load balancer shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The server.
    pub server: ServerId,
    /// What is shown.
    pub sight: Sight,
    /// Requests under way on it, if known.
    pub in_flight: Option<u32>,
}

/// Takes servers out of traffic and puts them back.
pub trait LoadBalancer: Send + Sync {
    /// Whether this driver can take traffic away. One that cannot (driver `none`) answers `drain`
    /// and `admit` without doing anything, and what it sees is health alone.
    fn can_drain(&self) -> bool;
    /// Whether one [`Self::observe`] may be asked for any number of servers: the other side knows them
    /// all. Such a driver is looked at for a whole group every few seconds, however large the group is.
    /// One that must probe each server by itself is asked for some at a time (S13).
    fn sees_all_at_once(&self) -> bool;
    /// Sets our mark on the server: no new traffic. Repeated calls change nothing.
    fn drain<'a>(&'a self, server: &'a Endpoint) -> Call<'a, ()>;
    /// Removes our mark and no other.
    fn admit<'a>(&'a self, server: &'a Endpoint) -> Call<'a, ()>;
    /// Looks at servers; the answer has one entry for each, in the same order.
    fn observe<'a>(&'a self, servers: &'a [Endpoint]) -> Call<'a, Vec<Seen>>;
}

/// A script as it is sent to hosts: never changed, known by its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// SHA-256 of the body, lower-case hexadecimal.
    pub sha256: String,
    /// The text.
    pub body: String,
}

/// An order to a host (S7).
#[derive(Debug, Clone)]
pub struct Order {
    /// A host runs a key once at most.
    pub key: OrderKey,
    /// A host refuses an order whose fence is below the last one it saw.
    pub fence: i64,
    /// The host ends the script after this time, even if nobody asks again.
    pub time_limit: Duration,
    /// The script.
    pub script: Arc<Script>,
    /// Its environment; nothing else reaches the script.
    pub environment: BTreeMap<String, String>,
}

/// What a host says of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderState {
    /// The key is not known to the host: the order may be sent.
    Unknown,
    /// The script runs (or was accepted just now).
    Running,
    /// The script ended with this exit code.
    Ended(i32),
    /// The order was ended by a newer one or by a cancel.
    Cancelled,
    /// The script is gone and left no exit code: a new order may follow.
    Lost,
    /// The host has seen this higher fence; the order is refused for good.
    Stale(i64),
}

/// Answer of [`Executor::look`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The order's state, read before the output.
    pub state: OrderState,
    /// Output from the asked offset on, at most 64 KiB.
    pub output: Vec<u8>,
}

/// What a host says it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The version.
    pub version: String,
    /// SHA-256 of the package it came from.
    pub sha256: String,
}

/// Gives orders to hosts.
pub trait Executor: Send + Sync {
    /// Sends an order. A known key answers its state and runs nothing.
    fn start<'a>(&'a self, server: &'a Endpoint, order: &'a Order) -> Call<'a, OrderState>;
    /// Asks for an order by key, with the output from byte `offset` on.
    fn look<'a>(&'a self, server: &'a Endpoint, key: OrderKey, offset: u64) -> Call<'a, Look>;
    /// Ends an order.
    fn cancel<'a>(
        &'a self,
        server: &'a Endpoint,
        key: OrderKey,
        fence: i64,
    ) -> Call<'a, OrderState>;
    /// Asks what the instance runs; `None`: nothing that a script of Capstan installed.
    fn report<'a>(&'a self, server: &'a Endpoint, script: &'a Script) -> Call<'a, Option<Report>>;
}

/// An application as the CMDB gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CmdbApplication {
    /// Its id in the CMDB.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Who answers for it.
    #[serde(default)]
    pub owner: String,
    /// For example `prod`.
    #[serde(default)]
    pub environment: String,
    /// Chooses the host scripts.
    #[serde(default = "generic")]
    pub kind: String,
    /// Whether its rollouts begin with a bastion batch.
    #[serde(default)]
    pub bastion: BastionRule,
}

/// A server as the CMDB gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CmdbServer {
    /// Its id in the CMDB.
    pub id: String,
    /// Host name.
    pub hostname: String,
    /// Instance on the host; empty when the host carries one.
    #[serde(default)]
    pub instance: String,
    /// Address.
    pub ip_address: String,
    /// Port; none: the group's.
    #[serde(default)]
    pub port: Option<u16>,
    /// Folder of the instance on the host; none: the group's `doc_base`.
    #[serde(default)]
    pub root: Option<String>,
    /// Data centre; none: the group's.
    #[serde(default)]
    pub idc: Option<String>,
    /// Pool within the data centre.
    #[serde(default)]
    pub pool: String,
    /// Marked as bastion.
    #[serde(default)]
    pub is_bastion: bool,
    /// No part of the group any more.
    #[serde(default)]
    pub retired: bool,
}

/// From here on a revision may be a time in microseconds: earlier releases numbered records so that had none.
const STAMPS: i64 = 1_000_000_000_000_000;

/// Whether a cache with the revision `cached` knows a record with this one, or a newer one. 0 is no revision.
pub fn is_cached_revision(revision: i64, cached: i64) -> bool {
    let is_stamp = cached >= STAMPS && revision < STAMPS;
    revision != 0 && revision <= cached && !is_stamp
}

/// A group as the CMDB gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CmdbGroup {
    /// Its id in the CMDB.
    pub id: String,
    /// Grows with every change; 0: the CMDB gives none.
    #[serde(default)]
    pub revision: i64,
    /// Its name.
    pub name: String,
    /// The application that it serves.
    pub application: CmdbApplication,
    /// Site.
    #[serde(default)]
    pub site: String,
    /// Virtual path.
    #[serde(default)]
    pub virtual_path: String,
    /// Physical path.
    #[serde(default)]
    pub doc_base: String,
    /// Default port of its servers.
    pub port: u16,
    /// Health URL with `{ip}` and `{port}`.
    pub health_check_url: String,
    /// Main data centre.
    #[serde(default)]
    pub idc: String,
    /// Name of the load-balancer driver.
    #[serde(default = "none")]
    pub load_balancer: String,
    /// Names of the executors: orders go through the first one that no person cut off. One name may be
    /// given as `executor`.
    #[serde(default = "local", alias = "executor", deserialize_with = "one_or_more")]
    pub executors: Vec<String>,
    /// Allows 100 % and taking the last server.
    #[serde(default)]
    pub may_go_dark: bool,
    /// What happens when the load balancer does not answer.
    #[serde(default)]
    pub on_lb_failure: OnLbFailure,
    /// Whether new servers get the group's version by themselves.
    #[serde(default)]
    pub scale_out: ScaleOut,
    /// How long a server must stay healthy, in seconds.
    #[serde(default = "five")]
    pub settle_seconds: u32,
    /// How many releases a host keeps.
    #[serde(default = "five")]
    pub keep_releases: u32,
    /// Its servers.
    pub servers: Vec<CmdbServer>,
}

fn generic() -> String {
    "generic".to_owned()
}

fn none() -> String {
    "none".to_owned()
}

fn local() -> Vec<String> {
    vec!["local".to_owned()]
}

/// A name, or a list of names.
fn one_or_more<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    struct Names;
    impl<'de> serde::de::Visitor<'de> for Names {
        type Value = Vec<String>;

        fn expecting(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            text.write_str("a name, or a list of names")
        }

        fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
            Ok(vec![name.to_owned()])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            names: A,
        ) -> Result<Self::Value, A::Error> {
            Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(names))
        }
    }
    from.deserialize_any(Names)
}

fn five() -> u32 {
    5
}

/// The source of applications, groups and servers.
pub trait Cmdb: Send + Sync {
    /// One group by its id in the CMDB; `None`: the CMDB does not know it.
    fn group<'a>(&'a self, external_id: &'a str) -> Call<'a, Option<CmdbGroup>>;
    /// All groups that the CMDB can give; broken entries are left out and reported in [`Self::faults`].
    fn groups(&self) -> Call<'_, Vec<CmdbGroup>>;
    /// What is wrong in the source now, one sentence each with place and reason.
    fn faults(&self) -> Vec<String>;
    /// Waits until something changed since the last call. A source that cannot tell never returns.
    fn changed(&self) -> Call<'_, ()>;
}

/// A package that the store took in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// SHA-256 of the bytes, lower-case hexadecimal, computed while they came.
    pub sha256: String,
    /// How many bytes came.
    pub size: u64,
}

/// Keeps archives by their digest; never deletes what a host or a rollback needs.
pub trait PackageStore: Send + Sync {
    /// Begins an upload.
    fn begin(&self) -> Call<'_, Box<dyn PackageWriter>>;
    /// Opens an archive at byte `offset`; `None`: it is not here.
    fn open<'a>(
        &'a self,
        sha256: &'a str,
        offset: u64,
    ) -> Call<'a, Option<(u64, Box<dyn PackageReader>)>>;
}

/// An upload under way; dropping it leaves nothing behind.
pub trait PackageWriter: Send {
    /// Appends bytes.
    fn write<'a>(&'a mut self, bytes: &'a [u8]) -> Call<'a, ()>;
    /// Ends the upload. A digest other than `expected` is refused and nothing is kept.
    fn finish(self: Box<Self>, expected: Option<String>) -> Call<'static, Stored>;
}

/// A download under way.
pub trait PackageReader: Send {
    /// The next bytes; empty at the end.
    fn read(&mut self) -> Call<'_, Vec<u8>>;
}

/// Tells engines that effects became free. A hint: the rows say what is due, and losing a wake-up
/// costs latency and nothing else.
pub trait Queue: Send + Sync + std::fmt::Debug {
    /// Called after a commit that freed effects. It does not wait.
    fn wake(&self);
    /// Waits for a wake-up that came since the last call ended; several may count as one.
    fn woken(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    /// Called after a commit at `at` that left due effects of a group (`None`: of more than one) to other
    /// processes. It does not wait. Without a way to them nothing is done: they look by themselves.
    fn nudge(&self, _group: Option<GroupId>, _at: Timestamp) {}
    /// How often this process is to look for effects that others left; `None`: nobody tells it of them
    /// just now.
    fn look_every(&self) -> Option<Duration> {
        None
    }
}

/// Gives the scripts of a kind of application, as they are now. What a deployment uses is kept by
/// digest when it is created and never changes (T5).
pub trait ScriptSource: Send + Sync {
    /// The scripts of `kind`, by their names.
    ///
    /// # Errors
    /// [`DriverError::Refused`] when the kind is not known; the sentence names the known ones.
    fn scripts(&self, kind: &str) -> Result<(crate::order::ScriptSet, Vec<Script>), DriverError>;
}
