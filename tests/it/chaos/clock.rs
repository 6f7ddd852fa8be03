//! Clocks that are off.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

const SOURCE: &str = include_str!("clock.c");

/// Shifts the time of day for processes that are started with it. libfaketime would do the same, and
/// crashes a process whose allocator asks for the time before it is set up.
#[derive(Debug)]
pub(crate) struct Clock {
    library: PathBuf,
}

impl Clock {
    /// Builds what is loaded into those processes.
    pub(crate) fn make(folder: &Path) -> Self {
        let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
        std::fs::write(&source, SOURCE).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O2", "-o"]).args([&library, &source]);
        assert!(cc.status().unwrap().success(), "{cc:?}");
        let clock = Self { library };
        let date = Command::new("date").arg("+%s").envs(clock.ahead(-3_600)).output().unwrap();
        let told: u64 = String::from_utf8_lossy(&date.stdout).trim().parse().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!((3_590..3_610).contains(&(now - told)), "the clock is not off: {told} at {now}");
        clock
    }

    /// What a process is started with, so that its clock goes ahead by so many seconds.
    pub(crate) fn ahead(&self, seconds: i64) -> [(&'static str, String); 2] {
        let library = self.library.display().to_string();
        [("LD_PRELOAD", library), ("CHAOS_SKEW", seconds.to_string())]
    }
}
