//! Rows of `deployments`: releases of a package to a group.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "deployments")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub group_id: Uuid,
    pub running_group: Option<Uuid>,
    pub package_id: Uuid,
    pub version: String,
    pub sha256: String,
    pub config: String,
    pub flavor: String,
    pub status: String,
    pub holds: String,
    pub failed_seen: i32,
    pub total: i32,
    pub frozen: String,
    pub scripts: String,
    pub parent: Option<Uuid>,
    pub origin: Option<Uuid>,
    pub restores: Option<Uuid>,
    pub baked: bool,
    pub superseded_by: Option<Uuid>,
    pub created_by: String,
    pub ignore_verify_reason: Option<String>,
    pub seed: String,
    pub plan_hash: String,
    pub seq: i64,
    pub created_at: i64,
    pub started_at: Option<i64>,
    pub ended_at: Option<i64>,
    pub status_since: i64,
    pub stale: bool,
    pub ran_without: String,
    pub rev: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
