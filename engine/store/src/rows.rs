//! How a record becomes a row and back. A row that cannot be read is an [`Error::Row`].

use std::fmt::Display;

use capstan_core::Timestamp;
use sea_orm::Value;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

pub(crate) mod deployment;
pub(crate) mod inventory;

/// One row on its way in: reads columns and says which row could not be read.
pub(crate) struct Reader<'a> {
    table: &'static str,
    id: &'a dyn Display,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(table: &'static str, id: &'a dyn Display) -> Self {
        Self { table, id }
    }

    /// A failure to read this row.
    pub(crate) fn problem(&self, problem: String) -> Error {
        Error::Row { table: self.table, id: self.id.to_string(), problem }
    }

    /// A word of one of core's enums.
    pub(crate) fn word<T>(
        &self,
        column: &'static str,
        text: &str,
        from_word: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Error> {
        from_word(text).ok_or_else(|| self.problem(format!("{column} is {text:?}, no known word")))
    }

    /// A structure that is kept as JSON.
    pub(crate) fn json<T: DeserializeOwned>(
        &self,
        column: &'static str,
        text: &str,
    ) -> Result<T, Error> {
        serde_json::from_str(text).map_err(|error| self.problem(format!("{column}: {error}")))
    }

    /// A structure that is kept as JSON and may be absent.
    pub(crate) fn json_opt<T: DeserializeOwned>(
        &self,
        column: &'static str,
        text: Option<&str>,
    ) -> Result<Option<T>, Error> {
        text.map(|text| self.json(column, text)).transpose()
    }

    /// A number in its proper width.
    pub(crate) fn number<F, T>(&self, column: &'static str, number: F) -> Result<T, Error>
    where
        F: Copy + Display,
        T: TryFrom<F>,
    {
        T::try_from(number).map_err(|_| self.problem(format!("{column} is {number}, out of range")))
    }
}

/// An instant that may be absent.
pub(crate) fn at_opt(micros: Option<i64>) -> Option<Timestamp> {
    micros.map(Timestamp::from_micros)
}

/// The JSON of a record.
pub(crate) fn to_json<T: Serialize>(table: &'static str, record: &T) -> Result<String, Error> {
    serde_json::to_string(record).map_err(Error::json(table))
}

/// The column of an instant.
pub(crate) fn micros(at: Timestamp) -> Value {
    Value::from(at.as_micros())
}

/// The column of an instant that may be absent.
pub(crate) fn micros_opt(at: Option<Timestamp>) -> Value {
    Value::from(at.map(Timestamp::as_micros))
}

/// The column of a count. Counts of servers, attempts and seconds stay far below the limit.
pub(crate) fn count(number: u32) -> Value {
    Value::from(i32::try_from(number).unwrap_or(i32::MAX))
}
