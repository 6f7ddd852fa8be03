//! What the forms of the pages post, and the queries that their links carry.
//!
//! Fields are texts as they come from a browser, where an empty field is an empty text; the methods
//! turn them into what the core reads. Bounds are the core's.

use std::str::FromStr;

use capstan_core::config::{ConfigRequest, Mode};
use capstan_core::record::Flavor;
use capstan_core::target_status::TargetStatus;
use capstan_core::{DeploymentId, PackageId};
use serde::{Deserialize, Serialize};

/// `POST /login`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SignInForm {
    /// The CSRF token.
    pub csrf: String,
    /// The access token.
    pub token: String,
}

/// A form without fields of its own: `POST /logout`, `POST /servers/{id}/put-back`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct BareForm {
    /// The CSRF token.
    pub csrf: String,
}

/// `POST /groups/{id}/sync`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SyncForm {
    /// The CSRF token.
    pub csrf: String,
    /// `true`: a person confirms a refresh that was held.
    pub confirm: String,
}

impl SyncForm {
    /// Whether a person confirms a refresh that was held.
    pub fn is_confirmed(&self) -> bool {
        self.confirm == "true"
    }
}

/// `POST /servers/{id}/pull-out`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PullOutForm {
    /// The CSRF token.
    pub csrf: String,
    /// Why; the form requires it.
    pub reason: String,
}

/// `POST /dependencies/{name}/cut-off`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CutOffForm {
    /// The CSRF token.
    pub csrf: String,
    /// Why; the form requires it.
    pub reason: String,
    /// After how many minutes it ends by itself; empty: it does not.
    pub minutes: String,
}

/// `POST /deployments/{id}/{action}`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ActionForm {
    /// The CSRF token.
    pub csrf: String,
    /// For `rollout`: the batch that the person saw and means.
    pub batch: String,
}

impl ActionForm {
    /// For `rollout`: the batch that the person saw and means.
    pub fn batch(&self) -> Option<u32> {
        self.batch.parse().ok()
    }
}

/// `POST /groups/{id}/rollback`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RollbackForm {
    /// The CSRF token.
    pub csrf: String,
    /// The deployment whose package is to come back; empty: the core chooses.
    pub to: String,
}

impl RollbackForm {
    /// The deployment whose package is to come back; none: the core chooses.
    pub fn to(&self) -> Result<Option<DeploymentId>, FieldError> {
        optional("to", &self.to, "choose a deployment of the list")
    }
}

/// `POST /groups/{id}/preview` and `POST /groups/{id}/deployments`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReleaseForm {
    /// The CSRF token.
    #[serde(skip_serializing)]
    pub csrf: String,
    /// Id of the package.
    pub package: String,
    /// `rollout` or `scaleout`.
    pub flavor: String,
    /// Whole percent.
    pub max_unavailable: String,
    /// A sum of 100 or one share repeated.
    pub batch_pattern: String,
    /// Whole percent.
    pub max_failure: String,
    /// `auto` or `manual`.
    pub mode: String,
    /// Seconds.
    pub batch_wait_seconds: String,
    /// Seconds.
    pub tail_wait_seconds: String,
    /// Seconds.
    pub startup_timeout_seconds: String,
    /// `true`: a failed health answer is forgiven.
    pub ignore_verify: String,
    /// Why.
    pub ignore_verify_reason: String,
    /// Seed of the order; set by the preview.
    pub seed: String,
    /// Digest of the plan that the person saw; set by the preview.
    pub plan_hash: String,
    /// `true`: create and start; else create as a draft.
    pub start: String,
}

/// A release as the form asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The package.
    pub package: PackageId,
    /// What it is for.
    pub flavor: Flavor,
    /// The strategy, not completed and not checked yet.
    pub config: ConfigRequest,
    /// Why a failed health answer is forgiven.
    pub ignore_verify_reason: Option<String>,
    /// Seed of the order.
    pub seed: Option<String>,
    /// Digest of the plan that the person saw.
    pub plan_hash: Option<String>,
    /// Whether it starts at once.
    pub start: bool,
}

/// What is wrong with one field of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Name of the field; one that the form does not have: the text is shown above the form.
    pub field: String,
    /// What is wrong and what is allowed.
    pub text: String,
}

impl FieldError {
    /// An error of the field with this name.
    pub fn new(field: &str, text: impl Into<String>) -> Self {
        Self { field: field.to_owned(), text: text.into() }
    }
}

impl From<capstan_core::config::Error> for FieldError {
    fn from(error: capstan_core::config::Error) -> Self {
        Self::new(error.field, format!("{} is not allowed: {}", error.value, error.allowed))
    }
}

impl ReleaseForm {
    /// Reads the fields.
    ///
    /// # Errors
    /// Every field that cannot be read. Whether the values are within their bounds is for
    /// [`capstan_core::config::DeploymentConfig::complete`] to say.
    pub fn read(&self) -> Result<Release, Vec<FieldError>> {
        let mut errors = Vec::new();
        let package = optional("package", &self.package, "choose a package of the list")
            .and_then(|id| id.ok_or_else(|| FieldError::new("package", "choose a package")));
        let package = keep(package, &mut errors);
        let flavor = keep(self.flavor(), &mut errors);
        let config = self.config(&mut errors);
        match (package, flavor) {
            (Some(package), Some(flavor)) if errors.is_empty() => Ok(Release {
                package,
                flavor,
                config,
                ignore_verify_reason: given(&self.ignore_verify_reason).map(str::to_owned),
                seed: given(&self.seed).map(str::to_owned),
                plan_hash: given(&self.plan_hash).map(str::to_owned),
                start: self.start == "true",
            }),
            _ => Err(errors),
        }
    }

    fn flavor(&self) -> Result<Flavor, FieldError> {
        match given(&self.flavor).map(Flavor::from_word) {
            None => Ok(Flavor::Rollout),
            Some(Some(flavor @ (Flavor::Rollout | Flavor::Scaleout))) => Ok(flavor),
            Some(_) => Err(FieldError::new("flavor", "choose rollout or scaleout")),
        }
    }

    fn config(&self, errors: &mut Vec<FieldError>) -> ConfigRequest {
        let percent = "write whole percent, such as 25";
        let seconds = "write whole seconds, such as 60";
        let mode = match given(&self.mode) {
            None => Ok(None),
            Some("auto") => Ok(Some(Mode::Auto)),
            Some("manual") => Ok(Some(Mode::Manual)),
            Some(_) => Err(FieldError::new("mode", "choose auto or manual")),
        };
        ConfigRequest {
            max_unavailable: number("max_unavailable", &self.max_unavailable, percent, errors),
            batch_pattern: given(&self.batch_pattern).map(str::to_owned),
            max_failure: number("max_failure", &self.max_failure, percent, errors),
            mode: keep(mode, errors).flatten(),
            batch_wait_seconds: number(
                "batch_wait_seconds",
                &self.batch_wait_seconds,
                seconds,
                errors,
            ),
            tail_wait_seconds: number(
                "tail_wait_seconds",
                &self.tail_wait_seconds,
                seconds,
                errors,
            ),
            startup_timeout_seconds: number(
                "startup_timeout_seconds",
                &self.startup_timeout_seconds,
                seconds,
                errors,
            ),
            ignore_verify: (self.ignore_verify == "true").then_some(true),
        }
    }
}

/// `GET /`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupsQuery {
    /// Only groups of this application.
    pub application: String,
    /// Where to go on.
    pub cursor: String,
}

/// `GET /groups/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupQuery {
    /// Where to go on in the servers.
    pub servers: String,
    /// Where to go on in the deployments.
    pub deployments: String,
}

/// `GET /deployments/{id}/targets`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetsQuery {
    /// Only targets with this status.
    pub status: String,
    /// Only targets of this batch.
    pub batch: String,
    /// Where to go on.
    pub cursor: String,
}

impl TargetsQuery {
    /// Only targets with this status.
    pub fn status(&self) -> Option<TargetStatus> {
        TargetStatus::from_word(&self.status)
    }

    /// Only targets of this batch.
    pub fn batch(&self) -> Option<u32> {
        self.batch.parse().ok()
    }

    /// Where to go on.
    pub fn cursor(&self) -> Option<&str> {
        given(&self.cursor)
    }
}

/// The text of a field, if anything was written into it.
pub fn given(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !text.is_empty())
}

fn optional<T: FromStr>(field: &str, text: &str, allowed: &str) -> Result<Option<T>, FieldError> {
    given(text)
        .map(|text| {
            text.parse()
                .map_err(|_| FieldError::new(field, format!("“{text}” cannot be read: {allowed}")))
        })
        .transpose()
}

fn number<T: FromStr>(
    field: &str,
    text: &str,
    allowed: &str,
    errors: &mut Vec<FieldError>,
) -> Option<T> {
    keep(optional(field, text, allowed), errors).flatten()
}

fn keep<T>(result: Result<T, FieldError>, errors: &mut Vec<FieldError>) -> Option<T> {
    result.map_err(|error| errors.push(error)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_fields_take_the_defaults() {
        let form = ReleaseForm {
            package: "0193a5c0-0000-7000-8000-000000000001".into(),
            ..ReleaseForm::default()
        };
        let release = form.read().expect("an empty form with a package can be read");
        assert_eq!(release.flavor, Flavor::Rollout);
        assert_eq!(release.config, ConfigRequest::default());
        assert!(!release.start);
    }

    #[test]
    fn every_field_that_cannot_be_read_is_named() {
        let form = ReleaseForm {
            package: "latest".into(),
            flavor: "rollback".into(),
            max_unavailable: "a quarter".into(),
            mode: "fast".into(),
            tail_wait_seconds: "-1".into(),
            ..ReleaseForm::default()
        };
        let fields: Vec<String> = form
            .read()
            .expect_err("nothing of it can be read")
            .into_iter()
            .map(|error| error.field)
            .collect();
        assert_eq!(fields, ["package", "flavor", "max_unavailable", "mode", "tail_wait_seconds"]);
    }

    #[test]
    fn an_empty_choice_is_no_choice() {
        assert_eq!(RollbackForm::default().to(), Ok(None));
        assert_eq!(ActionForm::default().batch(), None);
        assert_eq!(TargetsQuery::default().status(), None);
    }
}
