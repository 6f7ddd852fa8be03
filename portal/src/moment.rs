//! Instants and ages, as people read them.

use std::time::Duration;

use capstan_core::Timestamp;
use maud::{Markup, html};

/// How long ago an instant is. The script keeps it up to date.
pub(crate) fn ago(now: Timestamp, at: Timestamp) -> Markup {
    html! {
        time datetime=(at) data-since="ago" title=(absolute(at)) { (span(now.since(at))) " ago" }
    }
}

/// For how long something has lasted. The script keeps it up to date.
pub(crate) fn lasting(now: Timestamp, since: Timestamp) -> Markup {
    html! {
        time datetime=(since) data-since="for" title={ "since " (absolute(since)) } {
            (span(now.since(since)))
        }
    }
}

/// How long it takes until an instant. The script keeps it up to date.
pub(crate) fn until(now: Timestamp, at: Timestamp) -> Markup {
    html! {
        time datetime=(at) data-since="until" title=(absolute(at)) {
            @if at > now { "in " (span(at.since(now))) } @else { "now" }
        }
    }
}

/// A date with its time of day, to the minute.
pub(crate) fn date(at: Timestamp) -> Markup {
    let text = absolute(at);
    html! { time datetime=(at) title=(text) { (text.get(..16).unwrap_or(&text)) } }
}

/// A date with its time of day, to the second.
pub(crate) fn second(at: Timestamp) -> Markup {
    let text = absolute(at);
    html! { time datetime=(at) { (text.trim_end_matches(" UTC")) } }
}

/// The time of day, to the second.
pub(crate) fn clock(at: Timestamp) -> Markup {
    let text = absolute(at);
    html! { time datetime=(at) title=(text) { (text.get(11..19).unwrap_or(&text)) } }
}

/// The two largest units of a duration. `portal.js` has the same rule.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(parts.len() - 1);
    let words: Vec<String> = parts[first..]
        .iter()
        .take(2)
        .enumerate()
        .filter(|(place, (count, _))| *place == 0 || *count > 0)
        .map(|(_, (count, unit))| format!("{count} {unit}"))
        .collect();
    words.join(" ")
}

fn absolute(at: Timestamp) -> String {
    let text = at.to_string();
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_at_most_two_units() {
        let cases = [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (61, "1 min 1 s"),
            (3_600, "1 h"),
            (3_661, "1 h 1 min"),
            (86_400 + 59, "1 d"),
            (3 * 86_400 + 7_200, "3 d 2 h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn an_instant_is_shown_in_utc() {
        let at = Timestamp::from_micros(1_700_000_000_123_456);
        assert_eq!(absolute(at), "2023-11-14 22:13:20 UTC");
        assert!(date(at).into_string().contains(">2023-11-14 22:13<"));
        assert!(clock(at).into_string().contains(">22:13:20<"));
    }
}
