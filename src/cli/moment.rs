//! Instants and durations for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use capstan_core::Timestamp;

/// The instant that it is, by this machine's clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Date and time in UTC, to the second: `2026-05-01 12:30:05Z`.
pub(crate) fn instant(at: Timestamp) -> String {
    let text = at.to_string();
    match (text.get(..10), text.get(11..19)) {
        (Some(date), Some(time)) => format!("{date} {time}Z"),
        _ => text,
    }
}

/// Date and time, or nothing.
pub(crate) fn maybe(at: Option<Timestamp>) -> String {
    at.map(instant).unwrap_or_default()
}

/// Time in UTC, to the second: `12:30:05`.
pub(crate) fn clock(at: Timestamp) -> String {
    at.to_string().get(11..19).unwrap_or_default().to_owned()
}

/// How long ago: `5 m ago`.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", duration(now.since(at)))
}

/// How long ago a cached record was last known to be right, and whether that is too long: `5 m ago`.
pub(crate) fn synced(at: Timestamp, stale: bool) -> String {
    let stale = if stale { ", stale" } else { "" };
    format!("{}{stale}", ago(at, now()))
}

/// The two largest units of a duration: `1 h 5 m`.
pub(crate) fn duration(duration: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let mut rest = duration.as_secs();
    let mut words = Vec::new();
    for (size, unit) in UNITS {
        let count = rest / size;
        rest %= size;
        if count > 0 {
            words.push(format!("{count} {unit}"));
        } else if !words.is_empty() {
            break;
        }
    }
    words.truncate(2);
    if words.is_empty() { "0 s".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_record_tells_its_age() {
        assert!(synced(Timestamp::from_micros(0), true).ends_with(" ago, stale"));
        assert!(synced(now(), false).ends_with(" s ago"));
    }

    #[test]
    fn durations_have_two_units_at_most() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 m"),
            (3725, "1 h 2 m"),
            (3601, "1 h"),
            (200_000, "2 d 7 h"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn instants_are_told_to_the_second() {
        let at = Timestamp::from_micros(1_700_000_000_123_456);
        assert_eq!(instant(at), "2023-11-14 22:13:20Z");
        assert_eq!(clock(at), "22:13:20");
        assert_eq!(ago(at, at + Duration::from_secs(90)), "1 m 30 s ago");
    }
}
