//! The cache of the CMDB: refreshed before each deployment, when the CMDB tells of a change, and
//! from time to time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use capstan_core::GroupId;
use capstan_core::dependency::{CMDB, Without};
use capstan_core::input::{Answer, Reading};
use capstan_core::ports::CmdbGroup;
use capstan_core::record::ScaleOut;
use capstan_core::view::GroupView;
use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use capstan_store::{RefreshTurn, RefreshWish, Refreshing};

use crate::app::App;
use crate::problem::Problem;

/// Groups that are written at the same time when all are synced.
const CONCURRENCY: usize = 8;
/// So many problems of one sync are told. After as many questions in a row, for groups by themselves, that were not
/// answered no more are asked.
const SHOWN: usize = 5;
/// In place of the number of a wish: the group is new.
const NEW: i64 = -1;
/// How long a refresh waits for the CMDB.
const CMDB_LIMIT: Duration = Duration::from_secs(10);
/// How long a deployment waits for the refresh before it.
const PATIENCE: Duration = Duration::from_secs(5);
/// After so long a refresh in another process is given up. It takes [`CMDB_LIMIT`], a look at hosts that are
/// new, and a write.
const LEASE: Duration = Duration::from_secs(20);
/// How often it is looked whether a refresh in another process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Wait after a sync that failed; doubled each time until one succeeds.
const RETRY: Duration = Duration::from_secs(5);

/// Whether a person confirms that a refresh may remove many servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// They confirm it.
    Confirmed,
    /// Nobody was asked.
    Held,
}

impl App {
    /// Refreshes a group from the CMDB; merged with every other refresh of it, here or in another process,
    /// that begins after this call. One that is under way may have asked the CMDB before something changed
    /// there that the caller knows of.
    pub(crate) async fn refresh(
        self: &Arc<Self>,
        group: GroupId,
        removal: Removal,
    ) -> Result<(), Problem> {
        let external_id = self.group(group).await?.external_id;
        self.refresh_known(group, external_id, removal).await
    }

    async fn refresh_known(
        self: &Arc<Self>,
        group: GroupId,
        external_id: String,
        removal: Removal,
    ) -> Result<(), Problem> {
        let app = self.clone();
        let refreshed = match removal {
            Removal::Held => {
                let wish = self.store.refresh_wish(group).await?;
                let key = (external_id.clone(), false, wish.number());
                let work = async move { app.refresh_in_turn(wish, &external_id).await };
                self.refreshes.begin(key, work).await
            }
            // It says more than those that others ask for, and a person asks rarely.
            Removal::Confirmed => {
                let key = (external_id.clone(), true, 0);
                let work = async move { app.refresh_confirmed(group, &external_id).await };
                self.refreshes.begin(key, work).await
            }
        };
        refreshed.unwrap_or_else(|| Err(Problem::internal()))
    }

    /// The same for a group that the CMDB names, and that need not be known yet.
    pub(crate) async fn refresh_named(
        self: &Arc<Self>,
        external_id: &str,
        removal: Removal,
    ) -> Result<(), Problem> {
        let known = self.store.group_id_by_external(external_id).await?;
        let external_id = external_id.to_owned();
        if let Some(group) = known {
            return self.refresh_known(group, external_id, removal).await;
        }
        let app = self.clone();
        let confirmed = removal == Removal::Confirmed;
        // Apart from those that it may lead to.
        let key = (external_id.clone(), confirmed, NEW);
        let work = async move { app.refresh_new(external_id, removal).await };
        self.refreshes.begin(key, work).await.unwrap_or_else(|| Err(Problem::internal()))
    }

    /// The first refresh of a group. Another process may have been faster; then it is one like all others.
    async fn refresh_new(
        self: &Arc<Self>,
        external_id: String,
        removal: Removal,
    ) -> Result<(), Problem> {
        let confirmed = removal == Removal::Confirmed;
        match self.refresh_now(&external_id, confirmed, Reading::Listed).await? {
            (group, Answer::ReadAlone) => self.refresh_known(group, external_id, removal).await,
            _ => Ok(()),
        }
    }

    /// Refreshes a group, or waits for a process that does.
    async fn refresh_in_turn(&self, wish: RefreshWish, external_id: &str) -> Result<(), Problem> {
        let turn = loop {
            match self.store.refresh_begin(wish, LEASE).await? {
                Refreshing::Begun(turn) => break turn,
                Refreshing::UnderWay => tokio::time::sleep(LOOK_EVERY).await,
                Refreshing::Ended(told) => return shared::outcome(&told),
            }
        };
        self.refresh_on(turn, external_id, false).await
    }

    /// A person's word counts for a refresh of its own, which waits for its turn like all others.
    async fn refresh_confirmed(&self, group: GroupId, external_id: &str) -> Result<(), Problem> {
        loop {
            let wish = self.store.refresh_wish(group).await?;
            match self.store.refresh_begin(wish, LEASE).await? {
                Refreshing::Begun(turn) => return self.refresh_on(turn, external_id, true).await,
                Refreshing::UnderWay => tokio::time::sleep(LOOK_EVERY).await,
                // By one that had nobody's word.
                Refreshing::Ended(_) => {}
            }
        }
    }

    async fn refresh_on(
        &self,
        turn: RefreshTurn,
        external_id: &str,
        confirmed: bool,
    ) -> Result<(), Problem> {
        let result = self.refresh_now(external_id, confirmed, Reading::Alone).await.map(drop);
        let told = shared::told(&result);
        if let Err(error) = self.store.refresh_end(turn, told.as_deref()).await {
            let error = capstan_store::chain(&error);
            tracing::warn!(%error, "others who wait for a refresh will try for themselves");
        }
        result
    }

    /// One at a time for each group in this process.
    async fn refresh_now(
        &self,
        external_id: &str,
        confirmed: bool,
        reading: Reading,
    ) -> Result<(GroupId, Answer), Problem> {
        let _turn = self.turns.of(external_id).await;
        let record = tokio::time::timeout(CMDB_LIMIT, self.ports.cmdb.group(external_id)).await;
        let record = match record {
            Ok(Ok(Some(record))) => record,
            Ok(Ok(None)) => return Err(unknown_to_cmdb(external_id, &self.ports.cmdb.faults())),
            Ok(Err(error)) => return Err(Problem::driver("cmdb_unavailable", "CMDB", &error)),
            Err(_) => {
                return Err(Problem::unavailable("cmdb_unavailable", "CMDB: no answer in time"));
            }
        };
        self.take(record, confirmed, reading).await
    }

    async fn take(
        &self,
        record: CmdbGroup,
        confirmed: bool,
        reading: Reading,
    ) -> Result<(GroupId, Answer), Problem> {
        let external_id = record.id.clone();
        let hold_above = (!confirmed).then_some(self.settings.hold_above);
        let synced = match self.store.group_refresh(record, hold_above, reading).await {
            Ok(synced) => synced,
            Err(error) => return Err(self.explain(error).await),
        };
        if let (_, Answer::RefreshHeld(reason)) = &synced {
            tracing::warn!(group = external_id, reason, "a refresh waits for a person's word");
        }
        self.look_at_new(synced.0).await?;
        Ok(synced)
    }

    /// Refreshes where it can and goes on from the cache where it cannot: a release must go out
    /// while the CMDB is down. Gives what is done without then, and how old the cache is.
    pub(crate) async fn refresh_if_possible(
        self: &Arc<Self>,
        group: &GroupView,
    ) -> Option<Without> {
        // A refresh that takes longer goes on by itself; nobody waits for it here.
        let refresh = Box::pin(self.refresh(group.id, Removal::Held));
        let why = match tokio::time::timeout(PATIENCE, refresh).await {
            Ok(Ok(())) => return None,
            Ok(Err(Problem { detail, .. })) => detail,
            Err(_) => "it takes long".to_owned(),
        };
        let synced_at = group.synced_at.whole_second();
        let now = self.store.now();
        let seconds = now.since(synced_at).as_secs();
        tracing::warn!(group = group.name, why, seconds, "going on from the cache of the CMDB");
        let text = format!(
            "the CMDB gave no record ({why}); the cached one of {synced_at} counts, {seconds} s old"
        );
        Some(Without { dependency: CMDB.to_owned(), since: now, text })
    }

    /// Takes every group that the CMDB gives.
    async fn sync_all(self: &Arc<Self>) -> Result<(), String> {
        let mut records = self.ports.cmdb.groups().await.map_err(|error| error.to_string())?;
        // Those that cannot be had must not come before the same others each time.
        fastrand::shuffle(&mut records);
        for fault in self.ports.cmdb.faults() {
            tracing::warn!(fault, "the CMDB has a broken entry");
        }
        let count = records.len();
        let unanswered = AtomicUsize::new(0);
        let outcomes: Vec<Result<(), String>> = stream::iter(records)
            .map(|record| self.sync_one(record, &unanswered))
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        let problems: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
        tracing::info!(groups = count, failed = problems.len(), "synced with the CMDB");
        match problems.len() {
            0 => Ok(()),
            1..=SHOWN => Err(problems.join("; ")),
            more => Err(format!("{}; and {} more", problems[..SHOWN].join("; "), more - SHOWN)),
        }
    }

    /// `unanswered`: groups in a row for which the CMDB was asked by themselves and did not answer.
    async fn sync_one(
        self: &Arc<Self>,
        record: CmdbGroup,
        unanswered: &AtomicUsize,
    ) -> Result<(), String> {
        let external_id = record.id.clone();
        let is_automatic = record.scale_out == ScaleOut::Automatic;
        let told = |problem: Problem| format!("group {external_id}: {}", problem.detail);
        let (group, answer) = self.take(record, false, Reading::Listed).await.map_err(told)?;
        if answer == Answer::ReadAlone {
            if unanswered.load(Ordering::Relaxed) >= SHOWN {
                return Err(format!("group {external_id}: it has changed, and is asked for later"));
            }
            let refreshed = self.refresh_known(group, external_id.clone(), Removal::Held).await;
            match &refreshed {
                Err(problem) if problem.status == StatusCode::SERVICE_UNAVAILABLE => {
                    unanswered.fetch_add(1, Ordering::Relaxed);
                }
                // The CMDB is there.
                Ok(()) | Err(_) => unanswered.store(0, Ordering::Relaxed),
            }
            refreshed.map_err(told)?;
        }
        self.adopt_later(group);
        if is_automatic {
            self.scale_out_later(group);
        }
        Ok(())
    }

    /// Keeps the cache right until `shutdown`.
    pub(crate) async fn run_sync(self: Arc<Self>, shutdown: CancellationToken) {
        let mut retry = RETRY;
        loop {
            let outcome = tokio::select! {
                outcome = self.sync_all() => outcome,
                () = shutdown.cancelled() => return,
            };
            let mut wait = self.settings.sync_every;
            if let Err(problem) = &outcome {
                tracing::warn!(problem, "the sync with the CMDB failed; it is repeated");
                wait = wait.min(retry);
                retry = wait * 2;
            } else {
                retry = RETRY;
            }
            self.note_sync(outcome);
            tokio::select! {
                () = self.until_changed() => {}
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Returns when the CMDB tells of a change. One that cannot tell leaves it to the timer.
    async fn until_changed(&self) {
        if let Err(error) = self.ports.cmdb.changed().await {
            tracing::warn!(%error, "the CMDB's changes cannot be followed; asking from time to time");
            std::future::pending::<()>().await;
        }
    }
}

fn unknown_to_cmdb(external_id: &str, faults: &[String]) -> Problem {
    let mut detail = format!("the CMDB gives no group {external_id:?}");
    if !faults.is_empty() {
        detail = format!("{detail}; its faults: {}", faults.join("; "));
    }
    Problem::new(StatusCode::CONFLICT, "group_unknown_to_cmdb", detail)
}

/// How a refresh ended, as processes tell each other.
mod shared {
    use serde::{Deserialize, Serialize};

    use super::Problem;
    use axum::http::StatusCode;

    /// What the CMDB is to blame for, and would tell others as well.
    const CODES: [&str; 2] = ["cmdb_unavailable", "group_unknown_to_cmdb"];

    #[derive(Serialize, Deserialize)]
    struct Told {
        status: u16,
        code: String,
        detail: String,
    }

    /// What is told; `None`: others are to try for themselves.
    pub(super) fn told(result: &Result<(), Problem>) -> Option<String> {
        let Err(problem) = result else { return Some(String::new()) };
        let told = Told {
            status: problem.status.as_u16(),
            code: CODES.into_iter().find(|code| *code == problem.code)?.to_owned(),
            detail: problem.detail.clone(),
        };
        serde_json::to_string(&told).ok()
    }

    /// What was told.
    pub(super) fn outcome(told: &str) -> Result<(), Problem> {
        if told.is_empty() {
            return Ok(());
        }
        let told: Told = serde_json::from_str(told).map_err(|error| {
            tracing::error!(%error, "another process told of a refresh what cannot be read");
            Problem::internal()
        })?;
        let code = CODES.into_iter().find(|code| *code == told.code);
        let status = StatusCode::from_u16(told.status);
        let (Some(code), Ok(status)) = (code, status) else { return Err(Problem::internal()) };
        Err(match status {
            StatusCode::SERVICE_UNAVAILABLE => Problem::unavailable(code, told.detail),
            _ => Problem::new(status, code, told.detail),
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_is_told_is_what_is_heard() {
            assert!(outcome(&told(&Ok(())).expect("it is told")).is_ok());
            for problem in [
                Problem::unavailable("cmdb_unavailable", "CMDB: no answer in time"),
                Problem::new(StatusCode::CONFLICT, "group_unknown_to_cmdb", "the CMDB gives none"),
            ] {
                let heard = told(&Err(problem.clone())).map(|told| outcome(&told));
                let heard = heard.expect("it is told").expect_err("a problem");
                assert_eq!(format!("{heard:?}"), format!("{problem:?}"));
            }
            assert_eq!(told(&Err(Problem::internal())), None, "others may fare better");
        }
    }
}
