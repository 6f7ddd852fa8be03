//! Creates a deployment, and shows beforehand what it would do.

use std::sync::Arc;

use axum::http::StatusCode;
use capstan_core::action::Action;
use capstan_core::config::{ConfigRequest, DeploymentConfig};
use capstan_core::dependency::Without;
use capstan_core::input::{Answer, Create, Input};
use capstan_core::plan::Plan;
use capstan_core::record::Flavor;
use capstan_core::view::{DeploymentView, GroupView, PackageView};
use capstan_core::{DeploymentId, GroupId};
use capstan_store::Asked;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::audit::Deed;
use crate::auth::Caller;
use crate::commands::package_ref;
use crate::extract::sentence;
use crate::look::PATIENT;
use crate::problem::Problem;

/// What a deployment would do: the question.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PreviewRequest {
    /// Id or version of a package of the group's application.
    pub(crate) package: String,
    /// `rollout` (the default) or `scaleout`.
    #[serde(default)]
    pub(crate) flavor: Flavor,
    /// The strategy; what is left out takes its default.
    #[serde(default)]
    pub(crate) config: ConfigRequest,
    /// Seed of the order of servers.
    #[serde(default)]
    pub(crate) seed: Option<String>,
}

/// A deployment that a person wants.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateRequest {
    /// The group.
    pub(crate) group: GroupId,
    /// Id or version of a package of the group's application.
    pub(crate) package: String,
    /// `rollout` (the default) or `scaleout`.
    #[serde(default)]
    pub(crate) flavor: Flavor,
    /// The strategy; what is left out takes its default.
    #[serde(default)]
    pub(crate) config: ConfigRequest,
    /// Seed of the order of servers.
    #[serde(default)]
    pub(crate) seed: Option<String>,
    /// Why a failed health answer is forgiven; `config.ignore_verify` needs it.
    #[serde(default)]
    pub(crate) ignore_verify_reason: Option<String>,
    /// `plan_hash` of the preview: refused when the plan is no longer the same.
    #[serde(default)]
    pub(crate) plan_hash: Option<String>,
    /// Whether it starts at once.
    #[serde(default)]
    pub(crate) start: bool,
    /// Waits for the group's turn when it is busy: not there yet, answers 501.
    #[serde(default)]
    pub(crate) queue: bool,
}

impl App {
    /// The plan of a deployment; changes nothing.
    pub(crate) async fn preview(
        &self,
        group: GroupId,
        request: PreviewRequest,
    ) -> Result<Plan, Problem> {
        let PreviewRequest { package, flavor, config, seed } = request;
        let group = self.group(group).await?;
        let package = self.checked(&group, &package, flavor, &config, seed.as_deref()).await?;
        match self.store.preview(group.id, package_ref(&package), flavor, config, seed).await {
            Ok(plan) => Ok(plan),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// Creates a deployment and, if asked to, starts it.
    pub(crate) async fn create(
        self: &Arc<Self>,
        caller: &Caller,
        request: CreateRequest,
    ) -> Result<DeploymentView, Problem> {
        let deed = Deed {
            actor: &caller.name,
            action: "deployment.create",
            kind: "group",
            subject: request.group.to_string(),
            deployment: None,
            detail: format!("package {}, start {}", request.package, request.start),
        };
        let result = self.create_now(deed.asked(caller), &caller.name, request).await;
        self.audited_unless_accepted(deed, result).await
    }

    /// The same, written down as `asked` says.
    pub(crate) async fn create_now(
        self: &Arc<Self>,
        asked: Asked,
        actor: &str,
        request: CreateRequest,
    ) -> Result<DeploymentView, Problem> {
        if request.queue {
            return Err(Problem::not_implemented("queue"));
        }
        let ignore_verify_reason = reason(&request)?;
        let group = self.store.group(request.group).await?;
        let group = group.ok_or_else(|| group_unknown(request.group))?;
        let seed = request.seed.as_deref();
        let (flavor, config) = (request.flavor, &request.config);
        let package = self.checked(&group, &request.package, flavor, config, seed).await?;
        if let (true, Some(running)) = (request.start, group.running_deployment) {
            return Err(self.busy(&group, running).await);
        }
        self.check_drivers(&group)?;
        let scripts = self.keep_scripts(&group.application.kind).await?;
        let without = self.refresh_if_possible(&group).await.into_iter().collect();
        self.adopt_first(group.id).await;
        self.look(group.id, PATIENT).await?;
        let input = Input::Create(Box::new(Create {
            package: package_ref(&package),
            bad: package.bad.map(|bad| format!("{} (by {})", bad.reason, bad.by)),
            flavor: request.flavor,
            config: request.config,
            seed: request.seed,
            ignore_verify_reason,
            plan_hash: request.plan_hash,
            start: request.start,
            actor: actor.to_owned(),
            scripts,
            stale_after: self.settings.stale_after,
            without,
            history: self.store.history(group.id).await?,
        }));
        let answer = self.submit_for(asked, group.id, input).await?;
        self.created(group.id, &answer).await
    }

    /// The view of a deployment that was just created.
    pub(crate) async fn created(
        &self,
        group: GroupId,
        answer: &Answer,
    ) -> Result<DeploymentView, Problem> {
        match answer {
            Answer::Created(id) => self.deployment(*id).await,
            Answer::Done
            | Answer::NothingToRollBack { .. }
            | Answer::RefreshHeld(_)
            | Answer::ReadAlone => {
                tracing::error!(%group, ?answer, "a create was answered by something else");
                Err(Problem::internal())
            }
        }
    }

    /// Checks everything that can be checked without touching anything, and finds the package.
    async fn checked(
        &self,
        group: &GroupView,
        package: &str,
        flavor: Flavor,
        config: &ConfigRequest,
        seed: Option<&str>,
    ) -> Result<PackageView, Problem> {
        match flavor {
            Flavor::Rollout | Flavor::Scaleout => {}
            Flavor::Rollback | Flavor::Adopted => {
                let allowed = "rollout or scaleout; a rollback is POST /groups/{id}/rollback";
                return Err(Problem::invalid("flavor", flavor, allowed));
            }
        }
        if seed.is_some_and(|seed| seed.is_empty() || seed.len() > 128) {
            return Err(Problem::invalid("seed", seed, "1 to 128 bytes of text"));
        }
        DeploymentConfig::complete(config, flavor, group.may_go_dark)?;
        self.named_package(group.application.id, package).await
    }

    /// The drivers that the CMDB names for the group must be there before anything starts.
    fn check_drivers(&self, group: &GroupView) -> Result<(), Problem> {
        let missing = |kind: &str, code, name: &str, all: Vec<&str>| {
            let text = format!(
                "the CMDB names {kind} {name:?} for group {}, and the configuration has: {}",
                group.name,
                all.join(", ")
            );
            Err(Problem::new(StatusCode::CONFLICT, code, text))
        };
        let (balancers, executors) = (&self.ports.load_balancers, &self.ports.executors);
        if !balancers.contains_key(&group.load_balancer) {
            let all = balancers.keys().map(String::as_str).collect();
            return missing("load balancer", "load_balancer_unknown", &group.load_balancer, all);
        }
        if let Some(name) = group.executors().find(|name| !executors.contains_key(*name)) {
            let all = executors.keys().map(String::as_str).collect();
            return missing("executor", "executor_unknown", name, all);
        }
        Ok(())
    }

    /// The group has a deployment that runs (S6). The decision says the same; saying it here first
    /// leaves the cache and the hosts alone.
    async fn busy(&self, group: &GroupView, running: DeploymentId) -> Problem {
        let view = self.store.deployment_view(running).await;
        let text = format!("group {} has a deployment under way: {running}", group.name);
        let problem = Problem::new(StatusCode::CONFLICT, "deployment_running", text)
            .with_json("deployment", &running);
        match view {
            Ok(Some(view)) => problem
                .with_json("deployment_status", &view.status)
                .with("deployment_shown_status", view.shown_status)
                .with_json("allowed_actions", &view.allowed_actions),
            Ok(None) | Err(_) => problem,
        }
    }

    /// Refreshes and looks before a planned deployment starts, if it may start at all. Gives what is done without.
    pub(crate) async fn prepare_start(
        self: &Arc<Self>,
        group: GroupId,
        deployment: DeploymentId,
    ) -> Result<Option<Without>, Problem> {
        if !self.deployment(deployment).await?.allowed_actions.contains(&Action::Start) {
            return Ok(None);
        }
        let view = self.group(group).await?;
        let without = self.refresh_if_possible(&view).await;
        self.look(group, PATIENT).await?;
        Ok(without)
    }
}

/// `ignore_verify` needs a reason, and a reason is for nothing else.
fn reason(request: &CreateRequest) -> Result<Option<String>, Problem> {
    let reason = request.ignore_verify_reason.clone();
    match (request.config.ignore_verify, reason) {
        (Some(true), reason) => sentence("ignore_verify_reason", reason).map(Some),
        (Some(false) | None, None) => Ok(None),
        (Some(false) | None, Some(reason)) => Err(Problem::invalid(
            "ignore_verify_reason",
            reason,
            "only together with config.ignore_verify = true",
        )),
    }
}

fn group_unknown(group: GroupId) -> Problem {
    let mut problem = Problem::invalid("group", group, "the id of a group, see GET /api/v1/groups");
    problem.code = "group_unknown";
    problem
}
