//! What every handler shares.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use capstan_core::input::{Answer, Input, Refused};
use capstan_core::outages::Outages;
use capstan_core::view::{DeploymentView, GroupView};
use capstan_core::{DeploymentId, GroupId, Timestamp};
use capstan_store::{Asked, Store, SubmitError};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::flight::{Flights, Turns};
use crate::problem::Problem;
use crate::{Ports, Settings};

/// Uploads at the same time; each holds an open file and a connection.
const UPLOADS: usize = 32;
/// Attempts to sign in at the same time; each takes a fixed time, which bounds guessing.
const LOGINS: usize = 4;
/// Groups that are asked at the same time what they run, after a sync.
const BACKGROUND: usize = 4;

/// The state behind every handler.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) ports: Ports,
    pub(crate) settings: Settings,
    /// Refreshes under way.
    pub(crate) refreshes: Arc<Flights<RefreshKey, Result<(), Problem>>>,
    /// One refresh of a group at a time.
    pub(crate) turns: Turns,
    /// Adoptions under way.
    pub(crate) adoptions: Arc<Flights<GroupId, ()>>,
    /// Adoptions that nobody waits for, at the same time.
    pub(crate) background: Semaphore,
    /// One scaleout by Capstan itself is decided at a time: what it rests on is read before it is made.
    pub(crate) scaling_out: tokio::sync::Mutex<()>,
    /// Live streams that may still be opened.
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) uploads: Semaphore,
    pub(crate) logins: Semaphore,
    /// Told when webhooks were changed here.
    pub(crate) webhooks_changed: Notify,
    /// Ends the live streams, so that a server that shuts down gets rid of its connections.
    pub(crate) stopping: CancellationToken,
    /// Load balancers that cannot be looked at.
    pub(crate) outages: Outages,
    sync_state: Mutex<SyncState>,
}

/// A group's id in the CMDB, whether a person confirms, and which refresh of all processes fulfils the wish.
pub(crate) type RefreshKey = (String, bool, i64);

/// How the last sync of all groups went.
#[derive(Debug, Clone, Default)]
pub(crate) struct SyncState {
    /// When the CMDB last gave all its groups.
    pub(crate) last_success_at: Option<Timestamp>,
    /// Why it last did not.
    pub(crate) problem: Option<String>,
}

impl App {
    pub(crate) fn new(store: Store, ports: Ports, settings: Settings) -> Self {
        Self {
            refreshes: Arc::default(),
            turns: Turns::default(),
            adoptions: Arc::default(),
            background: Semaphore::new(BACKGROUND),
            scaling_out: tokio::sync::Mutex::default(),
            streams: Arc::new(Semaphore::new(settings.max_streams)),
            uploads: Semaphore::new(UPLOADS),
            logins: Semaphore::new(LOGINS),
            webhooks_changed: Notify::new(),
            stopping: CancellationToken::new(),
            outages: Outages::default(),
            sync_state: Mutex::default(),
            store,
            ports,
            settings,
        }
    }

    fn lock_sync_state(&self) -> MutexGuard<'_, SyncState> {
        self.sync_state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the last sync of all groups went.
    pub(crate) fn sync_state(&self) -> SyncState {
        self.lock_sync_state().clone()
    }

    /// Notes how a sync of all groups went.
    pub(crate) fn note_sync(&self, outcome: Result<(), String>) {
        let now = self.store.now();
        let mut state = self.lock_sync_state();
        match outcome {
            Ok(()) => *state = SyncState { last_success_at: Some(now), problem: None },
            Err(problem) => state.problem = Some(problem),
        }
    }

    /// Gives an input to the group's decision.
    pub(crate) async fn submit(&self, group: GroupId, input: Input) -> Result<Answer, Problem> {
        self.submit_for(Asked::default(), group, input).await
    }

    /// The same for somebody who asked for it; an accepted deed is in the audit then.
    pub(crate) async fn submit_for(
        &self,
        asked: Asked,
        group: GroupId,
        input: Input,
    ) -> Result<Answer, Problem> {
        match self.store.submit_for(asked, group, input).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// Why an input was not taken, with what the caller can do instead.
    pub(crate) async fn explain(&self, error: SubmitError) -> Problem {
        match error {
            SubmitError::Refused(refused) => self.explain_refusal(refused).await,
            SubmitError::GroupUnknown => {
                Problem::new(StatusCode::NOT_FOUND, "group_unknown", "there is no such group")
            }
            SubmitError::Store(error) => error.into(),
        }
    }

    async fn explain_refusal(&self, refused: Refused) -> Problem {
        let Refused { code, message, allowed, deployment, plan } = refused;
        let mut problem = Problem::new(status_of(code), code, message);
        if let Some(id) = deployment {
            problem = problem.with_json("deployment", &id).with_json("allowed_actions", &allowed);
            if let Ok(Some(view)) = self.store.deployment_view(id).await {
                problem = problem
                    .with_json("deployment_status", &view.status)
                    .with("deployment_shown_status", view.shown_status);
            }
        }
        match plan {
            Some(plan) => problem.with_json("plan", &plan),
            None => problem,
        }
    }

    /// A group that the path names.
    pub(crate) async fn group(&self, id: GroupId) -> Result<GroupView, Problem> {
        let group = self.store.group(id).await?;
        group.ok_or_else(|| Problem::unknown("group", "group_unknown", id))
    }

    /// A deployment that the path names.
    pub(crate) async fn deployment(&self, id: DeploymentId) -> Result<DeploymentView, Problem> {
        let view = self.store.deployment_view(id).await?;
        view.ok_or_else(|| Problem::unknown("deployment", "deployment_unknown", id))
    }

    /// The group of a deployment that the path names.
    pub(crate) async fn group_of(&self, id: DeploymentId) -> Result<GroupId, Problem> {
        let group = self.store.deployment_group(id).await?;
        group.ok_or_else(|| Problem::unknown("deployment", "deployment_unknown", id))
    }
}

/// The HTTP status of a refusal: 422 when the request itself is at fault whatever the state, else 409.
fn status_of(code: &str) -> StatusCode {
    match code {
        "invalid" => StatusCode::UNPROCESSABLE_ENTITY,
        "deployment_unknown" | "group_unknown" | "server_unknown" => StatusCode::NOT_FOUND,
        _ => StatusCode::CONFLICT,
    }
}
