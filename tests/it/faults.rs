//! Packages and hosts that misbehave: each ends in its stage's failure, with a cause and a sentence
//! that a person understands, and nothing outside the instance's folder is touched.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::StatusCode;
use serde_json::json;

use crate::harness::Demo;

/// An archive with these files; a name is taken as it is, however evil.
fn archive(files: &[(&str, &str)]) -> Vec<u8> {
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
fn archive_with_link(name: &str, to: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, name, to).unwrap();
    finish(tar)
}

fn finish(tar: tar::Builder<GzEncoder<Vec<u8>>>) -> Vec<u8> {
    let mut gzip = tar.into_inner().unwrap();
    gzip.flush().unwrap();
    gzip.finish().unwrap()
}

fn restart_with(hook: &str) -> Vec<u8> {
    archive(&[("app.toml", "version = \"x\"\n"), ("capstan/restart", hook)])
}

/// A package, the status in which its bastion ends, and words of the sentence.
struct Case {
    version: &'static str,
    package: Vec<u8>,
    status: &'static str,
    words: &'static str,
}

fn cases() -> Vec<Case> {
    let whole = restart_with("#!/bin/sh\nexit 0\n");
    let case = |version, package, status, words| Case { version, package, status, words };
    vec![
        case(
            "2.0.1",
            restart_with("#!/bin/sh\necho \"no licence\"\nexit 20\n"),
            "INSTALL_FAILURE",
            "hook restart says",
        ),
        case("2.0.2", whole[..whole.len() / 2].to_vec(), "INSTALL_FAILURE", "package"),
        case("2.0.3", archive(&[("/tmp/capstan-evil", "x")]), "INSTALL_FAILURE", "absolute"),
        case("2.0.4", archive(&[("../../evil", "x")]), "INSTALL_FAILURE", ".."),
        case("2.0.5", archive_with_link("out", "/etc"), "INSTALL_FAILURE", "link"),
        case("2.0.6", restart_with("#!/bin/sh\nexit 0\n"), "VERIFY_FAILURE", "1.0.0"),
        case(
            "2.0.7",
            restart_with(
                "#!/bin/sh\nhead -c 3000000 /dev/zero | tr '\\0' 'x' | fold -w 80\n\
                 printf 'not \\377 UTF-8\\n'\nexit 20\n",
            ),
            "INSTALL_FAILURE",
            "exit code 20",
        ),
    ]
}

async fn upload(demo: &Demo, version: &str, package: &[u8]) {
    let answer = reqwest::Client::new()
        .put(format!("{}/api/v1/packages/web/{version}", demo.url))
        .bearer_auth(&demo.token)
        .body(package.to_vec())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED, "{}", answer.text().await.unwrap());
}

#[tokio::test]
async fn whatever_a_package_does_its_stage_fails_with_a_sentence() {
    let demo = Demo::start(2).await;
    for case in cases() {
        upload(&demo, case.version, &case.package).await;
        let config = json!({"startup_timeout_seconds": 8});
        let deployment = demo.create(case.version, config).await;
        demo.wait_for(&deployment, "SMOKE_FAILURE").await;
        let targets = demo.targets(&deployment).await;
        let failed = targets.iter().find(|target| target.status.is_failure()).unwrap();
        let message = failed.message.clone().unwrap_or_default();
        assert_eq!(failed.status.word(), case.status, "{}: {message}", case.version);
        assert!(failed.cause.is_some(), "{}: {message}", case.version);
        assert!(message.contains(case.words), "{}: {message}", case.version);
        demo.act(&deployment, "finish").await;
        demo.wait_for(&deployment, "FAILURE").await;
    }
    assert!(!Path::new("/tmp/capstan-evil").exists());
    assert!(!demo.data().join("host/evil").exists() && !demo.data().join("evil").exists());
}
