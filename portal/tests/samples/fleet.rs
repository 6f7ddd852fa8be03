//! Groups, servers, packages.

use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::record::{
    Bad, BastionRule, Flavor, OnLbFailure, OutBecause, PulledOut, ScaleOut, Service,
};
use capstan_core::view::{
    ApplicationView, DeploymentBrief, GroupView, LogPart, PackageBrief, PackageView, Page,
    ServerView, VersionView,
};
use capstan_core::{ApplicationId, DeploymentId, GroupId, OrderKey, PackageId, ServerId};

use super::{before, now};

fn bytes(number: usize) -> [u8; 8] {
    (number as u64).to_be_bytes()
}

pub(crate) fn group_id(name: &str) -> GroupId {
    GroupId::derive(now(), &[name.as_bytes()])
}

pub(crate) fn package_id(version: &str) -> PackageId {
    PackageId::derive(now(), &[version.as_bytes()])
}

pub(crate) fn deployment_id(number: usize) -> DeploymentId {
    DeploymentId::derive(now(), &[b"deployment", &bytes(number)])
}

pub(crate) fn server_id(number: usize) -> ServerId {
    ServerId::derive(now(), &[b"server", &bytes(number)])
}

pub(crate) fn sha256(version: &str) -> String {
    let id = package_id(version).0.simple().to_string();
    format!("{id}{id}")
}

pub(crate) fn brief_of(version: &str) -> PackageBrief {
    PackageBrief { id: package_id(version), version: version.to_owned(), sha256: sha256(version) }
}

pub(crate) fn group(name: &str, application: &str, total: u32, out: u32) -> GroupView {
    GroupView {
        id: group_id(name),
        external_id: name.to_owned(),
        name: name.to_owned(),
        application: ApplicationView {
            id: ApplicationId::derive(now(), &[application.as_bytes()]),
            name: application.to_owned(),
            owner: "checkout-team".to_owned(),
            environment: "prod".to_owned(),
            kind: "generic".to_owned(),
            bastion: BastionRule::One,
            synced_at: Some(before(38)),
            stale: false,
        },
        site: "main".to_owned(),
        virtual_path: "/".to_owned(),
        doc_base: format!("/srv/{application}"),
        port: 8080,
        health_check_url: "http://{ip}:{port}/healthz".to_owned(),
        idc: "sh".to_owned(),
        load_balancer: "edge".to_owned(),
        executor: "salt".to_owned(),
        next_executors: vec!["ssh".to_owned()],
        may_go_dark: false,
        on_lb_failure: OnLbFailure::Brake,
        scale_out: ScaleOut::default(),
        settle_seconds: 5,
        total,
        out,
        in_service: total - out,
        cmdb_revision: 41,
        synced_at: before(38),
        stale: false,
        refresh_held: None,
        version: Some("2.13.9".to_owned()),
        running_deployment: None,
        running_status: None,
    }
}

pub(crate) fn groups() -> Page<GroupView> {
    let mut shop = group("shop-prod", "shop", 20, 4);
    shop.running_deployment = Some(deployment_id(1));
    shop.running_status = Some("ROLLOUT_BRAKED".to_owned());
    let mut search = group("search-prod-pudong", "search", 840, 12);
    search.running_deployment = Some(deployment_id(2));
    search.running_status = Some("ROLLING_OUT".to_owned());
    search.version = Some("88f2c1e".to_owned());
    "pd".clone_into(&mut search.idc);
    let mut pay = group("payments-prod", "payments", 6, 0);
    pay.running_deployment = Some(deployment_id(3));
    pay.running_status = Some("SMOKE_SUCCESS".to_owned());
    pay.version = Some("7.0.1".to_owned());
    let mut mail = group("mail-prod", "mail", 4, 1);
    mail.stale = true;
    mail.synced_at = before(9_400);
    mail.version = Some("2025.11.20-1".to_owned());
    let mut old = group("reports-prod", "reports", 12, 0);
    old.refresh_held = Some("9 of 12 servers would leave the group.".to_owned());
    old.version = None;
    let quiet = group("shop-staging", "shop", 2, 0);
    Page { items: vec![shop, search, pay, mail, old, quiet], next_cursor: Some("b2Zm&".to_owned()) }
}

pub(crate) fn packages() -> Vec<PackageView> {
    [("2.14.0", None), ("2.13.10", Some("leaks sessions")), ("2.13.9", None), ("2.13.8", None)]
        .into_iter()
        .map(|(version, bad)| PackageView {
            id: package_id(version),
            application: ApplicationId::derive(now(), &[b"shop"]),
            version: version.to_owned(),
            sha256: sha256(version),
            size: Some(48_213_004),
            locations: Vec::new(),
            stored: true,
            bad: bad.map(|reason| Bad { by: "bo".to_owned(), reason: reason.to_owned() }),
            created_at: before(86_400),
        })
        .collect()
}

pub(crate) fn servers() -> Page<ServerView> {
    let items = (1..=9)
        .map(|number| {
            let (service, out_because, version, proven_at) = match number {
                3 => (Service::Out, Some(OutBecause::Target), "2.14.0", None),
                4 => (Service::Out, Some(OutBecause::Dead), "2.13.9", Some(before(200_000))),
                6 => (Service::Out, Some(OutBecause::Person), "2.13.9", Some(before(90_000))),
                8 => (Service::Unknown, None, "2.13.9", Some(before(300_000))),
                _ => (Service::In, None, "2.13.9", Some(before(86_400 + number * 977))),
            };
            server(number, service, out_because, (number != 9).then_some(version), proven_at)
        })
        .collect();
    Page { items, next_cursor: Some("next".to_owned()) }
}

fn server(
    number: i64,
    service: Service,
    out_because: Option<OutBecause>,
    version: Option<&str>,
    proven_at: Option<capstan_core::Timestamp>,
) -> ServerView {
    ServerView {
        id: server_id(usize::try_from(number).expect("numbers are small")),
        group: group_id("shop-prod"),
        hostname: format!("shop-sh-{number:02}"),
        instance: if number == 5 { "blue".to_owned() } else { String::new() },
        ip_address: format!("10.20.0.{number}"),
        port: 8080,
        root: "/srv/shop".to_owned(),
        idc: if number % 2 == 0 { "pd" } else { "sh" }.to_owned(),
        pool: "a".to_owned(),
        is_bastion: number == 1,
        retired: false,
        synced_at: before(38),
        stale: false,
        pulled_out: (number == 6).then(|| PulledOut {
            by: "bo".to_owned(),
            reason: "disk reports errors, ticket 4411".to_owned(),
            since: before(7_300),
        }),
        service,
        out_because,
        markup_owed_since: None,
        observed_at: (number != 8).then(|| before(number * 3)),
        version: version.map(str::to_owned),
        proven_at,
    }
}

pub(crate) fn versions() -> Vec<VersionView> {
    [(Some("2.13.9"), 11, 10), (Some("2.14.0"), 7, 6), (Some("2.13.8"), 1, 1), (None, 1, 0)]
        .into_iter()
        .map(|(version, servers, proven)| VersionView {
            version: version.map(str::to_owned),
            package: version.map(package_id),
            servers,
            proven,
            oldest_proof_at: (proven > 0).then(|| before(i64::from(servers) * 21_311)),
        })
        .collect()
}

pub(crate) fn briefs() -> Page<DeploymentBrief> {
    let rows = [
        (
            1,
            "2.14.0",
            Flavor::Rollout,
            DeploymentStatus::RollingOut,
            "ROLLOUT_BRAKED",
            "ann.fischer",
        ),
        (10, "2.13.9", Flavor::Rollback, DeploymentStatus::Success, "SUCCESS", "bo"),
        (11, "2.13.10", Flavor::Rollout, DeploymentStatus::Revoked, "REVOKED", "ann.fischer"),
        (12, "2.13.9", Flavor::Scaleout, DeploymentStatus::Success, "SUCCESS", "ci"),
        (13, "2.13.9", Flavor::Rollout, DeploymentStatus::Failure, "FAILURE", "ci"),
        (14, "2.13.8", Flavor::Adopted, DeploymentStatus::Success, "SUCCESS", "capstan"),
    ];
    let items = rows
        .into_iter()
        .map(|(number, version, flavor, status, shown, by)| {
            let created_at = before(720 + 90_000 * i64::try_from(number - 1).expect("small"));
            DeploymentBrief {
                id: deployment_id(number),
                group: group_id("shop-prod"),
                group_name: "shop-prod".to_owned(),
                package: brief_of(version),
                flavor,
                status,
                shown_status: shown.to_owned(),
                created_by: by.to_owned(),
                created_at,
                ended_at: status
                    .is_final()
                    .then(|| created_at + std::time::Duration::from_secs(431)),
            }
        })
        .collect();
    Page { items, next_cursor: None }
}

pub(crate) fn log() -> Vec<LogPart> {
    let part = |number: usize, stage: &str, text: &str, bytes: u64| LogPart {
        stage: stage.to_owned(),
        attempt: 2,
        key: OrderKey::derive(now(), &[b"order", &self::bytes(number)]).to_string(),
        at: before(300 - i64::try_from(number).expect("small") * 40),
        text: text.to_owned(),
        bytes,
    };
    let download =
        "fetching http://packages.sh.example/shop/2.14.0.tar.gz\n48213004 bytes\ndigest is right\n";
    let install = "unpacking into releases/2.14.0\nhook capstan/pre-install: ok\nswitching current -> releases/2.14.0\nrestarting\n";
    let verify = "asking http://10.20.0.7:8080/healthz\n503 Service Unavailable {\"status\":\"starting\",\"waiting\":[\"redis://cache-sh-01:6379\",\"postgres://orders-sh.example:5432/orders?application_name=shop\"]}\n503 Service Unavailable\n503 Service Unavailable\ngiving up after 180 s: the last answer was 503\n";
    vec![
        part(1, "DOWNLOAD", download, download.len() as u64),
        part(2, "INSTALL", install, install.len() as u64),
        part(3, "VERIFY", verify, 70_311),
    ]
}
