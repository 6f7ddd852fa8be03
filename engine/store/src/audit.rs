//! Who asked for what, and what the answer was.

use capstan_core::view::{AuditView, Page};
use capstan_core::{DeploymentId, Timestamp};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter,
};
use uuid::Uuid;

use crate::cursor::{after, newest, page};
use crate::entities::actions::{Column, Entity, Model};
use crate::operation::{Operation, timed};
use crate::{Error, NewAudit, PageRequest, Store, crash};

impl Store {
    /// Adds an entry to the audit: a refusal, or a deed that writes nothing. What a deed does is written
    /// together with its entry, by the method that does it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn audit(&self, new: NewAudit) -> Result<(), Error> {
        timed(Operation::Audit, async {
            insert(self.writer(), new, self.now()).await?;
            crash::point("audit.done");
            Ok(())
        })
        .await
    }

    /// What was asked of a deployment, newest first.
    ///
    /// # Errors
    /// [`Error::Cursor`]; when the database does not answer.
    pub async fn audits(
        &self,
        deployment: DeploymentId,
        request: PageRequest,
    ) -> Result<Page<AuditView>, Error> {
        timed(Operation::Audits, async {
            let query = Entity::find().filter(Column::DeploymentId.eq(deployment.0));
            let rows = newest(self.reader(), query, Column::Id, &request, "read the audit").await?;
            let view = |row: Model| {
                Ok(AuditView {
                    at: Timestamp::from_micros(row.at),
                    actor: row.actor,
                    action: row.action,
                    subject: format!("{} {}", row.subject_kind, row.subject),
                    answer: row.answer,
                    detail: row.detail,
                })
            };
            page(rows, request.size(), |row| after(row.id), view)
        })
        .await
    }
}

/// Writes the entry of a deed beside what it does, in its transaction. `None`: nobody asked for it.
pub(crate) async fn insert_if_asked(
    txn: &impl ConnectionTrait,
    audit: Option<NewAudit>,
    now: Timestamp,
) -> Result<(), Error> {
    match audit {
        Some(audit) => insert(txn, audit, now).await,
        None => Ok(()),
    }
}

pub(crate) async fn insert(
    conn: &impl ConnectionTrait,
    new: NewAudit,
    now: Timestamp,
) -> Result<(), Error> {
    let row = Model {
        id: Uuid::now_v7(),
        at: now.as_micros(),
        actor: new.actor,
        action: new.action,
        subject_kind: new.subject_kind.to_owned(),
        subject: new.subject,
        deployment_id: new.deployment.map(|deployment| deployment.0),
        answer: new.answer,
        detail: new.detail,
    };
    crash::point("audit.before");
    let row = row.into_active_model().reset_all();
    row.insert(conn).await.map(|_| ()).map_err(Error::database("write the audit"))
}
