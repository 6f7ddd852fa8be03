//! What the CMDB drivers share: what a record must keep to before it counts, and what happens to
//! those that do not. What is broken never takes good records away.

mod check;
mod merge;

use std::fmt;

pub(crate) use check::{Placed, alone};
pub(crate) use merge::{Entry, Older, Read, Records, Source};

/// Names of drivers that groups may use.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Load balancers.
    pub load_balancers: Vec<String>,
    /// Executors.
    pub executors: Vec<String>,
}

/// Where something stands in a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A line of a file, from 1.
    Line(u64),
    /// A group of an answer, from 0.
    Group { page: usize, group: usize },
    /// A server of a group of an answer, both from 0.
    Server { page: usize, group: usize, server: usize },
    /// An answer that is one group.
    Answer,
    /// A server of such an answer, from 0.
    AnswerServer { server: usize },
    /// A device or a virtual machine of NetBox, by its id there.
    Object { kind: &'static str, id: i64 },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Group { page, group } => write!(f, "page {}, groups[{group}]", page + 1),
            Self::Server { page, group, server } => {
                write!(f, "page {}, groups[{group}].servers[{server}]", page + 1)
            }
            Self::Answer => f.write_str("the group"),
            Self::Object { kind, id } => write!(f, "{kind} {id}"),
            Self::AnswerServer { server } => write!(f, "servers[{server}]"),
        }
    }
}

/// What is wrong at a place of a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Fault {
    /// Where, if known.
    pub(crate) place: Option<Place>,
    /// The reason, for people.
    pub(crate) reason: String,
    /// Whether the reason names the field.
    is_named: bool,
}

impl Fault {
    pub(crate) fn new(place: Place, reason: impl Into<String>) -> Self {
        Self { place: Some(place), ..Self::somewhere(reason) }
    }

    pub(crate) fn somewhere(reason: impl Into<String>) -> Self {
        Self { place: None, reason: reason.into(), is_named: false }
    }

    /// The same, at `place` unless a place is known.
    pub(crate) fn or_at(mut self, place: Place) -> Self {
        self.place = self.place.or(Some(place));
        self
    }

    /// The same, with the name of the field: one place may hold many.
    pub(crate) fn in_field(mut self, name: &str) -> Self {
        if !self.is_named {
            self.is_named = true;
            self.reason = format!("`{name}`: {}", self.reason);
        }
        self
    }

    /// The same; its reason names the field already.
    pub(crate) fn named(self) -> Self {
        Self { is_named: true, ..self }
    }
}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self::somewhere(reason.to_string())
    }
}
