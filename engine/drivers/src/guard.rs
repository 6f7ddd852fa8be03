//! What every call to the outside gets around it: a circuit breaker, a time limit, a metric and a trace.
//!
//! A call that passes its limit is dropped and answers [`DriverError::Unknown`]: nobody knows
//! whether it acted. The metric is the histogram [`METRIC`], in seconds, with the labels `port`
//! (`load_balancer`, `executor`, `cmdb`), `driver` (its name in the configuration), `call` (name of
//! the method) and `outcome` (`ok`, `refused`, `busy`, `unknown`, `timeout`). A call that the
//! [`breaker`](crate::breaker) refuses is not made, answers [`DriverError::Busy`] and is counted there.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use capstan_core::dependency::{BROKER, CMDB, DependencyKind, PACKAGES, executor, load_balancer};
use capstan_core::message::{Broker, Inbox, Incoming, Message, Replayed, Verdict, Waiting};
use capstan_core::ports::{
    Call, Cmdb, CmdbGroup, DriverError, Endpoint, Executor, LoadBalancer, Look, Order, OrderState,
    PackageReader, PackageStore, PackageWriter, Report, Script, Seen,
};
use capstan_core::{OrderKey, ServerId};

use crate::breaker::{self, Breaker, Ended};

/// Name of the metric.
pub const METRIC: &str = "capstan_driver_call_seconds";
/// How long a call to a load balancer or an executor may take.
pub const LIMIT: Duration = Duration::from_secs(2);
/// How long a call to the CMDB may take.
pub const CMDB_LIMIT: Duration = Duration::from_secs(10);

/// How long a call to the message broker may take: for one batch of messages, and a connection before it.
pub const BROKER_LIMIT: Duration = Duration::from_secs(15);

/// Says what the metric means. Called once, after the recorder is installed.
pub fn describe_metrics() {
    metrics::describe_gauge!(
        breaker::STATE_METRIC,
        "Whether a dependency is called: 0 it is, 1 by probes, 2 broken, 3 cut off"
    );
    metrics::describe_counter!(
        breaker::REFUSED_METRIC,
        "Calls to outside systems that were not made"
    );
    crate::nudges::describe_metrics();
    metrics::describe_histogram!(
        METRIC,
        metrics::Unit::Seconds,
        "Time of calls to outside systems"
    );
}

/// A driver with a time limit, a metric and a trace around each call.
pub struct Guard<P: ?Sized> {
    inner: Arc<P>,
    port: &'static str,
    driver: Arc<str>,
    limit: Duration,
    breaker: Arc<Breaker>,
}

impl Guard<dyn LoadBalancer> {
    /// Guards the load balancer with this name in the configuration.
    pub fn load_balancer(name: &str, inner: Arc<dyn LoadBalancer>) -> Self {
        let breaker = alone(&load_balancer(name), DependencyKind::LoadBalancer);
        Self { inner, port: "load_balancer", driver: name.into(), limit: LIMIT, breaker }
    }
}

impl Guard<dyn Executor> {
    /// Guards the executor with this name in the configuration.
    pub fn executor(name: &str, inner: Arc<dyn Executor>) -> Self {
        let breaker = alone(&executor(name), DependencyKind::Executor);
        Self { inner, port: "executor", driver: name.into(), limit: LIMIT, breaker }
    }
}

impl Guard<dyn Cmdb> {
    /// Guards the CMDB driver with this name in the configuration.
    pub fn cmdb(name: &str, inner: Arc<dyn Cmdb>) -> Self {
        let breaker = alone(CMDB, DependencyKind::Cmdb);
        Self { inner, port: "cmdb", driver: name.into(), limit: CMDB_LIMIT, breaker }
    }
}

impl Guard<dyn PackageStore> {
    /// Guards the package store. What is read and written once it is open is not limited.
    pub fn packages(name: &str, inner: Arc<dyn PackageStore>) -> Self {
        let breaker = alone(PACKAGES, DependencyKind::PackageStore);
        Self { inner, port: "packages", driver: name.into(), limit: LIMIT, breaker }
    }
}

impl Guard<dyn Broker> {
    /// Guards the message broker, on its way out.
    pub fn broker(name: &str, inner: Arc<dyn Broker>) -> Self {
        let breaker = alone(BROKER, DependencyKind::Broker);
        Self { inner, port: "broker", driver: name.into(), limit: BROKER_LIMIT, breaker }
    }
}

impl Guard<dyn Inbox> {
    /// Guards the message broker, on its way in.
    pub fn inbox(name: &str, inner: Arc<dyn Inbox>) -> Self {
        let breaker = alone(BROKER, DependencyKind::Broker);
        Self { inner, port: "inbox", driver: name.into(), limit: BROKER_LIMIT, breaker }
    }
}

/// A breaker that nobody watches, until [`Guard::with_breaker`] gives another.
fn alone(name: &str, kind: DependencyKind) -> Arc<Breaker> {
    Arc::new(Breaker::new(name, kind, breaker::Settings::default()))
}

impl<P: ?Sized> Guard<P> {
    /// The same with another time limit per call.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The same behind another breaker.
    #[must_use]
    pub fn with_breaker(mut self, breaker: Arc<Breaker>) -> Self {
        self.breaker = breaker;
        self
    }

    /// Makes a call, if the breaker lets it through. `server`: whom it is about, if one.
    async fn watch<'a, T>(
        &self,
        call: &'static str,
        server: Option<ServerId>,
        under_way: impl FnOnce() -> Call<'a, T>,
    ) -> Result<T, DriverError> {
        self.judge(call, server.map(number), false, under_way).await
    }

    /// The same for a question, about a group or a package, if one. Whoever only answers questions, and says that it
    /// cannot now, is as good as silent.
    async fn ask<'a, T>(
        &self,
        call: &'static str,
        about: Option<&str>,
        under_way: impl FnOnce() -> Call<'a, T>,
    ) -> Result<T, DriverError> {
        self.judge(call, about.map(number), true, under_way).await
    }

    async fn judge<'a, T>(
        &self,
        call: &'static str,
        subject: Option<u64>,
        is_question: bool,
        under_way: impl FnOnce() -> Call<'a, T>,
    ) -> Result<T, DriverError> {
        let permit = self.breaker.ask()?;
        let answer = self.measured(call, under_way()).await;
        let ended = match &answer {
            Ok(_) | Err(DriverError::Refused(_)) => Ended::Answered,
            Err(DriverError::Busy(error)) if is_question => Ended::Lost(error),
            Err(DriverError::Busy(_)) => Ended::Idle,
            Err(DriverError::Unknown(error)) => Ended::Lost(error),
        };
        // Who is silent about one group is silent about all.
        let is_silent = is_question && matches!(answer, Err(DriverError::Unknown(_)));
        permit.end(ended, subject.filter(|_| !is_silent));
        answer
    }

    async fn measured<T>(
        &self,
        call: &'static str,
        under_way: Call<'_, T>,
    ) -> Result<T, DriverError> {
        let began = Instant::now();
        let (outcome, answer) = match tokio::time::timeout(self.limit, under_way).await {
            Ok(answer) => (outcome(&answer), answer),
            Err(_) => ("timeout", Err(self.too_slow(call))),
        };
        let took = began.elapsed();
        metrics::histogram!(
            METRIC,
            "port" => self.port,
            "driver" => Arc::clone(&self.driver),
            "call" => call,
            "outcome" => outcome,
        )
        .record(took);
        let error = answer.as_ref().err().map(tracing::field::display);
        tracing::debug!(
            port = self.port,
            driver = &*self.driver,
            call,
            outcome,
            ?took,
            error,
            "driver call"
        );
        answer
    }

    fn too_slow(&self, call: &str) -> DriverError {
        DriverError::Unknown(format!(
            "`{}` did not answer `{call}` within {} ms",
            self.driver,
            self.limit.as_millis()
        ))
    }
}

/// Tells subjects apart.
fn number(subject: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    subject.hash(&mut hasher);
    hasher.finish()
}

fn outcome<T>(answer: &Result<T, DriverError>) -> &'static str {
    match answer {
        Ok(_) => "ok",
        Err(DriverError::Refused(_)) => "refused",
        Err(DriverError::Busy(_)) => "busy",
        Err(DriverError::Unknown(_)) => "unknown",
    }
}

impl LoadBalancer for Guard<dyn LoadBalancer> {
    fn can_drain(&self) -> bool {
        self.inner.can_drain()
    }

    fn sees_all_at_once(&self) -> bool {
        self.inner.sees_all_at_once()
    }

    fn drain<'a>(&'a self, server: &'a Endpoint) -> Call<'a, ()> {
        Box::pin(self.watch("drain", None, move || self.inner.drain(server)))
    }

    fn admit<'a>(&'a self, server: &'a Endpoint) -> Call<'a, ()> {
        Box::pin(self.watch("admit", None, move || self.inner.admit(server)))
    }

    fn observe<'a>(&'a self, servers: &'a [Endpoint]) -> Call<'a, Vec<Seen>> {
        Box::pin(self.watch("observe", None, move || self.inner.observe(servers)))
    }
}

impl Executor for Guard<dyn Executor> {
    fn start<'a>(&'a self, server: &'a Endpoint, order: &'a Order) -> Call<'a, OrderState> {
        Box::pin(self.watch("start", Some(server.server), move || self.inner.start(server, order)))
    }

    fn look<'a>(&'a self, server: &'a Endpoint, key: OrderKey, offset: u64) -> Call<'a, Look> {
        Box::pin(
            self.watch("look", Some(server.server), move || self.inner.look(server, key, offset)),
        )
    }

    fn cancel<'a>(
        &'a self,
        server: &'a Endpoint,
        key: OrderKey,
        fence: i64,
    ) -> Call<'a, OrderState> {
        Box::pin(
            self.watch("cancel", Some(server.server), move || {
                self.inner.cancel(server, key, fence)
            }),
        )
    }

    fn report<'a>(&'a self, server: &'a Endpoint, script: &'a Script) -> Call<'a, Option<Report>> {
        Box::pin(
            self.watch("report", Some(server.server), move || self.inner.report(server, script)),
        )
    }
}

impl Cmdb for Guard<dyn Cmdb> {
    fn group<'a>(&'a self, external_id: &'a str) -> Call<'a, Option<CmdbGroup>> {
        Box::pin(self.ask("group", Some(external_id), move || self.inner.group(external_id)))
    }

    fn groups(&self) -> Call<'_, Vec<CmdbGroup>> {
        Box::pin(self.ask("groups", None, || self.inner.groups()))
    }

    fn faults(&self) -> Vec<String> {
        self.inner.faults()
    }

    /// Not limited and not measured: it waits on purpose. While the CMDB is cut off nobody asks it.
    fn changed(&self) -> Call<'_, ()> {
        Box::pin(async {
            loop {
                self.breaker.until_cut_off(false).await;
                tokio::select! {
                    changed = self.inner.changed() => return changed,
                    () = self.breaker.until_cut_off(true) => {}
                }
            }
        })
    }
}

impl PackageStore for Guard<dyn PackageStore> {
    fn begin(&self) -> Call<'_, Box<dyn PackageWriter>> {
        Box::pin(self.watch("begin", None, || self.inner.begin()))
    }

    fn open<'a>(
        &'a self,
        sha256: &'a str,
        offset: u64,
    ) -> Call<'a, Option<(u64, Box<dyn PackageReader>)>> {
        Box::pin(self.ask("open", Some(sha256), move || self.inner.open(sha256, offset)))
    }
}

impl Broker for Guard<dyn Broker> {
    fn publish<'a>(&'a self, messages: &'a [Message]) -> Call<'a, ()> {
        Box::pin(self.watch("publish", None, move || self.inner.publish(messages)))
    }
}

impl Inbox for Guard<dyn Inbox> {
    /// Not limited and not measured: it waits on purpose. While the broker is cut off nobody asks it, and
    /// while it is broken nobody does before the next probe is due.
    fn next(&self) -> Call<'_, Incoming> {
        Box::pin(async {
            self.breaker.until_asked().await;
            tokio::select! {
                next = self.inner.next() => next,
                () = self.breaker.until_cut_off(true) => {
                    self.inner.close().await?;
                    Err(DriverError::Busy("it is cut off".to_owned()))
                }
            }
        })
    }

    fn settle(&self, tag: u64, verdict: Verdict) -> Call<'_, ()> {
        Box::pin(self.watch("settle", None, move || self.inner.settle(tag, verdict)))
    }

    fn close(&self) -> Call<'_, ()> {
        self.inner.close()
    }

    fn waiting(&self) -> Call<'_, Waiting> {
        Box::pin(self.watch("waiting", None, || self.inner.waiting()))
    }

    fn replay(&self, most: u32) -> Call<'_, Replayed> {
        Box::pin(self.watch("replay", None, move || self.inner.replay(most)))
    }
}
