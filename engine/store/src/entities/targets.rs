//! Rows of `targets`: one server in one deployment.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "targets")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub deployment_id: Uuid,
    pub batch: i32,
    pub place: i32,
    pub server_id: Uuid,
    pub hostname: String,
    pub instance: String,
    pub ip_address: String,
    pub status: String,
    pub status_since: i64,
    pub attempt: i32,
    pub orders: i32,
    pub tries: i32,
    pub order_key: Option<Uuid>,
    pub order_digest: Option<String>,
    pub deadline_at: Option<i64>,
    pub unknown_since: Option<i64>,
    pub checked: bool,
    pub verified_at: Option<i64>,
    pub unverified: bool,
    pub skipped: bool,
    pub leaving: bool,
    pub took: bool,
    pub bypassed: bool,
    pub cause: Option<String>,
    pub message: Option<String>,
    pub rev: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
