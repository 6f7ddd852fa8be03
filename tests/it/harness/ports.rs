//! Ports for the instances of demos.

use std::fs::File;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that the system gives out.
const FIRST: u16 = 10_000;
const EACH_PROCESS: u16 = 2_000;
const RANGES: u16 = 11;

/// The ports of this process.
struct Range {
    first: u16,
    /// Whoever holds the lock of this file has the range; it goes with the process, however that ends.
    _lock: File,
}

impl Range {
    fn take() -> Self {
        // Not always the first: what a test that was killed has left behind may still use its ports.
        let begin = u16::try_from(std::process::id() % u32::from(RANGES)).unwrap();
        let range = (begin..begin + RANGES).find_map(|number| {
            let number = number % RANGES;
            let path = std::env::temp_dir().join(format!("capstan-test-ports-{number}"));
            // Another user's file cannot be written, and need not be.
            let lock = File::open(&path).or_else(|_| File::create_new(&path)).ok()?;
            lock.try_lock().ok()?;
            Some(Self { first: FIRST + number * EACH_PROCESS, _lock: lock })
        });
        range.expect("fewer test processes than ranges of ports")
    }
}

/// A range of ports of its own for each demo: instances give their port up for a moment at each
/// release, and another demo must not take it then.
pub(super) fn first_port(hosts: u16) -> u16 {
    static RANGE: LazyLock<Range> = LazyLock::new(Range::take);
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let taken = TAKEN.fetch_add(hosts, Ordering::Relaxed);
    assert!(taken + hosts <= EACH_PROCESS, "more instances than ports for one test process");
    RANGE.first + taken
}
