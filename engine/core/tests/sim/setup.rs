//! How a group begins, and the records that it begins with.

use capstan_core::config::{ConfigRequest, Mode};
use capstan_core::order::ScriptSet;
use capstan_core::ports::{CmdbApplication, CmdbGroup, CmdbServer};
use capstan_core::record::{Application, BastionRule, Group, OnLbFailure, PackageRef, ScaleOut};
use capstan_core::{ApplicationId, GroupId, PackageId, Timestamp};

/// How a group begins.
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    pub servers: u32,
    pub marked: u32,
    pub pools: u32,
    pub dark: bool,
    pub bastion: bool,
    /// The group came with version 0 on every server.
    pub adopted: bool,
    pub first: First,
    /// The load balancer can take traffic away; else only health is seen.
    pub can_drain: bool,
    /// The group bypasses a load balancer that is found broken.
    pub bypass: bool,
    /// The group has a second executor.
    pub spare: bool,
}

/// What is known of the servers at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    In,
    Unknown,
    Out,
    New,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            servers: 4,
            marked: 0,
            pools: 1,
            dark: false,
            bastion: true,
            adopted: true,
            first: First::In,
            can_drain: true,
            bypass: false,
            spare: false,
        }
    }
}

pub fn package(number: u32) -> PackageRef {
    let zero = Timestamp::from_micros(0);
    PackageRef {
        id: PackageId::derive(zero, &[b"package", &number.to_be_bytes()]),
        version: format!("v{number}"),
        sha256: format!("{number:064x}"),
    }
}

pub fn scripts() -> ScriptSet {
    let digest = |name: &str| (name.to_owned(), format!("{name}-digest"));
    ScriptSet {
        digests: ["download", "install", "verify", "report"].map(digest).into_iter().collect(),
    }
}

pub fn start_of_time() -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000)
}

pub fn cmdb_server(number: u32, setup: &Setup) -> CmdbServer {
    CmdbServer {
        id: format!("web-{number:03}"),
        hostname: format!("web-{number:03}"),
        instance: String::new(),
        ip_address: format!("10.0.{}.{}", number / 250, number % 250),
        port: None,
        root: None,
        idc: None,
        pool: format!("p{}", number % setup.pools.max(1)),
        is_bastion: number < setup.marked,
        retired: false,
    }
}

pub fn cmdb_group(setup: &Setup) -> CmdbGroup {
    CmdbGroup {
        id: "web-prod".into(),
        revision: 1,
        name: "web-prod".into(),
        application: CmdbApplication {
            id: "web".into(),
            name: "web".into(),
            owner: "ann".into(),
            environment: "prod".into(),
            kind: "generic".into(),
            bastion: if setup.bastion { BastionRule::One } else { BastionRule::None },
        },
        site: "main".into(),
        virtual_path: "/".into(),
        doc_base: "/srv/web".into(),
        port: 8080,
        health_check_url: "http://{ip}:{port}/healthz".into(),
        idc: "sh".into(),
        load_balancer: "edge".into(),
        executors: if setup.spare {
            vec!["local".into(), "spare".into()]
        } else {
            vec!["local".into()]
        },
        may_go_dark: setup.dark,
        on_lb_failure: if setup.bypass { OnLbFailure::Bypass } else { OnLbFailure::Brake },
        scale_out: ScaleOut::default(),
        settle_seconds: 5,
        keep_releases: 5,
        servers: (0..setup.servers).map(|number| cmdb_server(number, setup)).collect(),
    }
}

pub fn empty_group(record: &CmdbGroup, now: Timestamp) -> Group {
    let zero = Timestamp::from_micros(0);
    Group {
        id: GroupId::derive(zero, &[b"group"]),
        external_id: record.id.clone(),
        application: Application {
            id: ApplicationId::derive(zero, &[b"application"]),
            name: record.application.name.clone(),
            owner: String::new(),
            environment: String::new(),
            kind: record.application.kind.clone(),
            bastion: record.application.bastion,
        },
        binding: capstan_core::record::Binding::from_record(record),
        port: record.port,
        idc: record.idc.clone(),
        cmdb_revision: 0,
        synced_at: now,
        refresh_held: None,
        version: 1,
        observed_at: Some(now),
        seq: 0,
        dependencies: std::collections::BTreeMap::new(),
    }
}

/// Strategies by number, for scenarios.
pub fn config(number: u32) -> ConfigRequest {
    let base = ConfigRequest::default();
    let pattern = |text: &str| Some(text.to_owned());
    match number % 9 {
        1 => ConfigRequest { max_unavailable: Some(50), batch_pattern: pattern("10%"), ..base },
        2 => ConfigRequest { mode: Some(Mode::Manual), ..base },
        3 => ConfigRequest { max_unavailable: Some(10), max_failure: Some(0), ..base },
        4 => ConfigRequest { batch_wait_seconds: Some(30), tail_wait_seconds: Some(10), ..base },
        5 => ConfigRequest { ignore_verify: Some(true), ..base },
        6 => ConfigRequest {
            max_unavailable: Some(50),
            batch_pattern: pattern("20%+30%+50%"),
            max_failure: Some(100),
            ..base
        },
        7 => ConfigRequest { max_unavailable: Some(100), ..base },
        8 => ConfigRequest { max_unavailable: Some(50), max_failure: Some(20), ..base },
        _ => base,
    }
}
