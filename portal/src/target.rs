//! The page of one target: facts, and the output of its host's scripts.

use capstan_core::view::{DeploymentView, LogPart, TargetView};
use maud::{Markup, html};

use crate::deployment::{chain, heading};
use crate::frame::{Chrome, document};
use crate::moment;
use crate::targets::host;
use crate::tone::status_badge;

/// What the page of a target is made from.
#[derive(Debug, Clone, Copy)]
pub struct TargetPage<'a> {
    /// The deployment.
    pub deployment: &'a DeploymentView,
    /// The target.
    pub target: &'a TargetView,
    /// Its log, in the order in which it was written.
    pub log: &'a [LogPart],
}

/// The page of a target.
pub fn target(chrome: &Chrome<'_>, page: &TargetPage<'_>) -> Markup {
    let (view, target) = (page.deployment, page.target);
    let name = host(target);
    let body = html! {
        header.page-head {
            div.title-line { h1.host { (name) } (status_badge(target.status.word())) }
            p.lead { (heading(view)) ", batch " (target.batch) }
            (chain(target))
        }
        @if let Some(message) = &target.message {
            p.banner.bad[target.status.is_failure()].idle[!target.status.is_failure()] {
                @if let Some(cause) = target.cause { strong { (cause.word()) ": " } }
                (message)
            }
        }
        @if let Some(since) = target.unknown_since {
            p.banner.warning {
                "The host has not said how its stage ended, for "
                (moment::lasting(chrome.now, since)) ". It is asked again by the key of the order."
            }
        }
        (log(page))
        section.card aria-labelledby="facts-title" { (facts(chrome, target)) }
    };
    let crumbs = [
        (view.group_name.as_str(), format!("/groups/{}", view.group)),
        (view.package.version.as_str(), format!("/deployments/{}", view.id)),
        ("Targets", format!("/deployments/{}/targets", view.id)),
    ];
    document(chrome, &format!("{name} · {}", heading(view)), &crumbs, &body)
}

fn facts(chrome: &Chrome<'_>, target: &TargetView) -> Markup {
    let yes = |is: bool| if is { "yes" } else { "no" };
    html! {
        h2 id="facts-title" { "Facts" }
        dl.facts {
            div { dt { "Address" } dd { (target.ip_address) } }
            div { dt { "Batch, place" } dd { (target.batch) ", " (target.place) } }
            div { dt { "Attempt" } dd { (target.attempt) } }
            div { dt { "Status for" } dd { (moment::lasting(chrome.now, target.status_since)) } }
            div { dt { "Skipped" } dd { (yes(target.skipped)) } }
            div { dt { "Unverified" } dd { (yes(target.unverified)) } }
            @if let Some(digest) = &target.order_digest {
                div { dt { "Order digest" } dd.code { (digest) } }
            }
            div { dt { "Target" } dd.code { (target.id) } }
            div { dt { "Server" } dd.code { (target.server) } }
        }
    }
}

fn log(page: &TargetPage<'_>) -> Markup {
    html! {
        section aria-labelledby="log-title" {
            div.section-head {
                h2 id="log-title" { "Log" }
                p.fine { a href={ "/api/v1/targets/" (page.target.id) "/log" } { "As JSON" } }
            }
            @if page.log.is_empty() {
                p.card.empty { "No script has written anything on this host yet." }
            }
            @for (place, part) in page.log.iter().enumerate() {
                (log_part(part, place + 1 == page.log.len()))
            }
        }
    }
}

fn log_part(part: &LogPart, is_last: bool) -> Markup {
    let shown = part.text.len() as u64;
    html! {
        details.log id={ "log-" (part.key) } open[is_last] {
            summary {
                h3 { (part.stage) }
                span.fine {
                    "attempt " (part.attempt) ", " (moment::clock(part.at)) " UTC, "
                    (size(part.bytes))
                }
            }
            pre tabindex="0" aria-label={ "Output of " (part.stage) } {
                @if part.text.is_empty() { span.cut { "(no output)" } } @else { (part.text) }
                @if shown < part.bytes {
                    span.cut {
                        "\n✂ cut here: " (size(shown)) " of " (size(part.bytes)) " are shown"
                    }
                }
            }
        }
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{} KiB", bytes / 1_024),
        _ => format!("{} MiB", bytes / 1_048_576),
    }
}
