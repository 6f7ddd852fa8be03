//! What people ask for, from the API and from the pages alike: checked, done, and audited.

pub(crate) mod act;
pub(crate) mod create;
pub(crate) mod dependencies;
pub(crate) mod groups;
pub(crate) mod packages;
pub(crate) mod rollback;
pub(crate) mod servers;
pub(crate) mod webhooks;

use axum::http::StatusCode;
use capstan_core::order::ScriptSet;
use capstan_core::ports::{DriverError, Script};
use capstan_core::record::PackageRef;
use capstan_core::view::PackageView;
use capstan_core::{ApplicationId, PackageId};

use crate::app::App;
use crate::problem::Problem;

impl App {
    /// The scripts of a kind of application, as they are now.
    pub(crate) fn scripts(&self, kind: &str) -> Result<(ScriptSet, Vec<Script>), Problem> {
        self.ports.scripts.scripts(kind).map_err(|error| match error {
            DriverError::Refused(text) => {
                Problem::new(StatusCode::CONFLICT, "scripts_unknown", format!("kind: {text}"))
            }
            DriverError::Busy(_) | DriverError::Unknown(_) => {
                Problem::unavailable("scripts_unavailable", error.to_string())
            }
        })
    }

    /// The scripts of a kind, kept by their digests for the deployment that will run them (T5).
    pub(crate) async fn keep_scripts(&self, kind: &str) -> Result<ScriptSet, Problem> {
        let (set, bodies) = self.scripts(kind)?;
        self.store.scripts_put(&bodies).await?;
        Ok(set)
    }

    /// The package that a request names, by id or by version.
    pub(crate) async fn named_package(
        &self,
        application: ApplicationId,
        named: &str,
    ) -> Result<PackageView, Problem> {
        let by_id = match named.parse::<PackageId>() {
            Ok(id) => self.store.package(id).await?.filter(|it| it.application == application),
            Err(_) => None,
        };
        let package = match by_id {
            Some(package) => Some(package),
            None => self.store.package_by_version(application, named).await?,
        };
        package.ok_or_else(|| {
            let allowed =
                "the id or the version of a registered package of the group's application";
            let mut problem = Problem::invalid("package", named, allowed);
            problem.code = "package_unknown";
            problem
        })
    }
}

/// The part of a package that a deployment keeps.
pub(crate) fn package_ref(package: &PackageView) -> PackageRef {
    PackageRef { id: package.id, version: package.version.clone(), sha256: package.sha256.clone() }
}
