//! The strategy and the identity of a deployment.

use capstan_core::config::Mode;
use capstan_core::view::DeploymentView;
use maud::{Markup, html};

use crate::moment;

pub(super) fn list(view: &DeploymentView) -> Markup {
    html! {
        h2 id="facts-title" { "Facts" }
        dl.facts {
            div { dt { "Package" } dd { span.version { (view.package.version) } } }
            div { dt { "SHA-256" } dd.code { (view.package.sha256) } }
            div { dt { "Flavor" } dd { (view.flavor.word()) } }
            (strategy(view))
            div { dt { "Created" } dd { (moment::date(view.created_at)) " UTC by " (view.created_by) } }
            @if let Some(started) = view.started_at {
                div { dt { "Started" } dd { (moment::date(started)) " UTC" } }
            }
            @if let Some(ended) = view.ended_at {
                div { dt { "Ended" } dd { (moment::date(ended)) " UTC" } }
            }
            @for (name, id) in [
                ("Parent", view.parent),
                ("Undoes", view.origin),
                ("Restores", view.restores),
                ("Replaced by", view.superseded_by),
            ] {
                @if let Some(id) = id {
                    div { dt { (name) } dd.code { a href={ "/deployments/" (id) } { (id) } } }
                }
            }
            div { dt { "Id" } dd.code { (view.id) } }
            div { dt { "Seed" } dd.code { (view.seed) } }
            div { dt { "Plan hash" } dd.code { (view.plan_hash) } }
        }
    }
}

fn strategy(view: &DeploymentView) -> Markup {
    let config = &view.config;
    html! {
        div { dt { "Max unavailable" } dd { (config.max_unavailable) } }
        div {
            dt { "Batch pattern" }
            dd { @match &config.batch_pattern { Some(pattern) => (pattern), None => "parts of B" } }
        }
        div { dt { "Max failure" } dd { (config.max_failure) } }
        div {
            dt { "Mode" }
            dd { @match config.mode { Mode::Auto => "auto", Mode::Manual => "manual" } }
        }
        div {
            dt { "Waits" }
            dd { "batch " (config.batch_wait_seconds) " s, tail " (config.tail_wait_seconds) " s" }
        }
        div { dt { "Startup timeout" } dd { (config.startup_timeout_seconds) " s" } }
        @if config.ignore_verify {
            div {
                dt { "Ignore verify" }
                dd { "yes: " (view.ignore_verify_reason.as_deref().unwrap_or("no reason given")) }
            }
        }
    }
}
