//! What a watch shows: a block that is drawn over itself on a terminal, plain lines elsewhere.

use std::collections::VecDeque;
use std::fmt::Write as _;

use capstan_core::event::Event;
use capstan_core::sentence::Names;
use capstan_core::view::{DeploymentView, WaitKind};

use super::context::{Context, Format, Size, note, print, terminal_size};
use super::error::Error;
use super::event_line;
use super::moment;
use super::summary;
use super::table::{clean, cut};

/// Events below the block.
const MOST_EVENTS: usize = 6;

/// Where a watch is shown.
#[derive(Debug)]
pub(crate) struct Screen {
    kind: Kind,
    /// The newest events, for the block.
    events: VecDeque<String>,
    /// Lines that stand on the terminal and are drawn over.
    drawn: usize,
    /// The state as it was told last.
    told: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A terminal, with its size.
    Live(Size),
    /// Lines for people.
    Lines,
    /// Events as they came.
    Json,
}

impl Screen {
    /// The screen for this output.
    pub(crate) fn new(context: &Context) -> Self {
        let kind = match (context.format, terminal_size()) {
            (Format::Json, _) => Kind::Json,
            (Format::Text, Some(size)) => Kind::Live(size),
            (Format::Text, None) => Kind::Lines,
        };
        Self { kind, events: VecDeque::new(), drawn: 0, told: String::new() }
    }

    /// Whether it is drawn again and again.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.kind, Kind::Live(_))
    }

    /// Shows an event.
    pub(crate) fn event(&mut self, event: &Event, names: &Names) -> Result<(), Error> {
        self.raw(&event_line::line(event, names))
    }

    /// Shows a line as it is.
    pub(crate) fn raw(&mut self, line: &str) -> Result<(), Error> {
        match self.kind {
            Kind::Live(_) => {
                self.events.push_back(clean(line));
                if self.events.len() > MOST_EVENTS {
                    self.events.pop_front();
                }
                Ok(())
            }
            Kind::Lines | Kind::Json => print(&format!("{line}\n")),
        }
    }

    /// Shows the state, where it is not drawn anyway: once for each change.
    pub(crate) fn state(&mut self, view: &DeploymentView) -> Result<(), Error> {
        match self.kind {
            Kind::Live(_) => self.draw(view),
            Kind::Json => Ok(()),
            Kind::Lines => {
                let told = told(view);
                if told == self.told {
                    return Ok(());
                }
                print(&told)?;
                self.told = told;
                Ok(())
            }
        }
    }

    /// Draws the block over the one before.
    pub(crate) fn draw(&mut self, view: &DeploymentView) -> Result<(), Error> {
        let Kind::Live(size) = self.kind else { return Ok(()) };
        let mut lines = summary::lines(view, moment::now());
        if !self.events.is_empty() {
            lines.push(String::new());
            lines.extend(self.events.iter().cloned());
        }
        // A block higher than the terminal could not be drawn over.
        lines.truncate(size.rows.saturating_sub(1).max(1));
        let mut text = self.back();
        for line in &lines {
            writeln!(text, "{}", cut(line, size.columns)).expect("a text can be written to");
        }
        self.drawn = lines.len();
        print(&text)
    }

    /// What somebody else writes comes below the block, which is not drawn over any more.
    pub(crate) fn interrupt(&mut self) {
        if self.drawn > 0 {
            note("");
        }
        self.drawn = 0;
    }

    /// Brings the cursor to the beginning of the block and wipes it.
    fn back(&self) -> String {
        match self.drawn {
            0 => String::new(),
            lines => format!("\u{1b}[{lines}A\r\u{1b}[J"),
        }
    }
}

/// The state in lines that a reader of a log wants: how far it is, and what a person must do.
fn told(view: &DeploymentView) -> String {
    let mut text = format!("-- {}\n", summary::status_line(view));
    let now = moment::now();
    for wait in view.waiting_for.iter().filter(|wait| wait.what != WaitKind::Host) {
        let line = clean(&summary::waiting(wait, now));
        writeln!(text, "   waits for {line}").expect("a text can be written to");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::sample;
    use super::*;

    #[test]
    fn lines_tell_what_a_person_must_do() {
        let mut view = sample("SMOKE_SUCCESS", "SMOKE_SUCCESS");
        view["waiting_for"] = serde_json::json!([{
            "what": "click", "on": "bake", "since": "2023-11-14T22:13:20Z", "who": "ann",
            "until": null, "text": "The bastions verified."
        }]);
        let view = serde_json::from_value(view).expect("a deployment");
        let text = told(&view);
        assert!(text.starts_with("-- web-prod 1.1.0: SMOKE_SUCCESS; 5 serving"), "{text}");
        assert!(text.ends_with("   waits for click: The bastions verified.\n"), "{text}");
    }

    #[test]
    fn a_block_is_drawn_over_and_never_higher_than_the_terminal() {
        let size = Size { rows: 5, columns: 40 };
        let kind = Kind::Live(size);
        let mut screen = Screen { kind, events: VecDeque::new(), drawn: 0, told: String::new() };
        let view = sample("ROLLING_OUT", "ROLLING_OUT");
        let view = serde_json::from_value(view).expect("a deployment");
        assert_eq!(screen.back(), "");
        screen.draw(&view).expect("it can be drawn");
        assert_eq!(screen.drawn, 4);
        assert_eq!(screen.back(), "\u{1b}[4A\r\u{1b}[J");
    }
}
