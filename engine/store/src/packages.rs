//! Packages: built artifacts, of which a version never changes.

use capstan_core::record::{Bad, Location};
use capstan_core::view::{PackageView, Page};
use capstan_core::{ApplicationId, PackageId};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder, Set,
};
use uuid::Uuid;

use crate::cursor::{after, newest, page};
use crate::entities::packages::{ActiveModel, Column, Entity, Model};
use crate::operation::{Operation, timed};
use crate::rows::inventory::package_view;
use crate::rows::{Reader, to_json};
use crate::store::commit;
use crate::{Error, NewAudit, NewPackage, PageRequest, Registered, Store, audit, crash};

const TABLE: &str = "packages";

impl Store {
    /// Registers a package. One that is known with the same digest takes what is new: locations,
    /// size, that the store holds it. One with another digest stays as it is and is given back, and
    /// nothing is written, `audit` neither.
    ///
    /// # Errors
    /// When the database does not answer, or there is no such application.
    pub async fn package_register(
        &self,
        new: NewPackage,
        audit: Option<NewAudit>,
    ) -> Result<(PackageView, Registered), Error> {
        timed(Operation::PackageRegister, async {
            let txn = self.inner.begin_in_turn().await?;
            let (row, registered) = match by_version(&txn, new.application, &new.version).await? {
                None => (insert(self, &txn, new).await?, Registered::Created),
                Some(known) if known.sha256 != new.sha256 => {
                    return Ok((package_view(known)?, Registered::OtherDigest));
                }
                Some(known) => (merge(&txn, known, new).await?, Registered::Same),
            };
            audit::insert_if_asked(&txn, audit, self.now()).await?;
            crash::point("package.written");
            commit(txn).await?;
            crash::point("package.done");
            Ok((package_view(row)?, registered))
        })
        .await
    }

    /// One package.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn package(&self, id: PackageId) -> Result<Option<PackageView>, Error> {
        timed(Operation::Package, async {
            by_id(self.reader(), id).await?.map(package_view).transpose()
        })
        .await
    }

    /// One package by application and version.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn package_by_version(
        &self,
        application: ApplicationId,
        version: &str,
    ) -> Result<Option<PackageView>, Error> {
        timed(Operation::Package, async {
            by_version(self.reader(), application, version).await?.map(package_view).transpose()
        })
        .await
    }

    /// All packages with this content; several versions may have the same.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn packages_by_digest(&self, sha256: &str) -> Result<Vec<PackageView>, Error> {
        timed(Operation::Packages, async {
            let rows = Entity::find()
                .filter(Column::Sha256.eq(sha256))
                .order_by_asc(Column::Id)
                .all(self.reader())
                .await
                .map_err(Error::database("find packages"))?;
            rows.into_iter().map(package_view).collect()
        })
        .await
    }

    /// Packages of an application, newest first.
    ///
    /// # Errors
    /// [`Error::Cursor`]; when the database does not answer.
    pub async fn packages(
        &self,
        application: ApplicationId,
        request: PageRequest,
    ) -> Result<Page<PackageView>, Error> {
        timed(Operation::Packages, async {
            let query = Entity::find().filter(Column::ApplicationId.eq(application.0));
            let rows = newest(self.reader(), query, Column::Id, &request, "list packages").await?;
            page(rows, request.size(), |row| after(row.id), package_view)
        })
        .await
    }

    /// Marks a package as bad, or takes the mark away; `None`: there is no such package.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn package_mark(
        &self,
        id: PackageId,
        bad: Option<Bad>,
        audit: Option<NewAudit>,
    ) -> Result<Option<PackageView>, Error> {
        timed(Operation::PackageMark, async {
            let bad = bad.map(|bad| to_json(TABLE, &bad)).transpose()?;
            let txn = self.inner.begin_in_turn().await?;
            let Some(row) = by_id(&txn, id).await? else { return Ok(None) };
            let row = ActiveModel { bad: Set(bad), ..row.into_active_model() };
            let row = row.update(&txn).await.map_err(Error::database("mark a package"))?;
            audit::insert_if_asked(&txn, audit, self.now()).await?;
            commit(txn).await?;
            package_view(row).map(Some)
        })
        .await
    }
}

async fn insert(
    store: &Store,
    txn: &impl ConnectionTrait,
    new: NewPackage,
) -> Result<Model, Error> {
    let row = Model {
        id: Uuid::now_v7(),
        application_id: new.application.0,
        version: new.version,
        sha256: new.sha256,
        size: size_column(new.size),
        locations: to_json(TABLE, &new.locations)?,
        stored: new.stored,
        bad: None,
        created_at: store.now().as_micros(),
    };
    row.into_active_model()
        .reset_all()
        .insert(txn)
        .await
        .map_err(Error::database("write a package"))
}

async fn merge(txn: &impl ConnectionTrait, known: Model, new: NewPackage) -> Result<Model, Error> {
    let mut locations: Vec<Location> =
        Reader::new(TABLE, &known.id).json("locations", &known.locations)?;
    for location in new.locations {
        if !locations.contains(&location) {
            locations.push(location);
        }
    }
    let row = ActiveModel {
        locations: Set(to_json(TABLE, &locations)?),
        stored: Set(known.stored || new.stored),
        size: Set(known.size.or(size_column(new.size))),
        ..known.into_active_model()
    };
    row.update(txn).await.map_err(Error::database("write a package"))
}

async fn by_id(conn: &impl ConnectionTrait, id: PackageId) -> Result<Option<Model>, Error> {
    Entity::find_by_id(id.0).one(conn).await.map_err(Error::database("read a package"))
}

async fn by_version(
    conn: &impl ConnectionTrait,
    application: ApplicationId,
    version: &str,
) -> Result<Option<Model>, Error> {
    Entity::find()
        .filter(Column::ApplicationId.eq(application.0))
        .filter(Column::Version.eq(version))
        .one(conn)
        .await
        .map_err(Error::database("find a package"))
}

fn size_column(size: Option<u64>) -> Option<i64> {
    size.and_then(|size| i64::try_from(size).ok())
}
