//! The pages: reads what each of them shows.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use capstan_core::deployment_status::DeploymentStatus;
use capstan_core::event::Event;
use capstan_core::target_status::TargetStatus;
use capstan_core::view::{DeploymentView, GroupView, PackageView, Page, TargetView};
use capstan_core::{ApplicationId, DeploymentId, GroupId, TargetId};
use capstan_portal::form::{GroupQuery, GroupsQuery, ReleaseForm, TargetsQuery, given};
use capstan_portal::{
    DeploymentPage, GroupPage, GroupsPage, MOST_TILES, Notice, RollbackOffer, TargetPage,
    TargetsPage, Tone,
};
use capstan_store::{DeploymentFilter, PageRequest, TargetFilter};
use serde::Deserialize;

use crate::api::cut;
use crate::app::App;
use crate::extract::{Id, Paging, Params};
use crate::portal::{Visitor, html};
use crate::problem::Problem;

/// Items on a page that has several lists.
const SHORT: u32 = 25;
/// Items of a list that has a page for itself.
const LONG: u32 = 100;
/// Events on the page of a deployment.
const EVENTS: u32 = 50;
/// Applications whose name contains what was searched for.
const MATCHES: u32 = 20;
/// Bytes of output on the page of a target.
const LOG: u32 = 512 * 1024;

/// What became of a form that led to a page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NoticeQuery {
    notice: String,
}

fn request(limit: u32, cursor: &str) -> PageRequest {
    PageRequest { limit, cursor: given(cursor).map(str::to_owned) }
}

/// `GET /`.
pub(super) async fn groups(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Params(query): Params<GroupsQuery>,
) -> Result<Response, Problem> {
    let groups = match given(&query.application) {
        None => app.store.groups(None, request(LONG, &query.cursor)).await?,
        Some(name) => groups_of(&app, name, &query.cursor).await?,
    };
    let page = GroupsPage { groups: &groups, query: &query };
    let chrome = visitor.chrome(app.store.now());
    Ok(html(StatusCode::OK, capstan_portal::groups(&chrome, &page)))
}

/// Groups of the application with this name, or of those whose names contain it.
async fn groups_of(app: &App, name: &str, cursor: &str) -> Result<Page<GroupView>, Problem> {
    if let Some(application) = app.store.application_by_name(name).await? {
        return Ok(app.store.groups(Some(application.id), request(LONG, cursor)).await?);
    }
    let found = app.store.applications(Some(name.to_owned()), request(MATCHES, "")).await?;
    let mut page = Page { items: Vec::new(), next_cursor: None };
    for application in found.items {
        let id: ApplicationId = application.id;
        page.items.extend(app.store.groups(Some(id), request(LONG, "")).await?.items);
    }
    Ok(page)
}

/// The packages that the form offers: the newest.
pub(super) async fn packages(app: &App, group: &GroupView) -> Result<Vec<PackageView>, Problem> {
    Ok(app.store.packages(group.application.id, request(LONG, "")).await?.items)
}

/// `GET /dependencies`.
pub(super) async fn dependencies(
    State(app): State<Arc<App>>,
    visitor: Visitor,
) -> Result<Response, Problem> {
    let all = app.store.dependencies().await?;
    let chrome = visitor.chrome(app.store.now());
    Ok(html(StatusCode::OK, capstan_portal::dependencies(&chrome, &all)))
}

/// `GET /groups/{id}`.
pub(super) async fn group(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Id(id): Id<GroupId>,
    Params(query): Params<GroupQuery>,
    Params(NoticeQuery { notice }): Params<NoticeQuery>,
) -> Result<Response, Problem> {
    let group = app.group(id).await?;
    let all = app.store.servers(id).await?;
    let servers = cut(all, &request(LONG, &query.servers))?;
    let versions = app.store.versions(id).await?;
    let packages = packages(&app, &group).await?;
    let of_group = DeploymentFilter { group: Some(id), ..DeploymentFilter::default() };
    let deployments = app.store.deployments(of_group, request(SHORT, &query.deployments)).await?;
    let good = DeploymentFilter { status: Some(DeploymentStatus::Success), ..of_group };
    let choices = app.store.deployments(good, request(SHORT, "")).await?.items;
    let history = app.store.history(id).await?;
    let choice = history.choose(None);
    let refused = choice.as_ref().err().map(ToString::to_string);
    let rollback = RollbackOffer {
        version: choice.as_ref().ok().map(|it| it.restores.package.version.as_str()),
        choices: &choices,
        refused_because: refused.as_deref(),
    };
    let page = GroupPage {
        group: &group,
        servers: &servers,
        versions: &versions,
        deployments: &deployments,
        packages: &packages,
        form: &ReleaseForm::default(),
        errors: &[],
        rollback,
    };
    let mut chrome = visitor.chrome(app.store.now());
    chrome.notice = (notice == "nothing_to_roll_back").then_some(Notice {
        tone: Tone::Good,
        text: "Every server already runs the package: there was nothing to roll back.",
    });
    Ok(html(StatusCode::OK, capstan_portal::group(&chrome, &page)))
}

/// What the page of a deployment and its live part show.
struct Parts {
    view: DeploymentView,
    targets: Vec<TargetView>,
    events: Vec<Event>,
}

impl Parts {
    async fn read(app: &App, id: DeploymentId) -> Result<Self, Problem> {
        let view = app.deployment(id).await?;
        let targets = shown_targets(app, &view).await?;
        let after = (view.last_seq - i64::from(EVENTS)).max(0);
        let events = app.store.events(id, after, EVENTS).await?;
        Ok(Self { view, targets, events })
    }

    fn page(&self) -> DeploymentPage<'_> {
        DeploymentPage { deployment: &self.view, targets: &self.targets, events: &self.events }
    }
}

/// All targets of a small deployment; of a big one those under way and those that failed.
async fn shown_targets(app: &App, view: &DeploymentView) -> Result<Vec<TargetView>, Problem> {
    let count = |status: TargetStatus| view.counts.get(status.word()).copied().unwrap_or(0);
    let everything = TargetFilter { status: None, batch: None };
    if TargetStatus::ALL.into_iter().map(count).sum::<u32>() <= MOST_TILES {
        return Ok(app.store.targets(view.id, everything, request(500, "")).await?.items);
    }
    let mut targets = Vec::new();
    for status in TargetStatus::ALL {
        if count(status) > 0 && (status.is_failure() || status.running().is_some()) {
            let filter = TargetFilter { status: Some(status), ..everything };
            targets
                .extend(app.store.targets(view.id, filter, request(MOST_TILES, "")).await?.items);
        }
    }
    Ok(targets)
}

/// `GET /deployments/{id}`.
pub(super) async fn deployment(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Id(id): Id<DeploymentId>,
) -> Result<Response, Problem> {
    let parts = Parts::read(&app, id).await?;
    let chrome = visitor.chrome(app.store.now());
    Ok(html(StatusCode::OK, capstan_portal::deployment(&chrome, &parts.page())))
}

/// `GET /deployments/{id}/live`: the part of the page that changes.
pub(super) async fn live(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Id(id): Id<DeploymentId>,
) -> Result<Response, Problem> {
    let parts = Parts::read(&app, id).await?;
    let chrome = visitor.chrome(app.store.now());
    Ok(html(StatusCode::OK, capstan_portal::deployment_live(&chrome, &parts.page())))
}

/// `GET /deployments/{id}/targets`.
pub(super) async fn targets(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Id(id): Id<DeploymentId>,
    Params(query): Params<TargetsQuery>,
) -> Result<Response, Problem> {
    let view = app.deployment(id).await?;
    let filter = TargetFilter { status: query.status(), batch: query.batch() };
    let cursor = query.cursor().unwrap_or_default();
    let targets = app.store.targets(id, filter, request(LONG, cursor)).await?;
    let page = TargetsPage { deployment: &view, targets: &targets, query: &query };
    let chrome = visitor.chrome(app.store.now());
    Ok(html(StatusCode::OK, capstan_portal::targets(&chrome, &page)))
}

/// `GET /deployments/{id}/actions`.
pub(super) async fn actions(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Id(id): Id<DeploymentId>,
    Params(paging): Params<Paging>,
) -> Result<Response, Problem> {
    let page = paging.request()?;
    let view = app.deployment(id).await?;
    let actions = app.store.audits(id, page).await?;
    let chrome = visitor.chrome(app.store.now());
    Ok(html(StatusCode::OK, capstan_portal::audit(&chrome, &view, &actions)))
}

/// `GET /targets/{id}`.
pub(super) async fn target(
    State(app): State<Arc<App>>,
    visitor: Visitor,
    Id(id): Id<TargetId>,
) -> Result<Response, Problem> {
    let target = app.target(id).await?;
    let view = app.deployment(target.deployment).await?;
    let log = app.store.target_log(id, 0, LOG).await?;
    let page = TargetPage { deployment: &view, target: &target, log: &log };
    let chrome = visitor.chrome(app.store.now());
    Ok(html(StatusCode::OK, capstan_portal::target(&chrome, &page)))
}
