//! Events of a log that was restored from a backup have numbers that others had before: their epoch tells
//! them apart.

use std::collections::BTreeMap;

use capstan_core::event::Event;
use sea_orm::{ConnectionTrait, DatabaseTransaction};
use uuid::Uuid;

use super::batch::stream_of;
use crate::bulk::{list, quoted, sql};
use crate::{Error, Store};

/// Streams in one statement.
const AT_ONCE: usize = 500;

/// When logs were restored: by stream, the last number from before and the epoch of what follows, in order.
#[derive(Debug, Default)]
pub(super) struct Epochs(BTreeMap<Uuid, Vec<(i64, i64)>>);

impl Epochs {
    /// The epoch of an event; 0: its log was never restored before it was written.
    pub(super) fn of(&self, event: &Event) -> i64 {
        self.at(stream_of(event), event.seq)
    }

    pub(super) fn at(&self, stream: Uuid, seq: i64) -> i64 {
        let restores = self.0.get(&stream).map(Vec::as_slice).unwrap_or_default();
        restores
            .iter()
            .filter(|(after, _)| *after < seq)
            .map(|(_, epoch)| *epoch)
            .max()
            .unwrap_or(0)
    }
}

impl Store {
    pub(super) async fn epochs(&self, streams: &[Uuid]) -> Result<Epochs, Error> {
        let what = "read when logs were restored";
        let reader = self.reader();
        let mut epochs = Epochs::default();
        for some in streams.chunks(AT_ONCE) {
            let text = format!(
                "SELECT stream, after_seq, epoch FROM restored_streams WHERE stream IN ({})",
                list(some.len())
            );
            let values = some.iter().map(|stream| (*stream).into());
            let rows = reader.query_all_raw(sql(reader, &text, values)).await;
            for row in rows.map_err(Error::database(what))? {
                let stream = row.try_get("", "stream").map_err(Error::database(what))?;
                let after = row.try_get("", "after_seq").map_err(Error::database(what))?;
                let epoch = row.try_get("", "epoch").map_err(Error::database(what))?;
                epochs.0.entry(stream).or_default().push((after, epoch));
            }
        }
        Ok(epochs)
    }

    /// What is written to any log from now on belongs to a new epoch. It is named after the clock: a counter
    /// would be restored with the backup, and count the same again after the next restore of it. A clock that
    /// was ahead at an earlier restore is passed.
    pub(crate) async fn epoch_begin(&self) -> Result<(), Error> {
        let what = "begin an epoch";
        let txn = self.begin().await?;
        let text = "SELECT MAX(epoch) AS latest FROM restored_streams";
        let row = txn.query_one_raw(sql(&txn, text, [])).await.map_err(Error::database(what))?;
        let latest: Option<i64> = row
            .map(|row| row.try_get("", "latest"))
            .transpose()
            .map_err(Error::database(what))?
            .flatten();
        let epoch = (self.now().as_micros() / 1_000_000).max(latest.unwrap_or(0) + 1);
        enter(&txn, epoch).await?;
        crate::store::commit(txn).await
    }
}

async fn enter(txn: &DatabaseTransaction, epoch: i64) -> Result<(), Error> {
    let groups = quoted(txn.get_database_backend(), "groups");
    for logs in ["deployments", groups.as_str()] {
        let text = format!(
            "INSERT INTO restored_streams (stream, epoch, after_seq) SELECT id, {epoch}, seq FROM {logs}"
        );
        let done = txn.execute_raw(sql(txn, &text, [])).await;
        done.map_err(Error::database("begin an epoch"))?;
    }
    Ok(())
}
