//! Answers that are kept for a day, so that a request that is sent again is not done again.

use std::time::Duration;

use capstan_core::{DeploymentId, TokenId};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, IntoActiveModel,
    QueryFilter, QuerySelect,
};
use uuid::Uuid;

use crate::answering::Marking;
use crate::entities::idempotency::{Column, Entity, Model};
use crate::inner::Inner;
use crate::operation::{Operation, timed};
use crate::processes::{self, Ended, Member};
use crate::rows::Reader;
use crate::store::commit;
use crate::{Error, Idempotency, RequestKey, Store, crash};

/// In place of an HTTP status: the request made something, and was not answered.
const CUT_OFF: i32 = 0;
/// How long an answer is kept.
const KEPT: Duration = Duration::from_hours(24);

impl Store {
    /// Marks a request as under way, unless one with the same token, path and key is known.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn idempotency_begin(
        &self,
        token: TokenId,
        path: &str,
        key: &str,
        body_hash: &str,
    ) -> Result<Idempotency, Error> {
        timed(Operation::IdempotencyBegin, async {
            let now = self.now();
            let oldest = now.as_micros() - i64::try_from(KEPT.as_micros()).unwrap_or(i64::MAX);
            let txn = self.inner.begin_in_turn().await?;
            // One that others have taken over from is forgotten by nobody.
            processes::assert_known(&txn, &self.inner.member).await?;
            Entity::delete_many()
                .filter(Column::CreatedAt.lt(oldest))
                .exec(&txn)
                .await
                .map_err(Error::database("remove old answers"))?;
            if let Some(known) = find(&txn, token, path, key).await? {
                commit(txn).await?;
                return known_answer(known, body_hash);
            }
            let request = request(token, path, key);
            if self.inner.answering.has(&request) {
                // Others took its mark away, since this process was silent; it is answered all the same.
                commit(txn).await?;
                return Ok(Idempotency::Running);
            }
            let marking = Marking::begin(&self.inner, request);
            let row = Model {
                token_id: token.0,
                path: path.to_owned(),
                idempotency_key: key.to_owned(),
                body_hash: body_hash.to_owned(),
                process: self.inner.member.id().to_owned(),
                status: None,
                content_type: None,
                body: None,
                deployment_id: None,
                created_at: now.as_micros(),
            };
            row.into_active_model()
                .reset_all()
                .insert(&txn)
                .await
                .map_err(Error::database("mark a request as under way"))?;
            commit(txn).await?;
            marking.stays();
            Ok(Idempotency::Fresh)
        })
        .await
    }

    /// Keeps the answer of a request that was marked as under way.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn idempotency_finish(
        &self,
        token: TokenId,
        path: &str,
        key: &str,
        status: u16,
        content_type: &str,
        body: &[u8],
    ) -> Result<(), Error> {
        crash::point("answer.before");
        timed(Operation::IdempotencyFinish, async {
            let marking = Marking::end(&self.inner, request(token, path, key));
            Entity::update_many()
                .col_expr(Column::Status, Expr::value(i32::from(status)))
                .col_expr(Column::ContentType, Expr::value(content_type))
                .col_expr(Column::Body, Expr::value(body.to_vec()))
                .filter(is(token, path, key))
                .filter(Column::Process.eq(self.inner.member.id()))
                .exec(self.writer())
                .await
                .map_err(Error::database("keep an answer"))?;
            marking.removed();
            Ok(())
        })
        .await
    }

    /// Forgets a request, so that it can be sent again: it was not done. One that made a deployment,
    /// and failed only afterwards, is kept with it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn idempotency_forget(
        &self,
        token: TokenId,
        path: &str,
        key: &str,
    ) -> Result<(), Error> {
        timed(Operation::IdempotencyForget, async {
            let marking = Marking::end(&self.inner, request(token, path, key));
            let txn = self.begin().await?;
            Entity::update_many()
                .col_expr(Column::Status, Expr::value(CUT_OFF))
                .filter(is(token, path, key))
                .filter(Column::Process.eq(self.inner.member.id()))
                .filter(Column::DeploymentId.is_not_null())
                .exec(&txn)
                .await
                .map_err(Error::database("keep what a request made"))?;
            Entity::delete_many()
                .filter(is(token, path, key))
                .filter(Column::Process.eq(self.inner.member.id()))
                .filter(Column::DeploymentId.is_null())
                .exec(&txn)
                .await
                .map_err(Error::database("forget a request"))?;
            commit(txn).await?;
            marking.removed();
            Ok(())
        })
        .await
    }
}

/// Notes the deployment that a request made, in the transaction that makes it: a repeat after a crash
/// gets it and makes no second one. Fails if others have taken over from this process since the request
/// began: it may have been repeated and done elsewhere.
pub(crate) async fn note_made(
    txn: &impl ConnectionTrait,
    member: &Member,
    request: &RequestKey,
    made: DeploymentId,
) -> Result<(), Error> {
    let noted = Entity::update_many()
        .col_expr(Column::DeploymentId, Expr::value(made.0))
        .filter(is(request.token, &request.path, &request.key))
        .filter(Column::Process.eq(member.id()))
        .filter(Column::Status.is_null())
        .exec(txn)
        .await
        .map_err(Error::database("note what a request made"))?;
    if noted.rows_affected == 0 { Err(Error::GivenUp) } else { Ok(()) }
}

/// Forgets requests that were under way in processes that have ended: nobody will ever answer them, and
/// their senders would be told for a day that they are under way. What made a deployment is kept.
pub(crate) async fn forget_cut_off(
    conn: &impl ConnectionTrait,
    process: Ended<'_>,
) -> Result<(), Error> {
    let of_process = match process {
        Ended::One(id) => Column::Process.eq(id),
        Ended::AllBut(id) => Column::Process.ne(id),
    };
    forget_marks(conn, Condition::all().add(of_process)).await
}

/// The same for requests of this process that it no longer answers. Gives how many there were.
pub(crate) async fn forget_unanswered(inner: &Inner) -> Result<usize, Error> {
    // Marks are made in turn and count from before, so what is seen in a turn and does not count is left over.
    let txn = inner.begin_in_turn().await?;
    let found: Vec<(Uuid, String, String)> = Entity::find()
        .select_only()
        .columns([Column::TokenId, Column::Path, Column::IdempotencyKey])
        .filter(Column::Status.is_null())
        .filter(Column::Process.eq(inner.member.id()))
        .into_tuple()
        .all(&txn)
        .await
        .map_err(Error::database("find requests that nobody answers"))?;
    let unanswered = found
        .into_iter()
        .map(|(token, path, key)| RequestKey { token: TokenId(token), path, key })
        .filter(|request| !inner.answering.has(request));
    let mut forgotten = 0;
    for RequestKey { token, path, key } in unanswered {
        let mine = is(token, &path, &key).add(Column::Process.eq(inner.member.id()));
        forget_marks(&txn, mine).await?;
        forgotten += 1;
    }
    commit(txn).await?;
    Ok(forgotten)
}

async fn forget_marks(conn: &impl ConnectionTrait, of: Condition) -> Result<(), Error> {
    let cut_off = of.add(Column::Status.is_null());
    Entity::update_many()
        .col_expr(Column::Status, Expr::value(CUT_OFF))
        .filter(cut_off.clone())
        .filter(Column::DeploymentId.is_not_null())
        .exec(conn)
        .await
        .map_err(Error::database("keep requests that were cut off"))?;
    Entity::delete_many()
        .filter(cut_off)
        .exec(conn)
        .await
        .map(|_| ())
        .map_err(Error::database("forget requests that were cut off"))
}

fn request(token: TokenId, path: &str, key: &str) -> RequestKey {
    RequestKey { token, path: path.to_owned(), key: key.to_owned() }
}

async fn find(
    conn: &impl ConnectionTrait,
    token: TokenId,
    path: &str,
    key: &str,
) -> Result<Option<Model>, Error> {
    Entity::find()
        .filter(is(token, path, key))
        .one(conn)
        .await
        .map_err(Error::database("find a request"))
}

fn is(token: TokenId, path: &str, key: &str) -> Condition {
    let token: Uuid = token.0;
    Condition::all()
        .add(Column::TokenId.eq(token))
        .add(Column::Path.eq(path))
        .add(Column::IdempotencyKey.eq(key))
}

fn known_answer(known: Model, body_hash: &str) -> Result<Idempotency, Error> {
    if known.body_hash != body_hash {
        return Ok(Idempotency::OtherBody);
    }
    let status = match (known.status, known.deployment_id) {
        (None, _) => return Ok(Idempotency::Running),
        (Some(CUT_OFF), Some(made)) => return Ok(Idempotency::Made(DeploymentId(made))),
        (Some(status), _) => status,
    };
    let reader = Reader::new("idempotency", &known.idempotency_key);
    Ok(Idempotency::Replay {
        status: reader.number("status", status)?,
        content_type: known.content_type.unwrap_or_default(),
        body: known.body.unwrap_or_default(),
    })
}
