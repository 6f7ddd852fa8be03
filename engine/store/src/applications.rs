//! Applications: what is released.

use std::collections::BTreeMap;

use capstan_core::record::Application;
use capstan_core::view::{ApplicationView, Page};
use capstan_core::{ApplicationId, Timestamp};
use sea_orm::sea_query::{Expr, ExprTrait, Func, LikeExpr};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, IntoActiveModel,
    QueryFilter, QueryOrder, QuerySelect,
};

use crate::cursor::{decode, encode, page};
use crate::entities::applications::{Column, Entity, Model};
use crate::entities::groups;
use crate::operation::{Operation, timed};
use crate::rows::inventory::{self, Freshness, application_view, bastion_word};
use crate::store::commit;
use crate::{Error, NewAudit, PageRequest, Store, audit};
use uuid::Uuid;

impl Store {
    /// Creates an application, or changes the one with this id.
    ///
    /// # Errors
    /// When the database does not answer, or another application has the name.
    pub async fn application_put(
        &self,
        application: &Application,
        audit: Option<NewAudit>,
    ) -> Result<ApplicationView, Error> {
        timed(Operation::ApplicationPut, async {
            let txn = self.inner.begin_in_turn().await?;
            let known = by_id(&txn, application.id).await?;
            let is_new = known.is_none();
            let row = Model {
                id: application.id.0,
                external_id: known.and_then(|known| known.external_id),
                name: application.name.clone(),
                owner: application.owner.clone(),
                environment: application.environment.clone(),
                kind: application.kind.clone(),
                bastion: bastion_word(application.bastion).to_owned(),
            };
            let row = row.into_active_model().reset_all();
            let row = if is_new { row.insert(&txn).await } else { row.update(&txn).await }
                .map_err(Error::database("write an application"))?;
            audit::insert_if_asked(&txn, audit, self.now()).await?;
            commit(txn).await?;
            self.application_one(row).await
        })
        .await
    }

    /// Applications by name. `search` keeps those in whose name or owner it occurs, in any case.
    ///
    /// # Errors
    /// [`Error::Cursor`]; when the database does not answer.
    pub async fn applications(
        &self,
        search: Option<String>,
        request: PageRequest,
    ) -> Result<Page<ApplicationView>, Error> {
        timed(Operation::Applications, async {
            let mut query = Entity::find();
            if let Some(cursor) = &request.cursor {
                query = query.filter(Column::Name.gt(decode(cursor)?));
            }
            if let Some(search) = search.filter(|search| !search.is_empty()) {
                let holds = |column| Func::lower(Expr::col(column)).like(pattern(&search));
                query = query
                    .filter(Condition::any().add(holds(Column::Name)).add(holds(Column::Owner)));
            }
            let rows = query
                .order_by_asc(Column::Name)
                .limit(request.size() + 1)
                .all(self.reader())
                .await
                .map_err(Error::database("list applications"))?;
            let Page { items, next_cursor } =
                page(rows, request.size(), |row| encode(&[&row.name]), Ok)?;
            Ok(Page { items: self.application_views(items).await?, next_cursor })
        })
        .await
    }

    /// One application.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn application(&self, id: ApplicationId) -> Result<Option<ApplicationView>, Error> {
        timed(Operation::Application, async {
            match by_id(self.reader(), id).await? {
                Some(row) => self.application_one(row).await.map(Some),
                None => Ok(None),
            }
        })
        .await
    }

    /// One application by its name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn application_by_name(&self, name: &str) -> Result<Option<ApplicationView>, Error> {
        timed(Operation::Application, async {
            match by_name(self.reader(), name).await? {
                Some(row) => self.application_one(row).await.map(Some),
                None => Ok(None),
            }
        })
        .await
    }

    async fn application_one(&self, row: Model) -> Result<ApplicationView, Error> {
        let fresh = self.freshness(&[row.id]).await?.remove(&row.id);
        Ok(application_view(inventory::application(row)?, fresh))
    }

    async fn application_views(&self, rows: Vec<Model>) -> Result<Vec<ApplicationView>, Error> {
        let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
        let fresh = self.freshness(&ids).await?;
        let view = |row: Model| {
            let fresh = fresh.get(&row.id).copied();
            Ok(application_view(inventory::application(row)?, fresh))
        };
        rows.into_iter().map(view).collect()
    }

    /// How fresh the records of applications are. Each refresh of a group brings that of its
    /// application, so the latest counts.
    pub(crate) async fn freshness(
        &self,
        applications: &[Uuid],
    ) -> Result<BTreeMap<Uuid, Freshness>, Error> {
        if applications.is_empty() {
            return Ok(BTreeMap::new());
        }
        let synced: Vec<(Uuid, i64)> = groups::Entity::find()
            .select_only()
            .column(groups::Column::ApplicationId)
            .column_as(groups::Column::SyncedAt.max(), "latest")
            .filter(groups::Column::ApplicationId.is_in(applications.iter().copied()))
            .group_by(groups::Column::ApplicationId)
            .into_tuple()
            .all(self.reader())
            .await
            .map_err(Error::database("read how fresh applications are"))?;
        let fresh = synced.into_iter().map(|(id, latest)| {
            let synced_at = Timestamp::from_micros(latest);
            (id, Freshness { synced_at, stale: self.is_stale(synced_at) })
        });
        Ok(fresh.collect())
    }
}

async fn by_id(conn: &impl ConnectionTrait, id: ApplicationId) -> Result<Option<Model>, Error> {
    Entity::find_by_id(id.0).one(conn).await.map_err(Error::database("read an application"))
}

async fn by_name(conn: &impl ConnectionTrait, name: &str) -> Result<Option<Model>, Error> {
    Entity::find()
        .filter(Column::Name.eq(name))
        .one(conn)
        .await
        .map_err(Error::database("find an application"))
}

/// A pattern that matches where `search` occurs as it is.
fn pattern(search: &str) -> LikeExpr {
    let mut pattern = String::from("%");
    for letter in search.to_lowercase().chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    LikeExpr::new(pattern).escape('\\')
}
