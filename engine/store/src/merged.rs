//! Statements of a transaction that PostgreSQL is given as one.
//!
//! A server that has done one statement waits for the next until its answer has come, and the next has been made and
//! sent: a round has a dozen of them, and half of it would be such waits. `WITH` does each of its statements to its
//! end, and all see what was there before the first (PostgreSQL's manual, "Data-Modifying Statements in WITH"): so no
//! two of them may write the same table.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement, Value};

use crate::Error;
use crate::bulk::{Applied, Meant, Rows, Step, VARIABLES, push};

/// Runs statements in their order until one fails or a comparison is lost.
pub(crate) async fn run(conn: &impl ConnectionTrait, steps: Vec<Step>) -> Result<Applied, Error> {
    if conn.get_database_backend() != DbBackend::Postgres {
        for step in steps {
            if step.run(conn).await? == Applied::Lost {
                return Ok(Applied::Lost);
            }
        }
        return Ok(Applied::Done);
    }
    let mut lot = Lot::default();
    for step in steps {
        // A comparison that is lost ends everything, and one that is won keeps others from what follows.
        let is_compared = step.meant.rows == Rows::OneOrLost;
        if (is_compared || !lot.has_room_for(&step))
            && std::mem::take(&mut lot).run(conn).await? == Applied::Lost
        {
            return Ok(Applied::Lost);
        }
        if is_compared {
            if step.run(conn).await? == Applied::Lost {
                return Ok(Applied::Lost);
            }
        } else {
            lot.steps.push(step);
        }
    }
    lot.run(conn).await
}

/// Statements that write different tables.
#[derive(Debug, Default)]
struct Lot {
    steps: Vec<Step>,
}

impl Lot {
    fn has_room_for(&self, step: &Step) -> bool {
        let variables = |step: &Step| step.statement.values.as_ref().map_or(0, |it| it.0.len());
        let all: usize = self.steps.iter().chain([step]).map(variables).sum();
        all <= VARIABLES && self.steps.iter().all(|other| other.meant.table != step.meant.table)
    }

    async fn run(mut self, conn: &impl ConnectionTrait) -> Result<Applied, Error> {
        if self.steps.len() < 2 {
            return match self.steps.pop() {
                Some(step) => step.run(conn).await,
                None => Ok(Applied::Done),
            };
        }
        let (statement, meant) = merged(self.steps);
        let failed = Error::database("write changes");
        let row = conn.query_one_raw(statement).await.and_then(|row| {
            row.ok_or_else(|| DbErr::RecordNotFound("how many rows were written".into()))
        });
        let row = row.map_err(failed)?;
        for (place, meant) in meant.into_iter().enumerate() {
            let count: i64 = row.try_get_by_index(place).map_err(Error::database("count rows"))?;
            let written = u64::try_from(count).expect("COUNT gives no negative number");
            if meant.check(conn, written).await? == Applied::Lost {
                return Ok(Applied::Lost);
            }
        }
        Ok(Applied::Done)
    }
}

/// One statement that does all of them and gives how many rows each has written.
fn merged(steps: Vec<Step>) -> (Statement, Vec<Meant>) {
    let (mut text, mut counts) = (String::from("WITH "), String::from(" SELECT "));
    let (mut values, mut meant): (Vec<Value>, _) = (Vec::new(), Vec::with_capacity(steps.len()));
    for (place, step) in steps.into_iter().enumerate() {
        let comma = if place == 0 { "" } else { ", " };
        push(&mut text, format_args!("{comma}s{place} AS ("));
        renumber(&mut text, &step.statement.sql, values.len());
        text.push_str(" RETURNING 1)");
        push(&mut counts, format_args!("{comma}(SELECT COUNT(*) FROM s{place})"));
        values.extend(step.statement.values.into_iter().flat_map(|values| values.0));
        meant.push(step.meant);
    }
    text.push_str(&counts);
    (Statement::from_sql_and_values(DbBackend::Postgres, text, values), meant)
}

/// Writes a statement whose first variable comes after `before` others.
fn renumber(text: &mut String, statement: &str, before: usize) {
    let mut parts = statement.split('$');
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let end = part.find(|it: char| !it.is_ascii_digit()).unwrap_or(part.len());
        let (number, rest) = part.split_at(end);
        match number.parse::<usize>() {
            Ok(number) => push(text, format_args!("${}{rest}", before + number)),
            Err(_) => push(text, format_args!("${part}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::in_dialect;

    fn step(table: &'static str, text: &str, values: [Value; 2]) -> Step {
        Step::new(in_dialect(DbBackend::Postgres, text, values), table, Rows::Any)
    }

    #[test]
    fn variables_are_counted_through() {
        let steps = vec![
            step("cats", "UPDATE cats SET age = ? WHERE id = ?", [1.into(), 2.into()]),
            step("dogs", "DELETE FROM dogs WHERE id IN (?, ?)", [3.into(), 4.into()]),
        ];
        let (statement, meant) = merged(steps);
        assert_eq!(
            statement.sql,
            "WITH s0 AS (UPDATE cats SET age = $1 WHERE id = $2 RETURNING 1), \
             s1 AS (DELETE FROM dogs WHERE id IN ($3, $4) RETURNING 1) \
             SELECT (SELECT COUNT(*) FROM s0), (SELECT COUNT(*) FROM s1)"
        );
        let values = statement.values.expect("values").0;
        assert_eq!(values, [1, 2, 3, 4].map(Value::from));
        assert_eq!(meant.iter().map(|it| it.table).collect::<Vec<_>>(), ["cats", "dogs"]);
    }

    #[test]
    fn a_table_is_written_once_in_a_statement() {
        let of = |table| step(table, "UPDATE pets SET age = ? WHERE id = ?", [1.into(), 2.into()]);
        let lot = Lot { steps: vec![of("cats")] };
        assert!(lot.has_room_for(&of("dogs")));
        assert!(!lot.has_room_for(&of("cats")));
    }
}
