//! How webhooks were called. The newest calls of each are kept, for some days.

use std::collections::BTreeSet;
use std::time::Duration;

use capstan_core::event::EventType;
use capstan_core::message::message_id;
use capstan_core::view::{DeliveryView, Page};
use capstan_core::{Timestamp, WebhookId};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, DatabaseTransaction, EntityTrait, IntoActiveModel,
    QueryFilter, QueryOrder, QuerySelect,
};
use uuid::Uuid;

use super::epochs::Epochs;
use crate::cursor::{after, newest, page};
use crate::entities::webhook_deliveries::{Column, Entity, Model};
use crate::operation::{Operation, timed};
use crate::rows::Reader;
use crate::{Error, PageRequest, Store};

/// Calls of one webhook that are kept.
const KEPT: u64 = 1000;
/// How long.
const KEPT_FOR: Duration = Duration::from_hours(7 * 24);
/// Longest text of an error, in characters.
const LONGEST: usize = 500;

/// A call to write down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDelivery {
    /// The webhook.
    pub webhook: WebhookId,
    /// The event's stream.
    pub stream: Uuid,
    /// Its place there.
    pub seq: i64,
    /// Its type.
    pub kind: EventType,
    /// Which try it was, from 1.
    pub attempt: u32,
    /// When.
    pub at: Timestamp,
    /// The HTTP status of the answer, if there was one.
    pub status: Option<u16>,
    /// What went wrong, if anything did.
    pub error: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// Writes calls down, and deletes old ones of the same webhooks.
pub(super) async fn insert(
    txn: &DatabaseTransaction,
    new: Vec<NewDelivery>,
    now: Timestamp,
) -> Result<(), Error> {
    let mut webhooks: Vec<Uuid> = new.iter().map(|it| it.webhook.0).collect();
    webhooks.dedup();
    let rows: Vec<_> = new.into_iter().map(|it| row(it).into_active_model().reset_all()).collect();
    if rows.is_empty() {
        return Ok(());
    }
    Entity::insert_many(rows)
        .exec_without_returning(txn)
        .await
        .map_err(Error::database("write down calls of webhooks"))?;
    for webhook in webhooks {
        prune(txn, webhook, now).await?;
    }
    Ok(())
}

async fn prune(txn: &DatabaseTransaction, webhook: Uuid, now: Timestamp) -> Result<(), Error> {
    let what = "delete old calls of webhooks";
    let of_it = Column::WebhookId.eq(webhook);
    let last: Option<Uuid> = Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(of_it.clone())
        .order_by_desc(Column::Id)
        .offset(KEPT)
        .limit(1)
        .into_tuple()
        .one(txn)
        .await
        .map_err(Error::database(what))?;
    let mut old = Condition::any().add(Column::At.lt((now - KEPT_FOR).as_micros()));
    if let Some(last) = last {
        old = old.add(Column::Id.lte(last));
    }
    let done = Entity::delete_many().filter(of_it).filter(old).exec(txn).await;
    done.map(drop).map_err(Error::database(what))
}

fn row(new: NewDelivery) -> Model {
    Model {
        id: Uuid::now_v7(),
        webhook_id: new.webhook.0,
        stream: new.stream,
        seq: new.seq,
        kind: new.kind.word().to_owned(),
        attempt: i32::try_from(new.attempt).unwrap_or(i32::MAX),
        at: new.at.as_micros(),
        status: new.status.map(i32::from),
        error: new.error.map(|text| text.chars().take(LONGEST).collect()),
        took_ms: i32::try_from(new.took.as_millis()).unwrap_or(i32::MAX),
    }
}

impl Store {
    /// How a webhook was called, newest first.
    ///
    /// # Errors
    /// [`Error::Cursor`]; when the database does not answer.
    pub async fn deliveries(
        &self,
        webhook: WebhookId,
        request: PageRequest,
    ) -> Result<Page<DeliveryView>, Error> {
        timed(Operation::Deliveries, async {
            let query = Entity::find().filter(Column::WebhookId.eq(webhook.0));
            let what = "read calls of a webhook";
            let rows = newest(self.reader(), query, Column::Id, &request, what).await?;
            let streams: BTreeSet<Uuid> = rows.iter().map(|row| row.stream).collect();
            let epochs = self.epochs(&streams.into_iter().collect::<Vec<_>>()).await?;
            page(rows, request.size(), |row| after(row.id), |row| view(row, &epochs))
        })
        .await
    }
}

fn view(row: Model, epochs: &Epochs) -> Result<DeliveryView, Error> {
    let reader = Reader::new("webhook_deliveries", &row.id);
    let known = |word: &str| EventType::ALL.into_iter().find(|kind| kind.word() == word);
    Ok(DeliveryView {
        event: message_id(row.stream, epochs.at(row.stream, row.seq), row.seq),
        kind: reader.word("kind", &row.kind, known)?,
        attempt: reader.number("attempt", row.attempt)?,
        at: Timestamp::from_micros(row.at),
        status: row.status.map(|status| reader.number("status", status)).transpose()?,
        error: row.error,
        took_ms: reader.number("took_ms", row.took_ms)?,
    })
}
