//! Rows of `server_states`: what Capstan knows of each server.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "server_states")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub server_id: Uuid,
    pub group_id: Uuid,
    pub pulled_out: Option<String>,
    pub service: String,
    pub out_because: Option<String>,
    pub observed_at: Option<i64>,
    pub dead_since: Option<i64>,
    pub drained: bool,
    pub drained_again: bool,
    pub markup_owed: Option<String>,
    pub running_package: Option<Uuid>,
    pub running_version: Option<String>,
    pub running_proven_at: Option<i64>,
    pub order_key: Option<Uuid>,
    pub fence: i64,
    pub rev: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
