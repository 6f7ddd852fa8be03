//! Rows of `dependencies`: outside systems that may be broken or cut off.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "dependencies")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    pub kind: String,
    pub state: String,
    pub found_by: Option<String>,
    pub since: i64,
    pub last_error: Option<String>,
    pub cut_off_at: Option<i64>,
    pub cut_off_by: Option<String>,
    pub cut_off_reason: Option<String>,
    pub cut_off_until: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
