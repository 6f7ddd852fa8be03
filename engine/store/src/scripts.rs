//! Bodies of host scripts, by their digest.

use capstan_core::ports::Script;
use sea_orm::{EntityTrait, Value};

use crate::bulk::{self, Existing, Table};
use crate::entities::scripts::Entity;
use crate::operation::{Operation, timed};
use crate::{Error, Store};

const SCRIPTS: Table<2> = Table {
    name: "scripts",
    columns: ["sha256", "body"],
    key: &["sha256"],
    fixed: &[],
    nullable: &[],
    known: false,
};

impl Store {
    /// Keeps scripts. Those whose digest is known are the same and stay.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn scripts_put(&self, scripts: &[Script]) -> Result<(), Error> {
        timed(Operation::ScriptsPut, async {
            let values = scripts
                .iter()
                .flat_map(|script| [&script.sha256, &script.body])
                .map(|text| Value::from(text.as_str()))
                .collect();
            let backend = self.writer().get_database_backend();
            for step in bulk::rows(backend, &SCRIPTS, Existing::Keep, values) {
                step.run(self.writer()).await?;
            }
            Ok(())
        })
        .await
    }

    /// The script with this digest.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn script(&self, sha256: &str) -> Result<Option<Script>, Error> {
        timed(Operation::Script, async {
            let row = Entity::find_by_id(sha256.to_owned())
                .one(self.reader())
                .await
                .map_err(Error::database("read a script"))?;
            Ok(row.map(|row| Script { sha256: row.sha256, body: row.body }))
        })
        .await
    }
}
