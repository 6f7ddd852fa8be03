//! The servers of a group.

use capstan_core::plan::label;
use capstan_core::record::{OutBecause, Service};
use capstan_core::view::{GroupView, Page, ServerView};
use maud::{Markup, html};

use crate::frame::{Chrome, csrf, pager};
use crate::moment;
use crate::tone::{Tone, badge};

pub(super) fn table(chrome: &Chrome<'_>, group: &GroupView, servers: &Page<ServerView>) -> Markup {
    html! {
        section id="servers" aria-labelledby="servers-title" {
            h2 id="servers-title" { "Servers" }
            div.card.flush {
                @if servers.items.is_empty() {
                    p.empty { "This group has no servers." }
                } @else {
                    table.stacked {
                        caption.unseen { "Servers, whether they serve, and what they run" }
                        thead {
                            tr {
                                th scope="col" { "Host" }
                                th scope="col" { "IDC, pool" }
                                th scope="col" { "Service" }
                                th scope="col" { "Version" }
                                th scope="col" { "By hand" }
                            }
                        }
                        tbody { @for server in &servers.items { (row(chrome, server)) } }
                    }
                }
            }
            (pager(&format!("/groups/{}", group.id), "", servers.next_cursor.as_deref(), "servers"))
        }
    }
}

fn row(chrome: &Chrome<'_>, server: &ServerView) -> Markup {
    html! {
        tr id={ "server-" (server.id) } {
            th scope="row" {
                span.host { (label(&server.hostname, &server.instance)) }
                @if server.is_bastion { " " span.kind { "bastion" } }
                @if server.retired { " " span.kind { "retired" } }
                span.fine { (server.ip_address) ":" (server.port) }
            }
            td data-label="IDC, pool" { (server.idc) " / " (server.pool) }
            td data-label="Service" { div { (service(chrome, server)) } }
            td data-label="Version" { div { (running(chrome, server)) } }
            td data-label="By hand" { div { (by_hand(chrome, server)) } }
        }
    }
}

fn service(chrome: &Chrome<'_>, server: &ServerView) -> Markup {
    let (tone, word) = match server.service {
        Service::In if server.markup_owed_since.is_some() => (Tone::Warning, "in, not confirmed"),
        Service::In => (Tone::Good, "in"),
        Service::Out
            if matches!(server.out_because, Some(OutBecause::Target | OutBecause::Bypassed)) =>
        {
            (Tone::Running, "out")
        }
        Service::Out if server.out_because == Some(OutBecause::New) => (Tone::Idle, "out"),
        Service::Out => (Tone::Bad, "out"),
        Service::Unknown => (Tone::Warning, "unknown"),
    };
    html! {
        (badge(tone, word))
        span.fine {
            @if let Some(since) = server.markup_owed_since {
                "Markup bypassed for " (moment::lasting(chrome.now, since)) ", "
            } @else if let Some(because) = server.out_because { (why(because)) ", " }
            @match server.observed_at {
                Some(at) => (moment::ago(chrome.now, at)),
                None => "never looked at",
            }
        }
    }
}

fn why(because: OutBecause) -> &'static str {
    match because {
        OutBecause::Target => "by a deployment",
        OutBecause::Bypassed => "by a deployment, not drained",
        OutBecause::Person => "by a person",
        OutBecause::Outside => "at the load balancer",
        OutBecause::LateMark => "by a drain that came late",
        OutBecause::Dead => "does not answer",
        OutBecause::New => "new",
    }
}

fn running(chrome: &Chrome<'_>, server: &ServerView) -> Markup {
    html! {
        @match &server.version {
            Some(version) => span.version { (version) },
            None => span.fine { "not known" },
        }
        @if server.version.is_some() {
            span.fine {
                @match server.proven_at {
                    Some(at) => { "proven " (moment::ago(chrome.now, at)) }
                    None => "not proven",
                }
            }
        }
    }
}

fn by_hand(chrome: &Chrome<'_>, server: &ServerView) -> Markup {
    let name = label(&server.hostname, &server.instance);
    let field = format!("reason-{}", server.id);
    html! {
        @match &server.pulled_out {
            Some(pulled) => {
                p.pulled {
                    "Pulled out by " strong { (pulled.by) } " "
                    (moment::ago(chrome.now, pulled.since)) ": " (pulled.reason)
                }
                form method="post" action={ "/servers/" (server.id) "/put-back" } {
                    (csrf(chrome))
                    button.small type="submit" { "Put back" span.unseen { " " (name) } }
                }
            }
            None => details.confirm id={ "pull-" (server.id) } {
                summary.button.small { "Pull out…" span.unseen { " " (name) } }
                form method="post" action={ "/servers/" (server.id) "/pull-out" } {
                    (csrf(chrome))
                    div.field {
                        label for=(field) { "Reason" }
                        input id=(field) name="reason" required maxlength="200" autocomplete="off";
                    }
                    button.small.danger type="submit" { "Pull out" }
                }
            },
        }
    }
}
