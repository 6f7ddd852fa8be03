//! What the pages post.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use capstan_core::action::Action;
use capstan_core::view::GroupView;
use capstan_core::{DeploymentId, GroupId, ServerId};
use capstan_portal::PreviewPage;
use capstan_portal::form::{
    ActionForm, BareForm, CutOffForm, FieldError, PullOutForm, Release, ReleaseForm, RollbackForm,
    SyncForm,
};

use crate::app::App;
use crate::commands::act::action;
use crate::commands::create::{CreateRequest, PreviewRequest};
use crate::commands::rollback::{RollbackRequest, RolledBack};
use crate::extract::{Id, Segments, id};
use crate::portal::posted::Posted;
use crate::portal::{Visitor, html, pages};
use crate::problem::Problem;
use crate::sync::Removal;

/// The longest cut that ends by itself: thirty days.
const MOST_MINUTES: u32 = 30 * 24 * 60;

/// `POST /groups/{id}/sync`.
pub(super) async fn sync(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Id(id): Id<GroupId>,
    Posted(form): Posted<SyncForm>,
) -> Result<Response, Problem> {
    let removal = if form.is_confirmed() { Removal::Confirmed } else { Removal::Held };
    app.sync_group(&visitor.caller(), id, removal).await?;
    Ok(Redirect::to(&format!("/groups/{id}")).into_response())
}

/// `POST /groups/{id}/preview`.
pub(super) async fn preview(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Id(id): Id<GroupId>,
    Posted(form): Posted<ReleaseForm>,
) -> Result<Response, Problem> {
    let group = app.group(id).await?;
    let errors = form.read().err().unwrap_or_default();
    planned(&app, &visitor, &group, &form, errors).await
}

/// `POST /groups/{id}/deployments`.
pub(super) async fn create(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Id(id): Id<GroupId>,
    Posted(form): Posted<ReleaseForm>,
) -> Result<Response, Problem> {
    let group = app.group(id).await?;
    let release = match form.read() {
        Ok(release) => release,
        Err(errors) => return planned(&app, &visitor, &group, &form, errors).await,
    };
    match app.create(&visitor.caller(), create_request(id, release)).await {
        Ok(view) => Ok(Redirect::to(&format!("/deployments/{}", view.id)).into_response()),
        Err(problem) if problem.status == StatusCode::UNPROCESSABLE_ENTITY => {
            planned(&app, &visitor, &group, &form, vec![field_error(&problem)]).await
        }
        Err(problem) if problem.code == "stale_plan" => {
            let text = "The plan has changed meanwhile. This is what it is now.";
            let error = FieldError::new("plan_hash", text);
            planned(&app, &visitor, &group, &form, vec![error]).await
        }
        Err(problem) => Err(problem),
    }
}

fn create_request(group: GroupId, release: Release) -> CreateRequest {
    CreateRequest {
        group,
        package: release.package.to_string(),
        flavor: release.flavor,
        config: release.config,
        seed: release.seed,
        ignore_verify_reason: release.ignore_verify_reason,
        plan_hash: release.plan_hash,
        start: release.start,
        queue: false,
    }
}

/// The error of a field, in the form's words.
fn field_error(problem: &Problem) -> FieldError {
    let field = problem.field().unwrap_or("form");
    let name = field.strip_prefix("config.").unwrap_or(field);
    let text = problem.detail.strip_prefix(&format!("{field}: ")).unwrap_or(&problem.detail);
    FieldError::new(name, text)
}

/// The preview page: the plan as it is now, or what is wrong with the form.
async fn planned(
    app: &App,
    visitor: &Visitor,
    group: &GroupView,
    form: &ReleaseForm,
    mut errors: Vec<FieldError>,
) -> Result<Response, Problem> {
    let plan = match form.read() {
        Err(_) => None,
        Ok(Release { package, flavor, config, seed, .. }) => {
            let request = PreviewRequest { package: package.to_string(), flavor, config, seed };
            match app.preview(group.id, request).await {
                Ok(plan) => Some(plan),
                Err(problem) if problem.status.is_client_error() => {
                    let error = field_error(&problem);
                    if !errors.contains(&error) {
                        errors.push(error);
                    }
                    None
                }
                Err(problem) => return Err(problem),
            }
        }
    };
    let packages = pages::packages(app, group).await?;
    let now = app.store.now();
    let plan = plan.as_ref();
    let page = PreviewPage { group, form, packages: &packages, plan, errors: &errors };
    let status = if errors.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    Ok(html(status, capstan_portal::preview(&visitor.chrome(now), &page)))
}

/// `POST /groups/{id}/rollback`.
pub(super) async fn rollback(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Id(id): Id<GroupId>,
    Posted(form): Posted<RollbackForm>,
) -> Result<Response, Problem> {
    let to = form.to().map_err(|error| Problem::invalid("to", &form.to, &error.text))?;
    roll_back(&app, &visitor, id, to).await
}

async fn roll_back(
    app: &Arc<App>,
    visitor: &Visitor,
    group: GroupId,
    to: Option<DeploymentId>,
) -> Result<Response, Problem> {
    let request = RollbackRequest { to, ..RollbackRequest::default() };
    let to = match app.roll_back(&visitor.caller(), group, request).await? {
        RolledBack::Created(view) => format!("/deployments/{}", view.id),
        RolledBack::Nothing(_) => format!("/groups/{group}?notice=nothing_to_roll_back"),
    };
    Ok(Redirect::to(&to).into_response())
}

/// `POST /dependencies/{name}/cut-off`.
pub(super) async fn cut_off(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Segments(name): Segments<String>,
    Posted(form): Posted<CutOffForm>,
) -> Result<Response, Problem> {
    let minutes = match form.minutes.trim() {
        "" => None,
        text => match text.parse::<u32>() {
            Ok(minutes) if (1..=MOST_MINUTES).contains(&minutes) => Some(minutes),
            Ok(_) | Err(_) => {
                let allowed = format!("whole minutes from 1 to {MOST_MINUTES}");
                return Err(Problem::invalid("minutes", text, &allowed));
            }
        },
    };
    let wait = minutes.map(|minutes| Duration::from_secs(60 * u64::from(minutes)));
    let expires_at = wait.map(|wait| app.store.now() + wait);
    app.cut_off(&visitor.caller(), &name, Some(form.reason), expires_at).await?;
    Ok(Redirect::to("/dependencies").into_response())
}

/// `POST /dependencies/{name}/restore`.
pub(super) async fn restore(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Segments(name): Segments<String>,
    Posted(_): Posted<BareForm>,
) -> Result<Response, Problem> {
    app.restore(&visitor.caller(), &name, None).await?;
    Ok(Redirect::to("/dependencies").into_response())
}

/// `POST /servers/{id}/pull-out`.
pub(super) async fn pull_out(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Id(id): Id<ServerId>,
    Posted(form): Posted<PullOutForm>,
) -> Result<Response, Problem> {
    let server = app.pull_out(&visitor.caller(), id, Some(form.reason)).await?;
    Ok(Redirect::to(&format!("/groups/{}#server-{id}", server.group)).into_response())
}

/// `POST /servers/{id}/put-back`.
pub(super) async fn put_back(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Id(id): Id<ServerId>,
    Posted(_): Posted<BareForm>,
) -> Result<Response, Problem> {
    let server = app.put_back(&visitor.caller(), id).await?;
    Ok(Redirect::to(&format!("/groups/{}#server-{id}", server.group)).into_response())
}

/// `POST /deployments/{id}/{action}`.
pub(super) async fn act(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Segments((deployment, word)): Segments<(String, String)>,
    Posted(form): Posted<ActionForm>,
) -> Result<Response, Problem> {
    let deployment: DeploymentId = id(&deployment)?;
    if word == Action::Rollback.word() {
        let group = app.group_of(deployment).await?;
        return roll_back(&app, &visitor, group, None).await;
    }
    let action = action(&word)?;
    app.act(&visitor.caller(), deployment, action, form.batch()).await?;
    Ok(Redirect::to(&format!("/deployments/{deployment}")).into_response())
}
