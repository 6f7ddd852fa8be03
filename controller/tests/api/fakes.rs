//! The outside, as the tests script it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use capstan_core::OrderKey;
use capstan_core::message::{Inbox, Incoming, Replayed, Verdict, Waiting};
use capstan_core::order::{ScriptSet, hex};
use capstan_core::ports::{
    Call, Cmdb, CmdbApplication, CmdbGroup, CmdbServer, DriverError, Endpoint, Executor,
    LoadBalancer, Look, Order, OrderState, Report, Script, ScriptSource, Seen, Sight,
};
use capstan_core::record::{BastionRule, OnLbFailure, ScaleOut};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};

/// How long the outside is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A group `name` of application `application` with `count` servers.
pub(crate) fn record(name: &str, application: &str, count: usize) -> CmdbGroup {
    let server = |number: usize| CmdbServer {
        id: format!("{name}-{number}"),
        hostname: format!("{name}-{number}"),
        instance: String::new(),
        ip_address: format!("10.0.0.{number}"),
        port: None,
        root: None,
        idc: None,
        pool: "a".into(),
        is_bastion: number == 1,
        retired: false,
    };
    CmdbGroup {
        id: name.into(),
        revision: 1,
        name: name.into(),
        application: CmdbApplication {
            id: application.into(),
            name: application.into(),
            owner: "ann".into(),
            environment: "prod".into(),
            kind: "generic".into(),
            bastion: BastionRule::One,
        },
        site: "main".into(),
        virtual_path: "/".into(),
        doc_base: "/srv/web".into(),
        port: 8080,
        health_check_url: "http://{ip}:{port}/healthz".into(),
        idc: "sh".into(),
        load_balancer: "edge".into(),
        executors: vec!["local".into()],
        may_go_dark: false,
        on_lb_failure: OnLbFailure::Brake,
        scale_out: ScaleOut::default(),
        settle_seconds: 5,
        keep_releases: 5,
        servers: (1..=count).map(server).collect(),
    }
}

/// A CMDB in memory.
#[derive(Default)]
pub(crate) struct FakeCmdb {
    pub(crate) groups: Mutex<Vec<CmdbGroup>>,
    /// What a list says, if that is older.
    pub(crate) old_list: Mutex<Option<Vec<CmdbGroup>>>,
    pub(crate) faults: Mutex<Vec<String>>,
    pub(crate) is_down: AtomicBool,
    /// Groups whose records are broken.
    pub(crate) broken: Mutex<BTreeSet<String>>,
    pub(crate) calls: AtomicU32,
    pub(crate) change: Notify,
    /// Groups for which no answer comes while they are here. What is answered then was so when it was asked.
    pub(crate) held: watch::Sender<BTreeSet<String>>,
}

impl FakeCmdb {
    /// Lets no answer come for a group.
    pub(crate) fn hold(&self, group: &str) {
        self.held.send_modify(|held| held.extend([group.to_owned()]));
    }

    /// Lets answers come again.
    pub(crate) fn let_go(&self, group: &str) {
        self.held.send_modify(|held| held.retain(|it| it != group));
    }

    /// Waits until the CMDB was asked so often.
    pub(crate) async fn until_asked(&self, calls: u32) {
        let asked = tokio::time::timeout(PATIENCE, async {
            while self.calls.load(Ordering::SeqCst) < calls {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        asked.await.expect("the CMDB is asked so often");
    }

    /// Puts a group, or replaces the one with its id by a newer revision.
    pub(crate) fn put(&self, mut group: CmdbGroup) {
        let mut groups = lock(&self.groups);
        if let Some(at) = groups.iter().position(|known| known.id == group.id) {
            group.revision = groups[at].revision + 1;
            groups[at] = group;
        } else {
            groups.push(group);
        }
    }

    /// The same without a revision.
    pub(crate) fn put_bare(&self, group: CmdbGroup) {
        let mut groups = lock(&self.groups);
        groups.retain(|known| known.id != group.id);
        groups.push(CmdbGroup { revision: 0, ..group });
    }

    fn answer<T>(&self, value: T) -> Result<T, DriverError> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(DriverError::Unknown("scripted: no answer".into()));
        }
        Ok(value)
    }
}

impl Cmdb for FakeCmdb {
    fn group<'a>(&'a self, external_id: &'a str) -> Call<'a, Option<CmdbGroup>> {
        Box::pin(async move {
            self.calls.fetch_add(1, Ordering::SeqCst);
            let found = lock(&self.groups).iter().find(|group| group.id == external_id).cloned();
            // Long enough for calls of one test to meet.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut held = self.held.subscribe();
            let answers = held.wait_for(|held| !held.contains(external_id)).await;
            drop(answers.expect("its sender lives"));
            if lock(&self.broken).contains(external_id) {
                return Err(DriverError::Refused("scripted: its port is no number".into()));
            }
            self.answer(found)
        })
    }

    fn groups(&self) -> Call<'_, Vec<CmdbGroup>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let groups = lock(&self.old_list).clone().unwrap_or_else(|| lock(&self.groups).clone());
        Box::pin(async move { self.answer(groups) })
    }

    fn faults(&self) -> Vec<String> {
        lock(&self.faults).clone()
    }

    fn changed(&self) -> Call<'_, ()> {
        Box::pin(async move {
            self.change.notified().await;
            Ok(())
        })
    }
}

/// A queue of messages in which nothing happens, but that two were laid aside.
pub(crate) struct FakeInbox;

impl Inbox for FakeInbox {
    fn next(&self) -> Call<'_, Incoming> {
        Box::pin(std::future::pending())
    }

    fn settle(&self, _: u64, _: Verdict) -> Call<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn close(&self) -> Call<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn waiting(&self) -> Call<'_, Waiting> {
        Box::pin(async { Ok(Waiting { queued: 0, dead: 2 }) })
    }

    fn replay(&self, most: u32) -> Call<'_, Replayed> {
        Box::pin(async move { Ok(Replayed { moved: most.min(2), left: 2 - most.min(2) }) })
    }
}

/// A load balancer that shows what the test says, and `Serving` where it says nothing.
#[derive(Default)]
pub(crate) struct FakeBalancer {
    pub(crate) sights: Mutex<HashMap<String, Sight>>,
    pub(crate) is_down: AtomicBool,
    pub(crate) looks: AtomicU32,
}

impl LoadBalancer for FakeBalancer {
    fn can_drain(&self) -> bool {
        true
    }

    fn sees_all_at_once(&self) -> bool {
        true
    }

    fn drain<'a>(&'a self, _server: &'a Endpoint) -> Call<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn admit<'a>(&'a self, _server: &'a Endpoint) -> Call<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn observe<'a>(&'a self, servers: &'a [Endpoint]) -> Call<'a, Vec<Seen>> {
        Box::pin(async move {
            self.looks.fetch_add(1, Ordering::SeqCst);
            if self.is_down.load(Ordering::SeqCst) {
                return Err(DriverError::Unknown("scripted: no answer".into()));
            }
            let sights = lock(&self.sights);
            let sight = |it: &Endpoint| sights.get(&it.hostname).copied().unwrap_or(Sight::Serving);
            let seen = servers.iter().map(|it| Seen {
                server: it.server,
                sight: sight(it),
                in_flight: None,
            });
            Ok(seen.collect())
        })
    }
}

/// An executor whose hosts report what the test says.
#[derive(Default)]
pub(crate) struct FakeExecutor {
    pub(crate) reports: Mutex<BTreeMap<String, Report>>,
}

impl FakeExecutor {
    pub(crate) fn reports(&self, hostname: &str, version: &str, sha256: &str) {
        let report = Report { version: version.into(), sha256: sha256.into() };
        lock(&self.reports).insert(hostname.into(), report);
    }
}

impl Executor for FakeExecutor {
    fn start<'a>(&'a self, _server: &'a Endpoint, _order: &'a Order) -> Call<'a, OrderState> {
        Box::pin(async { Err(DriverError::Refused("the controller orders nothing".into())) })
    }

    fn look<'a>(&'a self, _server: &'a Endpoint, _key: OrderKey, _offset: u64) -> Call<'a, Look> {
        Box::pin(async { Err(DriverError::Refused("the controller orders nothing".into())) })
    }

    fn cancel<'a>(
        &'a self,
        _server: &'a Endpoint,
        _key: OrderKey,
        _fence: i64,
    ) -> Call<'a, OrderState> {
        Box::pin(async { Err(DriverError::Refused("the controller orders nothing".into())) })
    }

    fn report<'a>(&'a self, server: &'a Endpoint, _script: &'a Script) -> Call<'a, Option<Report>> {
        Box::pin(async move { Ok(lock(&self.reports).get(&server.hostname).cloned()) })
    }
}

/// Scripts of the kind `generic`.
pub(crate) struct FakeScripts;

impl ScriptSource for FakeScripts {
    fn scripts(&self, kind: &str) -> Result<(ScriptSet, Vec<Script>), DriverError> {
        if kind != "generic" {
            return Err(DriverError::Refused(format!("{kind:?} is not known; known is generic")));
        }
        let mut set = ScriptSet::default();
        let mut scripts = Vec::new();
        for name in ["download", "install", "verify", "report"] {
            let body = format!("#!/bin/sh\n# {name}\n");
            let sha256 = sha256(body.as_bytes());
            set.digests.insert(name.into(), sha256.clone());
            scripts.push(Script { sha256, body });
        }
        Ok((set, scripts))
    }
}
