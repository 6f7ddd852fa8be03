//! The list of a deployment's targets.

use capstan_core::plan::label;
use capstan_core::target_status::TargetStatus;
use capstan_core::view::{DeploymentView, Page, TargetView};
use maud::{Markup, html};

use crate::deployment::{chain, heading};
use crate::form::TargetsQuery;
use crate::frame::{Chrome, document, encode, pager};
use crate::moment;
use crate::tone::status_badge;

/// What the list of targets is made from.
#[derive(Debug, Clone, Copy)]
pub struct TargetsPage<'a> {
    /// The deployment.
    pub deployment: &'a DeploymentView,
    /// The targets.
    pub targets: &'a Page<TargetView>,
    /// What they are filtered by.
    pub query: &'a TargetsQuery,
}

/// The list of a deployment's targets.
pub fn targets(chrome: &Chrome<'_>, page: &TargetsPage<'_>) -> Markup {
    let view = page.deployment;
    let start = format!("/deployments/{}/targets", view.id);
    let query =
        format!("status={}&batch={}&", encode(&page.query.status), encode(&page.query.batch));
    let body = html! {
        header.page-head {
            div.title-line { h1 { "Targets" } (status_badge(&view.shown_status)) }
            p.lead { (heading(view)) }
        }
        (filter(page, &start))
        div.card.flush {
            @if page.targets.items.is_empty() {
                p.empty { "No target matches. " a href=(start) { "Show all targets" } }
            } @else {
                table.stacked {
                    caption.unseen { "Targets with their status and what happened on them" }
                    thead {
                        tr {
                            th scope="col" { "Host" }
                            th scope="col" { "Batch" }
                            th scope="col" { "Status" }
                            th scope="col" { "For" }
                            th scope="col" { "What happened" }
                        }
                    }
                    tbody { @for target in &page.targets.items { (row(chrome, target)) } }
                }
            }
        }
        (pager(&start, &query, page.targets.next_cursor.as_deref(), "cursor"))
    };
    let crumbs = [
        (view.group_name.as_str(), format!("/groups/{}", view.group)),
        (view.package.version.as_str(), format!("/deployments/{}", view.id)),
    ];
    document(chrome, &format!("Targets · {}", heading(view)), &crumbs, &body)
}

fn filter(page: &TargetsPage<'_>, action: &str) -> Markup {
    let counts = &page.deployment.counts;
    html! {
        form.filter method="get" action=(action) {
            div.field {
                label for="status" { "Status" }
                select id="status" name="status" {
                    option value="" { "any status" }
                    @for status in TargetStatus::ALL {
                        @let count = counts.get(status.word()).copied().unwrap_or(0);
                        @let chosen = page.query.status == status.word();
                        @if count > 0 || chosen {
                            option value=(status.word()) selected[chosen] {
                                (status.word()) " (" (count) ")"
                            }
                        }
                    }
                }
            }
            div.field {
                label for="batch" { "Batch" }
                select id="batch" name="batch" {
                    option value="" { "any batch" }
                    @for batch in &page.deployment.batches {
                        @let index = batch.index.to_string();
                        option value=(index) selected[page.query.batch == index] {
                            (index) @if batch.is_bastion { " (bastion)" }
                        }
                    }
                }
            }
            button type="submit" { "Filter" }
        }
    }
}

fn row(chrome: &Chrome<'_>, target: &TargetView) -> Markup {
    html! {
        tr {
            th scope="row" {
                a.host href={ "/targets/" (target.id) } { (host(target)) }
                span.fine { (target.ip_address) }
            }
            td data-label="Batch" { (target.batch) }
            td data-label="Status" {
                div.status-cell { (status_badge(target.status.word())) (chain(target)) }
            }
            td data-label="For" { (moment::lasting(chrome.now, target.status_since)) }
            td data-label="What happened" { (happened(chrome, target)) }
        }
    }
}

/// Host name and instance, as people name a target.
pub(crate) fn host(target: &TargetView) -> String {
    label(&target.hostname, &target.instance)
}

/// Cause, message and marks of a target, in one line.
fn happened(chrome: &Chrome<'_>, target: &TargetView) -> Markup {
    html! {
        div.happened {
            @if let Some(since) = target.unknown_since {
                span.kind { "no answer for " (moment::lasting(chrome.now, since)) }
            }
            @if let Some(cause) = target.cause { span.kind { (cause.word()) } }
            @if target.skipped { span.kind { "skipped" } }
            @if target.unverified { span.kind { "unverified" } }
            @if target.attempt > 1 { span.kind { "attempt " (target.attempt) } }
            @if let Some(message) = &target.message { span.fine { (message) } }
        }
    }
}
