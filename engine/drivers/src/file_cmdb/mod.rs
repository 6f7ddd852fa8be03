//! CMDB driver `file`: one YAML file with a list `groups`, each the tree of [`CmdbGroup`].
//!
//! The file is watched, and also compared whenever somebody asks, so an answer is never older than
//! the file. What is broken never takes good records away: a file that cannot be read is an error, and a
//! broken group is left out. [`Cmdb::faults`] says what is wrong, with line and reason.

mod load;
mod source;
mod tree;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use capstan_core::ports::{Call, Cmdb, CmdbGroup, DriverError};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::cmdb_records::{Names, Records};
use source::Mark;

/// How often the file is compared although nothing was heard of it: not every file system tells.
const COMPARED_EVERY: Duration = Duration::from_secs(5);

/// A CMDB in a file.
pub struct FileCmdb {
    inner: Arc<Inner>,
    _watcher: Option<RecommendedWatcher>,
    _task: AbortOnDropHandle<()>,
}

struct Inner {
    path: PathBuf,
    names: Names,
    /// The file as it was when it was last read. Held while it is read.
    seen: tokio::sync::Mutex<Option<Mark>>,
    records: Mutex<Records>,
    /// Holds one permit when something changed and nobody was told.
    changed: Notify,
}

impl FileCmdb {
    /// Reads `path` and watches it. A file that is missing or broken is no error here: it is a fault,
    /// and the driver answers as soon as the file is good.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub async fn open(path: impl Into<PathBuf>, names: Names) -> Self {
        let inner = Arc::new(Inner {
            path: path.into(),
            names,
            seen: tokio::sync::Mutex::default(),
            records: Mutex::default(),
            changed: Notify::new(),
        });
        let heard = Arc::new(Notify::new());
        // Before the first look, so that no change falls between the two.
        let watcher = watch(&inner.path, Arc::clone(&heard));
        inner.refresh().await;
        let task = tokio::spawn(Arc::clone(&inner).follow(heard));
        Self { inner, _watcher: watcher, _task: AbortOnDropHandle::new(task) }
    }
}

impl Inner {
    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn follow(self: Arc<Self>, heard: Arc<Notify>) {
        loop {
            // Either way the file is compared; a change that was not heard of is only seen later.
            drop(tokio::time::timeout(COMPARED_EVERY, heard.notified()).await);
            self.refresh().await;
        }
    }

    /// Reads the file again if it is not as it was.
    async fn refresh(self: &Arc<Self>) {
        let mut seen = self.seen.lock().await;
        let inner = Arc::clone(self);
        let last = seen.clone();
        let read = tokio::task::spawn_blocking(move || inner.read_if_changed(last.as_ref()));
        match read.await {
            Ok(Some(mark)) => *seen = Some(mark),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "reading the CMDB file failed"),
        }
    }

    /// The mark of the file that was read, or `None` if it is as it was.
    fn read_if_changed(&self, last: Option<&Mark>) -> Option<Mark> {
        let file = source::read_if_changed(&self.path, last)?;
        let before = self.records().clone();
        let name = self.path.display().to_string();
        let after = match &file.text {
            Ok(text) => load::after(&before, &name, text, &self.names),
            Err(reason) => {
                before.with_broken_source(format!("{name}: {reason} (nothing of it is used)"))
            }
        };
        if after != before {
            tracing::info!(
                path = name,
                groups = after.count(),
                faults = after.faults.len(),
                "CMDB file read"
            );
            for fault in &after.faults {
                tracing::warn!(fault, "CMDB file");
            }
            *self.records() = after;
            self.changed.notify_one();
        }
        Some(file.mark)
    }

    fn group(&self, id: &str) -> Result<Option<CmdbGroup>, DriverError> {
        let records = self.records();
        if !records.is_whole {
            return Err(unusable(&records));
        }
        records.one(id).map_err(DriverError::Refused)
    }
}

impl Cmdb for FileCmdb {
    fn group<'a>(&'a self, external_id: &'a str) -> Call<'a, Option<CmdbGroup>> {
        Box::pin(async move {
            self.inner.refresh().await;
            self.inner.group(external_id)
        })
    }

    fn groups(&self) -> Call<'_, Vec<CmdbGroup>> {
        Box::pin(async {
            self.inner.refresh().await;
            let records = self.inner.records();
            if !records.is_whole {
                return Err(unusable(&records));
            }
            Ok(records.good())
        })
    }

    fn faults(&self) -> Vec<String> {
        self.inner.records().faults.clone()
    }

    /// For one caller at a time: a change is told once.
    fn changed(&self) -> Call<'_, ()> {
        Box::pin(async {
            self.inner.changed.notified().await;
            Ok(())
        })
    }
}

fn unusable(records: &Records) -> DriverError {
    DriverError::Busy(format!("the CMDB file cannot be used: {}", records.faults.join("; ")))
}

/// Watches the folder rather than the file: editors put a new file in its place.
fn watch(path: &Path, heard: Arc<Notify>) -> Option<RecommendedWatcher> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let tell = move |event: notify::Result<notify::Event>| {
        // Reading the file is an event too, and must not lead to reading it again.
        if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
            heard.notify_one();
        }
    };
    let watcher = notify::recommended_watcher(tell).and_then(|mut watcher| {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watcher
        .inspect_err(|error| {
            tracing::warn!(
                folder = %folder.display(),
                %error,
                "the CMDB file cannot be watched and is compared every few seconds"
            );
        })
        .ok()
}
