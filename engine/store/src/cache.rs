//! Copies of groups that are worked on, so that an input does not read ten thousand rows.
//!
//! A copy is used under its lock and is right as long as the group's version in the database is the
//! copy's: every transaction that changes a group compares and raises that version, and a copy whose
//! comparison failed is brought up to date, or thrown away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use capstan_core::state::GroupState;
use capstan_core::{DeploymentId, GroupId};
use sea_orm::ConnectionTrait;
use tokio::sync::OwnedMutexGuard;

use crate::changed::Changed;
use crate::operation::within;
use crate::part::Part;
use crate::{Error, Inner, claims, load};

/// Groups kept at once; more are kept only while they are in use.
const GROUPS_KEPT: usize = 256;
/// How long a group may take to be read.
const READ_LIMIT: Duration = Duration::from_secs(10);

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
pub(crate) async fn fill(
    copy: &mut Copy,
    inner: &Inner,
    group: GroupId,
    named: impl IntoIterator<Item = DeploymentId>,
) -> Result<bool, Error> {
    let named: Vec<DeploymentId> = named.into_iter().collect();
    let lacks = |state: &GroupState| named.iter().any(|id| state.deployment(*id).is_none());
    if copy.as_ref().is_some_and(|state| !lacks(state)) {
        return Ok(true);
    }
    let known = copy.take();
    within(READ_LIMIT, async {
        // All of it as it was at one instant, whatever others commit meanwhile.
        let conn = inner.snapshot().await?;
        let mut state = match known {
            // What is added must be as old as what is there.
            Some(state) if is_current(&conn, inner, &state).await? => state,
            Some(_) | None => match load::group(&conn, group).await? {
                Some(state) => state,
                None => return Ok(false),
            },
        };
        add_running(&conn, &mut state).await?;
        for id in named {
            add(&conn, &mut state, id).await?;
        }
        *copy = Some(state);
        Ok(true)
    })
    .await
}

/// Brings a copy in step with what other processes have written.
pub(crate) async fn freshen(copy: &mut Copy, inner: &Inner) -> Result<(), Error> {
    if !inner.member.has_others() || copy.is_none() {
        return Ok(());
    }
    let known = copy.as_ref().map(|state| (state.id(), state.group.version));
    let Some((group, version)) = known else { return Ok(()) };
    within(READ_LIMIT, async {
        if load::group_version(&inner.decider, group).await? == Some(version) {
            return Ok(());
        }
        // If it cannot be read, it is read anew next time.
        let Some(mut state) = copy.take() else { return Ok(()) };
        let conn = inner.snapshot().await?;
        load::refresh(&conn, &mut state, version).await?;
        forget_ended(&mut state);
        *copy = Some(state);
        Ok(())
    })
    .await
}

/// Takes back what `parts` have decided on a copy, which is not written since others were faster. What cannot be taken
/// back is read anew next time.
pub(crate) async fn take_back<'a>(
    copy: &mut Copy,
    inner: &Inner,
    parts: impl Iterator<Item = &'a Part>,
) {
    let Some(mut state) = copy.take() else { return };
    let (mut known, mut spoilt) = (state.group.version, Changed::default());
    for part in parts {
        let Some(more) = Changed::by(&state, &part.changes) else { return };
        spoilt.extend(more);
        known = known.min(part.version);
    }
    let taken_back = within(READ_LIMIT, async {
        let conn = inner.snapshot().await?;
        load::take_back(&conn, &mut state, known, spoilt).await
    });
    match taken_back.await {
        Ok(true) => {
            forget_ended(&mut state);
            *copy = Some(state);
        }
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(error = %crate::chain(&error), "a copy could not be brought up to date");
        }
    }
}

async fn is_current(
    conn: &impl ConnectionTrait,
    inner: &Inner,
    state: &GroupState,
) -> Result<bool, Error> {
    if !inner.member.has_others() {
        return Ok(true);
    }
    Ok(load::group_version(conn, state.id()).await? == Some(state.group.version))
}

/// Adds the running deployment, and those that have ended and still have stages under way: a newer order
/// on their servers ends them.
async fn add_running(conn: &impl ConnectionTrait, state: &mut GroupState) -> Result<(), Error> {
    let group = state.id();
    if let Some(running) = load::running_deployment(conn, group).await? {
        add(conn, state, running).await?;
    }
    for id in claims::deployments_with_stages(conn, group).await? {
        add(conn, state, id).await?;
    }
    Ok(())
}

async fn add(
    conn: &impl ConnectionTrait,
    state: &mut GroupState,
    id: DeploymentId,
) -> Result<(), Error> {
    if state.deployment(id).is_none() {
        load::deployment(conn, state, id).await?;
    }
    Ok(())
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
