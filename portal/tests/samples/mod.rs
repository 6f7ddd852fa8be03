//! Made-up views, rich enough to look at every part of every page.

mod deployments;
mod fleet;
mod records;

pub(crate) use deployments::{braked, huge, stage, targets_of};
pub(crate) use fleet::{briefs, groups, log, packages, servers, versions};
pub(crate) use records::{audit, events, plan};

use std::time::Duration;

use capstan_core::Timestamp;
use capstan_portal::Chrome;

/// The instant at which the pages are looked at.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_micros(1_763_711_043_000_000)
}

/// So many seconds before [`now`].
pub(crate) fn before(seconds: i64) -> Timestamp {
    Timestamp::from_micros(now().as_micros() - seconds * 1_000_000)
}

/// So many seconds after [`now`].
pub(crate) fn after(seconds: u64) -> Timestamp {
    now() + Duration::from_secs(seconds)
}

/// The frame of a signed-in person.
pub(crate) fn chrome() -> Chrome<'static> {
    Chrome { csrf: "9f2c51d0a7", user: "ann.fischer", now: now(), notice: None }
}
