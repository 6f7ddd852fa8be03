//! Who uses a dependency, and what groups are told of those that they use.
//!
//! What concerns a group is written into the group's own row by an input, so that decisions are made from the
//! group alone. The row of the dependency and those of groups are compared, so whatever was not told is told by
//! the next comparison.

use std::collections::{BTreeMap, BTreeSet};

use capstan_core::GroupId;
use capstan_core::dependency::{
    BreakerState, Condition, Dependencies, Impaired, executor, load_balancer, of_all, without,
};
use capstan_core::input::Input;
use capstan_core::ports::Endpoint;
use capstan_core::record::Binding;
use capstan_core::view::DependencyView;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};
use uuid::Uuid;

use super::view;
use crate::entities::{deployments, groups};
use crate::operation::{Operation, timed};
use crate::rows::Reader;
use crate::{Error, Store, SubmitError, chain};

/// The name under which breakers act.
const BREAKER: &str = capstan_core::decide::CAPSTAN;

/// What a group uses, and what its row says of that.
pub(super) struct Uses {
    group: GroupId,
    pub(super) names: BTreeSet<String>,
    told: Dependencies,
}

impl Store {
    /// Servers that are reached through a load balancer or an executor: of the first group that uses it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn dependency_servers(&self, name: &str) -> Result<Vec<Endpoint>, Error> {
        let uses = self.uses(None).await?;
        let Some(group) = uses.iter().find(|uses| uses.names.contains(name)) else {
            return Ok(Vec::new());
        };
        Ok(self.endpoints(group.group).await?.map(|(_, servers)| servers).unwrap_or_default())
    }

    /// Tells groups, or one, what their rows do not say yet of the dependencies that they use.
    ///
    /// # Errors
    /// When the database does not answer, or a group could not be told; the others were.
    pub async fn dependencies_tell(&self, only: Option<GroupId>) -> Result<(), Error> {
        let impaired = self.impaired().await?;
        let mut news = Vec::new();
        for Uses { group, names, told } in self.uses(only).await? {
            let wanted: Dependencies = impaired
                .iter()
                .filter(|(name, _)| names.contains(*name))
                .map(|(name, why)| (name.clone(), why.clone()))
                .collect();
            let known: BTreeSet<&String> = told.keys().chain(wanted.keys()).collect();
            for name in known.into_iter().filter(|name| told.get(*name) != wanted.get(*name)) {
                let impaired = wanted.get(name).cloned();
                news.push((group, Input::Dependency { name: name.clone(), impaired }));
            }
        }
        // What may hold a release comes before what is only told.
        news.sort_by_key(
            |(_, input)| matches!(input, Input::Dependency { name, .. } if without(name).is_some()),
        );
        let mut failed = None;
        for (group, input) in news {
            match self.submit(group, input).await {
                Ok(_) | Err(SubmitError::Refused(_) | SubmitError::GroupUnknown) => {}
                Err(SubmitError::Store(error)) => {
                    tracing::warn!(%group, error = %chain(&error), "a group is told later");
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// What is broken or cut off, and how.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn dependencies_impaired(&self) -> Result<Dependencies, Error> {
        timed(Operation::DependenciesImpaired, self.impaired()).await
    }

    async fn impaired(&self) -> Result<Dependencies, Error> {
        let mut impaired = Dependencies::new();
        for row in self.dependency_rows().await? {
            let name = row.name.clone();
            if let Some(why) = why(&view(row, 0, 0)?) {
                impaired.insert(name, why);
            }
        }
        Ok(impaired)
    }

    /// What groups use: by their own fields, and by those that their running deployment froze. What every group
    /// uses counts for those that release.
    pub(super) async fn uses(&self, only: Option<GroupId>) -> Result<Vec<Uses>, Error> {
        let mut query = groups::Entity::find().select_only().columns([
            groups::Column::Id,
            groups::Column::Binding,
            groups::Column::Dependencies,
        ]);
        let mut running = deployments::Entity::find()
            .select_only()
            .columns([deployments::Column::GroupId, deployments::Column::Frozen])
            .filter(deployments::Column::RunningGroup.is_not_null());
        if let Some(group) = only {
            query = query.filter(groups::Column::Id.eq(group.0));
            running = running.filter(deployments::Column::RunningGroup.eq(group.0));
        }
        let frozen: Vec<(Uuid, String)> = running
            .into_tuple()
            .all(self.reader())
            .await
            .map_err(Error::database("read what running deployments use"))?;
        let frozen: BTreeMap<Uuid, String> = frozen.into_iter().collect();
        let rows: Vec<(Uuid, String, Option<String>)> = query
            .into_tuple()
            .all(self.reader())
            .await
            .map_err(Error::database("read what groups use"))?;
        rows.into_iter()
            .map(|(id, binding, told)| {
                let reader = Reader::new("groups", &id);
                let mut names = used(&reader.json("binding", &binding)?);
                if let Some(frozen) = frozen.get(&id) {
                    names.extend(used(&reader.json("frozen", frozen)?));
                    names.extend(of_all().map(str::to_owned));
                }
                let told = reader.json_opt("dependencies", told.as_deref())?.unwrap_or_default();
                Ok(Uses { group: GroupId(id), names, told })
            })
            .collect()
    }
}

fn used(binding: &Binding) -> BTreeSet<String> {
    let executors = binding.executors().map(executor);
    executors.chain([load_balancer(&binding.load_balancer)]).collect()
}

/// What a group must know of a dependency; a hand switch comes before a breaker.
fn why(view: &DependencyView) -> Option<Impaired> {
    if let Some(cut) = &view.cut_off {
        return Some(Impaired {
            condition: Condition::CutOff,
            since: cut.since,
            by: cut.by.clone(),
            reason: cut.reason.clone(),
            until: cut.expires_at,
        });
    }
    (view.state != BreakerState::Closed).then(|| Impaired {
        condition: Condition::Open,
        since: view.since,
        by: BREAKER.to_owned(),
        reason: view.last_error.clone().unwrap_or_else(|| "it does not answer".to_owned()),
        until: None,
    })
}
