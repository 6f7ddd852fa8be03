//! Rows of `outputs`: what scripts printed, in parts.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "outputs")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub order_key: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub byte_offset: i64,
    pub target_id: Uuid,
    pub stage: String,
    pub attempt: i32,
    pub at: i64,
    pub bytes: Vec<u8>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
