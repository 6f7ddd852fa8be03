//! The package store in a folder.

use std::path::{Path, PathBuf};

use capstan_core::order::hex;
use capstan_core::ports::{DriverError, PackageStore, Stored};
use capstan_drivers::packages::{Error, FilePackageStore};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

fn store(largest: u64) -> (TempDir, FilePackageStore) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FilePackageStore::open(folder.path(), largest).expect("it can be used");
    (folder, store)
}

async fn upload(
    store: &FilePackageStore,
    chunks: &[&[u8]],
    expected: Option<String>,
) -> Result<Stored, DriverError> {
    let mut writer = store.begin().await?;
    for chunk in chunks {
        writer.write(chunk).await?;
    }
    writer.finish(expected).await
}

async fn download(store: &FilePackageStore, sha256: &str, offset: u64) -> (u64, Vec<u8>) {
    let opened = store.open(sha256, offset).await.expect("open answers");
    let (size, mut reader) = opened.expect("it is there");
    let mut read = Vec::new();
    loop {
        let bytes = reader.read().await.expect("read answers");
        if bytes.is_empty() {
            return (size, read);
        }
        read.extend(bytes);
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files
}

#[tokio::test]
async fn what_came_in_goes_out() {
    let (folder, store) = store(1_000_000);
    let content: Vec<u8> = (0..400_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    let sha256 = hex(&Sha256::digest(&content));
    let expected = Stored { sha256: sha256.clone(), size: 400_000 };
    let chunks: Vec<_> = content.chunks(70_001).collect();
    // The same content twice is fine, with and without a digest.
    assert_eq!(upload(&store, &chunks, None).await, Ok(expected.clone()));
    assert_eq!(upload(&store, &chunks, Some(sha256.clone())).await, Ok(expected));
    assert_eq!(download(&store, &sha256, 0).await, (400_000, content.clone()));
    assert_eq!(download(&store, &sha256, 399_990).await, (400_000, content[399_990..].to_vec()));
    assert_eq!(download(&store, &sha256, 500_000).await, (400_000, Vec::new()));
    let path = folder.path().join(&sha256[..2]).join(format!("{sha256}.tar.gz"));
    assert_eq!(files(folder.path()), [path]);
}

#[tokio::test]
async fn what_is_not_there_is_none_and_a_bad_digest_is_refused() {
    let (_folder, store) = store(100);
    assert!(store.open(&"a".repeat(64), 0).await.expect("open answers").is_none());
    for digest in ["", "..", "../../etc/passwd", &"A".repeat(64), &"é".repeat(32)] {
        let answer = store.open(digest, 0).await;
        assert!(matches!(answer, Err(DriverError::Refused(_))), "{digest}");
    }
}

#[tokio::test]
async fn another_digest_is_refused_and_nothing_is_kept() {
    let (folder, store) = store(100);
    for expected in ["0".repeat(64), "nonsense".to_owned()] {
        let answer = upload(&store, &[b"package"], Some(expected)).await;
        assert!(matches!(answer, Err(DriverError::Refused(_))), "{answer:?}");
        assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn a_package_that_is_too_large_is_refused_and_nothing_is_kept() {
    let (folder, store) = store(10);
    assert!(upload(&store, &[b"01234", b"56789"], None).await.is_ok());
    let kept = files(folder.path());
    let answer = upload(&store, &[b"01234", b"567890"], None).await;
    assert_eq!(
        answer,
        Err(DriverError::Refused(
            "the package is larger than 10 bytes, the most that this store takes".to_owned()
        ))
    );
    assert_eq!(files(folder.path()), kept);
}

#[tokio::test]
async fn an_upload_with_a_hole_is_not_stored() {
    let (folder, store) = store(10);
    let mut writer = store.begin().await.expect("begin answers");
    for (chunk, is_taken) in [("0123", true), ("0123456789", false), ("4567", true)] {
        assert_eq!(writer.write(chunk.as_bytes()).await.is_ok(), is_taken);
    }
    let answer = writer.finish(None).await;
    assert!(matches!(answer, Err(DriverError::Refused(_))), "{answer:?}");
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn dead_uploads_go_and_living_ones_stay() {
    let (folder, store) = store(100);
    std::fs::write(folder.path().join("incoming/1-2-3.part"), "dead").expect("a file");
    let mut writer = store.begin().await.expect("begin answers");
    writer.write(b"alive").await.expect("write answers");
    let second = FilePackageStore::open(folder.path(), 100).expect("it can be used");
    assert_eq!(files(folder.path()).len(), 1);
    let stored = writer.finish(None).await.expect("finish answers");
    assert_eq!(download(&second, &stored.sha256, 0).await, (5, b"alive".to_vec()));

    drop(store.begin().await.expect("begin answers"));
    assert_eq!(files(folder.path()).len(), 1);
}

#[tokio::test]
async fn an_upload_whose_file_is_gone_is_not_stored() {
    let (folder, store) = store(100);
    let mut writer = store.begin().await.expect("begin answers");
    writer.write(b"x").await.expect("write answers");
    let part = files(&folder.path().join("incoming")).remove(0);
    std::fs::remove_file(&part).expect("it is there");
    let answer = writer.finish(None).await;
    assert!(matches!(answer, Err(DriverError::Busy(_))), "{answer:?}");
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let error =
        FilePackageStore::open("/proc/nowhere", 1).expect_err("no folder can be made there");
    let Error::Folder { path, .. } = &error;
    assert_eq!(path, Path::new("/proc/nowhere"));
}

/// Whoever sends an archive goes away while its file is being made.
#[test]
fn an_upload_that_is_given_up_as_it_begins_leaves_nothing_behind() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.max_blocking_threads(1).build().expect("a runtime");
    let (folder, store) = store(100);
    runtime.block_on(async {
        let mut begin = store.begin();
        std::future::poll_fn(|context| {
            assert!(begin.as_mut().poll(context).is_pending(), "its file is not made at once");
            std::task::Poll::Ready(())
        })
        .await;
        drop(begin);
        // There is one thread, so this comes after the file was made.
        tokio::task::spawn_blocking(|| ()).await.expect("it runs");
    });
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
}
