//! Groups as people see them.

use std::collections::BTreeMap;

use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::order::endpoint;
use capstan_core::ports::Endpoint;
use capstan_core::record::{Binding, Flavor, Group, Hold, PackageRef};
use capstan_core::rollback::{History, Past};
use capstan_core::view::{GroupView, Page};
use capstan_core::{ApplicationId, DeploymentId, GroupId, PackageId};
use sea_orm::sea_query::ExprTrait;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseConnection, EntityTrait, FromQueryResult,
    QueryFilter, QueryOrder, QuerySelect, Value,
};
use uuid::Uuid;

use crate::bulk::{list, quoted, sql};
use crate::cursor::{decode_pair, encode, page, refused};
use crate::entities::{applications, deployments, groups};
use crate::operation::{Operation, timed};
use crate::rows::Reader;
use crate::rows::inventory::{self, Freshness, application_view};
use crate::{Error, PageRequest, Store, load};

impl Store {
    /// Groups by name.
    ///
    /// # Errors
    /// [`Error::Cursor`]; when the database does not answer.
    pub async fn groups(
        &self,
        application: Option<ApplicationId>,
        request: PageRequest,
    ) -> Result<Page<GroupView>, Error> {
        timed(Operation::Groups, async {
            let mut query = groups::Entity::find();
            if let Some(application) = application {
                query = query.filter(groups::Column::ApplicationId.eq(application.0));
            }
            if let Some(cursor) = &request.cursor {
                query = query.filter(after(cursor)?);
            }
            let rows = query
                .order_by_asc(groups::Column::Name)
                .order_by_asc(groups::Column::Id)
                .limit(request.size() + 1)
                .all(self.reader())
                .await
                .map_err(Error::database("list groups"))?;
            let key = |row: &groups::Model| encode(&[&row.id.to_string(), &row.name]);
            let Page { items, next_cursor } = page(rows, request.size(), key, Ok)?;
            Ok(Page { items: self.group_views(items).await?, next_cursor })
        })
        .await
    }

    /// One group.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn group(&self, id: GroupId) -> Result<Option<GroupView>, Error> {
        timed(Operation::Group, async {
            let row = groups::Entity::find_by_id(id.0)
                .one(self.reader())
                .await
                .map_err(Error::database("read a group"))?;
            Ok(self.group_views(row.into_iter().collect()).await?.pop())
        })
        .await
    }

    /// The group that the CMDB knows by this id.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn group_id_by_external(&self, external_id: &str) -> Result<Option<GroupId>, Error> {
        timed(Operation::GroupIdByExternal, id_by_external(self.reader(), external_id)).await
    }

    /// The revision of a group in the cache, by its id in the CMDB; none: there is no such group.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn group_revision(&self, external_id: &str) -> Result<Option<i64>, Error> {
        timed(Operation::GroupRevision, async {
            groups::Entity::find()
                .select_only()
                .column(groups::Column::CmdbRevision)
                .filter(groups::Column::ExternalId.eq(external_id))
                .into_tuple()
                .one(self.reader())
                .await
                .map_err(Error::database("read a group's revision"))
        })
        .await
    }

    /// What drivers need to reach the group's servers, retired ones left out; `None`: there is no
    /// such group.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn endpoints(
        &self,
        group: GroupId,
    ) -> Result<Option<(Binding, Vec<Endpoint>)>, Error> {
        timed(Operation::Endpoints, async {
            let Some(state) = load::group(self.reader(), group).await? else { return Ok(None) };
            let members = state.servers().iter().filter(|server| !server.retired);
            let endpoints = members.map(|server| endpoint(&state.group.binding, server)).collect();
            Ok(Some((state.group.binding, endpoints)))
        })
        .await
    }

    /// The group's deployments that were ever started, newest start first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn history(&self, group: GroupId) -> Result<History, Error> {
        timed(Operation::History, history(self.reader(), group)).await
    }

    async fn group_views(&self, rows: Vec<groups::Model>) -> Result<Vec<GroupView>, Error> {
        let conn = self.reader();
        let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let applications = applications_of(conn, &rows).await?;
        let of: Vec<Uuid> = applications.keys().copied().collect();
        let fresh = self.freshness(&of).await?;
        let mut counts = counts(conn, &ids).await?;
        let mut versions = versions(conn, &ids).await?;
        let mut running = running(conn, &ids).await?;
        rows.into_iter()
            .map(|row| {
                let application =
                    applications.get(&row.application_id).cloned().ok_or_else(|| {
                        Reader::new("groups", &row.id).problem("its application is missing".into())
                    })?;
                let id = row.id;
                let of = fresh.get(&row.application_id).copied();
                let group = inventory::group(row, inventory::application(application)?)?;
                let mut view = view(group, of);
                view.stale = self.is_stale(view.synced_at);
                if let Some(counts) = counts.remove(&id) {
                    (view.total, view.out, view.in_service) = counts;
                }
                view.version = versions.remove(&id);
                if let Some((deployment, status)) = running.remove(&id) {
                    view.running_deployment = Some(deployment);
                    view.running_status = Some(status);
                }
                Ok(view)
            })
            .collect()
    }
}

/// The group that the CMDB knows by this id.
pub(crate) async fn id_by_external(
    conn: &impl ConnectionTrait,
    external_id: &str,
) -> Result<Option<GroupId>, Error> {
    let id: Option<Uuid> = groups::Entity::find()
        .select_only()
        .column(groups::Column::Id)
        .filter(groups::Column::ExternalId.eq(external_id))
        .into_tuple()
        .one(conn)
        .await
        .map_err(Error::database("find a group"))?;
    Ok(id.map(GroupId))
}

fn after(cursor: &str) -> Result<Condition, Error> {
    let (id, name) = decode_pair(cursor)?;
    let id: Uuid = id.parse().map_err(|_| refused(cursor))?;
    Ok(Condition::any()
        .add(groups::Column::Name.gt(name.as_str()))
        .add(groups::Column::Name.eq(name).and(groups::Column::Id.gt(id))))
}

/// `fresh`: how fresh the application's record is.
fn view(group: Group, fresh: Option<Freshness>) -> GroupView {
    let Group { application, binding, .. } = group;
    GroupView {
        id: group.id,
        external_id: group.external_id,
        name: binding.group,
        application: application_view(application, fresh),
        site: binding.site,
        virtual_path: binding.virtual_path,
        doc_base: binding.doc_base,
        port: group.port,
        health_check_url: binding.health_check_url,
        idc: group.idc,
        load_balancer: binding.load_balancer,
        executor: binding.executor,
        next_executors: binding.next_executors,
        may_go_dark: binding.may_go_dark,
        on_lb_failure: binding.on_lb_failure,
        scale_out: binding.scale_out,
        settle_seconds: binding.settle_seconds,
        total: 0,
        out: 0,
        in_service: 0,
        cmdb_revision: group.cmdb_revision,
        synced_at: group.synced_at,
        stale: false,
        refresh_held: group.refresh_held,
        version: None,
        running_deployment: None,
        running_status: None,
    }
}

async fn applications_of(
    conn: &DatabaseConnection,
    rows: &[groups::Model],
) -> Result<BTreeMap<Uuid, applications::Model>, Error> {
    let found = applications::Entity::find()
        .filter(applications::Column::Id.is_in(rows.iter().map(|row| row.application_id)))
        .all(conn)
        .await
        .map_err(Error::database("read applications"))?;
    Ok(found.into_iter().map(|row| (row.id, row)).collect())
}

#[derive(FromQueryResult)]
struct CountsRow {
    group_id: Uuid,
    members: i64,
    members_out: i64,
    in_service: i64,
}

/// Members, members that count as out, and members in service; as `Census` of core counts them.
async fn counts(
    conn: &DatabaseConnection,
    groups: &[Uuid],
) -> Result<BTreeMap<Uuid, (u32, u32, u32)>, Error> {
    let text = format!(
        "SELECT st.group_id AS group_id, COUNT(*) AS members, \
         COUNT(CASE WHEN st.pulled_out IS NOT NULL OR (st.service <> 'in' \
         AND (st.out_because IS NULL OR st.out_because <> 'new')) THEN 1 END) AS members_out, COUNT(CASE WHEN st.service = 'in' THEN 1 END) AS in_service \
         FROM server_states st JOIN servers s ON s.id = st.server_id \
         WHERE st.group_id IN ({}) AND s.retired = ? GROUP BY st.group_id",
        list(groups.len())
    );
    let rows = CountsRow::find_by_statement(sql(conn, &text, with(groups, [false.into()])))
        .all(conn)
        .await
        .map_err(Error::database("count servers"))?;
    let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
    Ok(rows
        .into_iter()
        .map(|row| {
            (row.group_id, (count(row.members), count(row.members_out), count(row.in_service)))
        })
        .collect())
}

#[derive(FromQueryResult)]
struct VersionRow {
    id: Uuid,
    version: Option<String>,
}

/// What each group runs: the version of its newest SUCCESS, scale-outs skipped. (That of a rollback
/// is the version that it brought back.)
async fn versions(
    conn: &DatabaseConnection,
    groups: &[Uuid],
) -> Result<BTreeMap<Uuid, String>, Error> {
    let text = format!(
        "SELECT g.id AS id, (SELECT d.version FROM deployments d WHERE d.group_id = g.id \
         AND d.status = 'SUCCESS' AND d.flavor <> 'scaleout' AND d.started_at IS NOT NULL \
         ORDER BY d.started_at DESC, d.id DESC LIMIT 1) AS version \
         FROM {} g WHERE g.id IN ({})",
        quoted(conn.get_database_backend(), "groups"),
        list(groups.len())
    );
    let rows = VersionRow::find_by_statement(sql(conn, &text, with(groups, [])))
        .all(conn)
        .await
        .map_err(Error::database("find the versions of groups"))?;
    Ok(rows.into_iter().filter_map(|row| Some((row.id, row.version?))).collect())
}

#[derive(FromQueryResult)]
struct RunningRow {
    id: Uuid,
    group_id: Uuid,
    status: String,
    holds: String,
}

async fn running(
    conn: &DatabaseConnection,
    groups: &[Uuid],
) -> Result<BTreeMap<Uuid, (DeploymentId, String)>, Error> {
    let rows: Vec<RunningRow> = deployments::Entity::find()
        .filter(deployments::Column::RunningGroup.is_in(groups.iter().copied()))
        .into_model()
        .all(conn)
        .await
        .map_err(Error::database("find running deployments"))?;
    rows.into_iter()
        .map(|row| {
            let status = shown_status(row.id, &row.status, &row.holds)?.1;
            Ok((row.group_id, (DeploymentId(row.id), status)))
        })
        .collect()
}

/// A deployment's status, and as it is shown to people.
pub(crate) fn shown_status(
    id: Uuid,
    status: &str,
    holds: &str,
) -> Result<(DeploymentStatus, String), Error> {
    let reader = Reader::new("deployments", &id);
    let status = reader.word("status", status, DeploymentStatus::from_word)?;
    let holds: Vec<Hold> = reader.json("holds", holds)?;
    Ok((status, status.shown(!holds.is_empty())))
}

#[derive(FromQueryResult)]
struct PastRow {
    id: Uuid,
    flavor: String,
    status: String,
    package_id: Uuid,
    version: String,
    sha256: String,
    bad: Option<String>,
    parent: Option<Uuid>,
    restores: Option<Uuid>,
    seed: String,
}

/// The group's deployments that were ever started, newest start first.
pub(crate) async fn history(conn: &impl ConnectionTrait, group: GroupId) -> Result<History, Error> {
    let text = "SELECT d.id, d.flavor, d.status, d.package_id, d.version, d.sha256, p.bad, \
                d.parent, d.restores, d.seed \
                FROM deployments d JOIN packages p ON p.id = d.package_id \
                WHERE d.group_id = ? AND d.started_at IS NOT NULL \
                ORDER BY d.started_at DESC, d.id DESC";
    let rows = PastRow::find_by_statement(sql(conn, text, [group.0.into()]))
        .all(conn)
        .await
        .map_err(Error::database("read the history of a group"))?;
    let pasts = rows.into_iter().map(|row| {
        let reader = Reader::new("deployments", &row.id);
        Ok(Past {
            id: DeploymentId(row.id),
            flavor: reader.word("flavor", &row.flavor, Flavor::from_word)?,
            status: reader.word("status", &row.status, DeploymentStatus::from_word)?,
            package: PackageRef {
                id: PackageId(row.package_id),
                version: row.version,
                sha256: row.sha256,
            },
            bad: row.bad.is_some(),
            parent: row.parent.map(DeploymentId),
            restores: row.restores.map(DeploymentId),
            seed: row.seed,
        })
    });
    pasts.collect::<Result<_, _>>().map(History)
}

fn with<const N: usize>(ids: &[Uuid], more: [Value; N]) -> impl Iterator<Item = Value> {
    ids.iter().map(|id| Value::from(*id)).chain(more)
}
