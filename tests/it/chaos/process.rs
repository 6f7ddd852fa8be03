//! Engines and controllers as an operator runs them: something starts them again when they end.

use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex as Lock};
use std::time::Duration;

use tokio::sync::Mutex;

use super::clock::Clock;

/// How soon something notices that a process has ended and starts it again.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Engine,
    Controller,
}

/// A process with its surroundings, which outlive it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) role: Role,
    folder: PathBuf,
    environment: Vec<(String, String)>,
    clock: Arc<Clock>,
    /// Whoever does something to the process holds this meanwhile.
    child: Mutex<Option<Child>>,
    /// How far ahead its clock goes; behind, if that is negative.
    skew: Lock<i64>,
    /// How it ended, each time that it did so by itself.
    ends: Lock<Vec<ExitStatus>>,
}

impl Process {
    pub(crate) fn new(
        name: &str,
        role: Role,
        folder: &Path,
        environment: Vec<(String, String)>,
        clock: &Arc<Clock>,
    ) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self {
            name: name.to_owned(),
            role,
            folder,
            environment,
            clock: Arc::clone(clock),
            child: Mutex::default(),
            skew: Lock::default(),
            ends: Lock::default(),
        }
    }

    pub(crate) async fn start(&self) {
        let mut child = self.child.lock().await;
        *child = Some(self.spawn());
    }

    fn spawn(&self) -> Child {
        let append = |name: &str| {
            let path = self.folder.join(name);
            OpenOptions::new().create(true).append(true).open(path).unwrap()
        };
        let roles = match self.role {
            Role::Engine => "engine",
            Role::Controller => "controller",
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_capstan"));
        let skew = *self.skew.lock().unwrap();
        if skew != 0 {
            command.envs(self.clock.ahead(skew));
        }
        command
            .args(["serve", "--roles", roles])
            .current_dir(&self.folder)
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(append("told"))
            .stderr(append("log"))
            .spawn()
            .unwrap()
    }

    /// kill -9, and after some time a new start.
    pub(crate) async fn kill(&self, away: Duration) {
        let mut child = self.child.lock().await;
        self.kill_held(&mut child);
        tokio::time::sleep(away).await;
        *child = Some(self.spawn());
    }

    /// Stands still for some time.
    pub(crate) async fn freeze(&self, time: Duration) {
        let mut child = self.child.lock().await;
        let Some(pid) = child.as_mut().map(|child| child.id().to_string()) else { return };
        // It may have ended by itself just now.
        drop(Command::new("kill").args(["-STOP", &pid]).status());
        tokio::time::sleep(time).await;
        drop(Command::new("kill").args(["-CONT", &pid]).status());
    }

    /// From its next start on, which is now, its clock goes ahead by so many seconds.
    pub(crate) async fn skew(&self, seconds: i64) {
        *self.skew.lock().unwrap() = seconds;
        self.kill(Duration::ZERO).await;
    }

    pub(crate) fn is_skewed(&self) -> bool {
        *self.skew.lock().unwrap() != 0
    }

    fn kill_held(&self, child: &mut Option<Child>) {
        if let Some(mut child) = child.take() {
            if let Some(status) = child.try_wait().unwrap() {
                self.ends.lock().unwrap().push(status);
            } else {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
    }

    /// Starts it again whenever it has ended by itself. Never ends.
    pub(crate) async fn watch(&self) {
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            // Whoever holds it knows what it does.
            let Ok(mut child) = self.child.try_lock() else { continue };
            let ended = child.as_mut().and_then(|child| child.try_wait().unwrap());
            if let Some(status) = ended {
                self.ends.lock().unwrap().push(status);
                *child = Some(self.spawn());
            }
        }
    }

    /// Ends for good.
    pub(crate) async fn end(&self) {
        let mut child = self.child.lock().await;
        self.kill_held(&mut child);
    }

    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How it ended by itself, as exit codes; a signal has none.
    pub(crate) fn ends(&self) -> Vec<Result<i32, i32>> {
        let ends = self.ends.lock().unwrap();
        ends.iter().map(|end| end.code().ok_or_else(|| end.signal().unwrap_or_default())).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = self.child.get_mut() {
            // It may have ended by itself, and it may stand still.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
