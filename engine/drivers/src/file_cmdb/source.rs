//! Reading a file that somebody may be writing.

use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a file must be left alone before it counts as written.
const SETTLED: Duration = Duration::from_millis(100);
/// How often a file that is being written is looked at again.
const LOOKS: u32 = 10;
/// The largest file that is read.
const LARGEST: u64 = 256 * 1024 * 1024;

/// What a file looked like; equal marks mean an equal file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// It could not be looked at.
    Absent(String),
    /// It is there.
    Present {
        /// When it last changed, content or place, in nanoseconds since 1970.
        changed_at: i128,
        size: u64,
        inode: u64,
        device: u64,
    },
    /// It did not stop changing.
    Unsettled,
}

/// A file that was read.
pub(super) struct Source {
    pub(super) mark: Mark,
    /// Its text, or why there is none.
    pub(super) text: Result<String, String>,
}

/// Reads the file unless it is as it was at `last`.
pub(super) fn read_if_changed(path: &Path, last: Option<&Mark>) -> Option<Source> {
    for _ in 0..LOOKS {
        let mark = mark(path);
        if last == Some(&mark) {
            return None;
        }
        if let Mark::Absent(reason) = &mark {
            let text = Err(reason.clone());
            return Some(Source { mark, text });
        }
        // A file that is written in place may be cut off anywhere and still be good YAML.
        if is_settled(&mark) {
            let text = read(path);
            if self::mark(path) == mark {
                return Some(Source { mark, text });
            }
        }
        std::thread::sleep(SETTLED);
    }
    let mark = Mark::Unsettled;
    (last != Some(&mark))
        .then(|| Source { mark, text: Err("the file does not stop changing".to_owned()) })
}

fn mark(path: &Path) -> Mark {
    match std::fs::metadata(path) {
        Ok(metadata) => Mark::Present {
            changed_at: changed_at(&metadata),
            size: metadata.len(),
            inode: metadata.ino(),
            device: metadata.dev(),
        },
        Err(error) => Mark::Absent(format!("the file cannot be read: {error}")),
    }
}

/// The later of the two times: a copy may keep the time of its content, a move that of its place.
fn changed_at(metadata: &Metadata) -> i128 {
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    nanos(metadata.mtime(), metadata.mtime_nsec())
        .max(nanos(metadata.ctime(), metadata.ctime_nsec()))
}

fn is_settled(mark: &Mark) -> bool {
    let Mark::Present { changed_at, .. } = mark else { return false };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX);
    // A time in the future is somebody's clock and says nothing.
    *changed_at > now || now - changed_at >= SETTLED.as_nanos().cast_signed()
}

fn read(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("the file cannot be read: {error}");
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > LARGEST {
        return Err(format!("the file is larger than {LARGEST} bytes"));
    }
    Ok(text)
}
