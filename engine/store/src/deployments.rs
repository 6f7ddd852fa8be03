//! Deployments in lists.

use std::collections::BTreeMap;

use capstan_core::record::Flavor;
use capstan_core::view::{DeploymentBrief, PackageBrief, Page};
use capstan_core::{DeploymentId, GroupId, PackageId, Timestamp};
use sea_orm::{
    ColumnTrait, DatabaseConnection, EntityTrait, FromQueryResult, QueryFilter, QueryOrder,
    QuerySelect,
};
use uuid::Uuid;

use crate::cursor::{decode_id, encode, page};
use crate::entities::deployments::{Column, Entity};
use crate::entities::groups;
use crate::groups::shown_status;
use crate::operation::{Operation, timed};
use crate::rows::{Reader, at_opt};
use crate::{DeploymentFilter, Error, PageRequest, Store};

#[derive(FromQueryResult)]
struct BriefRow {
    id: Uuid,
    group_id: Uuid,
    package_id: Uuid,
    version: String,
    sha256: String,
    flavor: String,
    status: String,
    holds: String,
    created_by: String,
    created_at: i64,
    ended_at: Option<i64>,
}

impl Store {
    /// Deployments, newest first.
    ///
    /// # Errors
    /// [`Error::Cursor`]; when the database does not answer.
    pub async fn deployments(
        &self,
        filter: DeploymentFilter,
        request: PageRequest,
    ) -> Result<Page<DeploymentBrief>, Error> {
        timed(Operation::Deployments, async {
            let mut query = Entity::find();
            if let Some(group) = filter.group {
                query = query.filter(Column::GroupId.eq(group.0));
            }
            if let Some(status) = filter.status {
                query = query.filter(Column::Status.eq(status.word()));
            }
            if filter.running {
                query = query.filter(Column::RunningGroup.is_not_null());
            }
            if let Some(cursor) = &request.cursor {
                query = query.filter(Column::Id.lt(decode_id(cursor)?));
            }
            let rows: Vec<BriefRow> = query
                .order_by_desc(Column::Id)
                .limit(request.size() + 1)
                .into_model()
                .all(self.reader())
                .await
                .map_err(Error::database("list deployments"))?;
            let names = group_names(self.reader(), &rows).await?;
            page(
                rows,
                request.size(),
                |row| encode(&[&row.id.to_string()]),
                |row| brief(row, &names),
            )
        })
        .await
    }

    /// The group of a deployment; `None`: there is no such deployment.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn deployment_group(&self, id: DeploymentId) -> Result<Option<GroupId>, Error> {
        timed(Operation::DeploymentGroup, async {
            let group: Option<Uuid> = Entity::find_by_id(id.0)
                .select_only()
                .column(Column::GroupId)
                .into_tuple()
                .one(self.reader())
                .await
                .map_err(Error::database("find a deployment"))?;
            Ok(group.map(GroupId))
        })
        .await
    }
}

async fn group_names(
    conn: &DatabaseConnection,
    rows: &[BriefRow],
) -> Result<BTreeMap<Uuid, String>, Error> {
    let mut ids: Vec<Uuid> = rows.iter().map(|row| row.group_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let names: Vec<(Uuid, String)> = groups::Entity::find()
        .select_only()
        .column(groups::Column::Id)
        .column(groups::Column::Name)
        .filter(groups::Column::Id.is_in(ids))
        .into_tuple()
        .all(conn)
        .await
        .map_err(Error::database("read the names of groups"))?;
    Ok(names.into_iter().collect())
}

fn brief(row: BriefRow, names: &BTreeMap<Uuid, String>) -> Result<DeploymentBrief, Error> {
    let flavor =
        Reader::new("deployments", &row.id).word("flavor", &row.flavor, Flavor::from_word)?;
    let (status, shown_status) = shown_status(row.id, &row.status, &row.holds)?;
    Ok(DeploymentBrief {
        id: DeploymentId(row.id),
        group: GroupId(row.group_id),
        group_name: names.get(&row.group_id).cloned().unwrap_or_default(),
        package: PackageBrief {
            id: PackageId(row.package_id),
            version: row.version,
            sha256: row.sha256,
        },
        flavor,
        status,
        shown_status,
        created_by: row.created_by,
        created_at: Timestamp::from_micros(row.created_at),
        ended_at: at_opt(row.ended_at),
    })
}
