//! Packages that misbehave: each ends in its stage's failure, with a cause and a sentence that a person
//! understands, and nothing outside the instance's folder is touched.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use capstan_core::record::Cause;
use capstan_core::view::TargetView;
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Demo, client};

/// An archive with these files; a name is taken as it is, however evil.
pub(crate) fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o755);
        // `set_path` would refuse what these tests are about.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, text.as_bytes()).unwrap();
    }
    finish(tar)
}

/// An archive with a link at `name`.
fn archive_with_link(kind: tar::EntryType, name: &str, to: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    tar.append_link(&mut header, name, to).unwrap();
    finish(tar)
}

fn finish(tar: tar::Builder<GzEncoder<Vec<u8>>>) -> Vec<u8> {
    let mut gzip = tar.into_inner().unwrap();
    gzip.flush().unwrap();
    gzip.finish().unwrap()
}

pub(crate) fn restart_with(hook: &str) -> Vec<u8> {
    archive(&[("app.toml", "version = \"x\"\n"), ("capstan/restart", hook)])
}

/// Uploads a package, releases it, and gives the bastion's target when it has failed.
pub(crate) async fn release(demo: &Demo, version: &str, package: &[u8]) -> TargetView {
    upload(demo, version, package).await;
    failed(demo, version).await
}

/// Releases a version, and gives the bastion's target when it has failed.
pub(crate) async fn failed(demo: &Demo, version: &str) -> TargetView {
    let deployment = demo.create(version, json!({"startup_timeout_seconds": 6})).await;
    demo.wait_for(&deployment, "SMOKE_FAILURE").await;
    let targets = demo.targets(&deployment).await;
    let failed = targets.into_iter().find(|target| target.status.is_failure()).unwrap();
    demo.act(&deployment, "finish").await;
    demo.wait_for(&deployment, "FAILURE").await;
    failed
}

/// The stage that failed, the cause, and words of the sentence.
pub(crate) fn assert_failed(target: &TargetView, status: &str, cause: Cause, words: &str) {
    let message = target.message.clone().unwrap_or_default();
    assert_eq!(target.status.word(), status, "{message}");
    assert_eq!(target.cause, Some(cause), "{message}");
    assert!(message.contains(words), "{words} is not in: {message}");
}

async fn upload(demo: &Demo, version: &str, package: &[u8]) {
    let answer = client()
        .put(format!("{}/api/v1/packages/web/{version}", demo.url))
        .bearer_auth(&demo.token)
        .body(package.to_vec())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED, "{}", answer.text().await.unwrap());
}

/// What lies in the demo's folder, but for what belongs to instances, packages and the database.
fn lies_around(demo: &Demo) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![demo.data()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if ["packages", "executor"].contains(&name.as_str()) || name.starts_with("capstan.") {
                continue;
            }
            if entry.file_type().unwrap().is_dir() && !name.starts_with("web-") {
                folders.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}

#[tokio::test]
async fn whatever_an_archive_holds_nothing_outside_the_root_is_touched() {
    let demo = Demo::start(2).await;
    let whole = restart_with("#!/bin/sh\nexit 0\n");
    let link = |kind, to| archive_with_link(kind, "out", to);
    let cases = [
        (whole[..whole.len() / 2].to_vec(), "truncated"),
        (archive(&[("/tmp/capstan-evil", "x")]), "absolute path /tmp/capstan-evil"),
        (archive(&[("../../evil", "x")]), "../../evil, which leads out of the release"),
        (link(tar::EntryType::Symlink, "/etc"), "link"),
        (link(tar::EntryType::Symlink, "../../.."), "link"),
        (link(tar::EntryType::Link, "/etc/hostname"), "link"),
    ];
    let before = lies_around(&demo);
    for (place, (package, words)) in cases.iter().enumerate() {
        let target = release(&demo, &format!("2.0.{place}"), package).await;
        assert_failed(&target, "INSTALL_FAILURE", Cause::Failed, words);
    }
    assert_eq!(lies_around(&demo), before);
    assert!(!Path::new("/tmp/capstan-evil").exists());
}

#[tokio::test]
async fn whatever_a_hook_does_its_stage_fails_with_a_sentence() {
    let demo = Demo::start(2).await;
    let cases = [
        ("echo \"no licence\"\nexit 20", "INSTALL_FAILURE", "hook restart says"),
        // Tried again twice, since it may be different then.
        ("exit 3", "INSTALL_FAILURE", "exit code"),
        ("kill -9 $PPID", "INSTALL_FAILURE", "left no exit code"),
        ("exit 0", "VERIFY_FAILURE", "1.0.0"),
    ];
    for (place, (hook, status, words)) in cases.into_iter().enumerate() {
        let package = restart_with(&format!("#!/bin/sh\n{hook}\n"));
        let target = release(&demo, &format!("2.1.{place}"), &package).await;
        assert_failed(&target, status, Cause::Failed, words);
    }
    let package = json!({
        "application": "web", "version": "2.1.9", "sha256": "0".repeat(64),
        "location": "http://127.0.0.1:9/nothing.tar.gz",
    });
    let (status, answer) = demo.call(Method::POST, "packages", Some(package)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let target = failed(&demo, "2.1.9").await;
    assert_failed(&target, "DOWNLOAD_FAILURE", Cause::Failed, "does not give the package");
}

/// 100 MB of output and bytes that are no text: the log is cut, says so, and can be read.
#[tokio::test]
async fn a_hook_that_prints_without_end_leaves_a_log_that_can_be_read() {
    let demo = Demo::start(2).await;
    let hook = "#!/bin/sh\nprintf 'not \\377 UTF-8\\n'\n\
                head -c 100000000 /dev/zero | tr '\\0' 'x' | fold -w 80\nexit 20\n";
    let target = release(&demo, "2.2.0", &restart_with(hook)).await;
    assert_failed(&target, "INSTALL_FAILURE", Cause::Failed, "exit code 20");
    let log: Value = demo.get(&format!("targets/{}/log?limit=1048576", target.id)).await;
    let parts = log["items"].as_array().unwrap();
    let text: String = parts.iter().map(|part| part["text"].as_str().unwrap_or_default()).collect();
    assert!(text.contains("not \u{fffd} UTF-8"), "{}", &text[..200]);
    let rest: Value = demo.get(&format!("targets/{}/log?offset=1000000", target.id)).await;
    assert!(rest.to_string().contains("output cut after 1048576 bytes"), "the cut is not told");
    assert!(text.len() <= 1_100_000, "{} bytes were kept", text.len());
}
