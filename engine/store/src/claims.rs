//! Who does what is due: effects are claimed by one engine process at a time.
//!
//! A claim is a mark, not a lease: it lasts until the effect is replaced, deleted or released. It lives
//! as long as its process: on a file the next start releases what the one before has left behind, on
//! a server others do (`processes`).

use capstan_core::effect::{Effect, EffectKind};
use capstan_core::{DeploymentId, GroupId, Timestamp};
use sea_orm::{ConnAcquireErr, ConnectionTrait, DbBackend, DbErr, FromQueryResult, Value};
use uuid::Uuid;

use crate::Error;
use crate::bulk::{among, quoted, sql};
use crate::processes::Member;
use crate::rows::{Reader, micros};
use crate::types::QueueMetrics;

/// Effects in one statement of [`pay`].
const PAID_AT_ONCE: usize = 1000;
/// How long MySQL is waited for in [`wait_for_claims`], as for any lock.
const LOCK_SECONDS: u32 = 2;

/// Kinds after this one are a newer version's; they are left to it.
const LAST_KIND: i16 = EffectKind::LAST_NUMBER;

/// Which effects may be taken: due, of a kind that is known, and nobody's.
const FREE: &str = "owner IS NULL AND due_at <= ? AND kind <= ?";
/// Several processes want any of the rows: none waits for one that another is taking.
const SKIP_LOCKED: &str = "FOR UPDATE SKIP LOCKED";
/// A group is worked on by one process if it can be: whoever has something of it gets the rest, and no two
/// lose comparisons to each other. Work that lies longer than [`PATIENCE`] is anybody's.
const PREFERRED: &str = "(due_at <= ? OR group_id NOT IN (SELECT group_id FROM effects \
                         WHERE owner IS NOT NULL AND owner <> ?))";
/// How long due work of a group waits for the process that works on it, in microseconds. When that process dies its
/// work is free at once; while it lives, another one is mostly in its way.
const PATIENCE: i64 = 5_000_000;

/// The variables of [`PREFERRED`].
fn preferred(owner: &str, now: Timestamp) -> [Value; 2] {
    [(now.as_micros() - PATIENCE).into(), owner.into()]
}

/// Takes effects that are due and that nobody has, those due longest first. With each comes how
/// often it was taken before: more than never means that it may have been started.
pub(crate) async fn claim(
    txn: &impl ConnectionTrait,
    owner: &Member,
    now: Timestamp,
    limit: u64,
) -> Result<Vec<(Effect, i32)>, Error> {
    let mut wanted = Wanted {
        condition: FREE.to_owned(),
        values: vec![micros(now), LAST_KIND.into()],
        limit: i64::try_from(limit).unwrap_or(i64::MAX),
    };
    if owner.has_others() {
        wanted.prefer(owner.id(), now);
        let groups = groups_of(txn, &wanted).await?;
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        wanted.among(txn.get_database_backend(), &groups);
    }
    let rows = match txn.get_database_backend() {
        DbBackend::MySql => take_mysql(txn, owner.id(), wanted).await?,
        DbBackend::Postgres | DbBackend::Sqlite | _ => take(txn, owner.id(), wanted).await?,
    };
    // One row that makes no sense must not keep the others from being done; it stays claimed.
    let readable = |row| {
        effect(row)
            .inspect_err(
                |error| tracing::error!(%error, "an effect cannot be read and is not done"),
            )
            .ok()
    };
    let mut claimed: Vec<(Effect, i32)> = rows.iter().filter_map(readable).collect();
    claimed.sort_by_key(|(effect, _)| effect.due_at);
    Ok(claimed)
}

/// Which effects are to be taken, and how many.
struct Wanted {
    condition: String,
    values: Vec<Value>,
    limit: i64,
}

impl Wanted {
    fn prefer(&mut self, owner: &str, now: Timestamp) {
        self.condition = format!("{} AND {PREFERRED}", self.condition);
        self.values.extend(preferred(owner, now));
    }

    fn among(&mut self, backend: DbBackend, groups: &[Uuid]) {
        let (among, groups) = among(backend, groups.iter().map(|group| Value::from(*group)));
        self.condition = format!("{} AND group_id {among}", self.condition);
        self.values.extend(groups);
    }
}

/// The groups of what is wanted, with their rows locked: of two processes that come at the same time one
/// gets a group. Those that somebody is just changing are left for later.
async fn groups_of(txn: &impl ConnectionTrait, wanted: &Wanted) -> Result<Vec<Uuid>, Error> {
    let what = "find groups with due effects";
    let text = format!(
        "SELECT id FROM {} WHERE id IN (SELECT group_id FROM effects WHERE {}) \
         ORDER BY id LIMIT ? {SKIP_LOCKED}",
        quoted(txn.get_database_backend(), "groups"),
        wanted.condition
    );
    let values = wanted.values.iter().cloned().chain([wanted.limit.into()]);
    let rows = txn.query_all_raw(sql(txn, &text, values)).await.map_err(Error::database(what))?;
    rows.iter().map(|row| row.try_get("", "id").map_err(Error::database(what))).collect()
}

/// Takes in one statement.
async fn take(
    txn: &impl ConnectionTrait,
    owner: &str,
    wanted: Wanted,
) -> Result<Vec<EffectRow>, Error> {
    let skip = if txn.get_database_backend() == DbBackend::Postgres { SKIP_LOCKED } else { "" };
    let text = format!(
        "UPDATE effects SET owner = ?, claims = claims + 1 WHERE (kind, subject) IN \
         (SELECT kind, subject FROM effects WHERE {} ORDER BY due_at LIMIT ? {skip}) \
         RETURNING kind, subject, group_id, deployment_id, due_at, claims",
        wanted.condition
    );
    let values = std::iter::once(owner.into()).chain(wanted.values).chain([wanted.limit.into()]);
    EffectRow::find_by_statement(sql(txn, &text, values))
        .all(txn)
        .await
        .map_err(Error::database("claim effects"))
}

/// Takes where an UPDATE gives no rows back and cannot read the table that it writes.
async fn take_mysql(
    txn: &impl ConnectionTrait,
    owner: &str,
    wanted: Wanted,
) -> Result<Vec<EffectRow>, Error> {
    let text = format!(
        "SELECT kind, subject, group_id, deployment_id, due_at, claims + 1 AS claims \
         FROM effects WHERE {} ORDER BY due_at LIMIT ? {SKIP_LOCKED}",
        wanted.condition
    );
    let values = wanted.values.into_iter().chain([wanted.limit.into()]);
    let mut rows = EffectRow::find_by_statement(sql(txn, &text, values))
        .all(txn)
        .await
        .map_err(Error::database("claim effects"))?;
    rows.sort_by_key(|row| (row.kind, row.subject));
    for some in rows.chunk_by(|a, b| a.kind == b.kind) {
        let subjects = some.iter().map(|row| row.subject.into());
        let (among, subjects) = among(DbBackend::MySql, subjects);
        let text = format!(
            "UPDATE effects SET owner = ?, claims = claims + 1 WHERE kind = ? AND subject {among}"
        );
        let values = [owner.into(), some[0].kind.into()].into_iter().chain(subjects);
        txn.execute_raw(sql(txn, &text, values)).await.map_err(Error::database("claim effects"))?;
    }
    Ok(rows)
}

#[derive(FromQueryResult)]
struct EffectRow {
    kind: i16,
    subject: Uuid,
    group_id: Uuid,
    deployment_id: Option<Uuid>,
    due_at: i64,
    claims: i32,
}

fn effect(row: &EffectRow) -> Result<(Effect, i32), Error> {
    let kind = EffectKind::from_columns(row.kind, row.subject, row.deployment_id);
    let kind = kind.ok_or_else(|| {
        let id = format!("{}/{}", row.kind, row.subject);
        Reader::new("effects", &id)
            .problem("it is of no known kind, or lacks its deployment".into())
    })?;
    let due_at = Timestamp::from_micros(row.due_at);
    Ok((Effect { kind, group: GroupId(row.group_id), due_at }, row.claims - 1))
}

/// Deployments of a group that have stages under way, also those that have ended.
pub(crate) async fn deployments_with_stages(
    conn: &impl ConnectionTrait,
    group: GroupId,
) -> Result<Vec<DeploymentId>, Error> {
    let what = "find stages under way";
    let text = "SELECT DISTINCT deployment_id FROM effects \
                WHERE group_id = ? AND kind = 1 AND deployment_id IS NOT NULL";
    let rows = conn
        .query_all_raw(sql(conn, text, [group.0.into()]))
        .await
        .map_err(Error::database(what))?;
    rows.iter()
        .map(|row| row.try_get("", "deployment_id").map(DeploymentId))
        .collect::<Result<_, _>>()
        .map_err(Error::database(what))
}

/// The latest instant that the rows of deployments under way hold: time must not run back behind it.
pub(crate) async fn latest_instant(
    conn: &impl ConnectionTrait,
) -> Result<Option<Timestamp>, Error> {
    let text = format!(
        "SELECT MAX(at) AS at FROM (\
         SELECT MAX(status_since) AS at FROM deployments UNION ALL \
         SELECT MAX(created_at) FROM deployments UNION ALL \
         SELECT MAX(observed_at) FROM {groups} UNION ALL \
         SELECT MAX(status_since) FROM targets WHERE deployment_id IN \
         (SELECT id FROM deployments WHERE running_group IS NOT NULL)) AS instants",
        groups = quoted(conn.get_database_backend(), "groups")
    );
    let what = "find the latest instant";
    let row = conn.query_one_raw(sql(conn, &text, [])).await.map_err(Error::database(what))?;
    let at: Option<i64> =
        row.map(|row| row.try_get("", "at")).transpose().map_err(Error::database(what))?.flatten();
    Ok(at.map(Timestamp::from_micros))
}

/// When the next effect that nobody has is due, as far as `owner` is to do it.
pub(crate) async fn next_due(
    conn: &impl ConnectionTrait,
    owner: &Member,
    now: Timestamp,
) -> Result<Option<Timestamp>, Error> {
    let mut text =
        format!("SELECT due_at FROM effects WHERE owner IS NULL AND kind <= {LAST_KIND}");
    let mut values = Vec::new();
    if owner.has_others() {
        text = format!("{text} AND {PREFERRED}");
        values.extend(preferred(owner.id(), now));
    }
    text.push_str(" ORDER BY due_at LIMIT 1");
    let what = "find the next effect";
    let row = conn.query_one_raw(sql(conn, &text, values)).await.map_err(Error::database(what))?;
    let due: Option<i64> =
        row.map(|row| row.try_get("", "due_at")).transpose().map_err(Error::database(what))?;
    Ok(due.map(Timestamp::from_micros))
}

/// What must become of a claimed effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owed {
    /// It is given back, as if it had not been claimed.
    Release,
    /// It becomes one that nobody has begun.
    Free,
    /// It is deleted.
    Delete,
}

/// Waits until no other transaction of `owner` that claims something is still to be decided. A commit whose
/// answer was given up on may end later: what is owed to its claims is not paid before, when they could not
/// be seen. On MySQL the connection has the lock, not the transaction, and lets go of it when it is given
/// back or has ended. A file has one writer.
pub(crate) async fn wait_for_claims(txn: &impl ConnectionTrait, owner: &str) -> Result<(), Error> {
    let failed = || Error::database("wait for earlier claims");
    match txn.get_database_backend() {
        DbBackend::Postgres => {
            let text = "SELECT pg_advisory_xact_lock(hashtextextended(?, 0))";
            txn.execute_raw(sql(txn, text, [owner.into()])).await.map(drop).map_err(failed())
        }
        DbBackend::MySql => {
            let text = format!("SELECT CAST(GET_LOCK(?, {LOCK_SECONDS}) AS SIGNED) AS got");
            let name = format!("capstan claims {owner}");
            let row = txn.query_one_raw(sql(txn, &text, [name.into()])).await.map_err(failed())?;
            let got: Option<i64> =
                row.map(|row| row.try_get("", "got")).transpose().map_err(failed())?.flatten();
            if got == Some(1) {
                return Ok(());
            }
            Err(failed()(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)))
        }
        DbBackend::Sqlite | _ => Ok(()),
    }
}

/// Does what is owed to effects that `owner` claimed. One that was replaced meanwhile is another
/// effect, though it has the same kind and subject: it is due at another instant, and stays.
pub(crate) async fn pay(
    txn: &impl ConnectionTrait,
    owner: &str,
    effects: &[Effect],
    owed: Owed,
) -> Result<(), Error> {
    wait_for_claims(txn, owner).await?;
    let what = match owed {
        Owed::Delete => "DELETE FROM effects",
        Owed::Free => "UPDATE effects SET owner = NULL, claims = 0",
        Owed::Release => "UPDATE effects SET owner = NULL, claims = claims - 1",
    };
    for some in effects.chunks(PAID_AT_ONCE) {
        let keys = vec!["(?, ?, ?)"; some.len()].join(", ");
        let text = format!("{what} WHERE owner = ? AND (kind, subject, due_at) IN ({keys})");
        let key = |effect: &Effect| {
            [effect.kind.number().into(), effect.kind.subject().into(), micros(effect.due_at)]
        };
        let values = std::iter::once(owner.into()).chain(some.iter().flat_map(key));
        txn.execute_raw(sql(txn, &text, values))
            .await
            .map_err(Error::database("change claimed effects"))?;
    }
    Ok(())
}

/// Releases everything that processes other than `owner` have. `claims` stays, so that whoever
/// takes an effect next knows that it may have been started. Gives the number of effects.
pub(crate) async fn release_all_but(txn: &impl ConnectionTrait, owner: &str) -> Result<u64, Error> {
    let text = "UPDATE effects SET owner = NULL WHERE owner IS NOT NULL AND owner <> ?";
    release_where(txn, text, owner).await
}

/// Releases everything that `owner` has; `claims` stays as above. Gives the number of effects.
pub(crate) async fn release_owner(txn: &impl ConnectionTrait, owner: &str) -> Result<u64, Error> {
    release_where(txn, "UPDATE effects SET owner = NULL WHERE owner = ?", owner).await
}

/// Releases what belongs to no process that is known: one that was taken over may have written a last
/// time after that. Gives the number of effects.
pub(crate) async fn release_orphans(conn: &impl ConnectionTrait) -> Result<u64, Error> {
    let text = "UPDATE effects SET owner = NULL WHERE owner IS NOT NULL \
                AND owner NOT IN (SELECT id FROM processes)";
    let done =
        conn.execute_raw(sql(conn, text, [])).await.map_err(Error::database("release effects"))?;
    Ok(done.rows_affected())
}

async fn release_where(txn: &impl ConnectionTrait, text: &str, owner: &str) -> Result<u64, Error> {
    let done = txn
        .execute_raw(sql(txn, text, [owner.into()]))
        .await
        .map_err(Error::database("release effects"))?;
    Ok(done.rows_affected())
}

/// How much is due that nobody has.
pub(crate) async fn overdue(
    conn: &impl ConnectionTrait,
    now: Timestamp,
) -> Result<QueueMetrics, Error> {
    let text = "SELECT COUNT(*) AS due, MIN(due_at) AS oldest FROM effects \
                WHERE owner IS NULL AND due_at <= ?";
    let what = "count due effects";
    let row =
        conn.query_one_raw(sql(conn, text, [micros(now)])).await.map_err(Error::database(what))?;
    let Some(row) = row else { return Ok(QueueMetrics::default()) };
    let due: i64 = row.try_get("", "due").map_err(Error::database(what))?;
    let oldest: Option<i64> = row.try_get("", "oldest").map_err(Error::database(what))?;
    Ok(QueueMetrics {
        effects_due: u64::try_from(due).unwrap_or(0),
        oldest_due_seconds: oldest
            .map_or(0.0, |oldest| now.since(Timestamp::from_micros(oldest)).as_secs_f64()),
    })
}
