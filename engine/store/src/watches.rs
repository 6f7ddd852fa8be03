//! Who follows what: told of commits, of this process and of others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use capstan_core::DeploymentId;
use sea_orm::{ColumnTrait, ConnectionTrait, DbBackend, EntityTrait, QueryFilter, QuerySelect};
use tokio::sync::watch;
use uuid::Uuid;

use crate::bulk::{quoted, sql};
use crate::entities::deployments::{Column, Entity};
use crate::{Error, Inner, chain};

/// How often it is looked whether other processes have written what somebody here follows.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long the database may take to say what there is.
const ANSWER: Duration = Duration::from_secs(5);

/// Who follows the logs of deployments.
#[derive(Debug)]
pub(crate) struct Watches {
    deployments: Mutex<HashMap<DeploymentId, watch::Sender<i64>>>,
    pub(crate) all: watch::Sender<u64>,
}

impl Default for Watches {
    fn default() -> Self {
        Self { deployments: Mutex::default(), all: watch::Sender::new(0) }
    }
}

impl Watches {
    pub(crate) fn of(&self, id: DeploymentId) -> watch::Receiver<i64> {
        let mut deployments = self.deployments.lock().unwrap_or_else(PoisonError::into_inner);
        deployments.retain(|_, sender| sender.receiver_count() > 0);
        deployments.entry(id).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    pub(crate) fn tell(&self, id: DeploymentId, seq: i64) {
        let deployments = self.deployments.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = deployments.get(&id) {
            sender.send_if_modified(|known| {
                let is_newer = seq > *known;
                *known = seq.max(*known);
                is_newer
            });
        }
    }

    /// The deployments that somebody follows.
    fn followed(&self) -> Vec<DeploymentId> {
        let deployments = self.deployments.lock().unwrap_or_else(PoisonError::into_inner);
        let followed = deployments.iter().filter(|(_, sender)| sender.receiver_count() > 0);
        followed.map(|(id, _)| *id).collect()
    }

    pub(crate) fn tell_all(&self) {
        self.all.send_modify(|count| *count += 1);
    }
}

/// Tells those who follow something here of what other processes have written, as long as the store is
/// there. Nothing is asked while nobody follows.
pub(crate) fn follow(inner: &Arc<Inner>) {
    if !inner.member.has_others() {
        return;
    }
    let weak = Arc::downgrade(inner);
    tokio::spawn(async move {
        let mut known = 0;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let looked = tokio::time::timeout(ANSWER, look(&weak, &mut known)).await;
            match looked.unwrap_or(Some(Err(Error::NoAnswer { limit: ANSWER }))) {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::debug!(error = %chain(&error), "changes by others are not known");
                }
            }
        }
    });
}

/// Looks once. `None`: the store is gone.
async fn look(inner: &Weak<Inner>, known: &mut i64) -> Option<Result<(), Error>> {
    let inner = inner.upgrade()?;
    let followed = inner.watches.followed();
    if !followed.is_empty() {
        match seqs(&inner, followed).await {
            Ok(seqs) => seqs.into_iter().for_each(|(id, seq)| inner.watches.tell(id, seq)),
            Err(error) => return Some(Err(error)),
        }
    }
    if inner.watches.all.receiver_count() > 0 {
        match versions(&inner).await {
            Ok(now) if now != *known => {
                *known = now;
                inner.watches.tell_all();
            }
            Ok(_) => {}
            Err(error) => return Some(Err(error)),
        }
    }
    Some(Ok(()))
}

async fn seqs(inner: &Inner, ids: Vec<DeploymentId>) -> Result<Vec<(DeploymentId, i64)>, Error> {
    let rows: Vec<(Uuid, i64)> = Entity::find()
        .select_only()
        .columns([Column::Id, Column::Seq])
        .filter(Column::Id.is_in(ids.into_iter().map(|id| id.0)))
        .into_tuple()
        .all(&inner.reader)
        .await
        .map_err(Error::database("read where logs end"))?;
    Ok(rows.into_iter().map(|(id, seq)| (DeploymentId(id), seq)).collect())
}

/// A number that changes with every change of a group.
async fn versions(inner: &Inner) -> Result<i64, Error> {
    let backend = inner.reader.get_database_backend();
    let number = if backend == DbBackend::MySql { "SIGNED" } else { "BIGINT" };
    let text = format!(
        "SELECT CAST(COALESCE(SUM(version), 0) + COUNT(*) AS {number}) AS changes FROM {}",
        quoted(backend, "groups")
    );
    let what = "find out whether groups changed";
    let row = inner.reader.query_one_raw(sql(&inner.reader, &text, [])).await;
    let row = row.map_err(Error::database(what))?;
    let changes: Option<i64> =
        row.map(|row| row.try_get("", "changes")).transpose().map_err(Error::database(what))?;
    Ok(changes.unwrap_or(0))
}
