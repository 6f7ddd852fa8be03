//! From the JSON of an answer to its entries.

use capstan_core::ports::CmdbGroup;
use serde_json::Value;
use serde_path_to_error::Segment;

use crate::cmdb_records::{Entry, Fault, Names, Place, Placed, alone};

/// One page of the list of groups.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    pub(super) next: Option<String>,
}

/// Where a group stands in what was answered.
#[derive(Debug, Clone, Copy)]
enum Within {
    Page { page: usize, group: usize },
    Alone,
}

impl Within {
    fn group(self) -> Place {
        match self {
            Self::Page { page, group } => Place::Group { page, group },
            Self::Alone => Place::Answer,
        }
    }

    fn server(self, server: usize) -> Place {
        match self {
            Self::Page { page, group } => Place::Server { page, group, server },
            Self::Alone => Place::AnswerServer { server },
        }
    }
}

/// Reads a page of the list, or says why none of it can be used.
pub(super) fn page(bytes: &[u8], number: usize, names: &Names) -> Result<Page, String> {
    const SHAPE: &str = "the answer must be an object with `groups`, a list, and, if there is \
                         another page, `next_cursor`, a text";
    let value: Value = json(bytes)?;
    let Value::Object(mut top) = value else { return Err(SHAPE.to_owned()) };
    let Some(Value::Array(groups)) = top.remove("groups") else { return Err(SHAPE.to_owned()) };
    let next = match top.remove("next_cursor") {
        None | Some(Value::Null) => None,
        Some(Value::String(next)) => Some(next),
        Some(_) => return Err(SHAPE.to_owned()),
    };
    if let Some(unknown) = top.keys().next() {
        return Err(format!("unknown field `{unknown}`; {SHAPE}"));
    }
    let entries = groups
        .into_iter()
        .enumerate()
        .map(|(group, value)| entry(value, Within::Page { page: number, group }, names));
    Ok(Page { entries: entries.collect(), next })
}

/// Reads an answer that is one group.
pub(super) fn group(bytes: &[u8], names: &Names) -> Result<Entry, String> {
    let value = json(bytes)?;
    if !value.is_object() {
        return Err("the answer must be a group, an object".to_owned());
    }
    Ok(entry(value, Within::Alone, names))
}

fn json(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("the answer is no JSON: {error}"))
}

fn entry(value: Value, within: Within, names: &Names) -> Entry {
    let place = within.group();
    let id = value.get("id").and_then(Value::as_str).filter(|id| !id.is_empty());
    let id = id.map(str::to_owned);
    let record = serde_path_to_error::deserialize(value);
    let record =
        record.map_err(|error| vec![fault(&error, within)]).and_then(|group: CmdbGroup| {
            let server_places =
                (0..group.servers.len()).map(|server| within.server(server)).collect();
            let placed = Placed { group, place, server_places };
            let faults = alone(&placed, names);
            if faults.is_empty() { Ok(placed) } else { Err(faults) }
        });
    Entry { place, id, record }
}

/// What is wrong with a field: the place is the server that it belongs to, if any.
fn fault(error: &serde_path_to_error::Error<serde_json::Error>, within: Within) -> Fault {
    let mut path = error.path().iter().peekable();
    let mut place = within.group();
    let mut field = String::new();
    while let Some(segment) = path.next() {
        match (segment, path.peek()) {
            (Segment::Map { key }, Some(Segment::Seq { index }))
                if key == "servers" && field.is_empty() =>
            {
                place = within.server(*index);
                path.next();
            }
            (Segment::Map { key }, _) => {
                if !field.is_empty() {
                    field.push('.');
                }
                field.push_str(key);
            }
            (Segment::Seq { index }, _) => field = format!("{field}[{index}]"),
            (Segment::Enum { .. } | Segment::Unknown, _) => {}
        }
    }
    let fault = Fault::new(place, error.inner().to_string());
    if field.is_empty() { fault } else { fault.in_field(&field) }
}
