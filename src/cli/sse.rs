//! Reads a stream of server-sent events, in whatever pieces it comes (WHATWG HTML, section 9.2).

use std::time::Duration;

/// A message of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// What to go on after: the last id that was sent.
    pub(crate) id: String,
    /// Its type.
    pub(crate) event: String,
    /// Its data, lines joined.
    pub(crate) data: String,
}

/// Collects pieces into messages.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    /// The last line ended with a carriage return: a line feed that follows belongs to it.
    after_return: bool,
    /// Nothing was read yet: a byte-order mark may come.
    is_past_start: bool,
    id: String,
    event: String,
    data: String,
    has_data: bool,
    /// How long to wait before the stream is opened again, if it said so.
    pub(crate) retry: Option<Duration>,
}

impl Parser {
    /// Takes a piece, gives the messages that it completes.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        for byte in piece {
            match byte {
                b'\n' if std::mem::take(&mut self.after_return) => {}
                b'\n' | b'\r' => {
                    self.after_return = *byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    messages.extend(self.line(&line));
                }
                byte => {
                    self.after_return = false;
                    self.line.push(*byte);
                }
            }
        }
        messages
    }

    fn line(&mut self, line: &[u8]) -> Option<Message> {
        let text = String::from_utf8_lossy(line);
        let mut text = text.as_ref();
        if !std::mem::replace(&mut self.is_past_start, true) {
            text = text.strip_prefix('\u{feff}').unwrap_or(text);
        }
        if text.is_empty() {
            return self.dispatch();
        }
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" => {
                let time = value.parse().ok().map(Duration::from_millis);
                self.retry = time.or(self.retry);
            }
            // A comment, or a field of a later day.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Message> {
        let event = std::mem::take(&mut self.event);
        let data = std::mem::take(&mut self.data);
        if !std::mem::take(&mut self.has_data) {
            return None;
        }
        let event = if event.is_empty() { "message".to_owned() } else { event };
        Some(Message { id: self.id.clone(), event, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str, event: &str, data: &str) -> Message {
        Message { id: id.to_owned(), event: event.to_owned(), data: data.to_owned() }
    }

    const STREAM: &str = "\u{feff}: hello\n\nid: 7\nevent: target.status\ndata: {\"a\":\n\
                          data: 1}\n\nretry: 250\ndata:x\r\n\r\nevent: end\rdata\r\rid: 9\n\nunknown: 1\n\
                          data: cut off";

    fn expected() -> Vec<Message> {
        vec![
            message("7", "target.status", "{\"a\":\n1}"),
            message("7", "message", "x"),
            message("7", "end", ""),
        ]
    }

    #[test]
    fn messages_are_read_whole() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(STREAM.as_bytes()), expected());
        assert_eq!(parser.retry, Some(Duration::from_millis(250)));
        assert_eq!(parser.push(b"\n\n"), [message("9", "message", "cut off")]);
    }

    #[test]
    fn pieces_may_be_cut_anywhere() {
        for size in 1..STREAM.len() {
            let mut parser = Parser::default();
            let pieces = STREAM.as_bytes().chunks(size);
            let messages: Vec<Message> = pieces.flat_map(|piece| parser.push(piece)).collect();
            assert_eq!(messages, expected(), "pieces of {size}");
        }
    }
}
