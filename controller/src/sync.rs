//! The cache of the CMDB: refreshed before each deployment, when the CMDB tells of a change, and
//! from time to time.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use capstan_core::GroupId;
use capstan_core::dependency::{CMDB, Without};
use capstan_core::input::Answer;
use capstan_core::ports::CmdbGroup;
use capstan_core::record::ScaleOut;
use capstan_core::view::GroupView;
use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::problem::Problem;

/// Groups that are written at the same time when all are synced.
const CONCURRENCY: usize = 8;
/// How long a refresh waits for the CMDB.
const CMDB_LIMIT: Duration = Duration::from_secs(10);
/// How long a deployment waits for the refresh before it.
const PATIENCE: Duration = Duration::from_secs(5);
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
    /// Refreshes a group from the CMDB; merged with a refresh of it that is under way.
    pub(crate) async fn refresh(
        self: &Arc<Self>,
        group: GroupId,
        removal: Removal,
    ) -> Result<Answer, Problem> {
        let external_id = self.group(group).await?.external_id;
        self.refresh_named(&external_id, removal).await
    }

    /// The same for a group that the CMDB names, and that need not be known yet.
    pub(crate) async fn refresh_named(
        self: &Arc<Self>,
        external_id: &str,
        removal: Removal,
    ) -> Result<Answer, Problem> {
        let external_id = external_id.to_owned();
        let confirmed = removal == Removal::Confirmed;
        let app = self.clone();
        let key = (external_id.clone(), confirmed);
        let work = async move { app.refresh_now(&external_id, confirmed).await };
        self.refreshes.run(key, work).await.unwrap_or_else(|| Err(Problem::internal()))
    }

    async fn refresh_now(&self, external_id: &str, confirmed: bool) -> Result<Answer, Problem> {
        let record = tokio::time::timeout(CMDB_LIMIT, self.ports.cmdb.group(external_id)).await;
        let record = match record {
            Ok(Ok(Some(record))) => record,
            Ok(Ok(None)) => return Err(unknown_to_cmdb(external_id, &self.ports.cmdb.faults())),
            Ok(Err(error)) => return Err(Problem::driver("cmdb_unavailable", "CMDB", &error)),
            Err(_) => {
                return Err(Problem::unavailable("cmdb_unavailable", "CMDB: no answer in time"));
            }
        };
        self.take(record, confirmed).await.map(|(_, answer)| answer)
    }

    async fn take(&self, record: CmdbGroup, confirmed: bool) -> Result<(GroupId, Answer), Problem> {
        let external_id = record.id.clone();
        let (group, answer) = match self.store.sync_group(record, confirmed).await {
            Ok(synced) => synced,
            Err(error) => return Err(self.explain(error).await),
        };
        if let Answer::RefreshHeld(reason) = &answer {
            tracing::warn!(group = external_id, reason, "a refresh waits for a person's word");
        }
        self.look_at_new(group).await?;
        Ok((group, answer))
    }

    /// Refreshes where it can and goes on from the cache where it cannot: a release must go out
    /// while the CMDB is down. Gives what is done without then, and how old the cache is.
    pub(crate) async fn refresh_if_possible(
        self: &Arc<Self>,
        group: &GroupView,
    ) -> Option<Without> {
        // A refresh that takes longer goes on by itself; nobody waits for it here.
        let why = match tokio::time::timeout(PATIENCE, self.refresh(group.id, Removal::Held)).await
        {
            Ok(Ok(_)) => return None,
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
        let records = self.ports.cmdb.groups().await.map_err(|error| error.to_string())?;
        for fault in self.ports.cmdb.faults() {
            tracing::warn!(fault, "the CMDB has a broken entry");
        }
        let count = records.len();
        let outcomes: Vec<Result<(), String>> = stream::iter(records)
            .map(|record| self.sync_one(record))
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        let problems: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
        tracing::info!(groups = count, failed = problems.len(), "synced with the CMDB");
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    async fn sync_one(self: &Arc<Self>, record: CmdbGroup) -> Result<(), String> {
        let external_id = record.id.clone();
        let is_automatic = record.scale_out == ScaleOut::Automatic;
        match self.take(record, false).await {
            Ok((group, _)) => {
                self.adopt_later(group);
                if is_automatic {
                    self.scale_out_later(group);
                }
                Ok(())
            }
            Err(problem) => Err(format!("group {external_id}: {}", problem.detail)),
        }
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
