//! Logs that wait, each for its own next try: one that holds an event which is refused keeps no other waiting.

use std::collections::BTreeMap;
use std::time::Duration;

use capstan_core::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

use super::Backoff;
use super::reader::Waiting;

/// Logs that may wait by themselves. When there are so many, the next failure makes everything wait until the
/// first of them has its turn: no event is passed over, and nothing more is kept in memory.
const MOST: usize = 256;

/// Whether there was room to note a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// The log waits by itself.
    Apart,
    /// There are too many of them.
    Full,
}

/// The logs that wait.
#[derive(Debug)]
pub(super) struct Held {
    /// How the waits of each begin.
    fresh: Backoff,
    streams: BTreeMap<Uuid, Stream>,
}

#[derive(Debug)]
struct Stream {
    /// When the event happened that was not taken.
    at: Timestamp,
    failures: u32,
    backoff: Backoff,
    until: Instant,
}

impl Held {
    pub(super) const fn new(fresh: Backoff) -> Self {
        Self { fresh, streams: BTreeMap::new() }
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) {
        self.streams.clear();
    }

    /// Calls about a log that failed since one was taken.
    pub(super) fn failures(&self, stream: Uuid) -> u32 {
        self.streams.get(&stream).map_or(0, |stream| stream.failures)
    }

    /// An event of a log, which happened `at`, was not taken.
    pub(super) fn failed(&mut self, stream: Uuid, at: Timestamp, now: Instant) -> Kept {
        if self.streams.len() >= MOST && !self.streams.contains_key(&stream) {
            return Kept::Full;
        }
        let fresh = &self.fresh;
        let held = self.streams.entry(stream).or_insert_with(|| Stream {
            at,
            failures: 0,
            backoff: fresh.clone(),
            until: now,
        });
        held.at = at;
        held.failures += 1;
        held.until = now + held.backoff.step();
        Kept::Apart
    }

    /// An event of a log was taken.
    pub(super) fn taken(&mut self, stream: Uuid) {
        self.streams.remove(&stream);
    }

    /// How long it is until the first of them has its turn.
    pub(super) fn next_try(&self, now: Instant) -> Duration {
        let first = self.streams.values().map(|stream| stream.until).min();
        first.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// Which logs do not have their turn yet.
    pub(super) fn waiting(&self, now: Instant) -> Waiting {
        let waiting = || self.streams.iter().filter(|(_, stream)| stream.until > now);
        Waiting {
            streams: waiting().map(|(id, _)| *id).collect(),
            until: waiting().map(|(_, stream)| stream.until).min(),
            oldest: self.streams.values().map(|stream| stream.at).min(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Held {
        Held::new(Backoff::new(Duration::from_secs(1), Duration::from_mins(5)))
    }

    #[test]
    fn each_log_waits_by_itself_and_longer_each_time() {
        let (mut held, now) = (held(), Instant::now());
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let at = Timestamp::from_micros(7);
        for _ in 0..4 {
            assert_eq!(held.failed(one, at, now), Kept::Apart);
        }
        assert_eq!(held.failed(two, Timestamp::from_micros(9), now), Kept::Apart);
        assert_eq!((held.failures(one), held.failures(two)), (4, 1));
        let waiting = held.waiting(now + Duration::from_millis(1));
        assert_eq!(waiting.streams.len(), 2);
        assert_eq!(waiting.oldest, Some(at));
        let later = held.waiting(now + Duration::from_secs(2));
        assert_eq!(later.streams.into_iter().collect::<Vec<_>>(), [one], "the other has its turn");
        assert!(later.until.is_some_and(|until| until >= now + Duration::from_secs(4)));
        held.taken(one);
        assert_eq!(held.failures(one), 0);
        assert!(held.waiting(now + Duration::from_secs(2)).streams.is_empty());
    }

    #[test]
    fn no_more_than_so_many_wait() {
        let (mut held, now) = (held(), Instant::now());
        let at = Timestamp::from_micros(7);
        let streams = |number| Uuid::from_u128(number as u128);
        for number in 0..MOST {
            assert_eq!(held.failed(streams(number), at, now), Kept::Apart);
        }
        assert_eq!(held.failed(streams(MOST), at, now), Kept::Full);
        assert_eq!(held.failed(streams(0), at, now), Kept::Apart, "it waits already");
        assert_eq!(held.waiting(now).streams.len(), MOST);
        assert!(held.next_try(now) <= Duration::from_secs(1));
        held.taken(streams(1));
        assert_eq!(held.failed(streams(MOST), at, now), Kept::Apart);
    }
}
