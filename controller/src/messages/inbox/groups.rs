//! Messages by the group that they are about: one refresh at a time for each group, and each refresh answers
//! every message that came before it began.
//!
//! A group that the CMDB cannot give keeps nobody else waiting: however many messages it has, it holds one
//! permit, and only while the CMDB is asked; and one message, once that has failed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use capstan_core::Timestamp;
use capstan_core::message::Verdict;
use capstan_core::ports::is_cached_revision;
use capstan_store::crash;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::link::Link;
use super::{AGE, Change, WAITS, wait};
use crate::app::App;
use crate::messages::{Backoff, Wait};
use crate::problem::Problem;
use crate::sync::Removal;

/// Groups that the CMDB is asked for at the same time.
const CONCURRENCY: usize = 16;
/// So often the CMDB is asked, within about 15 s, for what it has told of and does not show: a group that is
/// new, a revision. What it tells may be ahead of what it answers.
const TRIES: u32 = 6;

/// What becomes of a message that a newer one stands for.
const SUPERSEDED: &str = "superseded";

/// A message that was not answered yet.
pub(super) struct Told {
    pub(super) tag: u64,
    pub(super) key: String,
    pub(super) change: Change,
    pub(super) time: Option<Timestamp>,
    /// The connection that it came by; it comes again when that is lost.
    pub(super) connection: u64,
    /// How often the CMDB did not show what this tells of.
    pub(super) tries: u32,
}

/// Groups that messages are about. There is no more in memory than the broker sends without an answer.
pub(super) struct Groups {
    app: Arc<App>,
    link: Arc<Link>,
    room: Semaphore,
    stop: CancellationToken,
    /// What has come for each group that somebody is at.
    lanes: Mutex<HashMap<String, Vec<Told>>>,
}

/// Ends a lane whose task panicked: the next message of its group begins another. What it held comes again.
struct Lane<'a>(&'a Groups, &'a str);

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().remove(self.1);
            let link = Arc::clone(&self.0.link);
            tokio::spawn(async move { link.close().await });
        }
    }
}

impl Groups {
    pub(super) fn new(app: Arc<App>, link: Arc<Link>, stop: CancellationToken) -> Self {
        Self { app, link, room: Semaphore::new(CONCURRENCY), stop, lanes: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Told>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message on.
    pub(super) fn take(self: &Arc<Self>, told: Told, tasks: &TaskTracker) {
        match self.lock().entry(told.change.group.clone()) {
            Entry::Occupied(mut lane) => lane.get_mut().push(told),
            Entry::Vacant(lane) => {
                let group = lane.key().clone();
                lane.insert(vec![told]);
                tasks.spawn(self.clone().serve(group));
            }
        }
    }

    /// Adds what has come, and drops what comes again by another connection.
    fn gather(&self, group: &str, held: &mut Vec<Told>) {
        let connection = self.link.connection();
        held.extend(self.lock().get_mut(group).map(std::mem::take).unwrap_or_default());
        held.retain(|told| told.connection == connection);
    }

    /// Ends a lane if nothing has come.
    fn ends(&self, group: &str) -> bool {
        let mut lanes = self.lock();
        let is_over = lanes.get(group).is_none_or(Vec::is_empty);
        if is_over {
            lanes.remove(group);
        }
        is_over
    }

    /// Refreshes a group as long as there are messages about it. When the process stops, they come again, to
    /// another one.
    async fn serve(self: Arc<Self>, group: String) {
        let _lane = Lane(&self, &group);
        let mut held = Vec::new();
        let mut backoff = Backoff::new(WAITS.0, WAITS.1);
        loop {
            self.gather(&group, &mut held);
            if !self.answer_known(&mut held, "known").await {
                held.clear();
            }
            if held.is_empty() {
                if self.ends(&group) {
                    return;
                }
                backoff.reset();
                continue;
            }
            let refreshed = tokio::select! {
                refreshed = self.refresh(&group, &mut held) => refreshed,
                () = self.stop.cancelled() => return,
            };
            if !self.judge(&mut held, refreshed).await {
                held.clear();
            }
            // The CMDB has answered, for the first time since one of these came: waits begin anew.
            if held.iter().any(|told| told.tries == 1) {
                backoff.reset();
            }
            if !held.is_empty() && wait(backoff.step(), &self.stop).await == Wait::Stopped {
                return;
            }
        }
    }

    /// Of what is still to be asked for, the newest stands for all: the rest is answered, so that a group that the CMDB
    /// cannot give takes one place of those that the broker has for us. `false`: it comes again, by another connection.
    async fn supersede(&self, held: &mut Vec<Told>) -> bool {
        held.sort_by_key(|told| told.change.revision);
        let Some(newest) = held.pop() else { return true };
        let older = std::mem::replace(held, vec![newest]);
        self.answer(older, SUPERSEDED).await
    }

    /// Asks the CMDB, when there is room for it; what has come until then is answered by it as well.
    async fn refresh(&self, group: &str, held: &mut Vec<Told>) -> Result<(), Problem> {
        let Ok(_permit) = self.room.acquire().await else { return Err(Problem::internal()) };
        self.gather(group, held);
        crash::point("message.taken");
        self.app.refresh_named(group, Removal::Held).await
    }

    /// Answers what the last refresh has settled. `false`: it comes again, by another connection.
    async fn judge(&self, held: &mut Vec<Told>, refreshed: Result<(), Problem>) -> bool {
        let Some(group) = held.first().map(|told| told.change.group.clone()) else { return true };
        match refreshed {
            Ok(()) => {
                crash::point("message.stored");
                adopt(&self.app, &group).await;
                if !self.answer_known(held, "refreshed").await {
                    return false;
                }
                // All of them, as a rule: what is left is worth more questions to the database.
                if held.is_empty() {
                    return true;
                }
                if is_held(&self.app, &group).await {
                    return self.answer(std::mem::take(held), "held").await;
                }
                let shown = self.revision(&group).await;
                if shown == Some(0) {
                    // The CMDB gives no revisions. What it shows was asked for after all of these came.
                    return self.answer(std::mem::take(held), "refreshed").await;
                }
                let (bare, left) =
                    std::mem::take(held).into_iter().partition(|told| told.change.revision <= 0);
                *held = left;
                if !self.answer(bare, "refreshed").await {
                    return false;
                }
                if held.is_empty() {
                    return true;
                }
                let shown = shown.map_or("none".to_owned(), |revision| revision.to_string());
                self.not_shown(held, |change| {
                    let Change { group, revision } = change;
                    format!("the CMDB has told of revision {revision} of {group} and shows {shown}")
                })
                .await
            }
            Err(problem) if problem.code == "group_unknown_to_cmdb" => {
                self.not_shown(held, |_| problem.detail.clone()).await
            }
            Err(problem) if is_final(&problem) => {
                self.lay_aside(std::mem::take(held), |_| problem.detail.clone()).await
            }
            Err(problem) => {
                tracing::debug!(group, why = problem.detail, "a refresh is tried again");
                self.supersede(held).await
            }
        }
    }

    /// Answers messages whose revision is in the cache. `false`: they come again, by another connection.
    async fn answer_known(&self, held: &mut Vec<Told>, outcome: &'static str) -> bool {
        let Some(group) = held.first().map(|told| told.change.group.clone()) else { return true };
        let Some(cached) = self.revision(&group).await else { return true };
        let is_known = |told: &Told| is_cached_revision(told.change.revision, cached);
        let (done, left) = std::mem::take(held).into_iter().partition(is_known);
        *held = left;
        self.answer(done, outcome).await
    }

    async fn revision(&self, group: &str) -> Option<i64> {
        let revision = self.app.store.group_revision(group).await;
        revision
            .inspect_err(|error| tracing::debug!(group, %error, "a revision cannot be read"))
            .ok()
            .flatten()
    }

    async fn answer(&self, done: Vec<Told>, outcome: &'static str) -> bool {
        for told in done {
            if let Some(time) = told.time.filter(|_| outcome != SUPERSEDED) {
                metrics::histogram!(AGE).record(self.app.store.now().since(time));
            }
            if !self.link.settle(told.tag, Verdict::Done, outcome).await {
                return false;
            }
            crash::point("message.settled");
        }
        true
    }

    /// Lays aside what the CMDB has often enough not shown; the rest is asked for again.
    async fn not_shown(&self, held: &mut Vec<Told>, why: impl Fn(&Change) -> String) -> bool {
        for told in held.iter_mut() {
            told.tries += 1;
        }
        let (over, left) = std::mem::take(held).into_iter().partition(|told| told.tries >= TRIES);
        *held = left;
        self.lay_aside(over, |change| format!("{}; it was asked {TRIES} times", why(change))).await
    }

    async fn lay_aside(&self, poison: Vec<Told>, why: impl Fn(&Change) -> String) -> bool {
        for told in poison {
            let reason = why(&told.change);
            tracing::warn!(key = told.key, reason, "a message of the CMDB is laid aside");
            if !self.link.settle(told.tag, Verdict::Poison(reason), "poison").await {
                return false;
            }
        }
        true
    }
}

/// Whether the last refresh of a group waits for a person's word.
async fn is_held(app: &App, external_id: &str) -> bool {
    let Ok(Some(group)) = app.store.group_id_by_external(external_id).await else { return false };
    let group = app.store.group(group).await.ok().flatten();
    group.is_some_and(|group| group.refresh_held.is_some())
}

/// Asks the hosts of a group that is new what they run, and gives new servers of a group its version.
async fn adopt(app: &Arc<App>, external_id: &str) {
    match app.store.group_id_by_external(external_id).await {
        Ok(Some(group)) => {
            app.adopt_later(group);
            app.scale_out_later(group);
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "a group is adopted with its first deployment"),
    }
}

/// Whether the CMDB will answer the same again.
fn is_final(problem: &Problem) -> bool {
    // One that refuses our token now may take another one later: messages wait for that.
    problem.code != "cmdb_unavailable"
        && problem.status != StatusCode::SERVICE_UNAVAILABLE
        && problem.status != StatusCode::INTERNAL_SERVER_ERROR
}
