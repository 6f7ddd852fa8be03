//! Applications, groups, servers and packages.

use capstan_core::record::{
    Application, BastionRule, Binding, Group, OutBecause, Package, Running, Server, Service,
};
use capstan_core::view::{ApplicationView, PackageView, ServerView};
use capstan_core::{ApplicationId, GroupId, OrderKey, PackageId, ServerId, Timestamp};
use sea_orm::Value;

use super::{Reader, at_opt, micros_opt, to_json};
use crate::Error;
use crate::entities::{applications, groups, packages, server_states, servers};

/// The word of a bastion rule in the database.
pub(crate) fn bastion_word(rule: BastionRule) -> &'static str {
    match rule {
        BastionRule::One => "one",
        BastionRule::None => "none",
    }
}

fn bastion(word: &str) -> Option<BastionRule> {
    [BastionRule::One, BastionRule::None].into_iter().find(|rule| bastion_word(*rule) == word)
}

/// The word of a service in the database.
pub(crate) fn service_word(service: Service) -> &'static str {
    match service {
        Service::In => "in",
        Service::Out => "out",
        Service::Unknown => "unknown",
    }
}

fn service(word: &str) -> Option<Service> {
    [Service::In, Service::Out, Service::Unknown].into_iter().find(|it| service_word(*it) == word)
}

/// The word of a reason to be out in the database.
pub(crate) fn out_because_word(because: OutBecause) -> &'static str {
    match because {
        OutBecause::Target => "target",
        OutBecause::Bypassed => "bypassed",
        OutBecause::Person => "person",
        OutBecause::Outside => "outside",
        OutBecause::LateMark => "late_mark",
        OutBecause::Dead => "dead",
        OutBecause::New => "new",
    }
}

fn out_because(word: &str) -> Option<OutBecause> {
    [
        OutBecause::Target,
        OutBecause::Bypassed,
        OutBecause::Person,
        OutBecause::Outside,
        OutBecause::LateMark,
        OutBecause::Dead,
        OutBecause::New,
    ]
    .into_iter()
    .find(|because| out_because_word(*because) == word)
}

pub(crate) fn application(row: applications::Model) -> Result<Application, Error> {
    let reader = Reader::new("applications", &row.id);
    let bastion = reader.word("bastion", &row.bastion, bastion)?;
    Ok(Application {
        id: ApplicationId(row.id),
        name: row.name,
        owner: row.owner,
        environment: row.environment,
        kind: row.kind,
        bastion,
    })
}

/// Since when a cached record is known to be right, and whether that is too long ago.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Freshness {
    pub(crate) synced_at: Timestamp,
    pub(crate) stale: bool,
}

/// `fresh`: none, if no CMDB gives the application.
pub(crate) fn application_view(
    application: Application,
    fresh: Option<Freshness>,
) -> ApplicationView {
    let Application { id, name, owner, environment, kind, bastion } = application;
    ApplicationView {
        id,
        name,
        owner,
        environment,
        kind,
        bastion,
        synced_at: fresh.map(|fresh| fresh.synced_at),
        stale: fresh.is_some_and(|fresh| fresh.stale),
    }
}

pub(crate) fn group(row: groups::Model, application: Application) -> Result<Group, Error> {
    let reader = Reader::new("groups", &row.id);
    let binding: Binding = reader.json("binding", &row.binding)?;
    let port = reader.number("port", row.port)?;
    let dependencies = reader.json_opt("dependencies", row.dependencies.as_deref())?;
    let dependencies = dependencies.unwrap_or_default();
    Ok(Group {
        id: GroupId(row.id),
        external_id: row.external_id,
        application,
        binding,
        port,
        idc: row.idc,
        cmdb_revision: row.cmdb_revision,
        synced_at: Timestamp::from_micros(row.synced_at),
        refresh_held: row.refresh_held,
        version: row.version,
        observed_at: at_opt(row.observed_at),
        seq: row.seq,
        dependencies,
    })
}

/// A server from its two rows.
pub(crate) fn server(row: servers::Model, state: server_states::Model) -> Result<Server, Error> {
    let reader = Reader::new("server_states", &row.id);
    let port = reader.number("port", row.port)?;
    let pulled_out = reader.json_opt("pulled_out", state.pulled_out.as_deref())?;
    let markup_owed = reader.json_opt("markup_owed", state.markup_owed.as_deref())?;
    let service = reader.word("service", &state.service, service)?;
    let because = state.out_because.as_deref();
    let out_because =
        because.map(|word| reader.word("out_because", word, out_because)).transpose()?;
    Ok(Server {
        id: ServerId(row.id),
        external_id: row.external_id,
        hostname: row.hostname,
        instance: row.instance,
        ip_address: row.ip_address,
        port,
        root: row.root,
        idc: row.idc,
        pool: row.pool,
        is_bastion: row.is_bastion,
        retired: row.retired,
        pulled_out,
        service,
        out_because,
        observed_at: at_opt(state.observed_at),
        dead_since: at_opt(state.dead_since),
        drained: state.drained,
        drained_again: state.drained_again,
        markup_owed,
        running: state.running_package.map(|package| Running {
            package: PackageId(package),
            version: state.running_version.unwrap_or_default(),
            proven_at: at_opt(state.running_proven_at),
        }),
        order: state.order_key.map(OrderKey),
        fence: state.fence,
    })
}

pub(crate) fn server_view(group: GroupId, server: Server, fresh: Freshness) -> ServerView {
    let (version, proven_at) =
        server.running.map_or((None, None), |running| (Some(running.version), running.proven_at));
    ServerView {
        id: server.id,
        group,
        hostname: server.hostname,
        instance: server.instance,
        ip_address: server.ip_address,
        port: server.port,
        root: server.root,
        idc: server.idc,
        pool: server.pool,
        is_bastion: server.is_bastion,
        retired: server.retired,
        synced_at: fresh.synced_at,
        stale: fresh.stale,
        pulled_out: server.pulled_out,
        service: server.service,
        out_because: server.out_because,
        markup_owed_since: server.markup_owed.map(|owed| owed.since),
        observed_at: server.observed_at,
        version,
        proven_at,
    }
}

/// The columns of `servers`.
pub(crate) fn server_values(group: GroupId, server: &Server) -> [Value; 12] {
    [
        server.id.0.into(),
        group.0.into(),
        server.external_id.as_str().into(),
        server.hostname.as_str().into(),
        server.instance.as_str().into(),
        server.ip_address.as_str().into(),
        i32::from(server.port).into(),
        server.root.as_str().into(),
        server.idc.as_str().into(),
        server.pool.as_str().into(),
        server.is_bastion.into(),
        server.retired.into(),
    ]
}

/// The columns of `server_states`.
pub(crate) fn server_state_values(
    group: GroupId,
    server: &Server,
    rev: i64,
) -> Result<[Value; 16], Error> {
    let pulled_out =
        server.pulled_out.as_ref().map(|it| to_json("server_states", it)).transpose()?;
    let markup_owed =
        server.markup_owed.as_ref().map(|it| to_json("server_states", it)).transpose()?;
    let running = server.running.as_ref();
    Ok([
        server.id.0.into(),
        group.0.into(),
        pulled_out.into(),
        service_word(server.service).into(),
        server.out_because.map(out_because_word).into(),
        micros_opt(server.observed_at),
        micros_opt(server.dead_since),
        server.drained.into(),
        server.drained_again.into(),
        markup_owed.into(),
        running.map(|running| running.package.0).into(),
        running.map(|running| running.version.as_str()).into(),
        micros_opt(running.and_then(|running| running.proven_at)),
        server.order.map(|key| key.0).into(),
        server.fence.into(),
        rev.into(),
    ])
}

pub(crate) fn package(row: packages::Model) -> Result<Package, Error> {
    let reader = Reader::new("packages", &row.id);
    let locations = reader.json("locations", &row.locations)?;
    let bad = reader.json_opt("bad", row.bad.as_deref())?;
    let size = row.size.map(|size| reader.number("size", size)).transpose()?;
    Ok(Package {
        id: PackageId(row.id),
        application: ApplicationId(row.application_id),
        version: row.version,
        sha256: row.sha256,
        size,
        locations,
        stored: row.stored,
        bad,
        created_at: Timestamp::from_micros(row.created_at),
    })
}

pub(crate) fn package_view(row: packages::Model) -> Result<PackageView, Error> {
    let Package { id, application, version, sha256, size, locations, stored, bad, created_at } =
        package(row)?;
    Ok(PackageView { id, application, version, sha256, size, locations, stored, bad, created_at })
}
