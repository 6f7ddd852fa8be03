//! Outside dependencies: one row each, and what groups are told of them.
//!
//! The row is the truth about a breaker and its hand switch. What concerns a group is written into the
//! group's own row (`users`).
//!
//! A newer release may know kinds of dependencies that this one does not. While both run, rows of such a kind
//! are passed over: whoever knows them reads and writes them.

mod users;

use std::collections::{BTreeMap, BTreeSet};

use capstan_core::Timestamp;
use capstan_core::dependency::{BreakerReport, BreakerState, DependencyKind};
use capstan_core::view::{CutOff, DependencyView};
use sea_orm::sea_query::{Expr, ExprTrait, SimpleExpr};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect,
};

use crate::bulk::sql;
use crate::entities::dependencies::{Column, Entity, Model};
use crate::operation::{Operation, timed};
use crate::rows::{Reader, at_opt};
use crate::store::commit;
use crate::{Error, NewAudit, Store, audit};

impl Store {
    /// Every dependency, by name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn dependencies(&self) -> Result<Vec<DependencyView>, Error> {
        timed(Operation::Dependencies, async {
            let groups = self.uses(None).await?;
            let rows = self.dependency_rows().await?;
            rows.into_iter()
                .map(|row| {
                    let users =
                        groups.iter().filter(|group| group.names.contains(&row.name)).count();
                    view(row, users, groups.len())
                })
                .collect()
        })
        .await
    }

    /// Notes what the breakers of this process say; dependencies that are new get a row. Returns whether
    /// anything changed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn dependencies_note(&self, reports: &[BreakerReport]) -> Result<bool, Error> {
        timed(Operation::DependenciesNote, async {
            let now = self.now().as_micros();
            let known = self.dependency_rows_of_all().await?;
            let known: BTreeMap<&str, &Model> =
                known.iter().map(|row| (row.name.as_str(), row)).collect();
            let closed = BreakerState::Closed.word();
            let me = self.inner.member.id();
            // What another process has found broken is for that process to find well again, as long as it
            // lives: a breaker that nobody asked anything says nothing.
            let others = self.other_processes().await?;
            let is_others = |row: &Model| {
                row.found_by.as_ref().is_some_and(|found_by| others.contains(found_by))
            };
            let mut changed = Vec::new();
            for report in reports {
                let state = report.state.word().to_owned();
                let mut row = match known.get(report.name.as_str()) {
                    Some(row) if !self.is_known(row) => continue,
                    Some(row) if row.state == state && row.kind == report.kind.word() => continue,
                    Some(row) if row.state != closed && is_others(row) => continue,
                    Some(row) => (*row).clone(),
                    None => fresh(&report.name, report.kind, now),
                };
                // From open to probed and back it is broken all the while.
                if (row.state == closed) != (state == closed) {
                    row.since = now;
                    row.last_error = report.error.clone().or(row.last_error);
                }
                row.found_by = (state != closed).then(|| me.to_owned());
                row.state = state;
                report.kind.word().clone_into(&mut row.kind);
                changed.push((known.contains_key(report.name.as_str()), row));
            }
            let any = !changed.is_empty();
            if any {
                let txn = self.begin().await?;
                for (is_known, row) in changed {
                    write(&txn, row, is_known).await?;
                }
                commit(txn).await?;
            }
            Ok(any)
        })
        .await
    }

    /// The processes that live, but for this one.
    async fn other_processes(&self) -> Result<BTreeSet<String>, Error> {
        if !self.inner.member.has_others() {
            return Ok(BTreeSet::new());
        }
        let what = "read the processes";
        let statement = sql(
            self.reader(),
            "SELECT id FROM processes WHERE id <> ?",
            [self.inner.member.id().into()],
        );
        let rows = self.reader().query_all_raw(statement).await.map_err(Error::database(what))?;
        rows.iter().map(|row| row.try_get("", "id").map_err(Error::database(what))).collect()
    }

    /// Cuts a dependency off, or restores it, and tells its groups. `None`: no dependency has this name.
    ///
    /// # Errors
    /// When the database does not answer, or a group could not be told yet; the engine tells it later.
    pub async fn dependency_switch(
        &self,
        name: &str,
        cut_off: Option<CutOff>,
        audit: Option<NewAudit>,
    ) -> Result<Option<DependencyView>, Error> {
        let known = timed(Operation::DependencySwitch, async {
            let txn = self.begin().await?;
            let one = Column::Name.eq(name).and(of_known_kind());
            if switch(&txn, one, cut_off).await? == 0 {
                return Ok(false);
            }
            audit::insert_if_asked(&txn, audit, self.now()).await?;
            commit(txn).await?;
            Ok(true)
        })
        .await?;
        if !known {
            return Ok(None);
        }
        self.inner.switched.send_modify(|count| *count += 1);
        self.dependencies_tell(None).await?;
        let all = self.dependencies().await?;
        Ok(all.into_iter().find(|view| view.name == name))
    }

    /// Ends the cuts whose time is over. Returns whether there was one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn dependencies_expire(&self) -> Result<bool, Error> {
        timed(Operation::DependenciesExpire, async {
            let over = Column::CutOffUntil.lte(self.now().as_micros()).and(of_known_kind());
            let rows = Entity::find()
                .filter(over.clone())
                .all(self.reader())
                .await
                .map_err(Error::database("find cuts that are over"))?;
            if rows.is_empty() {
                return Ok(false);
            }
            let txn = self.begin().await?;
            switch(&txn, over, None).await?;
            commit(txn).await?;
            for row in rows {
                tracing::info!(dependency = row.name, "its cut is over; it is called again");
            }
            Ok(true)
        })
        .await
    }

    /// The names of what a person cut off.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn dependencies_cut_off(&self) -> Result<BTreeSet<String>, Error> {
        timed(Operation::DependenciesCutOff, async {
            let names: Vec<String> = Entity::find()
                .select_only()
                .column(Column::Name)
                .filter(Column::CutOffAt.is_not_null())
                .into_tuple()
                .all(self.reader())
                .await
                .map_err(Error::database("read what is cut off"))?;
            Ok(names.into_iter().collect())
        })
        .await
    }

    /// Changes when somebody sets a hand switch in this process.
    pub fn watch_switches(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.switched.subscribe()
    }

    /// The rows that this release knows how to read.
    async fn dependency_rows(&self) -> Result<Vec<Model>, Error> {
        let rows = self.dependency_rows_of_all().await?;
        Ok(rows.into_iter().filter(|row| self.is_known(row)).collect())
    }

    async fn dependency_rows_of_all(&self) -> Result<Vec<Model>, Error> {
        Entity::find()
            .order_by_asc(Column::Name)
            .all(self.reader())
            .await
            .map_err(Error::database("read dependencies"))
    }

    /// Whether this release knows what a row says; if not, that is told once.
    fn is_known(&self, row: &Model) -> bool {
        let is_known = DependencyKind::from_word(&row.kind).is_some()
            && BreakerState::from_word(&row.state).is_some();
        if !is_known && self.inner.foreign.begins(&row.name) {
            let (dependency, kind, state) = (&row.name, &row.kind, &row.state);
            let text = "a dependency of a kind that only a newer release knows is passed over";
            tracing::warn!(dependency, kind, state, "{text}");
        }
        is_known
    }
}

/// Rows that this release may write.
fn of_known_kind() -> SimpleExpr {
    Column::Kind.is_in(DependencyKind::ALL.map(DependencyKind::word))
}

fn fresh(name: &str, kind: DependencyKind, now: i64) -> Model {
    Model {
        name: name.to_owned(),
        kind: kind.word().to_owned(),
        state: BreakerState::Closed.word().to_owned(),
        found_by: None,
        since: now,
        last_error: None,
        cut_off_at: None,
        cut_off_by: None,
        cut_off_reason: None,
        cut_off_until: None,
    }
}

/// Sets the hand switch, and nothing else, of those for which `which` holds.
async fn switch(
    txn: &sea_orm::DatabaseTransaction,
    which: SimpleExpr,
    cut_off: Option<CutOff>,
) -> Result<u64, Error> {
    let micros = |at: Option<Timestamp>| Expr::value(at.map(Timestamp::as_micros));
    let (by, reason) =
        (cut_off.as_ref().map(|it| it.by.clone()), cut_off.as_ref().map(|it| it.reason.clone()));
    let done = Entity::update_many()
        .col_expr(Column::CutOffAt, micros(cut_off.as_ref().map(|it| it.since)))
        .col_expr(Column::CutOffBy, Expr::value(by))
        .col_expr(Column::CutOffReason, Expr::value(reason))
        .col_expr(Column::CutOffUntil, micros(cut_off.and_then(|it| it.expires_at)))
        .filter(which)
        .exec(txn)
        .await
        .map_err(Error::database("switch a dependency"))?;
    Ok(done.rows_affected)
}

/// Writes what a breaker said. The hand switch of a row that is known stays as it is.
async fn write(
    txn: &sea_orm::DatabaseTransaction,
    row: Model,
    is_known: bool,
) -> Result<(), Error> {
    let failed = Error::database("write a dependency");
    if !is_known {
        let row = row.into_active_model().reset_all();
        return Entity::insert(row).exec_without_returning(txn).await.map(drop).map_err(failed);
    }
    let done = Entity::update_many()
        .col_expr(Column::Kind, Expr::value(row.kind))
        .col_expr(Column::State, Expr::value(row.state))
        .col_expr(Column::FoundBy, Expr::value(row.found_by))
        .col_expr(Column::Since, Expr::value(row.since))
        .col_expr(Column::LastError, Expr::value(row.last_error))
        .filter(Column::Name.eq(row.name))
        .exec(txn)
        .await;
    done.map(drop).map_err(failed)
}

fn view(row: Model, users: usize, all: usize) -> Result<DependencyView, Error> {
    let reader = Reader::new("dependencies", &row.name);
    let kind = reader.word("kind", &row.kind, DependencyKind::from_word)?;
    let state = reader.word("state", &row.state, BreakerState::from_word)?;
    let cut_off = row.cut_off_at.map(|at| CutOff {
        by: row.cut_off_by.clone().unwrap_or_default(),
        reason: row.cut_off_reason.clone().unwrap_or_default(),
        since: Timestamp::from_micros(at),
        expires_at: at_opt(row.cut_off_until),
    });
    let of_all = match kind {
        DependencyKind::Cmdb
        | DependencyKind::PackageStore
        | DependencyKind::Broker
        | DependencyKind::Queue => true,
        DependencyKind::LoadBalancer | DependencyKind::Executor => false,
    };
    let groups = u32::try_from(if of_all { all } else { users }).unwrap_or(u32::MAX);
    let since = Timestamp::from_micros(row.since);
    Ok(DependencyView {
        kind,
        state,
        since,
        cut_off,
        groups,
        last_error: row.last_error,
        name: row.name,
    })
}
