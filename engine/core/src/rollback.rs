//! Which package a rollback brings back.

use crate::DeploymentId;
use crate::deployment_status::DeploymentStatus;
use crate::input::Refused;
use crate::record::{Flavor, PackageRef};

/// What a rollback needs to know of an earlier deployment of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// Its id.
    pub id: DeploymentId,
    /// What it was for.
    pub flavor: Flavor,
    /// Where it stands.
    pub status: DeploymentStatus,
    /// Its package.
    pub package: PackageRef,
    /// Whether that package is marked as bad.
    pub bad: bool,
    /// The newest SUCCESS of the group before it.
    pub parent: Option<DeploymentId>,
    /// For a rollback: the deployment whose package it brought back.
    pub restores: Option<DeploymentId>,
    /// Its seed.
    pub seed: String,
}

/// The group's deployments that were ever started, newest start first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History(pub Vec<Past>);

/// What a rollback undoes and brings back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice<'a> {
    /// The deployment that it undoes, if there is one.
    pub origin: Option<&'a Past>,
    /// The deployment whose package it brings back.
    pub restores: &'a Past,
}

impl History {
    /// The deployment with this id.
    pub fn get(&self, id: DeploymentId) -> Option<&Past> {
        self.0.iter().find(|past| past.id == id)
    }

    /// The newest SUCCESS, scale-outs skipped, a rollback counted as the deployment that it restored:
    /// what the group runs.
    pub fn current(&self) -> Option<&Past> {
        self.0
            .iter()
            .find(|past| {
                past.status == DeploymentStatus::Success && past.flavor != Flavor::Scaleout
            })
            .map(|past| self.meant(past))
    }

    /// Whether a deployment of this package reached SUCCESS in the group (S4).
    pub fn is_proven(&self, package: &PackageRef) -> bool {
        self.0
            .iter()
            .any(|past| past.status == DeploymentStatus::Success && past.package.id == package.id)
    }

    /// The deployment itself, or for a rollback the one that it restored.
    fn meant<'a>(&'a self, past: &'a Past) -> &'a Past {
        past.restores
            .filter(|_| past.flavor == Flavor::Rollback)
            .and_then(|restored| self.get(restored))
            .unwrap_or(past)
    }

    /// Chooses what a rollback brings back.
    ///
    /// # Errors
    /// `no_older_version` when there is nothing to go back to; `deployment_unknown` and
    /// `package_not_proven` when `to` does not name a deployment that reached SUCCESS here.
    pub fn choose(&self, to: Option<DeploymentId>) -> Result<Choice<'_>, Refused> {
        let newest = self.0.iter().find(|past| past.flavor != Flavor::Scaleout);
        if let Some(to) = to {
            return self.choose_given(to, newest);
        }
        let none = || {
            Refused::new(
                "no_older_version",
                "there is no older version that reached SUCCESS in this group and is not marked bad",
            )
        };
        let newest = newest.ok_or_else(none)?;
        let mut next = match (newest.flavor, newest.status) {
            (Flavor::Rollback, status) if status != DeploymentStatus::Success => newest.restores,
            (Flavor::Rollback, _) => {
                newest.restores.and_then(|restored| self.get(restored)).and_then(|past| past.parent)
            }
            (Flavor::Rollout | Flavor::Scaleout | Flavor::Adopted, _) => newest.parent,
        };
        while let Some(past) = next.and_then(|id| self.get(id)) {
            if !past.bad {
                return Ok(Choice { origin: Some(newest), restores: past });
            }
            next = past.parent;
        }
        Err(none())
    }

    fn choose_given<'a>(
        &'a self,
        to: DeploymentId,
        newest: Option<&'a Past>,
    ) -> Result<Choice<'a>, Refused> {
        let past = self.get(to).ok_or_else(|| {
            Refused::new(
                "deployment_unknown",
                format!("to: {to} is no deployment of this group that was ever started"),
            )
        })?;
        let restores = self.meant(past);
        if restores.bad {
            return Err(Refused::new(
                "package_bad",
                format!("to: version {} is marked as bad", restores.package.version),
            ));
        }
        if !self.is_proven(&restores.package) {
            return Err(Refused::new(
                "package_not_proven",
                format!(
                    "to: version {} has not reached SUCCESS in this group",
                    restores.package.version
                ),
            ));
        }
        Ok(Choice { origin: newest, restores })
    }
}
