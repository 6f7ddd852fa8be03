//! Package store in a folder: `<first two digits>/<sha256>.tar.gz`, written by rename, never deleted.
//!
//! An upload lies in `incoming/` and is locked by whoever writes it. What nobody locks there is left
//! over from a process that died; it is removed when a store opens the folder.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use capstan_core::order::hex;
use capstan_core::ports::{Call, DriverError, PackageReader, PackageStore, PackageWriter, Stored};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, SeekFrom};

const INCOMING: &str = "incoming";
const CHUNK: usize = 128 * 1024;

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be used.
    #[error("the package store's folder {} cannot be used", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Keeps packages in a folder.
#[derive(Debug, Clone)]
pub struct FilePackageStore {
    folder: Arc<Path>,
    largest: u64,
}

impl FilePackageStore {
    /// Opens the store in `folder`, which is made if need be; a package may have `largest` bytes.
    pub fn open(folder: impl AsRef<Path>, largest: u64) -> Result<Self, Error> {
        let folder = folder.as_ref();
        let incoming = folder.join(INCOMING);
        std::fs::create_dir_all(&incoming)
            .and_then(|()| remove_dead(&incoming))
            .map_err(|source| Error::Folder { path: folder.to_owned(), source })?;
        Ok(Self { folder: folder.into(), largest })
    }

    fn path(&self, sha256: &str) -> PathBuf {
        self.folder.join(&sha256[..2]).join(format!("{sha256}.tar.gz"))
    }

    fn check(sha256: &str) -> Result<(), DriverError> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if sha256.len() == 64 && sha256.bytes().all(is_digit) {
            return Ok(());
        }
        Err(DriverError::Refused(format!(
            "`{sha256}` is no sha256 digest of 64 lower-case hexadecimal digits"
        )))
    }
}

impl PackageStore for FilePackageStore {
    fn begin(&self) -> Call<'_, Box<dyn PackageWriter>> {
        let store = self.clone();
        Box::pin(async move {
            let incoming = store.folder.join(INCOMING);
            let (file, part) = blocking(move || open_incoming(&incoming)).await?;
            let writer = Writer {
                store,
                file: tokio::fs::File::from_std(file),
                part,
                hash: Sha256::new(),
                size: 0,
                is_torn: false,
            };
            Ok(Box::new(writer) as Box<dyn PackageWriter>)
        })
    }

    fn open<'a>(
        &'a self,
        sha256: &'a str,
        offset: u64,
    ) -> Call<'a, Option<(u64, Box<dyn PackageReader>)>> {
        Box::pin(async move {
            Self::check(sha256)?;
            let mut file = match tokio::fs::File::open(self.path(sha256)).await {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(unreadable(&error)),
            };
            let size = file.metadata().await.map_err(|error| unreadable(&error))?.len();
            file.seek(SeekFrom::Start(offset)).await.map_err(|error| unreadable(&error))?;
            Ok(Some((size, Box::new(Reader(file)) as Box<dyn PackageReader>)))
        })
    }
}

/// A file in `incoming/`; goes with its owner.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.0) {
            Ok(()) => {}
            // It was renamed into place.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %self.0.display(), %error, "an upload cannot be removed");
            }
        }
    }
}

struct Writer {
    store: FilePackageStore,
    file: tokio::fs::File,
    part: Part,
    hash: Sha256,
    size: u64,
    /// A write failed or was given up half-way: file and digest may be of different bytes.
    is_torn: bool,
}

impl Writer {
    async fn keep(mut self, expected: Option<String>) -> Result<Stored, DriverError> {
        if self.is_torn {
            return Err(DriverError::Refused(
                "a part of the package was not stored; upload it again".to_owned(),
            ));
        }
        if let Some(expected) = &expected {
            FilePackageStore::check(expected)?;
        }
        self.file.flush().await.map_err(|error| unwritable(&error))?;
        self.file.sync_all().await.map_err(|error| unwritable(&error))?;
        let sha256 = hex(&self.hash.finalize());
        if let Some(expected) = expected.filter(|expected| *expected != sha256) {
            return Err(DriverError::Refused(format!(
                "the package that came has sha256 {sha256}, expected was {expected}; nothing was kept"
            )));
        }
        let path = self.store.path(&sha256);
        let part = self.part;
        blocking(move || {
            let folder = path.parent().expect("the path of a package has two parts");
            std::fs::create_dir_all(folder)?;
            // Over what is there already: it has the same bytes, or is damaged and is mended.
            std::fs::rename(&part.0, &path)?;
            File::open(folder)?.sync_all()?;
            File::open(folder.parent().expect("the store's folder"))?.sync_all()
        })
        .await?;
        Ok(Stored { sha256, size: self.size })
    }
}

impl PackageWriter for Writer {
    fn write<'a>(&'a mut self, bytes: &'a [u8]) -> Call<'a, ()> {
        Box::pin(async move {
            let was_torn = std::mem::replace(&mut self.is_torn, true);
            let size = self.size + bytes.len() as u64;
            if size > self.store.largest {
                return Err(DriverError::Refused(format!(
                    "the package is larger than {} bytes, the most that this store takes",
                    self.store.largest
                )));
            }
            self.file.write_all(bytes).await.map_err(|error| unwritable(&error))?;
            self.hash.update(bytes);
            self.size = size;
            self.is_torn = was_torn;
            Ok(())
        })
    }

    fn finish(self: Box<Self>, expected: Option<String>) -> Call<'static, Stored> {
        Box::pin(self.keep(expected))
    }
}

struct Reader(tokio::fs::File);

impl PackageReader for Reader {
    fn read(&mut self) -> Call<'_, Vec<u8>> {
        Box::pin(async move {
            let mut bytes = vec![0; CHUNK];
            let count = self.0.read(&mut bytes).await.map_err(|error| unreadable(&error))?;
            bytes.truncate(count);
            Ok(bytes)
        })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, DriverError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| unwritable(&error)),
        Err(error) => Err(DriverError::Unknown(format!("the package store stopped: {error}"))),
    }
}

fn unwritable(error: &std::io::Error) -> DriverError {
    DriverError::Busy(
        if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            "the disk of the package store is full; free some space and upload again".to_owned()
        } else {
            format!("the package store cannot be written: {error}")
        },
    )
}

fn unreadable(error: &std::io::Error) -> DriverError {
    DriverError::Busy(format!("the package store cannot be read: {error}"))
}

/// A new file in `incoming`, locked. It goes with its [`Part`], also when nobody waits for it any more.
fn open_incoming(incoming: &Path) -> std::io::Result<(File, Part)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let path = incoming.join(format!("{}-{since}-{count}.part", std::process::id()));
        let file = File::options().write(true).create_new(true).open(&path)?;
        let part = Part(path);
        // A store that opens the folder just now may have taken it for dead before it was locked.
        if file.try_lock().is_ok() && file.metadata()?.nlink() > 0 {
            return Ok((file, part));
        }
    }
}

fn remove_dead(incoming: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(incoming)? {
        let path = entry?.path();
        let file = match File::open(&path) {
            Ok(file) => file,
            // Its upload has just ended.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if file.metadata()?.is_file() && file.try_lock().is_ok() {
            drop(Part(path));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_said_so() {
        // ENOSPC and EDQUOT.
        for code in [28, 122] {
            let DriverError::Busy(sentence) = unwritable(&std::io::Error::from_raw_os_error(code))
            else {
                panic!("a full disk may have room later");
            };
            assert!(sentence.starts_with("the disk of the package store is full"), "{sentence}");
        }
    }
}
