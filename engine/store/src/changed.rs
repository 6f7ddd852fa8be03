//! Which deployments, servers and targets each version of a group has written, so that another process finds what its copy lacks
//! without looking at every row of the group.
//!
//! It is a help and not the truth, which is the `rev` of each row: it is written where there are other processes,
//! and when it has a gap, or a version wrote too many rows to be listed, all rows are looked at.

use std::collections::BTreeSet;

use capstan_core::GroupId;
use capstan_core::changes::Changes;
use capstan_core::event::EventType;
use capstan_core::state::{DeploymentState, GroupState};
use sea_orm::{ConnectionTrait, DbBackend, Value};
use uuid::Uuid;

use crate::Error;
use crate::bulk::{Existing, Rows, Step, in_dialect, rows, sql};
use crate::tables::CHANGED_ROWS;

/// Ids that are listed of one version; one that wrote more, as a plan does, is not listed.
const LISTED: usize = 1024;
/// Versions that are kept of a group with a deployment under way. A copy that is older looks at all rows.
const KEPT: i64 = 256;
/// Old ones are deleted after so many versions.
const DELETED_EVERY: i64 = 64;

/// What was written since a version.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) deployments: BTreeSet<Uuid>,
    pub(crate) servers: BTreeSet<Uuid>,
    pub(crate) targets: BTreeSet<Uuid>,
}

impl Changed {
    /// What a change that was not written has spoilt in a copy; `None`: it made rows, which a copy does not lose
    /// again. Deployments hold more than their rows say, so all of them are read again.
    pub(crate) fn by(state: &GroupState, changes: &Changes) -> Option<Self> {
        let makes_rows = changes.deployments.values().any(|change| change.created)
            || !changes.server_records.is_empty()
            || changes.events.iter().any(|event| event.kind == EventType::TargetAdded);
        (!makes_rows).then(|| Self {
            deployments: state.deployments().map(|row| row.deployment.id.0).collect(),
            servers: changes.servers.iter().map(|id| id.0).collect(),
            targets: targets_of(state, changes).collect(),
        })
    }

    /// Both.
    pub(crate) fn extend(&mut self, other: Self) {
        self.deployments.extend(other.deployments);
        self.servers.extend(other.servers);
        self.targets.extend(other.targets);
    }
}

fn targets_of<'a>(state: &'a GroupState, changes: &'a Changes) -> impl Iterator<Item = Uuid> + 'a {
    changes.deployments.iter().flat_map(|(id, change)| {
        let rows = state.deployment(*id).map(DeploymentState::targets).unwrap_or_default();
        change.targets.iter().filter_map(|place| Some(rows.get(*place)?.id.0))
    })
}

/// The statements that note what this change writes as version `rev`.
pub(crate) fn note(
    backend: DbBackend,
    state: &GroupState,
    changes: &Changes,
    rev: i64,
) -> Vec<Step> {
    let group = state.id().0;
    let servers = changes.servers.union(&changes.server_records).map(|id| id.0);
    let deployments = list(changes.deployments.keys().map(|id| id.0));
    let (servers, targets) = (list(servers), list(targets_of(state, changes)));
    let values = vec![group.into(), rev.into(), deployments.into(), servers.into(), targets.into()];
    let mut steps = rows(backend, &CHANGED_ROWS, Existing::Update, values);
    // Nobody follows a group in which nothing happens.
    let (is_idle, is_time) = (state.running().is_none(), rev % DELETED_EVERY == 0);
    if is_idle || is_time {
        let kept = if is_idle { 0 } else { KEPT };
        let text = "DELETE FROM changed_rows WHERE group_id = ? AND rev < ?";
        let values = [group.into(), (rev - kept).into()];
        let statement = in_dialect(backend, text, values);
        steps.push(Step::new(statement, CHANGED_ROWS.name, Rows::Any));
    }
    steps
}

/// Ids one after the other, 16 bytes each; `None`: too many.
fn list(ids: impl Iterator<Item = Uuid>) -> Option<Vec<u8>> {
    let ids: Vec<Uuid> = ids.take(LISTED + 1).collect();
    (ids.len() <= LISTED).then(|| ids.iter().flat_map(Uuid::as_bytes).copied().collect())
}

/// What was written to a group after version `known` and up to `version`; `None`: it is not known, and every row
/// has to be looked at.
pub(crate) async fn since(
    conn: &impl ConnectionTrait,
    group: GroupId,
    known: i64,
    version: i64,
) -> Result<Option<Changed>, Error> {
    if version - known > KEPT {
        return Ok(None);
    }
    let what = "read which rows have changed";
    let text = "SELECT deployments, servers, targets FROM changed_rows \
                WHERE group_id = ? AND rev > ? AND rev <= ?";
    let values: [Value; 3] = [group.0.into(), known.into(), version.into()];
    let rows = conn.query_all_raw(sql(conn, text, values)).await.map_err(Error::database(what))?;
    if i64::try_from(rows.len()) != Ok(version - known) {
        return Ok(None);
    }
    let mut changed = Changed::default();
    for row in rows {
        let Changed { deployments, servers, targets } = &mut changed;
        for (ids, column) in
            [(deployments, "deployments"), (servers, "servers"), (targets, "targets")]
        {
            let listed: Option<Vec<u8>> = row.try_get("", column).map_err(Error::database(what))?;
            let Some(listed) = listed else { return Ok(None) };
            ids.extend(listed.as_chunks().0.iter().map(|id| Uuid::from_bytes(*id)));
        }
    }
    Ok(Some(changed))
}
