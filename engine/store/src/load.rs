//! Reads a group into the state that decisions are made from, and keeps it in step with the rows.

use std::collections::BTreeMap;

use capstan_core::record::{Application, Group, Server};
use capstan_core::state::{DeploymentState, GroupState};
use capstan_core::{DeploymentId, GroupId, ServerId};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use crate::Error;
use crate::entities::{
    applications, batches, deployments, groups, server_states, servers, targets,
};
use crate::rows::{deployment as rows, inventory};

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
    let batches = batches::Entity::find()
        .filter(batches::Column::DeploymentId.eq(id.0))
        .all(conn)
        .await
        .map_err(Error::database("read batches"))?;
    let targets = targets::Entity::find()
        .filter(targets::Column::DeploymentId.eq(id.0))
        .all(conn)
        .await
        .map_err(Error::database("read targets"))?;
    state.insert(
        rows::deployment(row)?,
        batches.iter().map(rows::batch).collect::<Result<_, _>>()?,
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
/// since. Deployments that the state does not hold are left out. Call it in a transaction or where
/// nobody else writes; else the rows may be of different versions.
pub(crate) async fn refresh(
    conn: &impl ConnectionTrait,
    state: &mut GroupState,
    known_version: i64,
) -> Result<(), Error> {
    let id = state.id();
    let gone = || Error::Missing { what: "group", id: id.to_string() };
    state.group = group_row(conn, id).await?.ok_or_else(gone)?;
    for server in servers_since(conn, id, known_version).await? {
        state.replace_server(server);
    }
    refresh_deployments(conn, state, known_version).await
}

async fn refresh_deployments(
    conn: &impl ConnectionTrait,
    state: &mut GroupState,
    known_version: i64,
) -> Result<(), Error> {
    let loaded: Vec<Uuid> = state.deployments().map(|it| it.deployment.id.0).collect();
    // Whoever writes a batch or a target writes its deployment too, for its events are numbered there.
    let changed = deployments::Entity::find()
        .filter(deployments::Column::Id.is_in(loaded))
        .filter(deployments::Column::Rev.gt(known_version))
        .all(conn)
        .await
        .map_err(Error::database("read changed deployments"))?;
    for row in changed {
        let id = row.id;
        let new_batches = batches::Entity::find()
            .filter(batches::Column::DeploymentId.eq(id))
            .all(conn)
            .await
            .map_err(Error::database("read batches"))?;
        let new_targets = targets::Entity::find()
            .filter(targets::Column::DeploymentId.eq(id))
            .filter(targets::Column::Rev.gt(known_version))
            .all(conn)
            .await
            .map_err(Error::database("read changed targets"))?;
        let old = state.deployment(DeploymentId(id));
        let mut targets: BTreeMap<u32, _> = old
            .into_iter()
            .flat_map(DeploymentState::targets)
            .map(|target| (target.place, target.clone()))
            .collect();
        for row in new_targets {
            let target = rows::target(row)?;
            targets.insert(target.place, target);
        }
        state.insert(
            rows::deployment(row)?,
            new_batches.iter().map(rows::batch).collect::<Result<_, _>>()?,
            targets.into_values().collect(),
        );
    }
    Ok(())
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

async fn servers_since(
    conn: &impl ConnectionTrait,
    group: GroupId,
    version: i64,
) -> Result<Vec<Server>, Error> {
    let states = server_states::Entity::find()
        .filter(server_states::Column::GroupId.eq(group.0))
        .filter(server_states::Column::Rev.gt(version))
        .all(conn)
        .await
        .map_err(Error::database("read the states of servers"))?;
    let mut records = Vec::with_capacity(states.len());
    for some in states.chunks(10_000) {
        let found = servers::Entity::find()
            .filter(servers::Column::Id.is_in(some.iter().map(|state| state.server_id)))
            .order_by_asc(servers::Column::Id)
            .all(conn)
            .await
            .map_err(Error::database("read servers"))?;
        records.extend(found);
    }
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
