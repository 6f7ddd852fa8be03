//! Servers as people see them.

use capstan_core::view::{ServerView, VersionView};
use capstan_core::{GroupId, PackageId, ServerId, Timestamp};
use sea_orm::{EntityTrait, FromQueryResult, QuerySelect};
use uuid::Uuid;

use crate::bulk::sql;
use crate::entities::groups;
use crate::operation::{Operation, timed};
use crate::rows::inventory::{Freshness, server_view};
use crate::{Error, Store, load};

#[derive(FromQueryResult)]
struct VersionRow {
    package: Option<Uuid>,
    version: Option<String>,
    servers: i64,
    proven: i64,
    oldest: Option<i64>,
}

impl Store {
    /// All servers of a group by host name and instance, retired ones too.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn servers(&self, group: GroupId) -> Result<Vec<ServerView>, Error> {
        timed(Operation::Servers, async {
            let mut servers = load::servers(self.reader(), group).await?;
            servers.sort_by(|a, b| (&a.hostname, &a.instance).cmp(&(&b.hostname, &b.instance)));
            let Some(fresh) = self.group_freshness(group).await? else { return Ok(Vec::new()) };
            Ok(servers.into_iter().map(|server| server_view(group, server, fresh)).collect())
        })
        .await
    }

    /// One server.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn server(&self, id: ServerId) -> Result<Option<ServerView>, Error> {
        timed(Operation::Server, async {
            let Some((group, server)) = load::server(self.reader(), id).await? else {
                return Ok(None);
            };
            let fresh = self.group_freshness(group).await?;
            Ok(fresh.map(|fresh| server_view(group, server, fresh)))
        })
        .await
    }

    /// How fresh the record of a group and its servers is; `None`: there is no such group.
    async fn group_freshness(&self, group: GroupId) -> Result<Option<Freshness>, Error> {
        let synced_at: Option<i64> = groups::Entity::find_by_id(group.0)
            .select_only()
            .column(groups::Column::SyncedAt)
            .into_tuple()
            .one(self.reader())
            .await
            .map_err(Error::database("read how fresh a group is"))?;
        Ok(synced_at.map(|synced_at| {
            let synced_at = Timestamp::from_micros(synced_at);
            Freshness { synced_at, stale: self.is_stale(synced_at) }
        }))
    }

    /// Which versions the members of a group run, as far as is known; the most common one first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn versions(&self, group: GroupId) -> Result<Vec<VersionView>, Error> {
        timed(Operation::Versions, async {
            let text = "SELECT st.running_package AS package, st.running_version AS version, \
                        COUNT(*) AS servers, COUNT(st.running_proven_at) AS proven, \
                        MIN(st.running_proven_at) AS oldest \
                        FROM server_states st JOIN servers s ON s.id = st.server_id \
                        WHERE st.group_id = ? AND s.retired = ? \
                        GROUP BY st.running_package, st.running_version \
                        ORDER BY COUNT(*) DESC, st.running_version";
            let conn = self.reader();
            let rows =
                VersionRow::find_by_statement(sql(conn, text, [group.0.into(), false.into()]))
                    .all(conn)
                    .await
                    .map_err(Error::database("count versions"))?;
            let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
            Ok(rows
                .into_iter()
                .map(|row| VersionView {
                    version: row.version,
                    package: row.package.map(PackageId),
                    servers: count(row.servers),
                    proven: count(row.proven),
                    oldest_proof_at: row.oldest.map(Timestamp::from_micros),
                })
                .collect())
        })
        .await
    }
}
