//! Applications: what is released.

use capstan_core::ApplicationId;
use capstan_core::record::Application;
use capstan_core::view::{ApplicationView, Page};
use sea_orm::sea_query::{Expr, ExprTrait, Func, LikeExpr};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, IntoActiveModel,
    QueryFilter, QueryOrder, QuerySelect,
};

use crate::cursor::{decode, encode, page};
use crate::entities::applications::{Column, Entity, Model};
use crate::operation::{Operation, timed};
use crate::rows::inventory::{application_view, bastion_word};
use crate::store::commit;
use crate::{Error, PageRequest, Store};

impl Store {
    /// Creates an application, or changes the one with this id.
    ///
    /// # Errors
    /// When the database does not answer, or another application has the name.
    pub async fn application_put(
        &self,
        application: &Application,
    ) -> Result<ApplicationView, Error> {
        timed(Operation::ApplicationPut, async {
            let txn = self.begin().await?;
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
            commit(txn).await?;
            application_view(row)
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
            page(rows, request.size(), |row| encode(&[&row.name]), application_view)
        })
        .await
    }

    /// One application.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn application(&self, id: ApplicationId) -> Result<Option<ApplicationView>, Error> {
        timed(Operation::Application, async {
            by_id(self.reader(), id).await?.map(application_view).transpose()
        })
        .await
    }

    /// One application by its name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn application_by_name(&self, name: &str) -> Result<Option<ApplicationView>, Error> {
        timed(Operation::Application, async {
            by_name(self.reader(), name).await?.map(application_view).transpose()
        })
        .await
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
