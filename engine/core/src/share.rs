//! Shares of a group, in whole percent.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A share of a group in whole percent, 0 to 100.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(try_from = "u8", into = "u8")]
pub struct Share(u8);

/// Why a number is no share.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0} is no share: whole percent from 0 to 100 are allowed")]
pub struct Error(u8);

impl Share {
    /// All of a group.
    pub const ALL: Self = Self(100);

    /// A share known when the program is built.
    ///
    /// # Panics
    /// When `percent` is above 100, at build time if used in a constant.
    pub const fn percent(percent: u8) -> Self {
        assert!(percent <= 100, "a share is at most 100 percent");
        Self(percent)
    }

    /// Whole percent, 0 to 100.
    pub fn as_percent(self) -> u8 {
        self.0
    }

    /// `floor(total × share)`.
    pub fn of(self, total: u32) -> u32 {
        let part = u64::from(total) * u64::from(self.0) / 100;
        u32::try_from(part).unwrap_or(total)
    }
}

impl TryFrom<u8> for Share {
    type Error = Error;

    fn try_from(percent: u8) -> Result<Self, Error> {
        if percent <= 100 { Ok(Self(percent)) } else { Err(Error(percent)) }
    }
}

impl From<Share> for u8 {
    fn from(share: Share) -> u8 {
        share.0
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}%", self.0)
    }
}
