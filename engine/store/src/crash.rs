//! Numbered points at which the process can be killed, for the crash tests.
//!
//! `CAPSTAN_CRASH_AT=commit.written:3` kills the process, as `kill -9` would, when it passes the point
//! `commit.written` for the third time. With `CAPSTAN_CRASH_WHEN=FILE` passes count only while the
//! file exists. Without the first variable a point costs one atomic load.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The points of a stage, in the order in which it passes them: before and after each call of a
/// driver and each commit.
pub const STAGE_POINTS: [&str; 11] = [
    "commit.begin",
    "commit.written",
    "commit.done",
    "stage.claimed",
    "driver.before",
    "driver.after",
    "look.before",
    "look.after",
    "output.written",
    "output.done",
    "outcome.sent",
];
/// The points of what is done to a server outside any stage: it is drained, or brought back.
pub const SERVER_POINTS: [&str; 2] = ["server.before", "server.after"];
/// The point between a request's commit and its answer.
pub const ANSWER_POINT: &str = "answer.before";
/// The points of giving claimed work back, as after a take-over.
pub const CLAIM_POINTS: [&str; 2] = ["claims.written", "claims.done"];

/// The points of an upload, in the order in which it passes them: its bytes lie in the package store, they
/// have their name there, the package is written, and is durable.
pub const PACKAGE_POINTS: [&str; 4] =
    ["upload.part", "upload.stored", "package.written", "package.done"];
/// The points of a first start, in their order: the administrator's token, and the rows of a group that
/// the CMDB names for the first time. (What a group becomes afterwards passes the points of a commit.)
pub const START_POINTS: [&str; 4] =
    ["token.before", "token.done", "refresh.written", "refresh.done"];
/// The points of a message about a change in the CMDB, in the order in which it passes them: before its group
/// is refreshed, before it is acknowledged, and after that.
pub const MESSAGE_POINTS: [&str; 3] = ["message.taken", "message.stored", "message.settled"];
/// The points around an entry of the audit.
pub const AUDIT_POINTS: [&str; 2] = ["audit.before", "audit.done"];

struct Plan {
    point: String,
    passes_left: AtomicU32,
    when: Option<PathBuf>,
}

fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    PLAN.get_or_init(|| {
        let text = std::env::var("CAPSTAN_CRASH_AT").ok()?;
        let (point, passes) = text.split_once(':').unwrap_or((&text, "1"));
        let passes_left = AtomicU32::new(passes.parse().unwrap_or(1));
        let when = std::env::var_os("CAPSTAN_CRASH_WHEN").map(PathBuf::from);
        Some(Plan { point: point.to_owned(), passes_left, when })
    })
    .as_ref()
}

/// Passes a point; the process dies here if it was asked to.
pub fn point(name: &str) {
    if let Some(plan) = plan()
        && plan.point == name
        && plan.when.as_ref().is_none_or(|file| file.exists())
        && plan.passes_left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        die();
    }
}

/// Ends the process without running anything more, as a power cut would.
fn die() -> ! {
    let pid = std::process::id().to_string();
    let killed = std::process::Command::new("kill").args(["-9", &pid]).status();
    tracing::error!(?killed, "kill -9 did not end the process; aborting");
    std::process::abort();
}
