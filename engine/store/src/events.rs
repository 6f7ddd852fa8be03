//! The log of a deployment.

use capstan_core::DeploymentId;
use capstan_core::event::Event;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::entities::events::{Column, Entity};
use crate::operation::{Operation, timed};
use crate::rows::Reader;
use crate::{Error, Store};

/// Most events that one call gives.
const MOST: u32 = 10_000;

impl Store {
    /// Events of a deployment with a sequence number above `after`, in order; at most `limit`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn events(
        &self,
        deployment: DeploymentId,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Event>, Error> {
        timed(Operation::Events, async {
            let rows = Entity::find()
                .filter(Column::Stream.eq(deployment.0))
                .filter(Column::Seq.gt(after))
                .order_by_asc(Column::Seq)
                .limit(u64::from(limit.min(MOST)))
                .all(self.reader())
                .await
                .map_err(Error::database("read events"))?;
            rows.iter()
                .map(|row| {
                    let id = format!("{}/{}", row.stream, row.seq);
                    Reader::new("events", &id).json("body", &row.body)
                })
                .collect()
        })
        .await
    }
}
