//! Small file systems for tests to fill.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system that is mounted in the place of a folder, until this is dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of this size, with what the folder holds.
    pub(crate) fn mount(folder: &Path, size: &str) -> Self {
        let kept = tempfile::tempdir().unwrap();
        run("cp", &["-a", &format!("{}/.", folder.display()), kept.path().to_str().unwrap()]);
        let (options, place) = (format!("size={size}"), folder.to_str().unwrap());
        run("mount", &["-t", "tmpfs", "-o", &options, "capstan-test", place]);
        let disk = Self::mounted(folder);
        run("cp", &["-a", &format!("{}/.", kept.path().display()), place]);
        disk
    }

    /// What is mounted there already.
    pub(crate) fn mounted(folder: &Path) -> Self {
        Self(folder.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Processes of an instance may still be in there.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

/// Only root may mount.
pub(crate) fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}
