//! Refreshes from the CMDB, merged over all processes: a row per group says who is at it.
//!
//! Nothing here is compared by time but the end of a lease. A wish notes how many refreshes of the group
//! have ended; it is fulfilled by any that ends after that, so by one that was under way or began later.

use std::time::Duration;

use capstan_core::GroupId;
use sea_orm::{ConnectionTrait, DbBackend, Value};

use crate::bulk::sql;
use crate::operation::{Operation, timed};
use crate::{Error, Store};

/// Nobody is at it. A process asks once at a time: what it holds itself is left over from a refresh that failed.
const FREE: &str = "(holder IS NULL OR holder = ? OR held_until < ? \
                    OR holder NOT IN (SELECT id FROM processes))";

/// A wish that a group be refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshWish {
    group: GroupId,
    /// Refreshes of the group that had ended when it came up.
    ended: i64,
}

/// How a wish stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refreshing {
    /// Whoever asks is to refresh the group now, and to tell how it ended.
    Begun,
    /// Another process is at it.
    UnderWay,
    /// It is done by another process, which told this.
    Ended(String),
}

/// How the refreshes of a group stand.
#[derive(Debug, Default)]
struct Row {
    ended: i64,
    /// What the last one told.
    told: String,
    is_free: bool,
}

impl Store {
    /// Notes that a refresh of a group is wanted.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn refresh_wish(&self, group: GroupId) -> Result<RefreshWish, Error> {
        if !self.inner.member.has_others() {
            return Ok(RefreshWish { group, ended: 0 });
        }
        timed(Operation::RefreshWish, async {
            let keep = match self.inner.backend() {
                DbBackend::MySql => "ON DUPLICATE KEY UPDATE ended = ended",
                DbBackend::Postgres | DbBackend::Sqlite | _ => "ON CONFLICT DO NOTHING",
            };
            let text = format!("INSERT INTO refreshes (group_id, ended) VALUES (?, 0) {keep}");
            let statement = sql(self.writer(), &text, [group.0.into()]);
            let made = self.writer().execute_raw(statement).await;
            made.map_err(Error::database("note a wish for a refresh"))?;
            let row = self.refresh_row(group).await?;
            Ok(RefreshWish { group, ended: row.ended })
        })
        .await
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
        if !self.inner.member.has_others() {
            return Ok(Refreshing::Begun);
        }
        timed(Operation::RefreshBegin, async {
            let row = self.refresh_row(wish.group).await?;
            if row.ended > wish.ended {
                return Ok(Refreshing::Ended(row.told));
            }
            if !row.is_free {
                return Ok(Refreshing::UnderWay);
            }
            let text = format!(
                "UPDATE refreshes SET holder = ?, held_until = ? \
                 WHERE group_id = ? AND ended = ? AND {FREE}"
            );
            let until = (self.now() + lease).as_micros();
            let values: [Value; 4] = [
                self.inner.member.id().into(),
                until.into(),
                wish.group.0.into(),
                wish.ended.into(),
            ];
            let values = values.into_iter().chain(self.free());
            let taken = self.writer().execute_raw(sql(self.writer(), &text, values)).await;
            let taken = taken.map_err(Error::database("begin a refresh"))?.rows_affected() > 0;
            Ok(if taken { Refreshing::Begun } else { Refreshing::UnderWay })
        })
        .await
    }

    /// Tells how a refresh ended to those who wished for it; `None`: they are to try for themselves. One
    /// that took longer than its lease, and that another process has done meanwhile, tells nobody.
    ///
    /// # Errors
    /// When the database does not answer; then others try for themselves after the lease.
    pub async fn refresh_end(&self, wish: RefreshWish, told: Option<&str>) -> Result<(), Error> {
        if !self.inner.member.has_others() {
            return Ok(());
        }
        timed(Operation::RefreshEnd, async {
            let text = "UPDATE refreshes SET holder = NULL, held_until = NULL, ended = ended + ?, \
                        told = ? WHERE group_id = ? AND ended = ? AND holder = ?";
            let values = [
                i64::from(told.is_some()).into(),
                told.into(),
                wish.group.0.into(),
                wish.ended.into(),
                self.inner.member.id().into(),
            ];
            let done = self.writer().execute_raw(sql(self.writer(), text, values)).await;
            done.map(drop).map_err(Error::database("end a refresh"))
        })
        .await
    }

    async fn refresh_row(&self, group: GroupId) -> Result<Row, Error> {
        let text = format!(
            "SELECT ended, told, CASE WHEN {FREE} THEN 1 ELSE 0 END AS free FROM refreshes \
             WHERE group_id = ?"
        );
        let what = "read how a refresh stands";
        let values = self.free().into_iter().chain([group.0.into()]);
        let row = self.reader().query_one_raw(sql(self.reader(), &text, values)).await;
        let Some(row) = row.map_err(Error::database(what))? else { return Ok(Row::default()) };
        let ended = row.try_get("", "ended").map_err(Error::database(what))?;
        let told: Option<String> = row.try_get("", "told").map_err(Error::database(what))?;
        let free: i32 = row.try_get("", "free").map_err(Error::database(what))?;
        Ok(Row { ended, told: told.unwrap_or_default(), is_free: free != 0 })
    }

    /// The variables of [`FREE`].
    fn free(&self) -> [Value; 2] {
        [self.inner.member.id().into(), self.now().as_micros().into()]
    }
}
