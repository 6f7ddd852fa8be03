//! The deployments of a group.

use capstan_core::view::{DeploymentBrief, GroupView, Page};
use maud::{Markup, html};

use crate::frame::{Chrome, pager};
use crate::moment;
use crate::tone::status_badge;

pub(super) fn table(
    chrome: &Chrome<'_>,
    group: &GroupView,
    deployments: &Page<DeploymentBrief>,
) -> Markup {
    let href = format!("/groups/{}", group.id);
    html! {
        section id="deployments" aria-labelledby="deployments-title" {
            h2 id="deployments-title" { "Deployments" }
            div.card.flush {
                @if deployments.items.is_empty() {
                    p.empty { "Nothing was released to this group yet." }
                } @else {
                    table.stacked {
                        caption.unseen { "Deployments of this group, newest first" }
                        thead {
                            tr {
                                th scope="col" { "Created (UTC)" }
                                th scope="col" { "Version" }
                                th scope="col" { "Flavor" }
                                th scope="col" { "Status" }
                                th scope="col" { "By" }
                                th scope="col" { "Took" }
                            }
                        }
                        tbody { @for one in &deployments.items { (row(chrome, one)) } }
                    }
                }
            }
            (pager(&href, "", deployments.next_cursor.as_deref(), "deployments"))
        }
    }
}

fn row(chrome: &Chrome<'_>, one: &DeploymentBrief) -> Markup {
    html! {
        tr {
            th scope="row" {
                a href={ "/deployments/" (one.id) } { (moment::date(one.created_at)) }
            }
            td data-label="Version" { span.version { (one.package.version) } }
            td data-label="Flavor" { (one.flavor.word()) }
            td data-label="Status" { (status_badge(&one.shown_status)) }
            td data-label="By" { (one.created_by) }
            td data-label="Took" {
                @match one.ended_at {
                    Some(ended) => (moment::span(ended.since(one.created_at))),
                    None if one.status.is_running() => (moment::lasting(chrome.now, one.created_at)),
                    None => span.fine { "not started" },
                }
            }
        }
    }
}
