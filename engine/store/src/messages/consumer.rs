//! Which process works for a consumer, and where a new one begins.
//!
//! The lease is that of processes: a consumer belongs to its process as long as that has a row in
//! `processes`. One that was taken over finds out when it writes how far it has come, and writes nothing.

use sea_orm::{ConnectionTrait, DatabaseTransaction};

use crate::bulk::{quoted, sql};
use crate::operation::{Operation, timed};
use crate::store::commit;
use crate::{Error, Store};

/// Where a consumer begins that was not there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With what happens from now on.
    Now,
    /// With the first event of every log.
    First,
}

impl Store {
    /// Takes a consumer for this process, unless another one that lives has it. One that is not there is
    /// made if `begin` says where it begins.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn consumer_take(&self, name: &str, begin: Option<Begin>) -> Result<bool, Error> {
        timed(Operation::ConsumerTake, async {
            if !self.may_act() {
                return Ok(false);
            }
            if self.take(name).await? {
                return Ok(true);
            }
            let Some(begin) = begin else { return Ok(false) };
            let known = "SELECT name FROM message_consumers WHERE name = ?";
            let statement = sql(self.reader(), known, [name.into()]);
            let row = self.reader().query_one_raw(statement).await;
            if row.map_err(Error::database("find a consumer"))?.is_some() {
                return Ok(false);
            }
            let txn = self.inner.begin_in_turn().await?;
            let statement = sql(&txn, known, [name.into()]);
            let row = txn.query_one_raw(statement).await;
            if row.map_err(Error::database("find a consumer"))?.is_some() {
                // Another process was faster.
                return Ok(false);
            }
            let me = self.inner.member.id();
            self.consumer_enter(&txn, name, Some(me), begin).await?;
            commit(txn).await?;
            Ok(true)
        })
        .await
    }

    /// Whether this process has a consumer.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn consumer_is_mine(&self, name: &str) -> Result<bool, Error> {
        timed(Operation::ConsumerIsMine, async {
            if !self.may_act() {
                return Ok(false);
            }
            let text = "SELECT name FROM message_consumers WHERE name = ? AND owner = ?";
            let values = [name.into(), self.inner.member.id().into()];
            let row = self.reader().query_one_raw(sql(self.reader(), text, values)).await;
            Ok(row.map_err(Error::database("find a consumer"))?.is_some())
        })
        .await
    }

    async fn take(&self, name: &str) -> Result<bool, Error> {
        let me = self.inner.member.id();
        let mut text = "UPDATE message_consumers SET owner = ?, batches = batches + 1 \
                        WHERE name = ?"
            .to_owned();
        let mut values = vec![me.into(), name.into()];
        if self.inner.member.has_others() {
            text.push_str(
                " AND (owner IS NULL OR owner = ? OR owner NOT IN (SELECT id FROM processes))",
            );
            values.push(me.into());
        }
        let done = self.writer().execute_raw(sql(self.writer(), &text, values)).await;
        Ok(done.map_err(Error::database("take a consumer"))?.rows_affected() > 0)
    }

    /// Makes a consumer.
    pub(super) async fn consumer_enter(
        &self,
        txn: &DatabaseTransaction,
        name: &str,
        owner: Option<&str>,
        begin: Begin,
    ) -> Result<(), Error> {
        let text = "INSERT INTO message_consumers (name, owner, batches, created_at) \
                    VALUES (?, ?, 0, ?)";
        let values = [name.into(), owner.into(), self.now().as_micros().into()];
        let mut statements = vec![sql(txn, text, values)];
        if begin == Begin::Now {
            // The versions first: what is committed in between is looked at, and found to be sent.
            let groups = quoted(txn.get_database_backend(), "groups");
            for text in [
                format!(
                    "INSERT INTO message_groups (consumer, group_id, seen_version) \
                     SELECT ?, id, version FROM {groups}"
                ),
                format!(
                    "INSERT INTO message_cursors (consumer, stream, sent_seq) \
                     SELECT ?, id, seq FROM {groups} WHERE seq > 0"
                ),
                "INSERT INTO message_cursors (consumer, stream, sent_seq) \
                 SELECT ?, id, seq FROM deployments WHERE seq > 0"
                    .to_owned(),
            ] {
                // PostgreSQL must be told what a variable is that nothing is compared with.
                let text = match txn.get_database_backend() {
                    sea_orm::DbBackend::Postgres => {
                        text.replacen("SELECT ?", "SELECT CAST(? AS VARCHAR)", 1)
                    }
                    sea_orm::DbBackend::MySql | sea_orm::DbBackend::Sqlite | _ => text,
                };
                statements.push(sql(txn, &text, [name.into()]));
            }
        }
        for statement in statements {
            txn.execute_raw(statement).await.map_err(Error::database("enter a consumer"))?;
        }
        Ok(())
    }
}

/// Locks a consumer's row, if this process still has it, until the transaction ends.
pub(super) async fn hold(txn: &DatabaseTransaction, name: &str, me: &str) -> Result<bool, Error> {
    let text = "UPDATE message_consumers SET batches = batches + 1 WHERE name = ? AND owner = ?";
    let done = txn.execute_raw(sql(txn, text, [name.into(), me.into()])).await;
    Ok(done.map_err(Error::database("hold a consumer"))?.rows_affected() > 0)
}

/// Takes a consumer from whoever has it, so that what it has read before is not written any more.
pub(super) async fn release(txn: &DatabaseTransaction, name: &str) -> Result<(), Error> {
    let text = "UPDATE message_consumers SET owner = NULL, batches = batches + 1 WHERE name = ?";
    let done = txn.execute_raw(sql(txn, text, [name.into()])).await;
    done.map(drop).map_err(Error::database("release a consumer"))
}

/// Forgets a consumer.
pub(super) async fn forget(txn: &DatabaseTransaction, name: &str) -> Result<(), Error> {
    for text in [
        "DELETE FROM message_consumers WHERE name = ?",
        "DELETE FROM message_groups WHERE consumer = ?",
        "DELETE FROM message_cursors WHERE consumer = ?",
    ] {
        let done = txn.execute_raw(sql(txn, text, [name.into()])).await;
        done.map_err(Error::database("forget a consumer"))?;
    }
    Ok(())
}
