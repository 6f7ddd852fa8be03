//! The strategy of a deployment: how much may be out, in which cut, and when it brakes.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::record::Flavor;
use crate::share::Share;

/// Whether batches follow each other by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Each batch follows the one before, after its wait.
    #[default]
    Auto,
    /// Each batch after the first waits for a click.
    Manual,
}

/// The strategy as a user gives it; what is left out takes the default of the flavor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigRequest {
    /// Share of the group that may be out of service at once, 1 to 50 (100 only if the group may go dark).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<u8>,
    /// A sum of 100 (`5%+20%+25%+25%+25%`) or one share repeated (`10%`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_pattern: Option<String>,
    /// Share of the group whose failure brakes, 0 to 100; 0 brakes at the first failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failure: Option<u8>,
    /// `auto` or `manual`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Seconds before the second normal batch, 0 to 1800.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_wait_seconds: Option<u32>,
    /// Seconds before the third and later normal batches, 0 to 1800; the default is `batch_wait_seconds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail_wait_seconds: Option<u32>,
    /// Seconds that Verify may take, 3 to 10800.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup_timeout_seconds: Option<u32>,
    /// Forgives a failed health answer, and nothing else (S5). Needs a reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_verify: Option<bool>,
}

/// The strategy of one deployment, complete and within its bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentConfig {
    /// Share of the group that Capstan may have out of service at once.
    pub max_unavailable: Share,
    /// How the normal servers are cut; none: parts of B.
    pub batch_pattern: Option<BatchPattern>,
    /// Share of the group whose failure brakes.
    pub max_failure: Share,
    /// Whether batches follow each other by themselves.
    pub mode: Mode,
    /// Seconds before the second normal batch.
    pub batch_wait_seconds: u32,
    /// Seconds before the third and later normal batches.
    pub tail_wait_seconds: u32,
    /// Seconds that Verify may take.
    pub startup_timeout_seconds: u32,
    /// Forgives a failed health answer, and nothing else (S5).
    pub ignore_verify: bool,
}

/// Why a strategy is refused: which field, what it was, what is allowed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {value} is not allowed; {allowed}")]
pub struct Error {
    /// The field's name in the API.
    pub field: &'static str,
    /// What was given.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

/// How the normal servers are cut into batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BatchPattern {
    /// One share, repeated until nothing is left.
    Repeated(Share),
    /// Shares that sum up to 100.
    Parts(Vec<Share>),
}

impl BatchPattern {
    /// The largest share in the pattern.
    pub fn largest(&self) -> Share {
        match self {
            Self::Repeated(share) => *share,
            Self::Parts(parts) => parts.iter().copied().max().unwrap_or(Share::ALL),
        }
    }
}

impl TryFrom<String> for BatchPattern {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl std::str::FromStr for BatchPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse =
            |allowed: String| Error { field: "batch_pattern", value: format!("{text:?}"), allowed };
        let mut shares = Vec::new();
        for part in text.split('+') {
            let share = part
                .trim()
                .strip_suffix('%')
                .and_then(|number| number.parse::<u8>().ok())
                .and_then(|number| Share::try_from(number).ok())
                .filter(|share| share.as_percent() > 0);
            match share {
                Some(share) => shares.push(share),
                None => {
                    return Err(refuse(
                        "write shares like 10% or 5%+20%+75%, each from 1% to 100%".into(),
                    ));
                }
            }
        }
        if let [share] = shares[..] {
            return Ok(Self::Repeated(share));
        }
        let sum: u32 = shares.iter().map(|share| u32::from(share.as_percent())).sum();
        if sum == 100 {
            Ok(Self::Parts(shares))
        } else {
            Err(refuse(format!("the shares must sum up to 100%, these sum up to {sum}%")))
        }
    }
}

impl From<BatchPattern> for String {
    fn from(pattern: BatchPattern) -> String {
        pattern.to_string()
    }
}

impl std::fmt::Display for BatchPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Repeated(share) => share.fmt(f),
            Self::Parts(parts) => {
                let words: Vec<String> = parts.iter().map(ToString::to_string).collect();
                f.write_str(&words.join("+"))
            }
        }
    }
}

impl utoipa::PartialSchema for BatchPattern {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("a sum of 100 (5%+20%+75%) or one share repeated (10%)"))
            .into()
    }
}

impl utoipa::ToSchema for BatchPattern {}

/// The longest wait between batches.
pub const LONGEST_WAIT: Duration = Duration::from_mins(30);

impl DeploymentConfig {
    /// Completes a request with the defaults of `flavor` and checks every bound.
    ///
    /// `may_go_dark` is the group's: it allows `max_unavailable` of 100.
    pub fn complete(
        request: &ConfigRequest,
        flavor: Flavor,
        may_go_dark: bool,
    ) -> Result<Self, Error> {
        let rollback = flavor == Flavor::Rollback;
        let max_unavailable = max_unavailable(request, rollback, may_go_dark)?;
        let max_failure = match request.max_failure {
            None => max_unavailable,
            Some(percent) => Share::try_from(percent).map_err(|_| Error {
                field: "max_failure",
                value: percent.to_string(),
                allowed: "whole percent from 0 to 100".into(),
            })?,
        };
        let batch_pattern = batch_pattern(request, rollback, max_unavailable)?;
        let batch_wait_seconds =
            bounded("batch_wait_seconds", request.batch_wait_seconds.unwrap_or(0), 0, 1800)?;
        let tail_wait_seconds = bounded(
            "tail_wait_seconds",
            request.tail_wait_seconds.unwrap_or(batch_wait_seconds),
            0,
            1800,
        )?;
        let startup_timeout_seconds = bounded(
            "startup_timeout_seconds",
            request.startup_timeout_seconds.unwrap_or(180),
            3,
            3 * 60 * 60,
        )?;
        Ok(Self {
            max_unavailable,
            batch_pattern,
            max_failure,
            mode: request.mode.unwrap_or_default(),
            batch_wait_seconds,
            tail_wait_seconds,
            startup_timeout_seconds,
            ignore_verify: request.ignore_verify.unwrap_or(false),
        })
    }

    /// The wait before the normal batch with this place (0 is the first).
    pub fn wait_before(&self, place: usize) -> Duration {
        Duration::from_secs(u64::from(match place {
            0 => 0,
            1 => self.batch_wait_seconds,
            _ => self.tail_wait_seconds,
        }))
    }

    /// How long Verify may take.
    pub fn startup_timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.startup_timeout_seconds))
    }

    /// How many failed targets brake a group of `total` servers (S2): at least one.
    pub fn failure_limit(&self, total: u32) -> u32 {
        self.max_failure.of(total).max(1)
    }
}

fn max_unavailable(
    request: &ConfigRequest,
    rollback: bool,
    may_go_dark: bool,
) -> Result<Share, Error> {
    let percent = request.max_unavailable.unwrap_or(if rollback { 50 } else { 25 });
    match percent {
        1..=50 => Ok(Share::percent(percent)),
        100 if may_go_dark => Ok(Share::ALL),
        _ => Err(Error {
            field: "max_unavailable",
            value: percent.to_string(),
            allowed: "whole percent from 1 to 50, or 100 for a group that may go dark".into(),
        }),
    }
}

fn batch_pattern(
    request: &ConfigRequest,
    rollback: bool,
    max_unavailable: Share,
) -> Result<Option<BatchPattern>, Error> {
    let Some(text) = &request.batch_pattern else {
        let halves = BatchPattern::Parts(vec![Share::percent(50), Share::percent(50)]);
        return Ok((rollback && max_unavailable >= Share::percent(50)).then_some(halves));
    };
    let pattern: BatchPattern = text.parse()?;
    if pattern.largest() > max_unavailable {
        return Err(Error {
            field: "batch_pattern",
            value: format!("{text:?}"),
            allowed: format!("each part is at most max_unavailable, {max_unavailable}"),
        });
    }
    Ok(Some(pattern))
}

fn bounded(field: &'static str, value: u32, low: u32, high: u32) -> Result<u32, Error> {
    if (low..=high).contains(&value) {
        Ok(value)
    } else {
        let allowed = format!("seconds from {low} to {high}");
        Err(Error { field, value: value.to_string(), allowed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(request: &ConfigRequest) -> Result<DeploymentConfig, Error> {
        DeploymentConfig::complete(request, Flavor::Rollout, false)
    }

    #[test]
    fn defaults_are_those_of_the_strategy_table() {
        let config = complete(&ConfigRequest::default()).expect("defaults are within bounds");
        assert_eq!(config.max_unavailable, Share::percent(25));
        assert_eq!(config.max_failure, config.max_unavailable);
        assert_eq!(config.batch_pattern, None);
        assert_eq!(config.startup_timeout_seconds, 180);
        let rollback =
            DeploymentConfig::complete(&ConfigRequest::default(), Flavor::Rollback, false)
                .expect("defaults are within bounds");
        assert_eq!(rollback.max_unavailable, Share::percent(50));
        assert_eq!(rollback.batch_pattern.expect("two halves").to_string(), "50%+50%");
    }

    #[test]
    fn out_of_bounds_names_field_value_and_what_is_allowed() {
        let cases = [
            (
                ConfigRequest { max_unavailable: Some(51), ..Default::default() },
                "max_unavailable: 51",
            ),
            (
                ConfigRequest { max_unavailable: Some(100), ..Default::default() },
                "max_unavailable: 100",
            ),
            (ConfigRequest { max_failure: Some(101), ..Default::default() }, "max_failure: 101"),
            (
                ConfigRequest { batch_pattern: Some("10%+20%".into()), ..Default::default() },
                "sum up to 30%",
            ),
            (
                ConfigRequest { batch_pattern: Some("50%+50%".into()), ..Default::default() },
                "at most max_unavailable, 25%",
            ),
            (
                ConfigRequest { batch_pattern: Some("ten".into()), ..Default::default() },
                "write shares like",
            ),
            (
                ConfigRequest { startup_timeout_seconds: Some(2), ..Default::default() },
                "seconds from 3 to 10800",
            ),
        ];
        for (request, expected) in cases {
            let text = complete(&request).expect_err("out of bounds").to_string();
            assert!(text.contains(expected), "{request:?}: {text}");
        }
    }

    #[test]
    fn a_failure_limit_is_never_zero() {
        let request = ConfigRequest { max_failure: Some(0), ..Default::default() };
        assert_eq!(complete(&request).expect("0 is allowed").failure_limit(1000), 1);
    }
}
