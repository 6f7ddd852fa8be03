//! The list of groups.

use capstan_core::view::{GroupView, Page};
use maud::{Markup, html};

use crate::form::{GroupsQuery, given};
use crate::frame::{Chrome, document, encode, pager};
use crate::line;
use crate::moment;
use crate::tone::{Tone, badge, status_badge};

/// What the list of groups is made from.
#[derive(Debug, Clone, Copy)]
pub struct GroupsPage<'a> {
    /// The groups.
    pub groups: &'a Page<GroupView>,
    /// What they are filtered by.
    pub query: &'a GroupsQuery,
}

/// The list of groups.
pub fn groups(chrome: &Chrome<'_>, page: &GroupsPage<'_>) -> Markup {
    let application = given(&page.query.application);
    let query =
        application.map_or_else(String::new, |name| format!("application={}&", encode(name)));
    let body = html! {
        header.page-head {
            div.title-line {
                h1 { "Groups" }
                form.search method="get" action="/" role="search" {
                    label for="application" { "Application" }
                    input id="application" name="application" type="search"
                        value=(page.query.application) autocomplete="off" spellcheck="false";
                    button type="submit" { "Filter" }
                }
            }
        }
        @if page.groups.items.is_empty() {
            (empty(application))
        } @else {
            div.card.flush {
                table.stacked {
                    caption.unseen { "Groups, with the version that they run and what is under way" }
                    thead {
                        tr {
                            th scope="col" { "Group" }
                            th scope="col" { "IDC" }
                            th scope="col" { "In service" }
                            th scope="col" { "Version" }
                            th scope="col" { "Deployment" }
                            th scope="col" { "CMDB" }
                        }
                    }
                    tbody { @for group in &page.groups.items { (row(chrome, group)) } }
                }
            }
            (pager("/", &query, page.groups.next_cursor.as_deref(), "cursor"))
        }
    };
    document(chrome, "Groups", &[], &body)
}

fn empty(application: Option<&str>) -> Markup {
    html! {
        div.card.empty {
            @match application {
                Some(name) => {
                    p { "No group of application " strong { (name) } "." }
                    p { a.button href="/" { "Show all groups" } }
                }
                None => {
                    p { "No groups yet. They come from the CMDB: add one there, or check the "
                        code { "[cmdb]" } " section of the configuration." }
                }
            }
        }
    }
}

fn row(chrome: &Chrome<'_>, group: &GroupView) -> Markup {
    html! {
        tr {
            th scope="row" {
                a href={ "/groups/" (group.id) } { (group.name) }
                span.fine { (group.application.name) ", " (group.application.environment) }
            }
            td data-label="IDC" { (group.idc) }
            td data-label="In service" { (in_service(group)) }
            td data-label="Version" { (version(group.version.as_deref())) }
            td data-label="Deployment" { (running(group)) }
            td data-label="CMDB" { (freshness(chrome, group)) }
        }
    }
}

/// How many servers are in service, with a bar.
pub(crate) fn in_service(group: &GroupView) -> Markup {
    let unseen = group.total.saturating_sub(group.in_service + group.out);
    let parts = [(group.in_service, "good"), (group.out, "bad"), (unseen, "idle")];
    let label = format!("{} of {} in service, {} out", group.in_service, group.total, group.out);
    html! {
        div.share-cell {
            span.number { (group.in_service) " / " (group.total) }
            (line::bar(&[parts], &label))
        }
    }
}

/// A version, or that none is known.
pub(crate) fn version(version: Option<&str>) -> Markup {
    html! {
        @match version {
            Some(version) => span.version { (version) },
            None => span.fine { "none" },
        }
    }
}

/// The deployment that runs now.
pub(crate) fn running(group: &GroupView) -> Markup {
    html! {
        @match group.running_deployment {
            Some(id) => a.plain href={ "/deployments/" (id) } {
                (status_badge(group.running_status.as_deref().unwrap_or("running")))
            },
            None => span.fine { "none" },
        }
    }
}

fn freshness(chrome: &Chrome<'_>, group: &GroupView) -> Markup {
    html! {
        span.marks {
            span.fine { (moment::ago(chrome.now, group.synced_at)) }
            @if group.stale { " " (badge(Tone::Warning, "stale")) }
            @if group.refresh_held.is_some() {
                " " a.plain href={ "/groups/" (group.id) } { (badge(Tone::Warning, "refresh held")) }
            }
        }
    }
}
