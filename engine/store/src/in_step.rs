//! Keeps the committer in step with other processes over the same database: with what they have written,
//! and with the work that they leave. Where there are none it costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use capstan_core::effect::Effect;
use capstan_core::{GroupId, Timestamp};

use crate::cache::freshen;
use crate::commit::{Committer, hold};
use crate::operation::within;
use crate::round::Round;
use crate::{claims, load};

/// How often a process looks for work that another one has written, if nobody tells it.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long the database may take to say how far others are.
const ANSWER: Duration = Duration::from_secs(5);

impl Committer {
    /// How long until an effect is due; `None`: none is known.
    pub(crate) fn nap(&self) -> Option<Duration> {
        let now = self.inner.now();
        let due = self.next_due.map(|due| due.since(now));
        if !self.inner.member.has_others() {
            return due;
        }
        let every = self.look_every();
        let passed = self.looked_at.map_or(every, |at| at.elapsed());
        let look = every.saturating_sub(passed);
        Some(due.map_or(look, |due| due.min(look)))
    }

    /// Tells other processes of what a round left to them: due effects of groups of which this engine got
    /// nothing, and more than it can begin.
    pub(crate) fn nudge(&mut self, round: &Round, found: &[(Effect, i32)]) {
        let taken: BTreeSet<GroupId> = found.iter().map(|(effect, _)| effect.group).collect();
        let left = round.left.iter().filter(|group| !taken.contains(group));
        for group in left {
            self.inner.nudge(Some(*group), round.now);
        }
        // Who has its hands full mostly works on what it leaves: others would look in vain each time.
        let is_full = round.looks() && found.len() >= round.capacity();
        if is_full && self.told_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            self.told_at = Some(Instant::now());
            self.inner.nudge(None, round.now);
        }
    }

    fn look_every(&self) -> Duration {
        self.inner.queue.look_every().unwrap_or(LOOK_EVERY)
    }

    /// Brings copies in step with what other processes have written. A change that is decided on an old
    /// copy would be found out by its version; a refusal would not.
    pub(crate) async fn freshen(&mut self, groups: impl Iterator<Item = GroupId>) {
        if !self.inner.member.has_others() {
            return;
        }
        let mut known = BTreeMap::new();
        for group in groups {
            // What is being written is right when it is written, and thrown away if it is not.
            let is_ahead =
                self.writing.as_ref().is_some_and(|it| it.round.parts.contains_key(&group));
            if is_ahead {
                continue;
            }
            if let Some(state) = &**hold(&mut self.held, &self.inner, group).await {
                known.insert(group, state.group.version);
            }
        }
        if known.is_empty() {
            return;
        }
        let groups = known.keys().copied().collect();
        let versions = within(ANSWER, load::group_versions(&self.inner.decider, groups));
        let versions = match versions.await {
            Ok(versions) => versions,
            Err(error) => {
                tracing::warn!(error = %crate::chain(&error), "it is not known which copies are right");
                for group in known.into_keys() {
                    **hold(&mut self.held, &self.inner, group).await = None;
                }
                return;
            }
        };
        for (group, version) in known {
            if versions.get(&group) == Some(&version) {
                continue;
            }
            let copy = hold(&mut self.held, &self.inner, group).await;
            if let Err(error) = freshen(copy, &self.inner).await {
                tracing::warn!(error = %crate::chain(&error), "a copy could not be brought up to date");
                **copy = None;
            }
        }
    }

    /// Finds out when the next effect is due that another process has written.
    pub(crate) async fn look_for_work(&mut self) {
        if !self.inner.member.has_others() || self.taker.is_none() {
            return;
        }
        let every = self.look_every();
        let is_time = self.looked_at.is_none_or(|at| at.elapsed() >= every);
        if !is_time {
            return;
        }
        self.looked_at = Some(Instant::now());
        self.next_due = self.ask_next_due().await.unwrap_or(self.next_due);
    }

    /// When the next effect is due; `None`: it could not be found out.
    pub(crate) async fn ask_next_due(&self) -> Option<Option<Timestamp>> {
        let inner = &self.inner;
        let due = claims::next_due(&inner.decider, &inner.member, inner.now());
        let due = within(ANSWER, due).await;
        due.inspect_err(|error| {
            tracing::warn!(error = %crate::chain(error), "the next effect is not known");
        })
        .ok()
    }
}
