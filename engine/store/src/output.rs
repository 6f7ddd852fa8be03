//! What scripts printed on their hosts.

use capstan_core::view::LogPart;
use capstan_core::{OrderKey, TargetId, Timestamp};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, IntoActiveModel,
    QueryFilter,
};
use uuid::Uuid;

use crate::bulk::sql;
use crate::entities::outputs::{Column, Entity, Model};
use crate::operation::{Operation, timed};
use crate::store::commit;
use crate::{Error, OutputChunk, Store, crash};

/// Most bytes of output that are kept of one order, the mark that says so left aside.
const MOST_PER_ORDER: u64 = 1 << 20;
/// Most bytes of output that one call gives.
const MOST_PER_CALL: u32 = 1 << 20;

/// A part of the output without its bytes.
#[derive(FromQueryResult)]
struct Part {
    order_key: Uuid,
    byte_offset: i64,
    stage: String,
    attempt: i32,
    at: i64,
    byte_end: i64,
}

impl Part {
    fn size(&self) -> u64 {
        u64::try_from(self.byte_end - self.byte_offset).unwrap_or(0)
    }
}

/// All parts of one order.
struct Whole {
    key: Uuid,
    stage: String,
    attempt: i32,
    at: i64,
    /// Bytes of the target's output before this order's.
    start: u64,
    size: u64,
}

impl Store {
    /// Adds a part of an order's output. Bytes that were added before are passed over, so a part
    /// may come twice. Of one order 1 MiB is kept, and a last line says where it was cut.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn output_append(&self, chunk: OutputChunk) -> Result<(), Error> {
        timed(Operation::OutputAppend, async {
            let txn = self.begin().await?;
            let end = end_of(&txn, chunk.key).await?;
            if let Some((offset, bytes)) = kept(end, chunk.offset, chunk.bytes) {
                let row = Model {
                    order_key: chunk.key.0,
                    byte_offset: i64::try_from(offset).unwrap_or(i64::MAX),
                    target_id: chunk.target.0,
                    stage: chunk.stage.word().to_owned(),
                    attempt: i32::try_from(chunk.attempt).unwrap_or(i32::MAX),
                    at: self.now().as_micros(),
                    bytes,
                };
                row.into_active_model()
                    .reset_all()
                    .insert(&txn)
                    .await
                    .map_err(Error::database("write output"))?;
            }
            crash::point("output.written");
            commit(txn).await?;
            crash::point("output.done");
            Ok(())
        })
        .await
    }

    /// Output of a target's orders from `offset` on, at most `limit` bytes (and 1 MiB). Bytes are
    /// counted over all orders, in the order in which they first printed something. An order of
    /// which nothing lies in that range is left out.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn target_log(
        &self,
        id: TargetId,
        offset: u64,
        limit: u32,
    ) -> Result<Vec<LogPart>, Error> {
        timed(Operation::TargetLog, async {
            let end = offset.saturating_add(u64::from(limit.min(MOST_PER_CALL)));
            let mut wholes = wholes(self.reader(), id).await?;
            wholes.retain(|it| it.start < end && it.start + it.size > offset);
            let keys = wholes.iter().map(|whole| whole.key);
            let mut rows = Entity::find()
                .filter(Column::TargetId.eq(id.0))
                .filter(Column::OrderKey.is_in(keys))
                .all(self.reader())
                .await
                .map_err(Error::database("read output"))?;
            rows.sort_by_key(|row| row.byte_offset);
            Ok(wholes.iter().map(|whole| part(whole, &rows, offset, end)).collect())
        })
        .await
    }
}

/// What of a part is new and fits: its offset and its bytes. `end` is where the kept output ends.
fn kept(end: u64, offset: u64, mut bytes: Vec<u8>) -> Option<(u64, Vec<u8>)> {
    let known = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
    if known >= bytes.len() || end > MOST_PER_ORDER {
        return None;
    }
    let start = offset.max(end).min(MOST_PER_ORDER);
    bytes.drain(..known);
    let room = usize::try_from(MOST_PER_ORDER - start).unwrap_or(usize::MAX);
    if bytes.len() > room {
        bytes.truncate(room);
        let mark = format!("[capstan: output cut after {MOST_PER_ORDER} bytes]\n");
        bytes.extend_from_slice(mark.as_bytes());
    }
    Some((start, bytes))
}

async fn end_of(conn: &impl ConnectionTrait, key: OrderKey) -> Result<u64, Error> {
    let text = "SELECT MAX(byte_offset + LENGTH(bytes)) AS size FROM outputs WHERE order_key = ?";
    let what = "find the end of an output";
    let row =
        conn.query_one_raw(sql(conn, text, [key.0.into()])).await.map_err(Error::database(what))?;
    let end: Option<i64> = match row {
        Some(row) => row.try_get("", "size").map_err(Error::database(what))?,
        None => None,
    };
    Ok(bytes_of(end.unwrap_or(0)))
}

async fn wholes(conn: &impl ConnectionTrait, target: TargetId) -> Result<Vec<Whole>, Error> {
    let text = "SELECT order_key, byte_offset, stage, attempt, at, \
                byte_offset + LENGTH(bytes) AS byte_end \
                FROM outputs WHERE target_id = ?";
    let mut parts = Part::find_by_statement(sql(conn, text, [target.0.into()]))
        .all(conn)
        .await
        .map_err(Error::database("list output"))?;
    parts.sort_by_key(|part| (part.order_key, part.byte_offset));
    let mut wholes: Vec<Whole> = Vec::new();
    for part in parts {
        match wholes.last_mut() {
            Some(whole) if whole.key == part.order_key => whole.size += part.size(),
            _ => wholes.push(Whole {
                key: part.order_key,
                size: part.size(),
                stage: part.stage,
                attempt: part.attempt,
                at: part.at,
                start: 0,
            }),
        }
    }
    wholes.sort_by_key(|whole| (whole.at, whole.key));
    let mut start = 0;
    for whole in &mut wholes {
        whole.start = start;
        start += whole.size;
    }
    Ok(wholes)
}

/// The text of one order that lies between `from` and `to`. `rows` are by offset.
fn part(whole: &Whole, rows: &[Model], from: u64, to: u64) -> LogPart {
    let skip = usize::try_from(from.saturating_sub(whole.start)).unwrap_or(usize::MAX);
    let take = usize::try_from(to - whole.start.max(from)).unwrap_or(usize::MAX);
    let bytes: Vec<u8> = rows
        .iter()
        .filter(|row| row.order_key == whole.key)
        .flat_map(|row| row.bytes.iter().copied())
        .skip(skip)
        .take(take)
        .collect();
    LogPart {
        stage: whole.stage.clone(),
        attempt: u32::try_from(whole.attempt).unwrap_or(0),
        key: OrderKey(whole.key).to_string(),
        at: Timestamp::from_micros(whole.at),
        text: String::from_utf8_lossy(&bytes).into_owned(),
        bytes: whole.size,
    }
}

fn bytes_of(size: i64) -> u64 {
    u64::try_from(size).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_passed_over_and_what_is_too_much_is_cut_once() {
        assert_eq!(kept(0, 0, b"abc".to_vec()), Some((0, b"abc".to_vec())));
        assert_eq!(kept(3, 0, b"abc".to_vec()), None);
        assert_eq!(kept(3, 1, b"bcde".to_vec()), Some((3, b"de".to_vec())));
        let (offset, bytes) = kept(MOST_PER_ORDER - 1, MOST_PER_ORDER - 1, b"xyz".to_vec())
            .expect("the first byte and the mark");
        assert_eq!(offset, MOST_PER_ORDER - 1);
        assert_eq!(bytes, b"x[capstan: output cut after 1048576 bytes]\n");
        let end = offset + bytes.len() as u64;
        assert_eq!(kept(end, MOST_PER_ORDER + 2, vec![b'x'; 100]), None);
        assert_eq!(
            kept(MOST_PER_ORDER, MOST_PER_ORDER, b"x".to_vec()).map(|it| it.1),
            Some(b"[capstan: output cut after 1048576 bytes]\n".to_vec())
        );
    }
}
