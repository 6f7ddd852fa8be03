//! Deployments, batches and targets.

use capstan_core::batch_status::BatchStatus;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::record::{Batch, Cause, Deployment, Flavor, PackageRef, Target};
use capstan_core::target_status::TargetStatus;
use capstan_core::view::TargetView;
use capstan_core::{DeploymentId, GroupId, OrderKey, PackageId, ServerId, TargetId, Timestamp};
use sea_orm::Value;

use super::{Reader, at_opt, count, micros, micros_opt, to_json};
use crate::Error;
use crate::entities::{batches, deployments, targets};

pub(crate) fn deployment(row: deployments::Model) -> Result<Deployment, Error> {
    let reader = Reader::new("deployments", &row.id);
    let config = reader.json("config", &row.config)?;
    let flavor = reader.word("flavor", &row.flavor, Flavor::from_word)?;
    let status = reader.word("status", &row.status, DeploymentStatus::from_word)?;
    let holds = reader.json("holds", &row.holds)?;
    let failed_seen = reader.number("failed_seen", row.failed_seen)?;
    let total = reader.number("total", row.total)?;
    let frozen = reader.json("frozen", &row.frozen)?;
    let scripts = reader.json("scripts", &row.scripts)?;
    let ran_without = reader.json("ran_without", &row.ran_without)?;
    Ok(Deployment {
        id: DeploymentId(row.id),
        group: GroupId(row.group_id),
        package: PackageRef {
            id: PackageId(row.package_id),
            version: row.version,
            sha256: row.sha256,
        },
        config,
        flavor,
        status,
        holds,
        failed_seen,
        total,
        frozen,
        scripts,
        parent: row.parent.map(DeploymentId),
        origin: row.origin.map(DeploymentId),
        restores: row.restores.map(DeploymentId),
        baked: row.baked,
        superseded_by: row.superseded_by.map(DeploymentId),
        created_by: row.created_by,
        ignore_verify_reason: row.ignore_verify_reason,
        seed: row.seed,
        plan_hash: row.plan_hash,
        seq: row.seq,
        created_at: Timestamp::from_micros(row.created_at),
        started_at: at_opt(row.started_at),
        ended_at: at_opt(row.ended_at),
        status_since: Timestamp::from_micros(row.status_since),
        stale: row.stale,
        ran_without,
    })
}

/// The columns of `deployments`. `running_group` follows from the status (S6).
pub(crate) fn deployment_values(it: &Deployment, rev: i64) -> Result<[Value; 31], Error> {
    const TABLE: &str = "deployments";
    Ok([
        it.id.0.into(),
        it.group.0.into(),
        it.status.is_running().then_some(it.group.0).into(),
        it.package.id.0.into(),
        it.package.version.as_str().into(),
        it.package.sha256.as_str().into(),
        to_json(TABLE, &it.config)?.into(),
        it.flavor.word().into(),
        it.status.word().into(),
        to_json(TABLE, &it.holds)?.into(),
        count(it.failed_seen),
        count(it.total),
        to_json(TABLE, &it.frozen)?.into(),
        to_json(TABLE, &it.scripts)?.into(),
        it.parent.map(|id| id.0).into(),
        it.origin.map(|id| id.0).into(),
        it.restores.map(|id| id.0).into(),
        it.baked.into(),
        it.superseded_by.map(|id| id.0).into(),
        it.created_by.as_str().into(),
        it.ignore_verify_reason.as_deref().into(),
        it.seed.as_str().into(),
        it.plan_hash.as_str().into(),
        it.seq.into(),
        micros(it.created_at),
        micros_opt(it.started_at),
        micros_opt(it.ended_at),
        micros(it.status_since),
        it.stale.into(),
        to_json(TABLE, &it.ran_without)?.into(),
        rev.into(),
    ])
}

pub(crate) fn batch(row: &batches::Model) -> Result<Batch, Error> {
    let id = format!("{}/{}", row.deployment_id, row.idx);
    let reader = Reader::new("batches", &id);
    Ok(Batch {
        deployment: DeploymentId(row.deployment_id),
        index: reader.number("idx", row.idx)?,
        is_bastion: row.is_bastion,
        status: reader.word("status", &row.status, BatchStatus::from_word)?,
        wait_until: at_opt(row.wait_until),
        ended_at: at_opt(row.ended_at),
    })
}

/// The columns of `batches`.
pub(crate) fn batch_values(batch: &Batch, rev: i64) -> [Value; 7] {
    [
        batch.deployment.0.into(),
        count(batch.index),
        batch.is_bastion.into(),
        batch.status.word().into(),
        micros_opt(batch.wait_until),
        micros_opt(batch.ended_at),
        rev.into(),
    ]
}

pub(crate) fn target(row: targets::Model) -> Result<Target, Error> {
    let reader = Reader::new("targets", &row.id);
    let batch = reader.number("batch", row.batch)?;
    let place = reader.number("place", row.place)?;
    let status = reader.word("status", &row.status, TargetStatus::from_word)?;
    let attempt = reader.number("attempt", row.attempt)?;
    let orders = reader.number("orders", row.orders)?;
    let tries = reader.number("tries", row.tries)?;
    let cause = row.cause.as_deref();
    let cause = cause.map(|word| reader.word("cause", word, Cause::from_word)).transpose()?;
    Ok(Target {
        id: TargetId(row.id),
        deployment: DeploymentId(row.deployment_id),
        batch,
        place,
        server: ServerId(row.server_id),
        hostname: row.hostname,
        instance: row.instance,
        ip_address: row.ip_address,
        status,
        status_since: Timestamp::from_micros(row.status_since),
        attempt,
        orders,
        tries,
        order: row.order_key.map(OrderKey),
        order_digest: row.order_digest,
        deadline_at: at_opt(row.deadline_at),
        unknown_since: at_opt(row.unknown_since),
        checked: row.checked,
        verified_at: at_opt(row.verified_at),
        unverified: row.unverified,
        skipped: row.skipped,
        leaving: row.leaving,
        took: row.took,
        bypassed: row.bypassed,
        cause,
        message: row.message,
    })
}

/// The columns of `targets`.
pub(crate) fn target_values(target: &Target, rev: i64) -> [Value; 27] {
    [
        target.id.0.into(),
        target.deployment.0.into(),
        count(target.batch),
        count(target.place),
        target.server.0.into(),
        target.hostname.as_str().into(),
        target.instance.as_str().into(),
        target.ip_address.as_str().into(),
        target.status.word().into(),
        micros(target.status_since),
        count(target.attempt),
        count(target.orders),
        count(target.tries),
        target.order.map(|key| key.0).into(),
        target.order_digest.as_deref().into(),
        micros_opt(target.deadline_at),
        micros_opt(target.unknown_since),
        target.checked.into(),
        micros_opt(target.verified_at),
        target.unverified.into(),
        target.skipped.into(),
        target.leaving.into(),
        target.took.into(),
        target.bypassed.into(),
        target.cause.map(Cause::word).into(),
        target.message.as_deref().into(),
        rev.into(),
    ]
}

pub(crate) fn target_view(row: targets::Model) -> Result<TargetView, Error> {
    let target = target(row)?;
    Ok(TargetView {
        id: target.id,
        deployment: target.deployment,
        batch: target.batch,
        place: target.place,
        server: target.server,
        hostname: target.hostname,
        instance: target.instance,
        ip_address: target.ip_address,
        status: target.status,
        status_since: target.status_since,
        attempt: target.attempt,
        cause: target.cause,
        message: target.message,
        unknown_since: target.unknown_since,
        skipped: target.skipped,
        unverified: target.unverified,
        bypassed: target.bypassed,
        order_digest: target.order_digest,
    })
}
