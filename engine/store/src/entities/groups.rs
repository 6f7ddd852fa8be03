//! Rows of `groups`: the smallest unit of a release.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "groups")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub external_id: String,
    pub application_id: Uuid,
    pub name: String,
    pub binding: String,
    pub port: i32,
    pub idc: String,
    pub cmdb_revision: i64,
    pub synced_at: i64,
    pub observed_at: Option<i64>,
    pub refresh_held: Option<String>,
    pub version: i64,
    pub seq: i64,
    pub dependencies: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
