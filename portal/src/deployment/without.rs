//! What a deployment does or did without, and which servers are owed their Markup because of it.

use capstan_core::view::DeploymentView;
use maud::{Markup, html};

use crate::frame::Chrome;
use crate::moment;

/// Empty, and hidden, for a deployment that had everything.
pub(super) fn card(chrome: &Chrome<'_>, view: &DeploymentView) -> Markup {
    let without = &view.ran_without;
    html! {
        section.card id="without" data-section hidden[without.is_empty() && view.owed.is_empty()]
            aria-labelledby="without-title" {
            h2 id="without-title" {
                @if view.status.is_final() { "Ran without" } @else { "Runs without" }
            }
            ul {
                @for it in without {
                    li {
                        p { (it.text) }
                        p.fine { (it.dependency) ", since " (moment::date(it.since)) " UTC" }
                    }
                }
            }
            @if let Some(most) = view.most_ours {
                p {
                    "The load balancer is not asked: at most " (most)
                    @if most == 1 { " server is" } @else { " servers are" }
                    " out by us at a time. "
                    "A server that restarts or fails may get traffic."
                }
            }
            @if !view.owed.is_empty() {
                h3 { "Owed their Markup" }
                p.fine {
                    "They run " span.version { (view.package.version) }
                    " and wait for the load balancer to be back and to show them in traffic."
                }
                ul {
                    @for owed in &view.owed {
                        li {
                            (owed.hostname) " "
                            @if owed.is_drained { "was drained, gets no traffic and is out" }
                            @else { "was not drained: it gets traffic as far as the load balancer gives it" }
                            span.fine { ", for " (moment::lasting(chrome.now, owed.since)) }
                        }
                    }
                }
            }
            p { a href="/dependencies" { "Dependencies" } }
        }
    }
}
