//! Who asked for what of a deployment.

use capstan_core::view::{AuditView, DeploymentView, Page};
use maud::{Markup, html};

use crate::deployment::heading;
use crate::frame::{Chrome, document, pager};
use crate::moment;
use crate::tone::{Tone, badge};

/// What was asked of a deployment, refused requests too.
pub fn audit(
    chrome: &Chrome<'_>,
    deployment: &DeploymentView,
    actions: &Page<AuditView>,
) -> Markup {
    let start = format!("/deployments/{}/actions", deployment.id);
    let body = html! {
        header.page-head {
            div.title-line { h1 { "Who asked for what" } }
            p.lead { (heading(deployment)) ". Refused requests are listed too; they changed nothing." }
        }
        div.card.flush {
            @if actions.items.is_empty() {
                p.empty { "Nobody has asked anything of this deployment." }
            } @else {
                table.stacked {
                    caption.unseen { "Actions on this deployment" }
                    thead {
                        tr {
                            th scope="col" { "When (UTC)" }
                            th scope="col" { "Who" }
                            th scope="col" { "What" }
                            th scope="col" { "Answer" }
                            th scope="col" { "Details" }
                        }
                    }
                    tbody { @for one in &actions.items { (row(one)) } }
                }
            }
        }
        (pager(&start, "", actions.next_cursor.as_deref(), "cursor"))
    };
    let crumbs = [
        (deployment.group_name.as_str(), format!("/groups/{}", deployment.group)),
        (deployment.package.version.as_str(), format!("/deployments/{}", deployment.id)),
    ];
    document(chrome, &format!("Actions · {}", heading(deployment)), &crumbs, &body)
}

fn row(one: &AuditView) -> Markup {
    let tone = if one.answer == "accepted" { Tone::Good } else { Tone::Warning };
    html! {
        tr {
            th scope="row" { (moment::second(one.at)) }
            td data-label="Who" { (one.actor) }
            td data-label="What" { div { strong { (one.action) } " " span.fine { (one.subject) } } }
            td data-label="Answer" { (badge(tone, &one.answer)) }
            td data-label="Details" { (one.detail) }
        }
    }
}
