//! The frame around every page.

use capstan_core::Timestamp;
use maud::{DOCTYPE, Markup, html};

use crate::assets;
use crate::tone::Tone;

/// What every page of a signed-in person needs besides its own input.
#[derive(Debug, Clone, Copy)]
pub struct Chrome<'a> {
    /// The session's CSRF token; every form carries it as `csrf`.
    pub csrf: &'a str,
    /// Who is signed in.
    pub user: &'a str,
    /// The present instant, by the clock that the views' instants come from.
    pub now: Timestamp,
    /// What became of the form that led here.
    pub notice: Option<Notice<'a>>,
}

/// One sentence on top of a page.
#[derive(Debug, Clone, Copy)]
pub struct Notice<'a> {
    /// How it went.
    pub tone: Tone,
    /// The sentence.
    pub text: &'a str,
}

/// A page of a signed-in person. `crumbs` are the pages above this one: name and address.
pub(crate) fn document(
    chrome: &Chrome<'_>,
    title: &str,
    crumbs: &[(&str, String)],
    body: &Markup,
) -> Markup {
    let content = html! {
        @if !crumbs.is_empty() {
            nav.crumbs aria-label="Breadcrumb" {
                ol {
                    li { a href="/" { "Groups" } }
                    @for (name, href) in crumbs { li { a href=(href) { (name) } } }
                }
            }
        }
        @if let Some(notice) = chrome.notice {
            p.banner.(notice.tone.class()) role="status" { (notice.text) }
        }
        (body)
    };
    shell(title, Some(chrome), &content)
}

/// A page without breadcrumbs, and without a person when nobody is signed in.
pub(crate) fn shell(title: &str, chrome: Option<&Chrome<'_>>, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Capstan" }
                link rel="icon" type="image/svg+xml" href=(assets::ICON.href());
                link rel="stylesheet" href=(assets::STYLE.href());
                script src=(assets::SCRIPT.href()) defer {}
            }
            body data-now=[chrome.map(|chrome| chrome.now)] {
                a.skip href="#content" { "Skip to content" }
                header.top {
                    div.wrap {
                        a.brand href="/" { (mark()) "Capstan" }
                        @if let Some(chrome) = chrome { (person(chrome)) }
                    }
                }
                main.wrap id="content" tabindex="-1" { (content) }
            }
        }
    }
}

fn person(chrome: &Chrome<'_>) -> Markup {
    html! {
        nav.places aria-label="Main" {
            a href="/" { "Groups" }
            a href="/dependencies" { "Dependencies" }
        }
        div.person {
            span.name { span.unseen { "Signed in as " } (chrome.user) }
            form method="post" action="/logout" {
                (csrf(chrome))
                button.quiet type="submit" { "Sign out" }
            }
        }
    }
}

/// The hidden field that every form carries.
pub(crate) fn csrf(chrome: &Chrome<'_>) -> Markup {
    hidden("csrf", chrome.csrf)
}

/// A hidden field.
pub(crate) fn hidden(name: &str, value: &str) -> Markup {
    html! { input type="hidden" name=(name) value=(value); }
}

/// The link to the next page of a list. `start` is the address of the first one, and `query` what
/// the list is filtered by, percent-encoded, with a trailing `&` if it is not empty.
pub(crate) fn pager(
    start: &str,
    query: &str,
    next_cursor: Option<&str>,
    parameter: &str,
) -> Markup {
    html! {
        @if let Some(cursor) = next_cursor {
            nav.pager aria-label="Pages" {
                a href=(start) { "First page" }
                a.button href={ (start) "?" (query) (parameter) "=" (encode(cursor)) } rel="next" {
                    "Next page"
                }
            }
        }
    }
}

/// Percent-encodes a value for a query.
pub(crate) fn encode(value: &str) -> String {
    use std::fmt::Write as _;
    value.bytes().fold(String::with_capacity(value.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("a string takes every text");
        }
        text
    })
}

/// A capstan from above: the head, and six bars.
fn mark() -> Markup {
    html! {
        svg.mark viewBox="0 0 32 32" aria-hidden="true" focusable="false" {
            path d="M16 2.5v5M16 24.5v5M4.3 9.25l4.4 2.5M23.3 20.25l4.4 2.5M4.3 22.75l4.4-2.5M23.3 11.75l4.4-2.5" {}
            circle cx="16" cy="16" r="8.5" {}
            circle.hub cx="16" cy="16" r="3" {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_safe_in_a_query() {
        assert_eq!(encode("a-Z_0.~"), "a-Z_0.~");
        assert_eq!(encode("a&b=\"é"), "a%26b%3D%22%C3%A9");
    }
}
