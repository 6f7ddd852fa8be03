//! Rows of `webhook_deliveries`: calls of webhooks.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "webhook_deliveries")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub webhook_id: Uuid,
    pub stream: Uuid,
    pub seq: i64,
    pub kind: String,
    pub attempt: i32,
    pub at: i64,
    pub status: Option<i32>,
    pub error: Option<String>,
    pub took_ms: i32,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
