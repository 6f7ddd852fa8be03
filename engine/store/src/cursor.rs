//! Where the next page of a list begins.
//!
//! A cursor holds the sort key of the last item, not a count of items: a page is found by the index
//! however far down it lies, and rows that appear meanwhile shift nothing. It is hexadecimal so that
//! it goes through a URL as it is and nobody is tempted to write one by hand.

use capstan_core::order::hex;
use capstan_core::view::Page;
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select,
};
use uuid::Uuid;

use crate::{Error, PageRequest};

/// Parts of a key are joined by this; it is part of no id and number, and of names only as the last.
const SEPARATOR: char = '\n';

pub(crate) fn encode(parts: &[&str]) -> String {
    hex(parts.join("\n").as_bytes())
}

/// The two parts of a cursor.
pub(crate) fn decode_pair(cursor: &str) -> Result<(String, String), Error> {
    let text = decode(cursor)?;
    let (first, rest) = text.split_once(SEPARATOR).ok_or_else(|| refused(cursor))?;
    Ok((first.to_owned(), rest.to_owned()))
}

/// The text of a cursor.
pub(crate) fn decode(cursor: &str) -> Result<String, Error> {
    let digits = cursor.as_bytes();
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        })
        .collect();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| refused(cursor))
}

/// A cursor that holds an id.
pub(crate) fn decode_id(cursor: &str) -> Result<Uuid, Error> {
    decode(cursor)?.parse().map_err(|_| refused(cursor))
}

pub(crate) fn refused(cursor: &str) -> Error {
    Error::Cursor(cursor.to_owned())
}

/// Rows whose ids say when they were made, the newest first, from where the request begins: one more than fit
/// on a page.
pub(crate) async fn newest<E: EntityTrait>(
    conn: &impl ConnectionTrait,
    query: Select<E>,
    id: E::Column,
    request: &PageRequest,
    what: &'static str,
) -> Result<Vec<E::Model>, Error> {
    let mut query = query;
    if let Some(cursor) = &request.cursor {
        query = query.filter(id.lt(decode_id(cursor)?));
    }
    let rows = query.order_by_desc(id).limit(request.size() + 1).all(conn).await;
    rows.map_err(Error::database(what))
}

/// The cursor after the row with this id.
pub(crate) fn after(id: Uuid) -> String {
    encode(&[&id.to_string()])
}

/// Makes a page of rows of which one more than fit was asked for.
pub(crate) fn page<R, T>(
    mut rows: Vec<R>,
    size: u64,
    key: impl FnOnce(&R) -> String,
    item: impl FnMut(R) -> Result<T, Error>,
) -> Result<Page<T>, Error> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let more = rows.len() > size;
    rows.truncate(size);
    let next_cursor = rows.last().filter(|_| more).map(key);
    Ok(Page { items: rows.into_iter().map(item).collect::<Result<_, _>>()?, next_cursor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_and_a_foreign_one_is_refused() {
        let cursor = encode(&["12", "käse\nbrot"]);
        assert_eq!(decode_pair(&cursor).expect("ours"), ("12".into(), "käse\nbrot".into()));
        for foreign in ["zz", "616", "ff", "616263", "ä1"] {
            assert!(matches!(decode_pair(foreign), Err(Error::Cursor(_))), "{foreign}");
        }
        assert!(matches!(decode_id(&encode(&["no id"])), Err(Error::Cursor(_))));
    }
}
