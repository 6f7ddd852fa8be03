//! An event in one line.

use capstan_core::event::Event;
use capstan_core::sentence::{Names, sentence};

use super::moment;
use super::table::clean;

/// One line for an event: when, what, by whom, and what it says.
pub(crate) fn line(event: &Event, names: &Names) -> String {
    let by = match event.actor.as_str() {
        "capstan" => String::new(),
        actor => format!(", by {actor}"),
    };
    let message = event.data.message.as_deref().map(|text| format!(": {text}"));
    let text = format!("{}{by}{}", sentence(event, names), message.unwrap_or_default());
    format!("{}  {:>4}  {}", moment::clock(event.at), event.seq, clean(&text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_says_when_what_by_whom_and_why() {
        let event = json!({
            "seq": 7, "at": "2023-11-14T22:13:20Z", "type": "server.pulled_out", "actor": "ann",
            "group": "018bcfe5-687b-7000-8000-000000000003",
            "server": "018bcfe5-687b-7000-8000-000000000002", "data": {"message": "\u{1b}[2J"},
        });
        let event = serde_json::from_value(event).expect("an event");
        let expected = "22:13:20     7  A server pulled out, by ann: \u{fffd}[2J";
        assert_eq!(line(&event, &Names::default()), expected);
    }
}
