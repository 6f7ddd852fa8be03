//! Rows of `servers`: what the CMDB says of each instance.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "servers")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub group_id: Uuid,
    pub external_id: String,
    pub hostname: String,
    pub instance: String,
    pub ip_address: String,
    pub port: i32,
    pub root: String,
    pub idc: String,
    pub pool: String,
    pub is_bastion: bool,
    pub retired: bool,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
