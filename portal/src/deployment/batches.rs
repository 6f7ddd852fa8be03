//! The batches of a deployment and their targets.

use capstan_core::batch_status::BatchStatus;
use capstan_core::record::Cause;
use capstan_core::stage::Stage;
use capstan_core::target_status::TargetStatus;
use capstan_core::view::{BatchView, DeploymentView, Tally, TargetView};
use maud::{Markup, html};

use crate::frame::Chrome;
use crate::line;
use crate::moment;
use crate::targets::host;
use crate::tone::{Tone, badge};

use super::MOST_TILES;

/// The five stages of the chain, as a target shows them.
const CHAIN: [Stage; 5] =
    [Stage::Markdown, Stage::Download, Stage::Install, Stage::Verify, Stage::Markup];
/// A batch at rest with more targets than this is folded.
const MOST_OPEN: u32 = 24;

pub(super) fn list(chrome: &Chrome<'_>, view: &DeploymentView, targets: &[TargetView]) -> Markup {
    let total: u32 = view.counts.values().sum();
    let all_shown = total <= MOST_TILES;
    html! {
        section.batches aria-labelledby="batches-title" {
            div.section-head id="batches-head" data-section {
                h2 id="batches-title" { "Batches" }
                p.fine {
                    @if !all_shown {
                        "Of " (total) " targets only those under way and those that failed are shown. "
                    }
                    a href={ "/deployments/" (view.id) "/targets" } { "All targets" }
                }
                (key())
            }
            @for batch in &view.batches {
                @let shown = shown(batch, targets, all_shown);
                section.batch id={ "batch-" (batch.index) } data-section
                    aria-labelledby={ "batch-" (batch.index) "-title" } {
                    (one(chrome, view, batch, &shown))
                }
            }
        }
    }
}

/// The targets of a batch that get a tile, in the order of the plan.
fn shown<'a>(batch: &BatchView, targets: &'a [TargetView], all_shown: bool) -> Vec<&'a TargetView> {
    let matters =
        |target: &TargetView| target.status.is_failure() || target.status.running().is_some();
    let mut shown: Vec<&TargetView> = targets
        .iter()
        .filter(|target| target.batch == batch.index && (all_shown || matters(target)))
        .collect();
    shown.sort_by_key(|target| target.place);
    shown
}

fn one(
    chrome: &Chrome<'_>,
    view: &DeploymentView,
    batch: &BatchView,
    targets: &[&TargetView],
) -> Markup {
    let tally = Tally::of(&batch.counts);
    let at_work = matches!(batch.status, BatchStatus::Deploying | BatchStatus::Failure);
    let open = at_work || tally.all() <= MOST_OPEN;
    html! {
        div.batch-head {
            h3 id={ "batch-" (batch.index) "-title" } {
                "Batch " (batch.index)
                @if batch.is_bastion { " " span.kind { "bastion" } }
            }
            (badge(Tone::of_batch(batch.status), batch.status.word()))
            (line::of(tally))
            p.fine {
                (tally.sentence())
                @if batch.status == BatchStatus::Waiting && !view.holds.is_empty() {
                    "; held by the brake"
                } @else if batch.status == BatchStatus::Waiting {
                    @match batch.wait_until {
                        Some(until) => { "; starts " (moment::until(chrome.now, until)) }
                        None => { "; waits for a click" }
                    }
                }
            }
        }
        @if !targets.is_empty() {
            details.targets id={ "batch-" (batch.index) "-targets" } open[open] {
                summary {
                    @if targets.len() == 1 { "1 target" } @else { (targets.len()) " targets" }
                    @if tally.all() as usize > targets.len() { " of " (tally.all()) }
                }
                ul.tiles { @for target in targets { (tile(target)) } }
            }
        }
    }
}

fn tile(target: &TargetView) -> Markup {
    let troubled = target.status.is_failure() || target.unknown_since.is_some();
    html! {
        li.tile.wide[troubled && target.message.is_some()].(tile_class(target)) {
            a.host id={ "target-" (target.id) } href={ "/targets/" (target.id) } title=(host(target)) {
                (host(target))
            }
            (chain(target))
            p.state {
                @for part in target.status.word().split_inclusive('_') { (part) wbr; }
                @if target.unknown_since.is_some() { ", no answer" }
                @if let Some(cause) = target.cause.filter(|_| troubled) { ", " (cause.word()) }
                @if target.skipped { ", skipped" }
                @if target.unverified { ", unverified" }
                @if target.attempt > 1 { ", attempt " (target.attempt) }
            }
            @if let Some(message) = target.message.as_deref().filter(|_| troubled) {
                p.message title=(message) { (message) }
            }
        }
    }
}

fn tile_class(target: &TargetView) -> &'static str {
    if target.unknown_since.is_some() {
        Tone::Warning.class()
    } else {
        Tone::of_target(target.status).class()
    }
}

/// Five small segments, one for each stage. The words beside them say the same.
pub(crate) fn chain(target: &TargetView) -> Markup {
    html! {
        span.chain aria-hidden="true" {
            @for class in segments(target) { span.(class) {} }
        }
    }
}

fn segments(target: &TargetView) -> [&'static str; 5] {
    let (done, here) = match target.status {
        TargetStatus::Success if target.skipped => return ["kept"; 5],
        TargetStatus::Success => (5, ""),
        TargetStatus::Pending => (0, "pending"),
        TargetStatus::CheckRunning => {
            return ["pending", "pending", "pending", "running", "pending"];
        }
        TargetStatus::MarkdownRunning => (0, "running"),
        TargetStatus::MarkdownSuccess => (1, "pending"),
        TargetStatus::MarkdownFailure => (0, "failed"),
        TargetStatus::DownloadRunning => (1, "running"),
        TargetStatus::DownloadSuccess => (2, "pending"),
        TargetStatus::DownloadFailure => (1, "failed"),
        TargetStatus::InstallRunning => (2, "running"),
        TargetStatus::InstallSuccess => (3, "pending"),
        TargetStatus::InstallFailure => (2, "failed"),
        TargetStatus::VerifyRunning => (3, "running"),
        TargetStatus::VerifySuccess => (4, "pending"),
        TargetStatus::VerifyFailure if target.cause == Some(Cause::Relapsed) => {
            return ["done", "done", "done", "failed", "done"];
        }
        TargetStatus::VerifyFailure => (3, "failed"),
        TargetStatus::MarkupRunning => (4, "running"),
        TargetStatus::MarkupFailure => (4, "failed"),
        TargetStatus::SetAside | TargetStatus::Revoked => return ["void"; 5],
    };
    let here = if here == "running" && target.unknown_since.is_some() { "unknown" } else { here };
    std::array::from_fn(|place| match place.cmp(&done) {
        std::cmp::Ordering::Less => "done",
        std::cmp::Ordering::Equal => here,
        std::cmp::Ordering::Greater => "pending",
    })
}

/// What the five segments stand for.
fn key() -> Markup {
    html! {
        ol.chain-key aria-label="The stages of a target, from left to right" {
            @for stage in CHAIN { li { (stage.word()) } }
        }
    }
}
