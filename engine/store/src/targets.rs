//! Targets in lists.

use capstan_core::view::{Page, TargetView};
use capstan_core::{DeploymentId, TargetId};
use sea_orm::sea_query::ExprTrait;
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::cursor::{decode_pair, encode, page, refused};
use crate::entities::targets::{Column, Entity, Model};
use crate::operation::{Operation, timed};
use crate::rows::deployment::target_view;
use crate::{Error, PageRequest, Store, TargetFilter};

impl Store {
    /// Targets of a deployment, by batch and place.
    ///
    /// # Errors
    /// [`Error::Cursor`]; when the database does not answer.
    pub async fn targets(
        &self,
        deployment: DeploymentId,
        filter: TargetFilter,
        request: PageRequest,
    ) -> Result<Page<TargetView>, Error> {
        timed(Operation::Targets, async {
            let mut query = Entity::find().filter(Column::DeploymentId.eq(deployment.0));
            if let Some(status) = filter.status {
                query = query.filter(Column::Status.eq(status.word()));
            }
            if let Some(batch) = filter.batch {
                query = query.filter(Column::Batch.eq(i64::from(batch)));
            }
            if let Some(cursor) = &request.cursor {
                query = query.filter(after(cursor)?);
            }
            let rows = query
                .order_by_asc(Column::Batch)
                .order_by_asc(Column::Place)
                .limit(request.size() + 1)
                .all(self.reader())
                .await
                .map_err(Error::database("list targets"))?;
            let key = |row: &Model| encode(&[&row.batch.to_string(), &row.place.to_string()]);
            page(rows, request.size(), key, target_view)
        })
        .await
    }

    /// One target.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn target(&self, id: TargetId) -> Result<Option<TargetView>, Error> {
        timed(Operation::Target, async {
            let row = Entity::find_by_id(id.0)
                .one(self.reader())
                .await
                .map_err(Error::database("read a target"))?;
            row.map(target_view).transpose()
        })
        .await
    }
}

fn after(cursor: &str) -> Result<Condition, Error> {
    let (batch, place) = decode_pair(cursor)?;
    let number = |text: String| text.parse::<i32>().map_err(|_| refused(cursor));
    let (batch, place) = (number(batch)?, number(place)?);
    Ok(Condition::any()
        .add(Column::Batch.gt(batch))
        .add(Column::Batch.eq(batch).and(Column::Place.gt(place))))
}
