//! Many values as one variable of PostgreSQL.
//!
//! Each number of rows would be another text, which the server would have to read and plan anew: with thousands of
//! variables that takes as long as writing the rows. So each column is one variable, an array. One with a NULL in
//! it is sent in its text form (PostgreSQL's manual, "Array Input and Output Syntax"), since sea-query knows no
//! arrays with NULLs; that is slower to read, and the columns that have them are short.

use sea_orm::{DbBackend, Statement, Value};

use crate::bulk::{Existing, Table, on_conflict, push};

/// A column of several rows.
struct Array {
    /// How its variable is read: `int8[]`, or `text::int8[]`.
    kind: String,
    value: Value,
}

/// The statement that writes rows, and one that is run instead where nearly all were thought to be there and some
/// are not.
pub(crate) fn write<const N: usize>(
    table: &Table<N>,
    existing: Existing,
    values: Vec<Value>,
) -> (Statement, Option<Statement>) {
    let columns = columns(values, N).into_iter().zip(table.columns);
    let arrays: Vec<Array> = columns.map(|(column, name)| array(table, column, name)).collect();
    let insert = insert(table, existing, &arrays);
    if table.known && existing == Existing::Update {
        return (update(table, &arrays), Some(insert));
    }
    (insert, None)
}

fn insert<const N: usize>(table: &Table<N>, existing: Existing, arrays: &[Array]) -> Statement {
    let columns = table.columns.join(", ");
    let mut text = format!("INSERT INTO {} ({columns}) SELECT * FROM ", table.name);
    let values = unnest(&mut text, arrays.iter());
    on_conflict(DbBackend::Postgres, table, existing, &mut text);
    Statement::from_sql_and_values(DbBackend::Postgres, text, values)
}

/// An insert that finds a row first locks it and then updates it, and writes both to the log.
fn update<const N: usize>(table: &Table<N>, arrays: &[Array]) -> Statement {
    let name = table.name;
    let set = table.changing().map(|it| format!("{it} = given.{it}"));
    let mut text = format!("UPDATE {name} SET {} FROM ", set.collect::<Vec<_>>().join(", "));
    let given = || table.columns.iter().zip(arrays).filter(|(it, _)| !table.fixed.contains(it));
    let values = unnest(&mut text, given().map(|(_, array)| array));
    let columns: Vec<&str> = given().map(|(column, _)| *column).collect();
    let same = same(table);
    push(&mut text, format_args!(" AS given ({}) WHERE {same}", columns.join(", ")));
    Statement::from_sql_and_values(DbBackend::Postgres, text, values)
}

/// The statement that deletes rows by their keys, one key after the other in `values`.
pub(crate) fn delete<const N: usize>(table: &Table<N>, values: Vec<Value>) -> Statement {
    let (name, key) = (table.name, table.key);
    let columns = columns(values, key.len()).into_iter().zip(key);
    let arrays: Vec<Array> = columns.map(|(column, name)| array(table, column, name)).collect();
    let mut text = format!("DELETE FROM {name} USING ");
    let values = unnest(&mut text, arrays.iter());
    let same = same(table);
    push(&mut text, format_args!(" AS given ({}) WHERE {same}", key.join(", ")));
    Statement::from_sql_and_values(DbBackend::Postgres, text, values)
}

/// The condition that a row is one of those given.
fn same<const N: usize>(table: &Table<N>) -> String {
    let same = table.key.iter().map(|it| format!("{}.{it} = given.{it}", table.name));
    same.collect::<Vec<_>>().join(" AND ")
}

/// The rows that these columns make; gives their variables.
fn unnest<'a>(text: &mut String, arrays: impl Iterator<Item = &'a Array>) -> Vec<Value> {
    let mut values = Vec::new();
    for array in arrays {
        text.push_str(if values.is_empty() { "UNNEST(" } else { ", " });
        values.push(array.value.clone());
        push(text, format_args!("${}::{}", values.len(), array.kind));
    }
    text.push(')');
    values
}

/// Cuts rows that lie one after the other into their columns. There is at least one row, and the values of a column
/// are of one type.
fn columns(values: Vec<Value>, count: usize) -> Vec<Vec<Value>> {
    let rows = values.len() / count;
    let mut columns: Vec<Vec<Value>> = (0..count).map(|_| Vec::with_capacity(rows)).collect();
    for (place, value) in values.into_iter().enumerate() {
        columns[place % count].push(value);
    }
    columns
}

fn array<const N: usize>(table: &Table<N>, column: Vec<Value>, name: &str) -> Array {
    let kind = kind(&column[0]);
    if table.nullable.contains(&name) || column.iter().any(is_null) {
        return Array { kind: format!("text::{kind}[]"), value: literal(&column).into() };
    }
    let value = Value::Array(column[0].array_type(), Some(Box::new(column)));
    Array { kind: format!("{kind}[]"), value }
}

/// What PostgreSQL calls the type of a value.
///
/// # Panics
/// If it is of a type that no table here has.
#[expect(clippy::wildcard_enum_match_arm, reason = "features of others add variants")]
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "bool",
        Value::SmallInt(_) => "int2",
        Value::Int(_) => "int4",
        Value::BigInt(_) => "int8",
        Value::String(_) => "text",
        Value::Uuid(_) => "uuid",
        Value::Bytes(_) => "bytea",
        other => panic!("no table has a column for {other:?}"),
    }
}

fn is_null(value: &Value) -> bool {
    matches!(
        value,
        Value::Bool(None)
            | Value::SmallInt(None)
            | Value::Int(None)
            | Value::BigInt(None)
            | Value::String(None)
            | Value::Uuid(None)
            | Value::Bytes(None)
    )
}

/// `{"a",NULL}`
fn literal(column: &[Value]) -> String {
    let mut text = String::with_capacity(2 + column.len() * 24);
    for (row, value) in column.iter().enumerate() {
        text.push(if row == 0 { '{' } else { ',' });
        if is_null(value) {
            text.push_str("NULL");
        } else if let Value::String(Some(it)) = value {
            quote(&mut text, it);
        } else if let Value::Uuid(Some(it)) = value {
            push(&mut text, format_args!("{it}"));
        } else if let Value::Bytes(Some(bytes)) = value {
            // Two, since one would stand for the character after it.
            text.push_str("\\\\x");
            for byte in bytes {
                push(&mut text, format_args!("{byte:02x}"));
            }
        } else {
            push(&mut text, format_args!("{value}"));
        }
    }
    text.push('}');
    text
}

/// In quotes a text is taken as it is, but for the quote itself and the backslash.
fn quote(literal: &mut String, text: &str) {
    literal.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            literal.push('\\');
        }
        literal.push(character);
    }
    literal.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::tests::PETS;

    #[test]
    fn what_is_there_is_updated_first() {
        let values =
            vec![1.into(), "cat".into(), 2.into(), 2.into(), "cat".into(), None::<i32>.into()];
        let (update, insert) = write(&PETS, Existing::Update, values);
        assert_eq!(
            update.sql,
            "UPDATE pets SET age = given.age FROM UNNEST($1::int4[], $2::text::int4[]) \
             AS given (id, age) WHERE pets.id = given.id"
        );
        assert_eq!(
            insert.expect("for those that are not there").sql,
            "INSERT INTO pets (id, kind, age) SELECT * FROM \
             UNNEST($1::int4[], $2::text[], $3::text::int4[]) \
             ON CONFLICT (id) DO UPDATE SET age = excluded.age"
        );
    }

    #[test]
    fn rows_are_deleted_by_their_keys() {
        let delete = delete(&PETS, vec![1.into(), 2.into()]);
        assert_eq!(
            delete.sql,
            "DELETE FROM pets USING UNNEST($1::int4[]) AS given (id) WHERE pets.id = given.id"
        );
    }

    #[test]
    fn texts_stay_what_they_are() {
        let text = literal(&[r#"a "b\" NULL, {c}"#.into(), None::<String>.into(), "".into()]);
        assert_eq!(text, r#"{"a \"b\\\" NULL, {c}",NULL,""}"#);
        let bytes = literal(&[vec![0_u8, 255].into(), None::<Vec<u8>>.into()]);
        assert_eq!(bytes, r"{\\x00ff,NULL}");
        assert_eq!(literal(&[true.into(), 7_i64.into(), None::<bool>.into()]), "{TRUE,7,NULL}");
    }
}
