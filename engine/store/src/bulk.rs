//! Statements that write many rows at once.
//!
//! On SQLite nearly all of a statement's cost is handing it to the connection's thread and back, so
//! the number of statements decides the speed, not the number of rows. The text is put together
//! here and not by sea-query, since at thousands of rows a second the tree it builds first is the
//! larger part of the work.

use sea_orm::{ConnectionTrait, DbBackend, Statement, Value};
use std::fmt::Write;

use crate::Error;

/// Databases limit the variables of a statement: `SQLite` to 32,766, the others to 65,535.
const VARIABLES: usize = 30_000;

/// A table as it is written to, with `N` columns.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    pub(crate) name: &'static str,
    pub(crate) columns: [&'static str; N],
    /// Its primary key.
    pub(crate) key: &'static [&'static str],
    /// Columns that never change once a row is there. Leaving them out of an update spares the
    /// indexes over them.
    pub(crate) fixed: &'static [&'static str],
}

/// What happens when a row with the same key is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// The statement fails.
    Refuse,
    /// It takes the new values.
    Update,
    /// It stays as it is.
    Keep,
}

/// A statement of a transaction, and how many rows it must write.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) statement: Statement,
    pub(crate) table: &'static str,
    pub(crate) rows: Rows,
}

/// How many rows a statement must write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// So many; anything else is a fault.
    Exactly(usize),
    /// One; none means that a comparison of versions was lost.
    OneOrLost,
    /// However many there are.
    Any,
}

/// Whether a statement did what it was meant to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// It did.
    Done,
    /// The row was changed by somebody else since it was read; the transaction must be given up.
    Lost,
}

impl Step {
    /// Runs the statement.
    pub(crate) async fn run(self, conn: &impl ConnectionTrait) -> Result<Applied, Error> {
        let done = conn.execute_raw(self.statement).await;
        let written = done.map_err(Error::database("write a change"))?.rows_affected();
        match self.rows {
            Rows::Exactly(meant) => expect_count(self.table, meant, written)?,
            Rows::OneOrLost if written == 0 => return Ok(Applied::Lost),
            Rows::OneOrLost => expect_count(self.table, 1, written)?,
            Rows::Any => {}
        }
        Ok(Applied::Done)
    }
}

/// Statements that write rows; `values` are their columns, one row after the other. Each fails unless
/// exactly as many rows are written as were given (but for [`Existing::Keep`]).
pub(crate) fn rows<const N: usize>(
    backend: DbBackend,
    table: &Table<N>,
    existing: Existing,
    mut values: Vec<Value>,
) -> Vec<Step> {
    let most = VARIABLES / N * N;
    let mut steps = Vec::with_capacity(values.len().div_ceil(most));
    while !values.is_empty() {
        let rest = if values.len() > most { values.split_off(most) } else { Vec::new() };
        let count = values.len() / N;
        let text = insert(backend, table, existing, count);
        // MySQL counts an updated row twice.
        let counts = existing != Existing::Keep && backend != DbBackend::MySql;
        steps.push(Step {
            statement: Statement::from_sql_and_values(backend, text, values),
            table: table.name,
            rows: if counts { Rows::Exactly(count) } else { Rows::Any },
        });
        values = rest;
    }
    steps
}

/// Sets every column but the key of one row, which must be there. `values` are as for [`rows`],
/// the key (a single column) first.
pub(crate) fn one_row<const N: usize>(
    backend: DbBackend,
    table: &Table<N>,
    values: [Value; N],
) -> Step {
    let mut text = format!("UPDATE {} SET ", quoted(backend, table.name));
    for (place, column) in table.columns[1..].iter().enumerate() {
        let comma = if place == 0 { "" } else { ", " };
        push(&mut text, format_args!("{comma}{column} = "));
        placeholder(backend, &mut text, place + 1);
    }
    push(&mut text, format_args!(" WHERE {} = ", table.columns[0]));
    placeholder(backend, &mut text, N);
    let mut values = Vec::from(values);
    values.rotate_left(1);
    let statement = Statement::from_sql_and_values(backend, text, values);
    Step { statement, table: table.name, rows: Rows::Exactly(1) }
}

/// Fails unless as many rows were written as were meant.
pub(crate) fn expect_count(table: &'static str, meant: usize, written: u64) -> Result<(), Error> {
    let meant = meant as u64;
    if meant == written { Ok(()) } else { Err(Error::Count { table, meant, written }) }
}

/// A statement from text with `?` for each variable, in the dialect of the database.
pub(crate) fn sql(
    conn: &impl ConnectionTrait,
    text: &str,
    values: impl IntoIterator<Item = Value>,
) -> Statement {
    in_dialect(conn.get_database_backend(), text, values)
}

/// As [`sql`], without a connection.
pub(crate) fn in_dialect(
    backend: DbBackend,
    text: &str,
    values: impl IntoIterator<Item = Value>,
) -> Statement {
    if backend != DbBackend::Postgres {
        return Statement::from_sql_and_values(backend, text, values);
    }
    let mut numbered = String::with_capacity(text.len() + 16);
    for (number, part) in text.split('?').enumerate() {
        if number > 0 {
            placeholder(backend, &mut numbered, number);
        }
        numbered.push_str(part);
    }
    Statement::from_sql_and_values(backend, numbered, values)
}

/// `?, ?, ?`
pub(crate) fn list(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// The end of an INSERT that leaves what is there as it is, whichever unique index it hits.
pub(crate) fn or_keep(backend: DbBackend) -> &'static str {
    if backend == DbBackend::MySql {
        "ON DUPLICATE KEY UPDATE id = id"
    } else {
        "ON CONFLICT DO NOTHING"
    }
}

/// A table's name, quoted: MySQL keeps `groups` for itself.
pub(crate) fn quoted(backend: DbBackend, name: &str) -> String {
    if backend == DbBackend::MySql { format!("`{name}`") } else { format!("\"{name}\"") }
}

fn insert<const N: usize>(
    backend: DbBackend,
    table: &Table<N>,
    existing: Existing,
    rows: usize,
) -> String {
    let mut text = String::with_capacity(256 + N * 24 + rows * (N * 6 + 4));
    push(
        &mut text,
        format_args!(
            "INSERT INTO {} ({}) VALUES ",
            quoted(backend, table.name),
            table.columns.join(", ")
        ),
    );
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ", (" });
        for column in 0..N {
            if column > 0 {
                text.push_str(", ");
            }
            placeholder(backend, &mut text, row * N + column + 1);
        }
        text.push(')');
    }
    on_conflict(backend, table, existing, &mut text);
    text
}

fn on_conflict<const N: usize>(
    backend: DbBackend,
    table: &Table<N>,
    existing: Existing,
    text: &mut String,
) {
    let is_mysql = backend == DbBackend::MySql;
    if existing == Existing::Refuse {
        return;
    }
    if is_mysql {
        text.push_str(" ON DUPLICATE KEY UPDATE ");
    } else {
        push(text, format_args!(" ON CONFLICT ({}) DO ", table.key.join(", ")));
    }
    if existing == Existing::Keep {
        let key = table.key[0];
        let keep = if is_mysql { format!("{key} = {key}") } else { "NOTHING".to_owned() };
        text.push_str(&keep);
        return;
    }
    if !is_mysql {
        text.push_str("UPDATE SET ");
    }
    let changing =
        table.columns.iter().filter(|it| !table.key.contains(it) && !table.fixed.contains(it));
    for (place, column) in changing.enumerate() {
        let comma = if place == 0 { "" } else { ", " };
        if is_mysql {
            push(text, format_args!("{comma}{column} = VALUES({column})"));
        } else {
            push(text, format_args!("{comma}{column} = excluded.{column}"));
        }
    }
}

fn placeholder(backend: DbBackend, text: &mut String, number: usize) {
    if backend == DbBackend::Postgres {
        push(text, format_args!("${number}"));
    } else {
        text.push('?');
    }
}

fn push(text: &mut String, part: std::fmt::Arguments<'_>) {
    text.write_fmt(part).expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    const PETS: Table<3> =
        Table { name: "pets", columns: ["id", "kind", "age"], key: &["id"], fixed: &["kind"] };

    #[test]
    fn each_database_gets_its_dialect() {
        assert_eq!(
            insert(DbBackend::Sqlite, &PETS, Existing::Update, 2),
            "INSERT INTO \"pets\" (id, kind, age) VALUES (?, ?, ?), (?, ?, ?) \
             ON CONFLICT (id) DO UPDATE SET age = excluded.age"
        );
        assert_eq!(
            insert(DbBackend::Postgres, &PETS, Existing::Keep, 2),
            "INSERT INTO \"pets\" (id, kind, age) VALUES ($1, $2, $3), ($4, $5, $6) \
             ON CONFLICT (id) DO NOTHING"
        );
        assert_eq!(
            insert(DbBackend::MySql, &PETS, Existing::Update, 1),
            "INSERT INTO `pets` (id, kind, age) VALUES (?, ?, ?) \
             ON DUPLICATE KEY UPDATE age = VALUES(age)"
        );
    }
}
