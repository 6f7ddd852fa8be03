//! The groups, as the CMDB has them at each revision.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use anyhow::{Context, ensure};
use capstan_core::GroupId;
use capstan_core::input::Input;
use capstan_core::ports::{Call, Cmdb, CmdbGroup, Sight};
use capstan_store::Store;
use serde_json::{Value, json};

/// Groups that change. The first is the one that is released.
pub(crate) const GROUPS: usize = 200;
/// Servers of the group that is released.
pub(crate) const TARGETS: u32 = 2_000;
/// Servers of the others that stay; so many more come and go.
const STAY: u32 = 7;
const COME_AND_GO: u32 = 3;
/// Name of the load balancer and of the executor.
pub(crate) const DRIVER: &str = "bench";

/// A CMDB in memory.
pub(crate) struct Memory {
    revisions: Vec<AtomicI64>,
    /// The first group at its first revision: it is large, and little of it changes.
    first: CmdbGroup,
    asked: AtomicU64,
}

impl Memory {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let revisions = (0..GROUPS).map(|_| AtomicI64::new(0)).collect();
        let servers: Vec<Value> = (0..TARGETS).map(|place| server(0, place, place)).collect();
        Ok(Self { revisions, first: group(0, 0, &servers)?, asked: AtomicU64::new(0) })
    }

    pub(crate) fn change(&self, group: usize, revision: i64) {
        self.revisions[group].store(revision, Ordering::SeqCst);
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// What it says of a group.
    fn record(&self, place: usize) -> anyhow::Result<CmdbGroup> {
        let revision = self.revisions[place].load(Ordering::SeqCst);
        if place > 0 {
            let mut random =
                fastrand::Rng::with_seed(revision.cast_unsigned() << 16 | place as u64);
            let places = (0..STAY + COME_AND_GO).filter(|place| *place < STAY || random.bool());
            let places: Vec<u32> = places.collect();
            let servers = places.into_iter().map(|at| server(place, at, random.u32(..)));
            return group(place, revision, &servers.collect::<Vec<_>>());
        }
        // Its members stay, so that each release has the same to do.
        let mut record = self.first.clone();
        record.revision = revision;
        record.application.owner = owner(revision);
        if let Ok(at) = usize::try_from(revision) {
            record.servers[at % TARGETS as usize].pool = owner(revision);
        }
        Ok(record)
    }

    /// Gives every group to the store, with all servers serving; returns the first one.
    pub(crate) async fn fill(&self, store: &Store) -> anyhow::Result<GroupId> {
        let mut first = None;
        for place in 0..GROUPS {
            let (id, _) = store.sync_group(self.record(place)?, false).await?;
            let servers = store.servers(id).await?;
            let seen = servers.iter().map(|row| (row.id, Sight::Serving)).collect();
            let (can_drain, answering) = (false, Vec::new());
            store
                .submit(id, Input::Observed { deployment: None, seen, can_drain, answering })
                .await?;
            first = first.or(Some(id));
        }
        first.context("a group")
    }

    /// Whether the cache says of every group what is said here.
    pub(crate) async fn check(&self, store: &Store) -> anyhow::Result<()> {
        for place in 0..GROUPS {
            let record = self.record(place)?;
            let id = store.group_id_by_external(&record.id).await?.context("it is known")?;
            let view = store.group(id).await?.context("it is known")?;
            let told = (view.cmdb_revision, &view.application.owner);
            let wanted = (record.revision, &record.application.owner);
            ensure!(told == wanted, "{}: the cache has {told:?}, not {wanted:?}", record.id);
            let servers = store.servers(id).await?;
            let members = servers.iter().filter(|row| !row.retired);
            let cached: BTreeMap<_, _> =
                members.map(|row| (&row.hostname, (&row.ip_address, &row.pool))).collect();
            let servers = record.servers.iter();
            let wanted: BTreeMap<_, _> =
                servers.map(|row| (&row.hostname, (&row.ip_address, &row.pool))).collect();
            ensure!(cached == wanted, "{}: the cache has other servers", record.id);
        }
        Ok(())
    }
}

/// Name of a group.
pub(crate) fn name(place: usize) -> String {
    format!("group-{place:03}")
}

fn owner(revision: i64) -> String {
    format!("r{revision}")
}

fn server(group: usize, place: u32, number: u32) -> Value {
    let [_, a, b, c] = number.to_be_bytes();
    json!({
        "id": format!("{group}-{place}"), "hostname": format!("host-{group:03}-{place:05}"),
        "ip_address": format!("10.{a}.{b}.{c}"), "root": format!("/srv/{place}"),
        "idc": (["sh", "pd"][place as usize % 2]), "pool": "a",
    })
}

fn group(place: usize, revision: i64, servers: &[Value]) -> anyhow::Result<CmdbGroup> {
    let name = name(place);
    let record = json!({
        "id": name, "revision": revision, "name": name, "port": 80,
        "application": {
            "id": name, "name": name, "bastion": "none", "owner": owner(revision),
        },
        "health_check_url": "http://{ip}:{port}/", "load_balancer": DRIVER, "executor": DRIVER,
        "servers": servers,
    });
    Ok(serde_json::from_value(record)?)
}

impl Cmdb for Memory {
    fn group<'a>(&'a self, external_id: &'a str) -> Call<'a, Option<CmdbGroup>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let place = external_id.strip_prefix("group-").and_then(|place| place.parse().ok());
        let record = place.filter(|place| *place < GROUPS).map(|place| self.record(place));
        let record = record.transpose().expect("a record is one");
        Box::pin(std::future::ready(Ok(record)))
    }

    fn groups(&self) -> Call<'_, Vec<CmdbGroup>> {
        let records = (0..GROUPS).map(|place| self.record(place).expect("a record is one"));
        Box::pin(std::future::ready(Ok(records.collect())))
    }

    fn faults(&self) -> Vec<String> {
        Vec::new()
    }

    fn changed(&self) -> Call<'_, ()> {
        Box::pin(std::future::pending())
    }
}
