//! Rolls a group back. Fast before everything else: nothing here waits for what may be broken.

use capstan_core::config::{ConfigRequest, DeploymentConfig};
use capstan_core::input::{Answer, Input, RollBack};
use capstan_core::record::Flavor;
use capstan_core::view::DeploymentView;
use capstan_core::{DeploymentId, GroupId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::audit::Deed;
use crate::auth::Caller;
use crate::look::BRIEF;
use crate::problem::Problem;

/// A rollback that a person wants.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RollbackRequest {
    /// The deployment whose package comes back; left out: the newest good one before.
    pub(crate) to: Option<DeploymentId>,
    /// The strategy; what is left out takes the default of a rollback.
    pub(crate) config: ConfigRequest,
}

/// Everything already runs the wanted package.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct NothingToRollBack {
    /// `nothing_to_roll_back`.
    pub(crate) answer: &'static str,
    /// The deployment that was running and is revoked now.
    pub(crate) revoked: Option<DeploymentId>,
}

/// What came of a rollback.
#[derive(Debug)]
pub(crate) enum RolledBack {
    /// A deployment was created and started.
    Created(Box<DeploymentView>),
    /// There was nothing to do.
    Nothing(NothingToRollBack),
}

impl App {
    /// Creates and starts a rollback of a group.
    pub(crate) async fn roll_back(
        &self,
        caller: &Caller,
        group: GroupId,
        request: RollbackRequest,
    ) -> Result<RolledBack, Problem> {
        let detail = request.to.map(|to| format!("to {to}")).unwrap_or_default();
        let deed = Deed {
            actor: &caller.name,
            action: "group.rollback",
            kind: "group",
            subject: group.to_string(),
            deployment: None,
            detail,
        };
        let result = self.roll_back_now(&deed, caller, group, request).await;
        self.audited_unless_accepted(deed, result).await
    }

    async fn roll_back_now(
        &self,
        deed: &Deed<'_>,
        caller: &Caller,
        group: GroupId,
        request: RollbackRequest,
    ) -> Result<RolledBack, Problem> {
        let view = self.group(group).await?;
        DeploymentConfig::complete(&request.config, Flavor::Rollback, view.may_go_dark)?;
        let history = self.store.history(group).await?;
        if let Err(refused) = history.choose(request.to) {
            return Err(self.explain(capstan_store::SubmitError::Refused(refused)).await);
        }
        let scripts = self.keep_scripts(&view.application.kind).await?;
        if let Err(problem) = self.look(group, BRIEF).await {
            let detail = problem.detail;
            tracing::warn!(%group, code = problem.code, detail, "rolling back without a look");
        }
        let input = Input::Rollback(Box::new(RollBack {
            to: request.to,
            config: request.config,
            actor: caller.name.clone(),
            scripts,
            stale_after: self.settings.stale_after,
            without: Vec::new(),
            history,
        }));
        match self.submit_for(deed.asked(caller), group, input).await? {
            Answer::NothingToRollBack { revoked } => Ok(RolledBack::Nothing(NothingToRollBack {
                answer: "nothing_to_roll_back",
                revoked,
            })),
            answer @ (Answer::Done
            | Answer::Created(_)
            | Answer::RefreshHeld(_)
            | Answer::ReadAlone) => {
                let view = self.created(group, &answer).await?;
                Ok(RolledBack::Created(Box::new(view)))
            }
        }
    }
}
