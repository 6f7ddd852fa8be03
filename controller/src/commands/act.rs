//! Clicks on a deployment.

use std::sync::Arc;

use axum::http::StatusCode;
use capstan_core::DeploymentId;
use capstan_core::action::Action;
use capstan_core::input::{Act, Input};
use capstan_core::view::DeploymentView;

use crate::app::App;
use crate::audit::Deed;
use crate::auth::Caller;
use crate::problem::Problem;

/// The actions that are calls on a deployment; a rollback is one on its group.
pub(crate) const ON_DEPLOYMENTS: [Action; 8] = [
    Action::Start,
    Action::Bake,
    Action::Rollout,
    Action::Retry,
    Action::Brake,
    Action::Resume,
    Action::Revoke,
    Action::Finish,
];

/// The action that the path names.
pub(crate) fn action(word: &str) -> Result<Action, Problem> {
    Action::from_word(word).filter(|action| ON_DEPLOYMENTS.contains(action)).ok_or_else(|| {
        let words: Vec<&str> = ON_DEPLOYMENTS.iter().map(|action| action.word()).collect();
        let allowed = format!("one of {}", words.join(", "));
        let mut problem = Problem::invalid("action", word, &allowed);
        (problem.status, problem.code) = (StatusCode::NOT_FOUND, "action_unknown");
        problem
    })
}

impl App {
    /// Does what a person asks of a deployment, or says why not.
    pub(crate) async fn act(
        self: &Arc<Self>,
        caller: &Caller,
        deployment: DeploymentId,
        action: Action,
        batch: Option<u32>,
    ) -> Result<DeploymentView, Problem> {
        let name = format!("deployment.{action}");
        let mut deed = Deed {
            actor: &caller.name,
            action: &name,
            kind: "deployment",
            subject: deployment.to_string(),
            deployment: Some(deployment),
            detail: batch.map(|batch| format!("batch {batch}")).unwrap_or_default(),
        };
        let result = self.act_now(&deed, caller, deployment, action, batch).await;
        if matches!(&result, Err(problem) if problem.code == "deployment_unknown") {
            deed.deployment = None;
        }
        self.audited_unless_accepted(deed, result).await
    }

    async fn act_now(
        self: &Arc<Self>,
        deed: &Deed<'_>,
        caller: &Caller,
        deployment: DeploymentId,
        action: Action,
        batch: Option<u32>,
    ) -> Result<DeploymentView, Problem> {
        let group = self.group_of(deployment).await?;
        if let (Some(batch), false) = (batch, action == Action::Rollout) {
            return Err(Problem::invalid("batch", batch, "only rollout names a batch"));
        }
        let mut without = Vec::new();
        if action == Action::Start {
            without.extend(self.prepare_start(group, deployment).await?);
        }
        let input = Input::Act(Box::new(Act {
            deployment,
            action,
            batch,
            without,
            actor: caller.name.clone(),
            history: self.store.history(group).await?,
        }));
        self.submit_for(deed.asked(caller), group, input).await?;
        self.deployment(deployment).await
    }
}
