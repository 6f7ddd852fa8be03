//! Copies of groups that are worked on, so that an input does not read ten thousand rows.
//!
//! A copy is used under its lock and is right as long as the group's version in the database is the
//! copy's: every transaction that changes a group compares and raises that version, and a copy whose
//! comparison failed is thrown away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use capstan_core::state::GroupState;
use capstan_core::{DeploymentId, GroupId};
use sea_orm::ConnectionTrait;
use tokio::sync::OwnedMutexGuard;

use crate::{Error, claims, load};

/// Groups kept at once; more are kept only while they are in use.
const GROUPS_KEPT: usize = 256;

/// A group's copy; empty until it is loaded.
pub(crate) type Copy = Option<GroupState>;

#[derive(Debug, Default)]
pub(crate) struct Cache {
    groups: Mutex<Groups>,
}

#[derive(Debug, Default)]
struct Groups {
    copies: HashMap<GroupId, Kept>,
    uses: u64,
}

#[derive(Debug)]
struct Kept {
    copy: Arc<tokio::sync::Mutex<Copy>>,
    last_use: u64,
}

impl Cache {
    /// The group's copy, locked. It may be empty: see [`fill`].
    pub(crate) async fn lock(&self, group: GroupId) -> OwnedMutexGuard<Copy> {
        let copy = self.slot(group);
        copy.lock_owned().await
    }

    /// The same, if nobody has it.
    pub(crate) fn try_lock(&self, group: GroupId) -> Option<OwnedMutexGuard<Copy>> {
        self.slot(group).try_lock_owned().ok()
    }

    fn slot(&self, group: GroupId) -> Arc<tokio::sync::Mutex<Copy>> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.uses += 1;
        let now = groups.uses;
        if groups.copies.len() >= GROUPS_KEPT && !groups.copies.contains_key(&group) {
            groups.drop_oldest();
        }
        let kept = groups
            .copies
            .entry(group)
            .or_insert_with(|| Kept { copy: Arc::default(), last_use: now });
        kept.last_use = now;
        Arc::clone(&kept.copy)
    }
}

/// Whether somebody else waits for a copy that is locked. Besides those who wait, the cache and the
/// lock know it.
pub(crate) fn is_wanted(copy: &OwnedMutexGuard<Copy>) -> bool {
    Arc::strong_count(OwnedMutexGuard::mutex(copy)) > 2
}

impl Groups {
    /// Drops the copy that was not used for the longest time and that nobody holds.
    fn drop_oldest(&mut self) {
        let idle = self.copies.iter().filter(|(_, kept)| Arc::strong_count(&kept.copy) == 1);
        let oldest = idle.min_by_key(|(_, kept)| kept.last_use).map(|(group, _)| *group);
        if let Some(group) = oldest {
            self.copies.remove(&group);
        }
    }
}

/// Makes sure that the copy holds the group, its running deployment and the ones that are named.
/// Returns whether the group exists; a deployment that does not exist is simply not there.
pub(crate) async fn fill<C: ConnectionTrait>(
    copy: &mut Copy,
    conn: &C,
    group: GroupId,
    named: impl IntoIterator<Item = DeploymentId>,
) -> Result<bool, Error> {
    if copy.is_none() {
        let Some(mut state) = load::group(conn, group).await? else { return Ok(false) };
        if let Some(running) = load::running_deployment(conn, group).await? {
            load::deployment(conn, &mut state, running).await?;
        }
        // One that has ended and still has stages under way: a newer order on its servers ends them.
        for id in claims::deployments_with_stages(conn, group).await? {
            if state.deployment(id).is_none() {
                load::deployment(conn, &mut state, id).await?;
            }
        }
        *copy = Some(state);
    }
    if let Some(state) = copy {
        for id in named {
            if state.deployment(id).is_none() {
                load::deployment(conn, state, id).await?;
            }
        }
    }
    Ok(true)
}

/// Forgets deployments that have ended and have nothing under way.
pub(crate) fn forget_ended(state: &mut GroupState) {
    let ended: Vec<DeploymentId> = state
        .deployments()
        .filter(|row| !row.deployment.status.is_running() && row.counts().under_way() == 0)
        .map(|row| row.deployment.id)
        .collect();
    for id in ended {
        state.forget(id);
    }
}
