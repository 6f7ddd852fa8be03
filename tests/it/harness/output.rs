//! What processes print: lines that a test waits for, and logs that are shown when it fails.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Child;
use std::sync::mpsc;
use std::time::Instant;

use super::PATIENCE;

/// So many lines of a log are shown.
const SHOWN: usize = 50;

/// The lines of a process whose standard output is a pipe. A thread reads them as long as it runs, whether or
/// not somebody waits for them: whoever prints to a pipe that nobody reads dies.
pub(crate) fn lines(child: &mut Child) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let output = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            // The test may not listen any more.
            drop(sender.send(line));
        }
    });
    receiver
}

/// Waits for the first line that holds what is looked for.
pub(crate) fn first<T>(
    lines: &mpsc::Receiver<String>,
    look: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let line = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
        if let Some(found) = look(&line) {
            return Some(found);
        }
    }
}

/// The file that a process logs to. One that has the test's own standard error, and outlives a test that was
/// killed, keeps whoever reads that waiting.
pub(crate) fn log_file(path: &Path) -> File {
    File::options().create(true).append(true).open(path).unwrap()
}

/// Shows the end of a log if the test is failing.
pub(crate) fn show_if_failing(path: &Path) {
    if !std::thread::panicking() {
        return;
    }
    let log = std::fs::read(path).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    let end = &lines[lines.len().saturating_sub(SHOWN)..];
    println!("the end of {}:\n{}", path.display(), end.join("\n"));
}
