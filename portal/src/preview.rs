//! The plan, before anything is created.

use std::time::Duration;

use capstan_core::plan::{Named, Plan, PlannedBatch};
use capstan_core::view::{GroupView, PackageView};
use maud::{Markup, html};

use crate::form::{FieldError, ReleaseForm};
use crate::frame::{Chrome, csrf, document, hidden};
use crate::line;
use crate::moment;
use crate::release_form;

/// A list with more names than this is folded.
const MOST_OPEN: usize = 12;

/// What the preview is made from.
#[derive(Debug, Clone, Copy)]
pub struct PreviewPage<'a> {
    /// The group.
    pub group: &'a GroupView,
    /// What the person asked for; the page writes the plan's seed and digest into it.
    pub form: &'a ReleaseForm,
    /// The packages of the application, for the form and to name the chosen one.
    pub packages: &'a [PackageView],
    /// The plan; none: it could not be made, see `errors`.
    pub plan: Option<&'a Plan>,
    /// What is wrong with the form.
    pub errors: &'a [FieldError],
}

/// The preview of a release: the plan, and the buttons that create it; or the form with its errors.
pub fn preview(chrome: &Chrome<'_>, page: &PreviewPage<'_>) -> Markup {
    let group = page.group;
    let chosen = page.packages.iter().find(|one| one.id.to_string() == page.form.package);
    let version = chosen.map_or("a package", |one| one.version.as_str());
    let title = format!("Preview: {version} to {}", group.name);
    let body = html! {
        header.page-head {
            div.title-line { h1 { (title) } }
            @if page.plan.is_some() {
                p.lead { "Nothing has changed yet. Servers that come or go meanwhile make a new plan." }
            }
        }
        @if let Some(plan) = page.plan {
            (summary(plan))
            @if page.errors.is_empty() { (create(chrome, page, plan)) }
            (notes(plan))
            (batches(plan))
            div.columns {
                (names("out", "Out of service now", "Every server is in service.", &plan.out))
                (names("left-out", "Left out of this plan", "No server is left out.", &plan.left_out))
            }
        }
        section.card aria-labelledby="change-title" {
            @let open = page.plan.is_none() || !page.errors.is_empty();
            details.more id="change" open[open] {
                summary { h2 id="change-title" { "Change the plan" } }
                form.stack method="post" action={ "/groups/" (group.id) "/preview" } {
                    (csrf(chrome))
                    (release_form::fields(page.form, page.errors, page.packages, group))
                    div.buttons { button.primary[open] type="submit" { "Preview again" } }
                }
            }
        }
    };
    let crumbs = [(group.name.as_str(), format!("/groups/{}", group.id))];
    document(chrome, &title, &crumbs, &body)
}

fn summary(plan: &Plan) -> Markup {
    let visited: usize = plan.batches.iter().map(|batch| batch.servers.len()).sum();
    let figures = [
        (visited.to_string(), "servers visited", format!("of {} in the group", plan.total)),
        (plan.batches.len().to_string(), "batches", "one after the other".to_owned()),
        (
            plan.b.to_string(),
            "may be out at once (B)",
            format!("{} now (L), {} free", plan.l, plan.free),
        ),
        (
            plan.failure_limit.to_string(),
            "failures brake",
            "failed, relapsed or unknown".to_owned(),
        ),
        (
            moment::span(Duration::from_secs(plan.estimated_seconds)),
            "at least",
            "waits, settle time, 15 s a batch".to_owned(),
        ),
    ];
    html! {
        section.card aria-label="The plan in numbers" {
            dl.figures {
                @for (figure, name, more) in figures {
                    div {
                        dt { (name) }
                        dd { strong { (figure) } span.fine { (more) } }
                    }
                }
            }
            (cut(plan))
        }
    }
}

/// How the servers are cut into batches.
fn cut(plan: &Plan) -> Markup {
    let pieces: Vec<[(u32, &str); 1]> = plan
        .batches
        .iter()
        .map(|batch| {
            let count = u32::try_from(batch.servers.len()).unwrap_or(u32::MAX);
            [(count, if batch.is_bastion { "bastion" } else { "void" })]
        })
        .collect();
    let sizes: Vec<String> =
        plan.batches.iter().map(|batch| batch.servers.len().to_string()).collect();
    line::bar(&pieces, &format!("Servers per batch: {}", sizes.join(", ")))
}

fn create(chrome: &Chrome<'_>, page: &PreviewPage<'_>, plan: &Plan) -> Markup {
    let form = page.form;
    let fields = [
        ("package", form.package.as_str()),
        ("flavor", &form.flavor),
        ("max_unavailable", &form.max_unavailable),
        ("batch_pattern", &form.batch_pattern),
        ("max_failure", &form.max_failure),
        ("mode", &form.mode),
        ("batch_wait_seconds", &form.batch_wait_seconds),
        ("tail_wait_seconds", &form.tail_wait_seconds),
        ("startup_timeout_seconds", &form.startup_timeout_seconds),
        ("ignore_verify", &form.ignore_verify),
        ("ignore_verify_reason", &form.ignore_verify_reason),
        ("seed", &plan.seed),
        ("plan_hash", &plan.plan_hash),
    ];
    html! {
        form.buttons.create method="post" action={ "/groups/" (page.group.id) "/deployments" } {
            (csrf(chrome))
            @for (name, value) in fields { (hidden(name, value)) }
            button.primary type="submit" name="start" value="true" { "Create and start" }
            button type="submit" name="start" value="false" { "Create as draft" }
            @if form.ignore_verify == "true" {
                p.fine { "Failed health answers will be forgiven: " (form.ignore_verify_reason) }
            }
        }
    }
}

fn notes(plan: &Plan) -> Markup {
    html! {
        @if !plan.notes.is_empty() {
            section.banner.warning aria-labelledby="notes-title" {
                h2 id="notes-title" { "Please note" }
                ul { @for note in &plan.notes { li { (note) } } }
            }
        }
    }
}

fn batches(plan: &Plan) -> Markup {
    html! {
        section.card aria-labelledby="batches-title" {
            h2 id="batches-title" { "Batches" }
            ol.planned { @for batch in &plan.batches { li { (planned(batch)) } } }
            dl.inline {
                div { dt { "Seed" } dd.code { (plan.seed) } }
                div { dt { "Plan hash" } dd.code { (plan.plan_hash) } }
            }
        }
    }
}

fn planned(batch: &PlannedBatch) -> Markup {
    let hosts = html! {
        ul.hosts { @for server in &batch.servers { li { (server.hostname) } } }
    };
    html! {
        h3 {
            "Batch " (batch.index)
            @if batch.is_bastion { " " span.kind { "bastion" } }
        }
        @if batch.servers.len() > MOST_OPEN {
            details id={ "planned-" (batch.index) } {
                summary { (batch.servers.len()) " servers" }
                (hosts)
            }
        } @else {
            (hosts)
        }
    }
}

fn names(id: &str, title: &str, none: &str, servers: &[Named]) -> Markup {
    let list = html! {
        ul.named {
            @for server in servers {
                li { span.host { (server.hostname) } span.fine { (server.why) } }
            }
        }
    };
    html! {
        section.card aria-labelledby={ (id) "-title" } {
            h2 id={ (id) "-title" } { (title) " (" (servers.len()) ")" }
            @if servers.is_empty() {
                p.fine { (none) }
            } @else if servers.len() > MOST_OPEN {
                details id={ (id) "-list" } { summary { "Show all" } (list) }
            } @else {
                (list)
            }
        }
    }
}
