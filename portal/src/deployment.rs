//! The page of one deployment, and the part of it that is fetched again while it runs.

mod actions;
mod batches;
mod facts;
mod phases;
mod timeline;
mod without;

use capstan_core::Timestamp;
use capstan_core::event::{Event, EventType};
use capstan_core::record::{Flavor, HoldReason};
use capstan_core::sentence::Names;
use capstan_core::target_status::TargetStatus;
use capstan_core::view::{DeploymentView, HoldView, Tally, TargetView, WaitKind, WaitingFor};
use maud::{Markup, html};

use crate::frame::{Chrome, document};
use crate::line;
use crate::moment;
use crate::tone::{Tone, badge};

pub(crate) use batches::chain;

/// A deployment with more targets than this shows only those under way and those that failed.
pub const MOST_TILES: u32 = 400;

/// What the page of a deployment is made from.
#[derive(Debug, Clone, Copy)]
pub struct DeploymentPage<'a> {
    /// The deployment.
    pub deployment: &'a DeploymentView,
    /// Its targets. Of a deployment with more than [`MOST_TILES`] those under way and those that
    /// failed are enough; others, such as those that `events` name, may be among them.
    pub targets: &'a [TargetView],
    /// Its last events, about 50, in any order.
    pub events: &'a [Event],
}

/// The page of a deployment.
pub fn deployment(chrome: &Chrome<'_>, page: &DeploymentPage<'_>) -> Markup {
    let view = page.deployment;
    let crumbs = [(view.group_name.as_str(), format!("/groups/{}", view.group))];
    document(chrome, &tab_title(view), &crumbs, &deployment_live(chrome, page))
}

/// The part of the page that changes while the deployment runs, as it stands now.
pub fn deployment_live(chrome: &Chrome<'_>, page: &DeploymentPage<'_>) -> Markup {
    let view = page.deployment;
    let names = Names::of(page.targets);
    let types: Vec<&str> = EventType::ALL.iter().map(|kind| kind.word()).collect();
    html! {
        div.live id="live" data-live-url={ "/deployments/" (view.id) "/live" }
            data-events-url={ "/api/v1/deployments/" (view.id) "/events?after=" (view.last_seq) }
            data-event-types=(types.join(" ")) data-now=(chrome.now)
            data-over[is_over(view)] {
            p.unseen id="announcement" data-section role="status" aria-live="polite" {
                (announcement(view))
            }
            p.live-state id="live-state" hidden {}
            (head(chrome, view))
            (holds(chrome, view))
            (without::card(chrome, view))
            section.card.course id="course" data-section aria-label="Progress" {
                (phases::bar(view))
                (progress(view))
            }
            div.columns {
                section.card id="next" data-section aria-labelledby="next-title" {
                    (waiting(chrome, view))
                    (actions::panel(chrome, view))
                }
                section.card id="limits" data-section aria-labelledby="limits-title" {
                    (limits(view))
                }
            }
            (batches::list(chrome, view, page.targets))
            div.columns {
                section.card id="timeline" data-section aria-labelledby="timeline-title" {
                    (timeline::list(page.events, &names, view))
                }
                section.card id="facts" data-section aria-labelledby="facts-title" {
                    (facts::list(view))
                }
            }
        }
    }
}

/// What a deployment does, in words.
pub(crate) fn heading(view: &DeploymentView) -> String {
    let (version, group) = (&view.package.version, &view.group_name);
    match view.flavor {
        Flavor::Rollout => format!("Rollout of {version} to {group}"),
        Flavor::Rollback => format!("Rollback of {group} to {version}"),
        Flavor::Scaleout => format!("Scaleout of {version} in {group}"),
        Flavor::Adopted => format!("{group} came with {version}"),
    }
}

fn tab_title(view: &DeploymentView) -> String {
    format!("{} · {}", view.shown_status, heading(view))
}

/// Nothing will change any more: it is final, and no stage is under way.
fn is_over(view: &DeploymentView) -> bool {
    let under_way = view.counts.iter().any(|(word, count)| {
        *count > 0 && TargetStatus::from_word(word).is_some_and(|status| status.running().is_some())
    });
    view.status.is_final() && !under_way
}

fn tone(view: &DeploymentView) -> Tone {
    if view.holds.is_empty() { Tone::of_deployment(view.status) } else { Tone::Warning }
}

/// Since when it is in the status that is shown: a brake is a status of its own.
fn shown_since(view: &DeploymentView) -> Timestamp {
    let braked = view.holds.iter().map(|hold| hold.since).min();
    braked.map_or(view.status_since, |since| since.max(view.status_since))
}

fn announcement(view: &DeploymentView) -> Markup {
    html! {
        (heading(view)) ": " (view.shown_status) "."
        @for hold in &view.holds { " " (hold_title(hold)) "." }
    }
}

fn head(chrome: &Chrome<'_>, view: &DeploymentView) -> Markup {
    html! {
        header.page-head id="head" data-section data-title=(tab_title(view)) {
            div.title-line {
                h1 { (heading(view)) }
                (badge(tone(view), &view.shown_status))
            }
            p.lead {
                (view.application) ", created by " (view.created_by) " "
                (moment::ago(chrome.now, view.created_at)) ". "
                @match (view.started_at, view.ended_at) {
                    (_, Some(ended)) => {
                        "Ended " (moment::ago(chrome.now, ended))
                        @if let Some(started) = view.started_at {
                            ", took " (moment::span(ended.since(started)))
                        }
                        "."
                    }
                    (Some(started), None) => {
                        "Started " (moment::ago(chrome.now, started)) ", "
                        (view.shown_status) " for "
                        (moment::lasting(chrome.now, shown_since(view))) "."
                    }
                    (None, None) => "Not started yet.",
                }
                @if let Some(rollback) = view.superseded_by {
                    " " a href={ "/deployments/" (rollback) } { "Replaced by a rollback" } "."
                }
            }
        }
    }
}

fn hold_title(hold: &HoldView) -> String {
    match hold.reason {
        HoldReason::User => format!("Braked by {}", hold.by),
        HoldReason::Failures => "Braked by failures".to_owned(),
        HoldReason::Slots => "Braked: no slot can come free".to_owned(),
        HoldReason::Dependency => "Braked by a dependency".to_owned(),
    }
}

fn holds(chrome: &Chrome<'_>, view: &DeploymentView) -> Markup {
    html! {
        section.holds id="holds" data-section hidden[view.holds.is_empty()] aria-label="Brake" {
            @for hold in &view.holds {
                div.hold {
                    h2 {
                        (hold_title(hold)) " "
                        span.since { "for " (moment::lasting(chrome.now, hold.since)) }
                    }
                    p { (hold.detail) }
                    dl.inline {
                        div { dt { "Reason" } dd { (hold.reason.word()) } }
                        div { dt { "Set by" } dd { (hold.by) } }
                        div { dt { "Cleared by" } dd { (hold.clears) } }
                    }
                }
            }
        }
    }
}

fn progress(view: &DeploymentView) -> Markup {
    let tally = Tally::of(&view.counts);
    html! {
        (line::release(&view.batches))
        div.numbers {
            p.share {
                strong { (tally.serving) " of " (tally.of_interest()) } " serve "
                span.version { (view.package.version) }
                @let drained = view.owed.iter().filter(|owed| owed.is_drained).count();
                @if drained > 0 { " (" (drained) " without traffic until the load balancer is back)" }
                progress.unseen value=(tally.serving) max=(tally.of_interest().max(1))
                    aria-label="Targets that serve" {}
            }
            ul.legend {
                @for (count, class, word) in line::parts(tally).into_iter().filter(|(count, ..)| *count > 0) {
                    li.(class) { strong { (count) } " " (word) }
                }
            }
        }
    }
}

fn waiting(chrome: &Chrome<'_>, view: &DeploymentView) -> Markup {
    // Time starts nothing while the brake is on.
    let matters = |wait: &&WaitingFor| wait.what != WaitKind::Timer || view.holds.is_empty();
    html! {
        h2 id="next-title" { @if view.waiting_for.is_empty() { "Actions" } @else { "Waits for" } }
        @if !view.waiting_for.is_empty() {
            ul.waits {
                @for wait in view.waiting_for.iter().filter(matters) {
                    li { (wait_item(chrome, wait)) }
                }
            }
        }
    }
}

fn wait_item(chrome: &Chrome<'_>, wait: &WaitingFor) -> Markup {
    let (word, tone) = match wait.what {
        WaitKind::Click => ("click", Tone::Warning),
        WaitKind::Slot => ("slot", Tone::Warning),
        WaitKind::Timer => ("timer", Tone::Running),
        WaitKind::Host => ("host", Tone::Running),
        WaitKind::Dependency => ("dependency", Tone::Warning),
        WaitKind::Predecessor => ("predecessor", Tone::Idle),
    };
    html! {
        (badge(tone, word))
        div {
            p {
                @match (wait.what, wait.until) {
                    (WaitKind::Timer, Some(until)) => {
                        "The next batch starts " (moment::until(chrome.now, until)) "; "
                        strong { "Roll out" } " starts it now."
                    }
                    _ if wait.is_hold() => {
                        "The brake to be cleared. Why it is on, and what clears it, stands above."
                    }
                    _ => (wait.text),
                }
            }
            p.fine {
                (wait.on) ", for " (moment::lasting(chrome.now, wait.since))
                @match (wait.what, wait.until) {
                    (WaitKind::Timer, _) | (_, None) => {}
                    (WaitKind::Host, Some(until)) => {
                        "; ends " (moment::until(chrome.now, until)) " at the latest"
                    }
                    (_, Some(until)) => { "; by itself " (moment::until(chrome.now, until)) }
                }
                "; cleared by " (wait.who)
            }
        }
    }
}

fn limits(view: &DeploymentView) -> Markup {
    html! {
        h2 id="limits-title" { "Limits" }
        div.limit {
            p {
                "Out " strong { (view.out) } " of at most " strong { (view.l) }
                span.fine { " (B " (view.b) ", total " (view.total) ")" }
            }
            (gauge(view.out, view.l, "running", "Servers out of service"))
            p.fine {
                @if view.free == 1 { "1 more server in service may be taken now." }
                @else { (view.free) " more servers in service may be taken now." }
            }
        }
        div.limit {
            p {
                "Failed " strong { (view.failed) } " of " strong { (view.failure_limit) }
            }
            (gauge(view.failed, view.failure_limit, "bad", "Failed targets"))
            p.fine { "The rollout brakes at " (view.failure_limit) " (failed, relapsed or unknown)." }
        }
    }
}

/// One cell for each that there may be; cells past the limit are marked.
fn gauge(count: u32, limit: u32, class: &'static str, label: &str) -> Markup {
    let label = format!("{label}: {count} of {limit}");
    let (within, over) = (count.min(limit), count.saturating_sub(limit));
    let parts = [(within, class), (limit - within, "idle"), (over, "bad")];
    if limit.max(count) <= 40 {
        let cells: Vec<[(u32, &str); 1]> =
            parts.iter().flat_map(|(count, class)| (0..*count).map(|_| [(1, *class)])).collect();
        line::bar(&cells, &label)
    } else {
        line::bar(&[parts], &label)
    }
}
