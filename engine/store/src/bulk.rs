//! Statements that write many rows at once.
//!
//! On SQLite nearly all of a statement's cost is handing it to the connection's thread and back, so
//! the number of statements decides the speed, not the number of rows. The text is put together
//! here and not by sea-query, since at thousands of rows a second the tree it builds first is the
//! larger part of the work.

use std::fmt::Write;

use sea_orm::{ConnectionTrait, DbBackend, Statement, Value};

use crate::Error;
use crate::arrays;

/// Databases limit the variables of a statement: `SQLite` to 32,766, the others to 65,535.
pub(crate) const VARIABLES: usize = 30_000;

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
    /// Columns with a NULL in some rows. PostgreSQL is given these in one form, whether there is one or not: so there
    /// are few texts.
    pub(crate) nullable: &'static [&'static str],
    /// Whether nearly every row that is written is there already. For PostgreSQL an update of what is there
    /// is half the work of an insert that finds it there.
    pub(crate) known: bool,
}

impl<const N: usize> Table<N> {
    /// The columns that an update sets.
    pub(crate) fn changing(&self) -> impl Iterator<Item = &'static str> {
        self.columns.into_iter().filter(|it| !self.key.contains(it) && !self.fixed.contains(it))
    }
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

/// A statement of a transaction, and what it is meant to do.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) statement: Statement,
    pub(crate) meant: Meant,
}

/// What a statement is meant to do.
#[derive(Debug)]
pub(crate) struct Meant {
    pub(crate) table: &'static str,
    pub(crate) rows: Rows,
    /// Run if it has written fewer rows: this writes those that are not there as well.
    otherwise: Option<Statement>,
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
    pub(crate) const fn new(statement: Statement, table: &'static str, rows: Rows) -> Self {
        Self { statement, meant: Meant { table, rows, otherwise: None } }
    }

    /// Runs the statement.
    pub(crate) async fn run(self, conn: &impl ConnectionTrait) -> Result<Applied, Error> {
        let written = execute(conn, self.statement).await?;
        self.meant.check(conn, written).await
    }
}

async fn execute(conn: &impl ConnectionTrait, statement: Statement) -> Result<u64, Error> {
    let done = conn.execute_raw(statement).await;
    done.map(|done| done.rows_affected()).map_err(Error::database("write a change"))
}

impl Meant {
    /// Compares it with how many rows the statement has written.
    pub(crate) async fn check(
        self,
        conn: &impl ConnectionTrait,
        mut written: u64,
    ) -> Result<Applied, Error> {
        if let (Some(otherwise), Rows::Exactly(meant)) = (self.otherwise, self.rows)
            && written < meant as u64
        {
            written = execute(conn, otherwise).await?;
        }
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
        let here = at_once(backend, values.len().min(most) / N);
        let rest = values.split_off(here * N);
        // MySQL counts an updated row twice.
        let counts = existing != Existing::Keep && backend != DbBackend::MySql;
        let (statement, otherwise) = if backend == DbBackend::Postgres {
            arrays::write(table, existing, values)
        } else {
            (insert(backend, table, existing, values), None)
        };
        let rows = if counts { Rows::Exactly(here) } else { Rows::Any };
        steps.push(Step { statement, meant: Meant { table: table.name, rows, otherwise } });
        values = rest;
    }
    steps
}

/// How many of these rows go into one statement. MySQL prepares the text of each number of rows anew: so it is given
/// powers of two, which are few texts.
const fn at_once(backend: DbBackend, rows: usize) -> usize {
    if matches!(backend, DbBackend::MySql) { 1 << rows.ilog2() } else { rows }
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
    Step::new(statement, table.name, Rows::Exactly(1))
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

/// The condition that a column holds one of these values (at least one), and its variables. Its text is the same
/// for many numbers of values.
pub(crate) fn among(
    backend: DbBackend,
    values: impl Iterator<Item = Value>,
) -> (String, Vec<Value>) {
    let mut values: Vec<Value> = values.collect();
    if backend != DbBackend::Sqlite
        && let Some(last) = values.last().cloned()
    {
        // As in `at_once`; what is named twice is found once.
        values.resize(values.len().next_power_of_two(), last);
    }
    (format!("IN ({})", list(values.len())), values)
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
    values: Vec<Value>,
) -> Statement {
    let rows = values.len() / N;
    let mut text = String::with_capacity(256 + N * 24 + rows * (N * 3 + 4));
    let columns = table.columns.join(", ");
    push(&mut text, format_args!("INSERT INTO {} ({columns}) ", quoted(backend, table.name)));
    let row = format!("({})", list(N));
    push(&mut text, format_args!("VALUES {}", vec![row; rows].join(", ")));
    on_conflict(backend, table, existing, &mut text);
    Statement::from_sql_and_values(backend, text, values)
}

/// What an INSERT does about rows that are there.
pub(crate) fn on_conflict<const N: usize>(
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
    for (place, column) in table.changing().enumerate() {
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

pub(crate) fn push(text: &mut String, part: std::fmt::Arguments<'_>) {
    text.write_fmt(part).expect("writing to a string does not fail");
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const PETS: Table<3> = Table {
        name: "pets",
        columns: ["id", "kind", "age"],
        key: &["id"],
        fixed: &["kind"],
        nullable: &[],
        known: true,
    };

    #[test]
    fn each_database_gets_its_dialect() {
        let pet = |id: i32| [id.into(), "cat".into(), None::<i64>.into()];
        let two: Vec<Value> = pet(1).into_iter().chain(pet(2)).collect();
        let text = |backend, existing, values| insert(backend, &PETS, existing, values).sql;
        assert_eq!(
            text(DbBackend::Sqlite, Existing::Update, two),
            "INSERT INTO \"pets\" (id, kind, age) VALUES (?, ?, ?), (?, ?, ?) \
             ON CONFLICT (id) DO UPDATE SET age = excluded.age"
        );
        assert_eq!(
            text(DbBackend::MySql, Existing::Update, pet(1).to_vec()),
            "INSERT INTO `pets` (id, kind, age) VALUES (?, ?, ?) \
             ON DUPLICATE KEY UPDATE age = VALUES(age)"
        );
    }

    #[test]
    fn mysql_is_given_texts_that_it_knows() {
        let values = (0..21).flat_map(|id| [id.into(), "cat".into(), 1_i64.into()]).collect();
        let steps = rows(DbBackend::MySql, &PETS, Existing::Update, values);
        let counts = steps
            .iter()
            .map(|step| step.statement.values.as_ref().map_or(0, |values| values.0.len() / 3));
        assert_eq!(counts.collect::<Vec<_>>(), [16, 4, 1]);
    }
}
