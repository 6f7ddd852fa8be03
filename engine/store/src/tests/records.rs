//! A store in a database of its own, and records to put into it, with every field set somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use capstan_core::batch_status::BatchStatus;
use capstan_core::changes::{Changes, DeploymentChanges};
use capstan_core::config::{ConfigRequest, DeploymentConfig};
use capstan_core::dependency::{OwedMarkup, Without};
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::event::{Event, EventData, EventType};
use capstan_core::order::ScriptSet;
use capstan_core::record::{
    Application, BastionRule, Batch, Binding, Cause, Deployment, Flavor, Group, Hold, HoldReason,
    Location, OnLbFailure, OutBecause, PackageRef, PulledOut, Running, ScaleOut, Server, Service,
    Target,
};
use capstan_core::state::GroupState;
use capstan_core::target_status::TargetStatus;
use capstan_core::{ApplicationId, DeploymentId, GroupId, OrderKey, ServerId, TargetId, Timestamp};
use capstan_services::Database;
use sea_orm::ConnectionTrait;
use uuid::Uuid;

use super::apply;
use crate::bulk::Applied;
use crate::bulk::{quoted, sql};
use crate::rows::to_json;
use crate::store::commit;
use crate::{NewPackage, Settings, Store};

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + second * 1_000_000)
}

/// A store in a database of its own, which goes with the last use of it.
pub(super) async fn store() -> (Store, Database) {
    let database = Database::new();
    let store = Store::open(&settings(&database)).await.expect("the store opens");
    (store, database)
}

pub(super) fn settings(database: &Database) -> Settings {
    Settings {
        url: database.url.clone(),
        stale_after: Duration::from_mins(1),
        // Tests write claims of processes that are not there.
        lease: Duration::from_mins(1),
    }
}

pub(super) async fn application(store: &Store, name: &str) -> Application {
    let application = Application {
        id: ApplicationId(Uuid::now_v7()),
        name: name.to_owned(),
        owner: "Team Rot".to_owned(),
        environment: "prod".to_owned(),
        kind: "generic".to_owned(),
        bastion: BastionRule::One,
    };
    store.application_put(&application, None).await.expect("an application is put");
    application
}

pub(super) async fn package(store: &Store, of: &Application, version: &str) -> PackageRef {
    let new = NewPackage {
        application: of.id,
        version: version.to_owned(),
        sha256: format!("digest of {version}"),
        size: Some(1 << 40),
        locations: vec![Location { idc: "east".to_owned(), url: "http://p/1".to_owned() }],
        stored: false,
    };
    let (view, _) = store.package_register(new, None).await.expect("a package is registered");
    PackageRef { id: view.id, version: view.version, sha256: view.sha256 }
}

pub(super) fn binding(name: &str) -> Binding {
    Binding {
        application: "shop".to_owned(),
        kind: "generic".to_owned(),
        group: name.to_owned(),
        site: "eu".to_owned(),
        virtual_path: "/".to_owned(),
        doc_base: "/srv/shop".to_owned(),
        health_check_url: "http://{ip}:{port}/health".to_owned(),
        load_balancer: "none".to_owned(),
        executor: "local".to_owned(),
        next_executors: vec!["spare".to_owned()],
        may_go_dark: true,
        on_lb_failure: OnLbFailure::Bypass,
        scale_out: ScaleOut::Automatic,
        settle_seconds: 5,
        keep_releases: 3,
        stale_after_seconds: 3600,
    }
}

fn group(application: &Application, name: &str) -> Group {
    Group {
        id: GroupId(Uuid::now_v7()),
        external_id: format!("cmdb-{name}"),
        application: application.clone(),
        binding: binding(name),
        port: 65_535,
        idc: "east".to_owned(),
        cmdb_revision: 7,
        synced_at: at(0),
        refresh_held: None,
        version: 0,
        observed_at: None,
        seq: 0,
        dependencies: BTreeMap::new(),
    }
}

pub(super) fn server(number: u32) -> Server {
    Server {
        id: ServerId(Uuid::now_v7()),
        external_id: format!("s-{number}"),
        hostname: format!("web{number:05}"),
        instance: "a".to_owned(),
        ip_address: "10.0.0.1".to_owned(),
        port: 8080,
        root: "/srv/shop".to_owned(),
        idc: "east".to_owned(),
        pool: "blue".to_owned(),
        is_bastion: number == 0,
        retired: false,
        pulled_out: None,
        service: Service::In,
        out_because: None,
        observed_at: None,
        dead_since: None,
        drained: false,
        drained_again: false,
        markup_owed: None,
        running: None,
        order: None,
        fence: 0,
    }
}

/// A server of which everything that can be known is known.
pub(super) fn known_server(number: u32, package: &PackageRef) -> Server {
    Server {
        pulled_out: Some(PulledOut {
            by: "ada".to_owned(),
            reason: "disk \"sda\" — käse".to_owned(),
            since: at(1),
        }),
        service: Service::Out,
        out_because: Some(OutBecause::Person),
        observed_at: Some(at(2)),
        dead_since: Some(at(3)),
        drained: true,
        drained_again: true,
        markup_owed: Some(OwedMarkup {
            deployment: DeploymentId(Uuid::now_v7()),
            package: package.clone(),
            since: at(16),
        }),
        running: Some(Running {
            package: package.id,
            version: package.version.clone(),
            proven_at: Some(at(4)),
        }),
        order: Some(OrderKey(Uuid::now_v7())),
        fence: i64::MAX,
        ..server(number)
    }
}

/// A group of `servers` servers that is in the database; the state is as it was written.
pub(super) async fn group_state(store: &Store, of: &Application, servers: u32) -> GroupState {
    let name = format!("group {}", Uuid::now_v7());
    let group = group(of, &name);
    let values = [
        group.id.0.into(),
        group.external_id.as_str().into(),
        of.id.0.into(),
        name.into(),
        to_json("groups", &group.binding).expect("a binding is JSON").into(),
        i32::from(group.port).into(),
        group.idc.as_str().into(),
        group.cmdb_revision.into(),
        group.synced_at.as_micros().into(),
    ];
    let groups = quoted(store.writer().get_database_backend(), "groups");
    let text = format!(
        "INSERT INTO {groups} (id, external_id, application_id, name, binding, port, idc, \
         cmdb_revision, synced_at, version, seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0)"
    );
    store.writer().execute_raw(sql(store.writer(), &text, values)).await.expect("a group is made");
    let mut state = GroupState::new(group, (0..servers).map(server).collect());
    let changes = Changes {
        server_records: state.servers().iter().map(|server| server.id).collect(),
        servers: state.servers().iter().map(|server| server.id).collect(),
        ..Changes::default()
    };
    write(store, &mut state, &changes).await;
    state
}

pub(super) fn deployment(state: &GroupState, package: &PackageRef) -> Deployment {
    let config = DeploymentConfig::complete(&ConfigRequest::default(), Flavor::Rollout, true);
    Deployment {
        id: DeploymentId(Uuid::now_v7()),
        group: state.id(),
        package: package.clone(),
        config: config.expect("the defaults are allowed"),
        flavor: Flavor::Rollout,
        status: DeploymentStatus::RollingOut,
        holds: vec![Hold {
            reason: HoldReason::User,
            by: "ada".to_owned(),
            since: at(5),
            detail: "let us look".to_owned(),
            doubted: Vec::new(),
            by_lost_acts: true,
        }],
        failed_seen: 1,
        total: 3,
        frozen: state.group.binding.clone(),
        scripts: ScriptSet { digests: BTreeMap::from([("verify".to_owned(), "ab".to_owned())]) },
        parent: Some(DeploymentId(Uuid::now_v7())),
        origin: Some(DeploymentId(Uuid::now_v7())),
        restores: Some(DeploymentId(Uuid::now_v7())),
        baked: true,
        superseded_by: Some(DeploymentId(Uuid::now_v7())),
        created_by: "ada".to_owned(),
        ignore_verify_reason: Some("known".to_owned()),
        seed: "seed".to_owned(),
        plan_hash: "hash".to_owned(),
        seq: 0,
        created_at: at(6),
        started_at: Some(at(7)),
        ended_at: Some(at(8)),
        status_since: at(9),
        stale: true,
        ran_without: vec![Without {
            dependency: "cmdb".to_owned(),
            since: at(17),
            text: "the \"cache\" counts — käse".to_owned(),
        }],
    }
}

pub(super) fn batch(deployment: &Deployment, index: u32) -> Batch {
    Batch {
        deployment: deployment.id,
        index,
        is_bastion: index == 1,
        status: BatchStatus::Waiting,
        wait_until: Some(at(10)),
        ended_at: Some(at(11)),
    }
}

pub(super) fn target(deployment: &Deployment, server: &Server, place: u32) -> Target {
    Target {
        id: TargetId(Uuid::now_v7()),
        deployment: deployment.id,
        batch: 1 + place % 2,
        place,
        server: server.id,
        hostname: server.hostname.clone(),
        instance: server.instance.clone(),
        ip_address: server.ip_address.clone(),
        status: TargetStatus::VerifyFailure,
        status_since: at(12),
        attempt: 2,
        orders: 9,
        tries: 1,
        order: Some(OrderKey(Uuid::now_v7())),
        order_digest: Some("cd".to_owned()),
        deadline_at: Some(at(13)),
        unknown_since: Some(at(14)),
        checked: true,
        verified_at: Some(at(15)),
        unverified: true,
        skipped: true,
        took: true,
        leaving: true,
        bypassed: true,
        cause: Some(Cause::Relapsed),
        message: Some("it died".to_owned()),
    }
}

/// Puts a deployment with two batches and one target per server into the state.
pub(super) fn insert(state: &mut GroupState, deployment: Deployment) -> Changes {
    let targets: Vec<Target> = state
        .servers()
        .iter()
        .zip(0..)
        .map(|(server, place)| target(&deployment, server, place))
        .collect();
    let change = DeploymentChanges {
        created: true,
        batches: BTreeSet::from([1, 2]),
        targets: (0..targets.len()).collect(),
    };
    let changes =
        Changes { deployments: BTreeMap::from([(deployment.id, change)]), ..Changes::default() };
    let batches = vec![batch(&deployment, 1), batch(&deployment, 2)];
    state.insert(deployment, batches, targets);
    changes
}

pub(super) fn event(state: &GroupState, deployment: Option<DeploymentId>, seq: i64) -> Event {
    Event {
        seq,
        at: at(seq),
        kind: EventType::TargetStatus,
        group: state.id(),
        deployment,
        batch: Some(1),
        target: None,
        server: None,
        actor: "capstan".to_owned(),
        cause: Some(Cause::Timeout),
        data: EventData { message: Some("said".to_owned()), ..EventData::default() },
    }
}

/// Applies and commits; the state's version follows, as the committer does it.
pub(super) async fn write(store: &Store, state: &mut GroupState, changes: &Changes) {
    let txn = store.begin().await.expect("a transaction begins");
    let before = state.group.version;
    let applied = apply(&txn, state, changes, before, "me", &BTreeSet::new())
        .await
        .expect("changes are applied");
    assert_eq!(applied, Applied::Done);
    commit(txn).await.expect("a transaction commits");
    state.group.version = before + 1;
}
