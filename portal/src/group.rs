//! The page of one group.

mod history;
mod servers;

use capstan_core::record::{BastionRule, ScaleOut};
use capstan_core::view::{DeploymentBrief, GroupView, PackageView, Page, ServerView, VersionView};
use maud::{Markup, html};

use crate::form::{FieldError, ReleaseForm};
use crate::frame::{Chrome, csrf, document, hidden};
use crate::groups::{in_service, running, version};
use crate::line;
use crate::moment;
use crate::release_form;
use crate::tone::{Tone, badge};

/// What the page of a group is made from.
#[derive(Debug, Clone, Copy)]
pub struct GroupPage<'a> {
    /// The group.
    pub group: &'a GroupView,
    /// Its servers.
    pub servers: &'a Page<ServerView>,
    /// Which version runs where.
    pub versions: &'a [VersionView],
    /// Its deployments, newest first.
    pub deployments: &'a Page<DeploymentBrief>,
    /// The packages of its application, newest first.
    pub packages: &'a [PackageView],
    /// The form that starts a release; [`ReleaseForm::default`] for an empty one.
    pub form: &'a ReleaseForm,
    /// What is wrong with it.
    pub errors: &'a [FieldError],
    /// What a rollback would do.
    pub rollback: RollbackOffer<'a>,
}

/// What a rollback of the group would do, as the core says it.
#[derive(Debug, Clone, Copy, Default)]
pub struct RollbackOffer<'a> {
    /// The version that it would bring back, if that is known before.
    pub version: Option<&'a str>,
    /// The deployments that a person may choose instead.
    pub choices: &'a [DeploymentBrief],
    /// Why there is nothing to roll back to; none: it is possible.
    pub refused_because: Option<&'a str>,
}

/// The page of a group.
pub fn group(chrome: &Chrome<'_>, page: &GroupPage<'_>) -> Markup {
    let view = page.group;
    let body = html! {
        (head(chrome, view))
        (held(chrome, view))
        div.columns {
            section.card aria-labelledby="facts-title" { (facts(view)) }
            section.card aria-labelledby="versions-title" { (versions(chrome, page.versions)) }
        }
        section.card aria-labelledby="release-title" id="release" {
            div.section-head {
                h2 id="release-title" { "Start a release" }
                p.fine { "The next page shows the plan. Nothing changes before you create it." }
            }
            form.stack method="post" action={ "/groups/" (view.id) "/preview" } {
                (csrf(chrome))
                (release_form::fields(page.form, page.errors, page.packages, view))
                div.buttons { button.primary type="submit" { "Preview" } }
            }
        }
        section.card aria-labelledby="rollback-title" id="rollback" {
            h2 id="rollback-title" { "Roll back" }
            (rollback(chrome, view, page.rollback))
        }
        (servers::table(chrome, view, page.servers))
        (history::table(chrome, view, page.deployments))
    };
    document(chrome, &view.name, &[], &body)
}

fn head(chrome: &Chrome<'_>, view: &GroupView) -> Markup {
    html! {
        header.page-head {
            div.title-line {
                h1 { (view.name) }
                @if let Some(id) = view.running_deployment {
                    (running(view))
                    a href={ "/deployments/" (id) } { "Open the running deployment" }
                }
                form.push method="post" action={ "/groups/" (view.id) "/sync" } {
                    (csrf(chrome))
                    button type="submit" { "Refresh from the CMDB" }
                }
            }
            p.lead {
                (view.application.name) ", " (view.application.environment) ", owned by "
                (view.application.owner) ". " (cmdb_revision(view)) ", checked "
                (moment::ago(chrome.now, view.synced_at)) "."
                @if view.stale { " " (badge(Tone::Warning, "stale")) }
            }
        }
    }
}

fn cmdb_revision(view: &GroupView) -> String {
    match view.cmdb_revision {
        1.. => format!("CMDB revision {}", view.cmdb_revision),
        _ => "The CMDB gives no revision".to_owned(),
    }
}

fn held(chrome: &Chrome<'_>, view: &GroupView) -> Markup {
    html! {
        @if let Some(what) = &view.refresh_held {
            section.banner.warning aria-labelledby="held-title" {
                h2 id="held-title" { "A refresh from the CMDB is held" }
                p { (what) }
                form method="post" action={ "/groups/" (view.id) "/sync" } {
                    (csrf(chrome))
                    (hidden("confirm", "true"))
                    button type="submit" { "This is right: apply the refresh" }
                }
            }
        }
    }
}

fn facts(view: &GroupView) -> Markup {
    html! {
        h2 id="facts-title" { "Facts" }
        dl.facts {
            div { dt { "In service" } dd { (in_service(view)) } }
            div { dt { "Version" } dd { (version(view.version.as_deref())) } }
            @for (name, value) in [("IDC", &view.idc), ("Site", &view.site)] {
                @if !value.is_empty() { div { dt { (name) } dd { (value) } } }
            }
            @for (name, value) in [("Virtual path", &view.virtual_path), ("Folder", &view.doc_base)] {
                @if !value.is_empty() { div { dt { (name) } dd.code { (value) } } }
            }
            div { dt { "Port" } dd { (view.port) } }
            div { dt { "Health check" } dd.code { (view.health_check_url) } }
            div { dt { "Load balancer" } dd { (view.load_balancer) } }
            div { dt { "Executor" } dd { (view.executors().collect::<Vec<_>>().join(", then ")) ", scripts for " (view.application.kind) } }
            div {
                dt { "Bastion" }
                dd {
                    @match view.application.bastion {
                        BastionRule::One => "a rollout begins with a bastion batch",
                        BastionRule::None => "none",
                    }
                }
            }
            div { dt { "Settle time" } dd { (view.settle_seconds) " s" } }
            @if view.scale_out == ScaleOut::Automatic {
                div { dt { "New servers" } dd { "get the group's version by themselves" } }
            }
            @if view.may_go_dark {
                div { dt { "May go dark" } dd { "yes: 100 % and the last server may be taken" } }
            }
            div { dt { "CMDB id" } dd.code { (view.external_id) } }
        }
    }
}

fn versions(chrome: &Chrome<'_>, versions: &[VersionView]) -> Markup {
    let all: u32 = versions.iter().map(|version| version.servers).sum();
    let class = |place: usize| ["v0", "v1", "v2", "v3"].get(place).copied().unwrap_or("v4");
    let label = versions
        .iter()
        .map(|one| format!("{}: {}", one.version.as_deref().unwrap_or("unknown"), one.servers))
        .collect::<Vec<_>>()
        .join(", ");
    let pieces: Vec<[(u32, &str); 1]> =
        versions.iter().enumerate().map(|(place, one)| [(one.servers, class(place))]).collect();
    html! {
        h2 id="versions-title" { "Versions running" }
        @if versions.is_empty() {
            p.fine { "No server is known to run anything." }
        } @else {
            (line::bar(&pieces, &label))
            table.plain {
                caption.unseen { "Versions that run on servers of this group" }
                thead.unseen {
                    tr {
                        th scope="col" { "Version" }
                        th scope="col" { "Servers" }
                        th scope="col" { "Evidence" }
                    }
                }
                tbody {
                    @for (place, one) in versions.iter().enumerate() {
                        tr {
                            th scope="row" {
                                span.swatch.(class(place)) aria-hidden="true" {}
                                @match &one.version {
                                    Some(version) => span.version { (version) },
                                    None => span.fine { "not known" },
                                }
                            }
                            td.number {
                                (one.servers) span.fine { " (" (percent(one.servers, all)) " %)" }
                            }
                            td.fine { (evidence(chrome, one)) }
                        }
                    }
                }
            }
        }
    }
}

fn evidence(chrome: &Chrome<'_>, one: &VersionView) -> Markup {
    html! {
        @match (one.proven, one.oldest_proof_at) {
            (0, _) | (_, None) => "not proven",
            (proven, Some(oldest)) => {
                @if proven < one.servers { (proven) " proven, " }
                "oldest proof " (moment::ago(chrome.now, oldest))
            }
        }
    }
}

/// Whole percent; a half goes to the even side, so that two halves do not make 101.
fn percent(part: u32, all: u32) -> u64 {
    let (all, part) = (u64::from(all.max(1)), u64::from(part) * 100);
    let whole = part / all;
    match (part % all * 2).cmp(&all) {
        std::cmp::Ordering::Less => whole,
        std::cmp::Ordering::Equal => whole + whole % 2,
        std::cmp::Ordering::Greater => whole + 1,
    }
}

fn rollback(chrome: &Chrome<'_>, view: &GroupView, offer: RollbackOffer<'_>) -> Markup {
    if let Some(because) = offer.refused_because {
        return html! {
            div.buttons {
                button type="button" disabled title=(because) aria-describedby="rollback-refused" {
                    "Roll back"
                }
                p.fine id="rollback-refused" { (because) }
            }
        };
    }
    html! {
        p.fine {
            "Brings back "
            @match offer.version {
                Some(version) => span.version { (version) },
                None => "the package that the group ran before",
            }
            " in two halves, without a bastion batch. A deployment that runs is revoked."
        }
        details.confirm id="rollback-confirm" {
            summary.button.danger { "Roll back…" }
            form method="post" action={ "/groups/" (view.id) "/rollback" } {
                (csrf(chrome))
                @if !offer.choices.is_empty() {
                    div.field {
                        label for="to" { "Back to" }
                        select id="to" name="to" {
                            option value="" selected {
                                "the version before"
                                @if let Some(version) = offer.version { " (" (version) ")" }
                            }
                            @for choice in offer.choices {
                                option value=(choice.id) {
                                    (choice.package.version) ", " (choice.flavor.word()) " of "
                                    (choice.created_at.to_string().get(..10).unwrap_or(""))
                                }
                            }
                        }
                    }
                }
                button.danger type="submit" { "Roll back " (view.name) }
            }
        }
    }
}
