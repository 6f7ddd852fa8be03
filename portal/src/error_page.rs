//! The page for what could not be done.

use capstan_core::action::Action;
use maud::{Markup, html};

use crate::frame::{Chrome, document, shell};

/// What the error page says.
#[derive(Debug, Clone, Copy)]
pub struct ErrorPage<'a> {
    /// The HTTP status.
    pub status: u16,
    /// What it is, in short.
    pub title: &'a str,
    /// What happened, and what can be done about it.
    pub detail: &'a str,
    /// For a refused action: what is allowed now. None: the page does not speak of actions.
    pub allowed: Option<&'a [Action]>,
    /// Where to go from here: name and address.
    pub back: Option<(&'a str, &'a str)>,
}

/// The error page; without `chrome` for somebody who is not signed in.
pub fn error(chrome: Option<&Chrome<'_>>, page: &ErrorPage<'_>) -> Markup {
    let (name, href) = page.back.unwrap_or(("Groups", "/"));
    let content = html! {
        div.gate.problem {
            p.code { (page.status) }
            h1 { (page.title) }
            p.lead { (page.detail) }
            @if let Some(allowed) = page.allowed {
                @if allowed.is_empty() {
                    p { "Nothing can be asked of this deployment now." }
                } @else {
                    p {
                        "Allowed now: "
                        @for (place, action) in allowed.iter().enumerate() {
                            @if place > 0 { ", " }
                            strong { (action.word()) }
                        }
                        "."
                    }
                }
            }
            p { a.button href=(href) { "Go to " (name) } }
        }
    };
    match chrome {
        Some(chrome) => document(chrome, page.title, &[], &content),
        None => shell(page.title, None, &content),
    }
}
