//! The clock that due times are compared with.

use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use capstan_core::Timestamp;
use capstan_core::ports::Clock;

/// The wall clock, but for steps backwards: then time goes on from the latest instant at its usual
/// pace, so that nothing waits for hours until the wall clock has caught up.
///
/// Whose wall clock: this machine's, or, once it was told, the database's. Processes that share a
/// database compare each other's instants, and their machines may disagree by minutes.
#[derive(Debug, Default)]
pub(crate) struct WallClock {
    latest: Mutex<Latest>,
    told: Mutex<Option<(i64, Instant)>>,
}

/// The latest instant that was given out, in microseconds since 1970, and when.
#[derive(Debug, Default)]
struct Latest {
    at: i64,
    read: Option<Instant>,
}

impl WallClock {
    /// The database's clock showed `micros` at `read`.
    pub(crate) fn tell(&self, micros: i64, read: Instant) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some((micros, read));
    }

    fn wall(&self, now: Instant) -> i64 {
        let told = *self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, passed) = match told {
            Some((micros, read)) => (micros, now.saturating_duration_since(read)),
            None => (0, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
        };
        since.saturating_add(i64::try_from(passed.as_micros()).unwrap_or(i64::MAX))
    }
}

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let now = Instant::now();
        let wall = self.wall(now);
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        Timestamp::from_micros(latest.advance(wall, now))
    }

    fn not_before(&self, at: Timestamp) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.advance(at.as_micros(), Instant::now());
    }
}

impl Latest {
    fn advance(&mut self, wall: i64, read: Instant) -> i64 {
        let passed = self.read.map_or(0, |last| read.saturating_duration_since(last).as_micros());
        let steady = self.at.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX));
        *self = Self { at: steady.max(wall), read: self.read.max(Some(read)) };
        self.at
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_database_is_believed_once_it_was_asked() {
        let clock = WallClock::default();
        let asked = Instant::now();
        let ahead = clock.now().as_micros() + 60_000_000;
        clock.tell(ahead, asked);
        let now = clock.now().as_micros();
        assert!((ahead..ahead + 10_000_000).contains(&now), "{now} is not just after {ahead}");
    }

    #[test]
    fn time_goes_on_when_the_wall_clock_steps_back() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut latest = Latest::default();
        assert_eq!(latest.advance(1_000_000_000, after(0)), 1_000_000_000);
        assert_eq!(latest.advance(1_001_000_000, after(1)), 1_001_000_000);
        // An hour back: a second later it is a second later.
        assert_eq!(latest.advance(0, after(2)), 1_002_000_000);
        assert_eq!(latest.advance(1_000_000, after(3)), 1_003_000_000);
        // Forward again: it follows.
        assert_eq!(latest.advance(5_000_000_000, after(4)), 5_000_000_000);
    }
}
