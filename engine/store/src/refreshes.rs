//! Refreshes from the CMDB, merged over all processes: a row per group says who is at it.
//!
//! Nothing here is compared by time but the end of a lease. Refreshes of a group are numbered as they end. A
//! wish notes the number of the first one that can begin after it: one that is under way when the wish comes
//! up may have asked the CMDB already, and does not count.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use capstan_core::GroupId;
use sea_orm::{ConnectionTrait, DbBackend, Value};

use crate::bulk::sql;
use crate::inner::Inner;
use crate::operation::{Operation, timed};
use crate::{Error, Store};

/// Nobody is at it. What this process holds is left over from a refresh whose end could not be written: it
/// knows itself what it is at.
const FREE: &str = "(holder IS NULL OR holder = ? OR held_until < ? \
                    OR holder NOT IN (SELECT id FROM processes))";

/// A wish that a group be refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshWish {
    group: GroupId,
    /// It is fulfilled by the refresh with this number and by all that follow.
    number: i64,
}

impl RefreshWish {
    /// Tells wishes of one group apart: those with the same number are fulfilled together.
    pub const fn number(&self) -> i64 {
        self.number
    }
}

/// The right to refresh a group now.
#[derive(Debug)]
pub struct RefreshTurn {
    group: GroupId,
    /// Refreshes of the group that had ended before.
    ended: i64,
    inner: Arc<Inner>,
}

impl Drop for RefreshTurn {
    fn drop(&mut self) {
        under_way(&self.inner).remove(&self.group);
    }
}

fn under_way(inner: &Inner) -> MutexGuard<'_, BTreeSet<GroupId>> {
    inner.refreshing.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a wish stands.
#[derive(Debug)]
pub enum Refreshing {
    /// Whoever asks is to refresh the group now, and to tell how it ended.
    Begun(RefreshTurn),
    /// Somebody is at it.
    UnderWay,
    /// It is done, and this was told of it.
    Ended(String),
}

/// How the refreshes of a group stand.
#[derive(Debug, Default)]
struct Row {
    ended: i64,
    /// What the last one told.
    told: String,
    holder: Option<String>,
    is_free: bool,
}

impl Store {
    /// Notes that a refresh of a group is wanted.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn refresh_wish(&self, group: GroupId) -> Result<RefreshWish, Error> {
        if !self.inner.member.has_others() {
            return Ok(RefreshWish { group, number: 0 });
        }
        timed(Operation::RefreshWish, async {
            // Before the row is read: what this process begins after that begins after the wish.
            let is_ours = under_way(&self.inner).contains(&group);
            let row = match self.refresh_row(group).await? {
                Some(row) => row,
                None => self.refresh_enter(group).await?,
            };
            let by_us = row.holder.as_deref() == Some(self.inner.member.id());
            let is_under_way = if by_us { is_ours } else { !row.is_free };
            Ok(RefreshWish { group, number: row.ended + 1 + i64::from(is_under_way) })
        })
        .await
    }

    async fn refresh_enter(&self, group: GroupId) -> Result<Row, Error> {
        let keep = match self.inner.backend() {
            DbBackend::MySql => "ON DUPLICATE KEY UPDATE ended = ended",
            DbBackend::Postgres | DbBackend::Sqlite | _ => "ON CONFLICT DO NOTHING",
        };
        let text = format!("INSERT INTO refreshes (group_id, ended) VALUES (?, 0) {keep}");
        let statement = sql(self.writer(), &text, [group.0.into()]);
        let made = self.writer().execute_raw(statement).await;
        made.map_err(Error::database("note a wish for a refresh"))?;
        Ok(self.refresh_row(group).await?.unwrap_or_default())
    }

    /// How a wish stands by now. `lease`: after so long others may refresh the group as well; when this
    /// process is gone, at once.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn refresh_begin(
        &self,
        wish: RefreshWish,
        lease: Duration,
    ) -> Result<Refreshing, Error> {
        let turn = |ended| RefreshTurn { group: wish.group, ended, inner: self.inner.clone() };
        if !self.inner.member.has_others() {
            return Ok(Refreshing::Begun(turn(0)));
        }
        timed(Operation::RefreshBegin, async {
            let row = self.refresh_row(wish.group).await?.unwrap_or_default();
            if row.ended >= wish.number {
                return Ok(Refreshing::Ended(row.told));
            }
            if !row.is_free || !under_way(&self.inner).insert(wish.group) {
                return Ok(Refreshing::UnderWay);
            }
            let turn = turn(row.ended);
            let text = format!(
                "UPDATE refreshes SET holder = ?, held_until = ? \
                 WHERE group_id = ? AND ended = ? AND {FREE}"
            );
            let until = (self.now() + lease).as_micros();
            let values: [Value; 4] = [
                self.inner.member.id().into(),
                until.into(),
                wish.group.0.into(),
                turn.ended.into(),
            ];
            let values = values.into_iter().chain(self.free());
            let taken = self.writer().execute_raw(sql(self.writer(), &text, values)).await;
            let taken = taken.map_err(Error::database("begin a refresh"))?.rows_affected() > 0;
            Ok(if taken { Refreshing::Begun(turn) } else { Refreshing::UnderWay })
        })
        .await
    }

    /// Tells how a refresh ended to those who wished for it; `None`: they are to try for themselves. One
    /// that took longer than its lease, and that another process has done meanwhile, tells nobody.
    ///
    /// # Errors
    /// When the database does not answer; then others try for themselves after the lease.
    pub async fn refresh_end(&self, turn: RefreshTurn, told: Option<&str>) -> Result<(), Error> {
        if !self.inner.member.has_others() {
            return Ok(());
        }
        timed(Operation::RefreshEnd, async {
            let text = "UPDATE refreshes SET holder = NULL, held_until = NULL, ended = ended + ?, \
                        told = COALESCE(?, told) WHERE group_id = ? AND ended = ? AND holder = ?";
            let values = [
                i64::from(told.is_some()).into(),
                told.into(),
                turn.group.0.into(),
                turn.ended.into(),
                self.inner.member.id().into(),
            ];
            let done = self.writer().execute_raw(sql(self.writer(), text, values)).await;
            done.map(drop).map_err(Error::database("end a refresh"))
        })
        .await
    }

    async fn refresh_row(&self, group: GroupId) -> Result<Option<Row>, Error> {
        let text = format!(
            "SELECT ended, told, holder, CASE WHEN {FREE} THEN 1 ELSE 0 END AS free FROM refreshes \
             WHERE group_id = ?"
        );
        let what = "read how a refresh stands";
        let values = self.free().into_iter().chain([group.0.into()]);
        let row = self.reader().query_one_raw(sql(self.reader(), &text, values)).await;
        let Some(row) = row.map_err(Error::database(what))? else { return Ok(None) };
        let ended = row.try_get("", "ended").map_err(Error::database(what))?;
        let told: Option<String> = row.try_get("", "told").map_err(Error::database(what))?;
        let holder = row.try_get("", "holder").map_err(Error::database(what))?;
        let free: i32 = row.try_get("", "free").map_err(Error::database(what))?;
        Ok(Some(Row { ended, told: told.unwrap_or_default(), holder, is_free: free != 0 }))
    }

    /// The variables of [`FREE`].
    fn free(&self) -> [Value; 2] {
        [self.inner.member.id().into(), self.now().as_micros().into()]
    }
}
