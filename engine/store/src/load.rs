//! Reads a group into the state that decisions are made from, and keeps it in step with the rows.

use std::collections::{BTreeMap, BTreeSet};

use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::record::{Application, Batch, Group, Server, Target};
use capstan_core::state::GroupState;
use capstan_core::{DeploymentId, GroupId, ServerId};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use crate::Error;
use crate::bulk::{among, sql};
use crate::changed::{self, Changed};
use crate::entities::{
    applications, batches, deployments, groups, server_states, servers, targets,
};
use crate::rows::{deployment as rows, inventory};

/// Rows in one list of a statement.
const NAMED_AT_ONCE: usize = 8192;

/// The group with all its servers and no deployment; `None`: there is no such group.
pub(crate) async fn group(
    conn: &impl ConnectionTrait,
    id: GroupId,
) -> Result<Option<GroupState>, Error> {
    let Some(group) = group_row(conn, id).await? else { return Ok(None) };
    Ok(Some(GroupState::new(group, servers(conn, id).await?)))
}

/// Adds a deployment with its batches and targets to the state; `false`: the group has no such
/// deployment.
pub(crate) async fn deployment(
    conn: &impl ConnectionTrait,
    state: &mut GroupState,
    id: DeploymentId,
) -> Result<bool, Error> {
    let Some(row) = deployments::Entity::find_by_id(id.0)
        .filter(deployments::Column::GroupId.eq(state.id().0))
        .one(conn)
        .await
        .map_err(Error::database("read a deployment"))?
    else {
        return Ok(false);
    };
    let batches = batches_of(conn, id.0).await?;
    let targets = targets::Entity::find()
        .filter(targets::Column::DeploymentId.eq(id.0))
        .all(conn)
        .await
        .map_err(Error::database("read targets"))?;
    state.insert(
        rows::deployment(row)?,
        batches,
        targets.into_iter().map(rows::target).collect::<Result<_, _>>()?,
    );
    Ok(true)
}

/// The deployment that holds the group (S6).
pub(crate) async fn running_deployment(
    conn: &impl ConnectionTrait,
    group: GroupId,
) -> Result<Option<DeploymentId>, Error> {
    let id: Option<Uuid> = deployments::Entity::find()
        .select_only()
        .column(deployments::Column::Id)
        .filter(deployments::Column::RunningGroup.eq(group.0))
        .into_tuple()
        .one(conn)
        .await
        .map_err(Error::database("find the running deployment of a group"))?;
    Ok(id.map(DeploymentId))
}

/// The group's version; `None`: there is no such group.
pub(crate) async fn group_version(
    conn: &impl ConnectionTrait,
    id: GroupId,
) -> Result<Option<i64>, Error> {
    groups::Entity::find_by_id(id.0)
        .select_only()
        .column(groups::Column::Version)
        .into_tuple()
        .one(conn)
        .await
        .map_err(Error::database("read the version of a group"))
}

/// The versions of some groups.
pub(crate) async fn group_versions(
    conn: &impl ConnectionTrait,
    ids: Vec<GroupId>,
) -> Result<BTreeMap<GroupId, i64>, Error> {
    let rows: Vec<(Uuid, i64)> = groups::Entity::find()
        .select_only()
        .columns([groups::Column::Id, groups::Column::Version])
        .filter(groups::Column::Id.is_in(ids.into_iter().map(|id| id.0)))
        .into_tuple()
        .all(conn)
        .await
        .map_err(Error::database("read the versions of groups"))?;
    Ok(rows.into_iter().map(|(id, version)| (GroupId(id), version)).collect())
}

/// Brings a state that was right at `known_version` up to date, reading only rows that were written
/// since. Deployments that began or ended meanwhile are added. Call it in a transaction or where
/// nobody else writes; else the rows may be of different versions.
pub(crate) async fn refresh(
    conn: &impl ConnectionTrait,
    state: &mut GroupState,
    known_version: i64,
) -> Result<(), Error> {
    let id = state.id();
    let gone = || Error::Missing { what: "group", id: id.to_string() };
    state.group = group_row(conn, id).await?.ok_or_else(gone)?;
    let changed = changed::since(conn, id, known_version, state.group.version).await?;
    renew(conn, state, known_version, changed.as_ref()).await
}

/// Takes back what was decided on a state and is not written, and brings it up to date: it was right at
/// `known_version`, and is not in what is `spoilt`. `false`: it has to be read anew. Call it as [`refresh`].
pub(crate) async fn take_back(
    conn: &impl ConnectionTrait,
    state: &mut GroupState,
    known_version: i64,
    spoilt: Changed,
) -> Result<bool, Error> {
    let id = state.id();
    let Some(group) = group_row(conn, id).await? else { return Ok(false) };
    let Some(mut changed) = changed::since(conn, id, known_version, group.version).await? else {
        return Ok(false);
    };
    changed.extend(spoilt);
    state.group = group;
    renew(conn, state, known_version, Some(&changed)).await?;
    Ok(true)
}

/// Reads what has changed; `None`: what was written since a version.
async fn renew(
    conn: &impl ConnectionTrait,
    state: &mut GroupState,
    known_version: i64,
    changed: Option<&Changed>,
) -> Result<(), Error> {
    let id = state.id();
    for server in changed_servers(conn, id, known_version, changed).await? {
        state.replace_server(server);
    }
    // Whoever writes a batch or a target writes its deployment too, for its events are numbered there.
    let deployments = changed_deployments(conn, id, known_version, changed).await?;
    let is_loaded = |row: &deployments::Model| state.deployment(DeploymentId(row.id)).is_some();
    let (loaded, new): (Vec<_>, Vec<_>) = deployments.into_iter().partition(is_loaded);
    for row in loaded {
        let batches = batches_of(conn, row.id).await?;
        let targets = changed_targets(conn, row.id, known_version, changed).await?;
        state.renew(rows::deployment(row)?, batches, targets);
    }
    for row in new {
        // A draft is read when it is asked for.
        let is_pending = row.status == DeploymentStatus::Pending.word();
        if !is_pending {
            deployment(conn, state, DeploymentId(row.id)).await?;
        }
    }
    Ok(())
}

async fn changed_deployments(
    conn: &impl ConnectionTrait,
    group: GroupId,
    known_version: i64,
    changed: Option<&Changed>,
) -> Result<Vec<deployments::Model>, Error> {
    let what = "read changed deployments";
    if let Some(changed) = changed {
        let (table, ids) = ("deployments", &changed.deployments);
        return named::<deployments::Entity>(conn, table, "id", ids, what).await;
    }
    deployments::Entity::find()
        .filter(deployments::Column::GroupId.eq(group.0))
        .filter(deployments::Column::Rev.gt(known_version))
        .all(conn)
        .await
        .map_err(Error::database(what))
}

async fn batches_of(conn: &impl ConnectionTrait, deployment: Uuid) -> Result<Vec<Batch>, Error> {
    let batches = batches::Entity::find()
        .filter(batches::Column::DeploymentId.eq(deployment))
        .all(conn)
        .await
        .map_err(Error::database("read batches"))?;
    batches.iter().map(rows::batch).collect()
}

async fn changed_targets(
    conn: &impl ConnectionTrait,
    deployment: Uuid,
    known_version: i64,
    changed: Option<&Changed>,
) -> Result<Vec<Target>, Error> {
    let what = "read changed targets";
    let found = match changed {
        Some(changed) => {
            let rows = named::<targets::Entity>(conn, "targets", "id", &changed.targets, what);
            let rows = rows.await?.into_iter();
            rows.filter(|row| row.deployment_id == deployment).collect()
        }
        None => targets::Entity::find()
            .filter(targets::Column::DeploymentId.eq(deployment))
            .filter(targets::Column::Rev.gt(known_version))
            .all(conn)
            .await
            .map_err(Error::database(what))?,
    };
    found.into_iter().map(rows::target).collect()
}

/// Rows of a table by their ids.
async fn named<E: EntityTrait>(
    conn: &impl ConnectionTrait,
    table: &str,
    key: &str,
    ids: &BTreeSet<Uuid>,
    what: &'static str,
) -> Result<Vec<E::Model>, Error> {
    let ids: Vec<Uuid> = ids.iter().copied().collect();
    let mut found = Vec::with_capacity(ids.len());
    for some in ids.chunks(NAMED_AT_ONCE) {
        let (among, ids) = among(conn.get_database_backend(), some.iter().map(|id| (*id).into()));
        let text = format!("SELECT * FROM {table} WHERE {key} {among}");
        let rows = E::find().from_raw_sql(sql(conn, &text, ids)).all(conn).await;
        found.extend(rows.map_err(Error::database(what))?);
    }
    Ok(found)
}

async fn group_row(conn: &impl ConnectionTrait, id: GroupId) -> Result<Option<Group>, Error> {
    let Some(row) = groups::Entity::find_by_id(id.0)
        .one(conn)
        .await
        .map_err(Error::database("read a group"))?
    else {
        return Ok(None);
    };
    let application = application_row(conn, &row).await?;
    inventory::group(row, application).map(Some)
}

async fn application_row(
    conn: &impl ConnectionTrait,
    group: &groups::Model,
) -> Result<Application, Error> {
    let row = applications::Entity::find_by_id(group.application_id)
        .one(conn)
        .await
        .map_err(Error::database("read an application"))?
        .ok_or_else(|| Error::Row {
            table: "groups",
            id: group.id.to_string(),
            problem: format!("its application {} is missing", group.application_id),
        })?;
    inventory::application(row)
}

/// All servers of a group, by id.
pub(crate) async fn servers(
    conn: &impl ConnectionTrait,
    group: GroupId,
) -> Result<Vec<Server>, Error> {
    let records = servers::Entity::find()
        .filter(servers::Column::GroupId.eq(group.0))
        .order_by_asc(servers::Column::Id)
        .all(conn)
        .await
        .map_err(Error::database("read servers"))?;
    let states = server_states::Entity::find()
        .filter(server_states::Column::GroupId.eq(group.0))
        .all(conn)
        .await
        .map_err(Error::database("read the states of servers"))?;
    join(records, states)
}

/// One server with its group.
pub(crate) async fn server(
    conn: &impl ConnectionTrait,
    id: ServerId,
) -> Result<Option<(GroupId, Server)>, Error> {
    let record = servers::Entity::find_by_id(id.0)
        .one(conn)
        .await
        .map_err(Error::database("read a server"))?;
    let state = server_states::Entity::find_by_id(id.0)
        .one(conn)
        .await
        .map_err(Error::database("read the state of a server"))?;
    let Some(record) = record else { return Ok(None) };
    let group = GroupId(record.group_id);
    Ok(join(vec![record], state.into_iter().collect())?.pop().map(|server| (group, server)))
}

/// Those that were written since, new ones in the order of their ids.
async fn changed_servers(
    conn: &impl ConnectionTrait,
    group: GroupId,
    known_version: i64,
    changed: Option<&Changed>,
) -> Result<Vec<Server>, Error> {
    let what = "read the states of servers";
    let states = match changed {
        Some(changed) => {
            let (table, ids) = ("server_states", &changed.servers);
            named::<server_states::Entity>(conn, table, "server_id", ids, what).await?
        }
        None => server_states::Entity::find()
            .filter(server_states::Column::GroupId.eq(group.0))
            .filter(server_states::Column::Rev.gt(known_version))
            .all(conn)
            .await
            .map_err(Error::database(what))?,
    };
    let ids = states.iter().map(|state| state.server_id).collect();
    let records = named::<servers::Entity>(conn, "servers", "id", &ids, "read servers").await;
    let mut records = records?;
    records.sort_unstable_by_key(|record| record.id);
    join(records, states)
}

fn join(
    records: Vec<servers::Model>,
    states: Vec<server_states::Model>,
) -> Result<Vec<Server>, Error> {
    let mut states: BTreeMap<Uuid, server_states::Model> =
        states.into_iter().map(|state| (state.server_id, state)).collect();
    records
        .into_iter()
        .map(|record| {
            let state = states.remove(&record.id).ok_or_else(|| Error::Row {
                table: "servers",
                id: record.id.to_string(),
                problem: "its row of server_states is missing".to_owned(),
            })?;
            inventory::server(record, state)
        })
        .collect()
}
