//! Rows of `webhooks`: who is told of events by HTTP.

use sea_orm::entity::prelude::*;

#[derive(Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "webhooks")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub name: String,
    pub url: String,
    pub secret: String,
    pub events: String,
    pub enabled: bool,
    pub disabled_because: Option<String>,
    pub created_by: String,
    pub created_at: i64,
    pub failing_since: Option<i64>,
    pub failures: i32,
    pub next_try_at: Option<i64>,
    pub delivered_at: Option<i64>,
}

/// The secret is not shown.
impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
