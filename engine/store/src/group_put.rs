//! Makes the rows of an application and a group that the CMDB names for the first time. What they
//! become afterwards comes through `submit`.

use capstan_core::ports::CmdbGroup;
use capstan_core::record::Binding;
use capstan_core::{ApplicationId, GroupId};
use sea_orm::{ConnectionTrait, DatabaseTransaction};
use uuid::Uuid;

use crate::bulk::{or_keep, quoted, sql};
use crate::{Error, Store, crash};

impl Store {
    /// The id of the group that a CMDB record is about; its rows are made if it is new.
    pub(crate) async fn group_put(&self, record: &CmdbGroup) -> Result<GroupId, Error> {
        if let Some(id) = self.group_id_by_external(&record.id).await? {
            return Ok(id);
        }
        let txn = self.inner.begin_in_turn().await?;
        let application = application_put(&txn, record, self.now()).await?;
        let binding =
            serde_json::to_string(&Binding::from_record(record)).map_err(Error::json("groups"))?;
        let id = GroupId::derive(self.now(), &[record.id.as_bytes(), b"group"]);
        let backend = self.inner.backend();
        let text = format!(
            "INSERT INTO {} (id, external_id, application_id, name, binding, port, idc, \
             cmdb_revision, synced_at, version, seq) VALUES (?,?,?,?,?,?,?,?,?,?,?) {}",
            quoted(backend, "groups"),
            or_keep(backend)
        );
        let values = [
            id.0.into(),
            record.id.as_str().into(),
            application.0.into(),
            record.name.as_str().into(),
            binding.into(),
            i32::from(record.port).into(),
            record.idc.as_str().into(),
            (-1_i64).into(),
            self.now().as_micros().into(),
            0_i64.into(),
            0_i64.into(),
        ];
        txn.execute_raw(sql(&txn, &text, values)).await.map_err(Error::database("make a group"))?;
        crash::point("refresh.written");
        txn.commit().await.map_err(Error::database("commit a transaction"))?;
        crash::point("refresh.done");
        // Another call may have made it at the same time; its id counts.
        Ok(self.group_id_by_external(&record.id).await?.unwrap_or(id))
    }
}

async fn application_put(
    txn: &DatabaseTransaction,
    record: &CmdbGroup,
    now: capstan_core::Timestamp,
) -> Result<ApplicationId, Error> {
    let application = &record.application;
    let new = ApplicationId::derive(now, &[application.id.as_bytes(), b"application"]);
    let bastion = match application.bastion {
        capstan_core::record::BastionRule::One => "one",
        capstan_core::record::BastionRule::None => "none",
    };
    let known = match application_id(txn, "external_id", &application.id).await? {
        Some(id) => Some(id),
        // One that was registered by hand before the CMDB named it.
        None => application_id(txn, "name", &application.name).await?,
    };
    let text = if known.is_some() {
        "UPDATE applications SET external_id = ?, name = ?, owner = ?, environment = ?, kind = ?, \
         bastion = ? WHERE id = ?"
    } else {
        "INSERT INTO applications (external_id, name, owner, environment, kind, bastion, id) \
         VALUES (?,?,?,?,?,?,?)"
    };
    let id = known.unwrap_or(new);
    let values = [
        application.id.as_str().into(),
        application.name.as_str().into(),
        application.owner.as_str().into(),
        application.environment.as_str().into(),
        application.kind.as_str().into(),
        bastion.into(),
        id.0.into(),
    ];
    txn.execute_raw(sql(txn, text, values))
        .await
        .map_err(Error::database("write an application"))?;
    Ok(id)
}

async fn application_id(
    txn: &DatabaseTransaction,
    column: &'static str,
    value: &str,
) -> Result<Option<ApplicationId>, Error> {
    let text = format!("SELECT id FROM applications WHERE {column} = ?");
    let what = "find an application";
    let row =
        txn.query_one_raw(sql(txn, &text, [value.into()])).await.map_err(Error::database(what))?;
    let id: Option<Uuid> =
        row.map(|row| row.try_get("", "id")).transpose().map_err(Error::database(what))?;
    Ok(id.map(ApplicationId))
}
