//! Webhooks: who is told of events by HTTP. Each is a consumer of its own.
//!
//! The secret is kept as it is, since bodies are signed with it. It leaves the store only in
//! [`Webhook`], for the one who signs.

use std::time::Duration;

use capstan_core::view::{Page, WebhookView};
use capstan_core::{DeploymentId, Timestamp, WebhookId};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect,
};
use uuid::Uuid;

use super::consumer::{Begin, forget, release};
use crate::bulk::sql;
use crate::cursor::{decode, encode, page};
use crate::entities::webhooks::{Column, Entity, Model};
use crate::operation::{Operation, timed};
use crate::rows::{Reader, at_opt};
use crate::store::commit;
use crate::{Error, NewAudit, PageRequest, Store, audit};

/// A webhook to make.
#[derive(Clone, PartialEq, Eq)]
pub struct NewWebhook {
    /// Its id, a new one.
    pub id: WebhookId,
    /// Its name; no two have the same.
    pub name: String,
    /// What is called.
    pub url: String,
    /// What bodies are signed with.
    pub secret: String,
    /// Which events.
    pub events: String,
    /// Who makes it.
    pub created_by: String,
}

impl std::fmt::Debug for NewWebhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewWebhook").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What is to become of a webhook; what is not given stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WebhookChange {
    /// Another URL.
    pub url: Option<String>,
    /// Other events.
    pub events: Option<String>,
    /// On or off. On: it is called again at once, with what it has missed.
    pub enabled: Option<bool>,
}

/// A webhook as whoever calls it needs it.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// As others see it.
    pub view: WebhookView,
    /// What bodies are signed with.
    pub secret: String,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("view", &self.view).finish_non_exhaustive()
    }
}

impl Webhook {
    /// The consumer that it is.
    pub fn consumer(&self) -> String {
        consumer(self.view.id)
    }
}

fn consumer(id: WebhookId) -> String {
    format!("webhook.{id}")
}

impl Store {
    /// Makes a webhook, which is told of what happens from now on. `None`: another one has the name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn webhook_create(
        &self,
        new: NewWebhook,
        audit: Option<NewAudit>,
    ) -> Result<Option<WebhookView>, Error> {
        timed(Operation::WebhookCreate, async {
            let txn = self.inner.begin_in_turn().await?;
            let same = Entity::find().filter(Column::Name.eq(&new.name)).one(&txn).await;
            if same.map_err(Error::database("find a webhook"))?.is_some() {
                return Ok(None);
            }
            let row = Model {
                id: new.id.0,
                name: new.name,
                url: new.url,
                secret: new.secret,
                events: new.events,
                enabled: true,
                disabled_because: None,
                created_by: new.created_by,
                created_at: self.now().as_micros(),
                failing_since: None,
                failures: 0,
                next_try_at: None,
                delivered_at: None,
            };
            Entity::insert(row.clone().into_active_model().reset_all())
                .exec_without_returning(&txn)
                .await
                .map_err(Error::database("write a webhook"))?;
            self.consumer_enter(&txn, &consumer(WebhookId(row.id)), None, Begin::Now).await?;
            audit::insert_if_asked(&txn, audit, self.now()).await?;
            commit(txn).await?;
            view(row).map(|webhook| Some(webhook.view))
        })
        .await
    }

    /// Webhooks by name.
    ///
    /// # Errors
    /// [`Error::Cursor`]; when the database does not answer.
    pub async fn webhooks(&self, request: PageRequest) -> Result<Page<WebhookView>, Error> {
        timed(Operation::Webhooks, async {
            let mut query = Entity::find();
            if let Some(cursor) = &request.cursor {
                query = query.filter(Column::Name.gt(decode(cursor)?));
            }
            let rows = query
                .order_by_asc(Column::Name)
                .limit(request.size() + 1)
                .all(self.reader())
                .await
                .map_err(Error::database("list webhooks"))?;
            let key = |row: &Model| encode(&[&row.name]);
            page(rows, request.size(), key, |row| view(row).map(|webhook| webhook.view))
        })
        .await
    }

    /// Every webhook that is called, with what is needed to do so.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn webhooks_enabled(&self) -> Result<Vec<Webhook>, Error> {
        timed(Operation::Webhooks, async {
            let rows = Entity::find().filter(Column::Enabled.eq(true)).all(self.reader()).await;
            rows.map_err(Error::database("list webhooks"))?.into_iter().map(view).collect()
        })
        .await
    }

    /// One webhook.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn webhook(&self, id: WebhookId) -> Result<Option<Webhook>, Error> {
        timed(Operation::Webhook, async {
            let row = Entity::find_by_id(id.0).one(self.reader()).await;
            row.map_err(Error::database("read a webhook"))?.map(view).transpose()
        })
        .await
    }

    /// Changes a webhook. `None`: there is none.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn webhook_change(
        &self,
        id: WebhookId,
        change: WebhookChange,
        audit: Option<NewAudit>,
    ) -> Result<Option<WebhookView>, Error> {
        timed(Operation::WebhookChange, async {
            let mut update = Entity::update_many().filter(Column::Id.eq(id.0));
            if let Some(url) = change.url {
                update = update.col_expr(Column::Url, Expr::value(url));
            }
            if let Some(events) = change.events {
                update = update.col_expr(Column::Events, Expr::value(events));
            }
            if let Some(enabled) = change.enabled {
                update = update.col_expr(Column::Enabled, Expr::value(enabled));
            }
            let txn = self.begin().await?;
            let done = update
                .col_expr(Column::DisabledBecause, Expr::value(None::<String>))
                .col_expr(Column::FailingSince, Expr::value(None::<i64>))
                .col_expr(Column::Failures, Expr::value(0))
                .col_expr(Column::NextTryAt, Expr::value(None::<i64>))
                .exec(&txn)
                .await
                .map_err(Error::database("change a webhook"))?;
            if done.rows_affected == 0 {
                return Ok(());
            }
            audit::insert_if_asked(&txn, audit, self.now()).await?;
            commit(txn).await
        })
        .await?;
        Ok(self.webhook(id).await?.map(|webhook| webhook.view))
    }

    /// Removes a webhook with everything that is known of it. `false`: there is none.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn webhook_delete(
        &self,
        id: WebhookId,
        audit: Option<NewAudit>,
    ) -> Result<bool, Error> {
        timed(Operation::WebhookDelete, async {
            let txn = self.begin().await?;
            forget(&txn, &consumer(id)).await?;
            let text = "DELETE FROM webhook_deliveries WHERE webhook_id = ?";
            let done = txn.execute_raw(sql(&txn, text, [id.0.into()])).await;
            done.map_err(Error::database("delete calls of a webhook"))?;
            let done = Entity::delete_by_id(id.0).exec(&txn).await;
            if done.map_err(Error::database("delete a webhook"))?.rows_affected == 0 {
                return Ok(false);
            }
            audit::insert_if_asked(&txn, audit, self.now()).await?;
            commit(txn).await?;
            Ok(true)
        })
        .await
    }

    /// Notes that a call was answered well.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn webhook_delivered(&self, id: WebhookId) -> Result<(), Error> {
        timed(Operation::WebhookNote, async {
            let done = Entity::update_many()
                .col_expr(Column::DeliveredAt, Expr::value(self.now().as_micros()))
                .col_expr(Column::FailingSince, Expr::value(None::<i64>))
                .col_expr(Column::Failures, Expr::value(0))
                .col_expr(Column::NextTryAt, Expr::value(None::<i64>))
                .filter(Column::Id.eq(id.0))
                .exec(self.writer())
                .await;
            done.map(drop).map_err(Error::database("note a call of a webhook"))
        })
        .await
    }

    /// Notes that a call failed, and when the next one is due. One that has failed for `patience` is
    /// switched off for this reason. Returns whether it was.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn webhook_failed(
        &self,
        id: WebhookId,
        next_try: Duration,
        patience: Duration,
        why: &str,
    ) -> Result<bool, Error> {
        timed(Operation::WebhookNote, async {
            let what = "note a call of a webhook";
            let now = self.now();
            let next_try_at = (now + next_try).as_micros();
            let text = "UPDATE webhooks SET failures = failures + 1, next_try_at = ?, \
                        failing_since = COALESCE(failing_since, ?) WHERE id = ?";
            let values = [next_try_at.into(), now.as_micros().into(), id.0.into()];
            let done = self.writer().execute_raw(sql(self.writer(), text, values)).await;
            done.map_err(Error::database(what))?;
            let done = Entity::update_many()
                .col_expr(Column::Enabled, Expr::value(false))
                .col_expr(Column::DisabledBecause, Expr::value(why))
                .filter(Column::Id.eq(id.0))
                .filter(Column::Enabled.eq(true))
                .filter(Expr::col(Column::FailingSince).lte((now - patience).as_micros()))
                .exec(self.writer())
                .await;
            Ok(done.map_err(Error::database(what))?.rows_affected > 0)
        })
        .await
    }

    /// Sends a webhook the events of a deployment after `after` again. `false`: there is no such
    /// deployment.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn webhook_replay(
        &self,
        id: WebhookId,
        deployment: DeploymentId,
        after: i64,
        audit: Option<NewAudit>,
    ) -> Result<bool, Error> {
        timed(Operation::WebhookReplay, async {
            let what = "send events again";
            let consumer = consumer(id);
            let txn = self.begin().await?;
            // Whoever reads for it now does not write any more how far it came, and begins anew.
            release(&txn, &consumer).await?;
            let found = "SELECT group_id, rev FROM deployments WHERE id = ?";
            let row = txn.query_one_raw(sql(&txn, found, [deployment.0.into()])).await;
            let Some(row) = row.map_err(Error::database(what))? else { return Ok(false) };
            let group: Uuid = row.try_get("", "group_id").map_err(Error::database(what))?;
            let rev: i64 = row.try_get("", "rev").map_err(Error::database(what))?;
            let by = || consumer.as_str().into();
            // What was not sent yet is not passed over.
            let sent = "SELECT sent_seq FROM message_cursors WHERE consumer = ? AND stream = ?";
            let sent = txn.query_one_raw(sql(&txn, sent, [by(), deployment.0.into()])).await;
            let sent: Option<i64> = sent
                .map_err(Error::database(what))?
                .map(|row| row.try_get("", "sent_seq"))
                .transpose()
                .map_err(Error::database(what))?;
            let after = Ord::min(after, sent.unwrap_or(0));
            for (text, values) in [
                (
                    "DELETE FROM message_cursors WHERE consumer = ? AND stream = ?",
                    vec![by(), deployment.0.into()],
                ),
                (
                    "INSERT INTO message_cursors (consumer, stream, sent_seq) VALUES (?, ?, ?)",
                    vec![by(), deployment.0.into(), after.into()],
                ),
                // Then the deployment counts as written since.
                (
                    "UPDATE message_groups SET seen_version = ? \
                     WHERE consumer = ? AND group_id = ? AND seen_version >= ?",
                    vec![(rev - 1).into(), by(), group.into(), rev.into()],
                ),
            ] {
                let done = txn.execute_raw(sql(&txn, text, values)).await;
                done.map_err(Error::database(what))?;
            }
            audit::insert_if_asked(&txn, audit, self.now()).await?;
            commit(txn).await?;
            self.inner.watches.tell_all();
            Ok(true)
        })
        .await
    }
}

fn view(row: Model) -> Result<Webhook, Error> {
    let reader = Reader::new("webhooks", &row.id);
    let failures = reader.number("failures", row.failures)?;
    let view = WebhookView {
        id: WebhookId(row.id),
        name: row.name,
        url: row.url,
        events: row.events,
        enabled: row.enabled,
        disabled_because: row.disabled_because,
        created_by: row.created_by,
        created_at: Timestamp::from_micros(row.created_at),
        failing_since: at_opt(row.failing_since),
        failures,
        next_try_at: at_opt(row.next_try_at),
        delivered_at: at_opt(row.delivered_at),
        secret: None,
    };
    Ok(Webhook { view, secret: row.secret })
}
