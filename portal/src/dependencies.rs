//! Outside dependencies: what their breakers do, and the hand switch of each.

use capstan_core::dependency::{BreakerState, DependencyKind};
use capstan_core::view::DependencyView;
use maud::{Markup, html};

use crate::frame::{Chrome, csrf, document};
use crate::moment;
use crate::tone::{Tone, badge};

/// For how long a cut may be made to end by itself: minutes and words.
const SPANS: [(u32, &str); 4] =
    [(30, "30 minutes"), (120, "2 hours"), (480, "8 hours"), (1440, "a day")];

/// Every outside dependency.
pub fn dependencies(chrome: &Chrome<'_>, all: &[DependencyView]) -> Markup {
    let body = html! {
        header.page-head {
            div.title-line { h1 { "Dependencies" } }
            p.lead {
                "What Capstan calls. One that does not answer is not asked for a while; one that is cut off "
                "is not asked at all, until somebody restores it or its time is over."
            }
        }
        @if all.is_empty() {
            div.card { p.empty { "The engine has not told yet what it calls." } }
        }
        @for one in all { (card(chrome, one)) }
    };
    document(chrome, "Dependencies", &[("Dependencies", "/dependencies".to_owned())], &body)
}

fn card(chrome: &Chrome<'_>, one: &DependencyView) -> Markup {
    let title = format!("dependency-{}", one.name);
    html! {
        section.card id=(one.name) aria-labelledby=(title) {
            div.title-line {
                h2 id=(title) { (one.name) }
                (state(one))
            }
            p.fine {
                (kind(one.kind)) ", "
                @if one.groups == 1 { "1 group" } @else { (one.groups) " groups" }
                "; the breaker is " (one.state.word().replace('_', " ")) " since "
                (moment::date(one.since)) " UTC"
            }
            @if let Some(error) = &one.last_error {
                p.fine { "Last error that opened the breaker: " (error) }
            }
            @match &one.cut_off {
                Some(cut) => {
                    p {
                        "Cut off by " strong { (cut.by) } " " (moment::ago(chrome.now, cut.since)) ": "
                        (cut.reason)
                    }
                    p.fine {
                        @match cut.expires_at {
                            Some(at) => { "It ends by itself " (moment::until(chrome.now, at)) "." }
                            None => "It lasts until somebody restores it.",
                        }
                    }
                    form method="post" action={ "/dependencies/" (one.name) "/restore" } {
                        (csrf(chrome))
                        button type="submit" { "Restore" span.unseen { " " (one.name) } }
                    }
                }
                None => (cut_off(chrome, one)),
            }
        }
    }
}

fn cut_off(chrome: &Chrome<'_>, one: &DependencyView) -> Markup {
    let (reason, minutes) = (format!("reason-{}", one.name), format!("minutes-{}", one.name));
    html! {
        details.confirm {
            summary.button.small { "Cut off…" span.unseen { " " (one.name) } }
            form method="post" action={ "/dependencies/" (one.name) "/cut-off" } {
                (csrf(chrome))
                p { (follows(one.kind)) }
                div.field {
                    label for=(reason) { "Reason" }
                    input id=(reason) name="reason" required maxlength="500" autocomplete="off";
                }
                div.field {
                    label for=(minutes) { "Ends by itself" }
                    select id=(minutes) name="minutes" {
                        option value="" { "no: until somebody restores it" }
                        @for (count, words) in SPANS { option value=(count) { "after " (words) } }
                    }
                }
                button.small.danger type="submit" { "Cut off" }
            }
        }
    }
}

fn state(one: &DependencyView) -> Markup {
    match (&one.cut_off, one.state) {
        (Some(_), _) => badge(Tone::Warning, "cut off"),
        (None, BreakerState::Closed) => badge(Tone::Good, "usable"),
        (None, BreakerState::HalfOpen) => badge(Tone::Warning, "probed"),
        (None, BreakerState::Open) => badge(Tone::Bad, "broken"),
    }
}

fn kind(kind: DependencyKind) -> &'static str {
    match kind {
        DependencyKind::LoadBalancer => "Load balancer",
        DependencyKind::Executor => "Executor",
        DependencyKind::Cmdb => "CMDB",
        DependencyKind::PackageStore => "Package store",
        DependencyKind::Broker => "Message broker",
        DependencyKind::Queue => "Queue",
    }
}

/// What follows from cutting it off.
fn follows(kind: DependencyKind) -> &'static str {
    match kind {
        DependencyKind::LoadBalancer => {
            "Markdown and Markup are recorded as bypassed. At most half of B, and at least one server, are \
             out by us at a time. What is drained already stays out until the load balancer is back; what is \
             not may get traffic while it restarts or fails."
        }
        DependencyKind::Executor => "Its deployments hold until it is restored.",
        DependencyKind::Cmdb => {
            "Releases go out from the cached records, and say how old they are."
        }
        DependencyKind::PackageStore => {
            "Nothing can be uploaded, and hosts fetch packages from their other locations, or use what they \
             have kept."
        }
        DependencyKind::Broker => {
            "Messages about events wait in the log, and are sent in their order when it is restored. \
             Messages about changes in the CMDB wait in the broker."
        }
        DependencyKind::Queue => {
            "Engines find due work in the database by themselves, somewhat later. Nothing stops."
        }
    }
}
