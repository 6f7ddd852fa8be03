//! Hosts and applications that misbehave: each ends in its stage's failure, with a cause and a sentence
//! that a person understands.

use std::time::{Duration, Instant};

use capstan_core::record::Cause;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::disk::{SmallDisk, is_root};
use crate::faults::{archive, assert_failed, release, restart_with};
use crate::harness::{Demo, PATIENCE};

/// A restart hook that ends the instance and starts something that answers nothing in its place.
const SILENT: &str = "#!/bin/sh
read -r old <../../run/pid && kill -9 \"$old\"
setsid sleep 600 </dev/null >/dev/null 2>&1 &
echo $! >../../run/pid
";

/// What an application may do when it is asked for its health.
#[derive(Clone, Copy)]
enum Answer {
    Nothing,
    Redirect,
    OldVersion,
}

/// Answers on a port in the instance's place, as soon as the instance has given it up.
fn answer(port: u16, answer: Answer) -> JoinHandle<()> {
    tokio::spawn(async move {
        let deadline = Instant::now() + PATIENCE;
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", port)).await {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < deadline, "port {port}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            match answer {
                Answer::Nothing => open.push(stream),
                Answer::Redirect => {
                    let head = format!("302 Found\r\nlocation: http://127.0.0.1:{port}/healthz");
                    say(&mut stream, &head).await;
                }
                Answer::OldVersion => say(&mut stream, "200 OK\r\nx-capstan-version: 0.9.0").await,
            }
        }
    })
}

async fn say(stream: &mut TcpStream, head: &str) {
    let mut asked = [0; 1024];
    // Whoever asked may have hung up.
    if stream.read(&mut asked).await.is_ok() {
        let text = format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        drop(stream.write_all(text.as_bytes()).await);
    }
}

#[tokio::test]
async fn whatever_the_health_url_does_verify_fails_with_a_sentence() {
    let demo = Demo::start(2).await;
    let port = demo.servers().await.iter().find(|row| row.hostname == "web-01").unwrap().port;
    let target = release(&demo, "3.0.0", &restart_with(SILENT)).await;
    assert_eq!(target.hostname, "web-01");
    assert_failed(&target, "VERIFY_FAILURE", Cause::Failed, "refuses connections");
    let cases = [
        (Answer::Nothing, "does not answer in time"),
        (Answer::Redirect, "redirects more than 3 times"),
        (Answer::OldVersion, "version 0.9.0 answers, not"),
    ];
    for (place, (how, words)) in cases.into_iter().enumerate() {
        let answering = answer(port, how);
        let target = release(&demo, &format!("3.1.{place}"), &restart_with(SILENT)).await;
        assert_eq!(target.hostname, "web-01");
        assert_failed(&target, "VERIFY_FAILURE", Cause::Failed, words);
        answering.abort();
    }
}

/// A script that never ends is ended at its limit, on the host, each time it is tried.
#[tokio::test]
async fn a_script_that_hangs_is_ended_at_its_limit() {
    let demo = Demo::start(2).await;
    // Verify reads this file; nobody ever writes into the pipe that stands in its place.
    let pipe = "#!/bin/sh\nrm -f ../../run/restarted && mkfifo ../../run/restarted\n";
    let files = [
        ("app.toml", "version = \"3.2.0\"\n"),
        ("capstan/restart", "#!/bin/sh\nexit 0\n"),
        ("capstan/post-restart", pipe),
    ];
    let target = release(&demo, "3.2.0", &archive(&files)).await;
    assert_failed(&target, "VERIFY_FAILURE", Cause::Timeout, "ended at its time limit");
}

/// Only root can mount a file system to be filled; for others there is nothing to test here.
#[tokio::test]
async fn a_full_disk_fails_the_stage_that_fills_it() {
    if !is_root() {
        eprintln!("not run: only root can mount the small file system that this test fills");
        return;
    }
    let demo = Demo::start(2).await;
    let _disk = SmallDisk::mount(&demo.root(1), "8m");
    // Twenty megabytes of nothing are small on their way and large when they are unpacked.
    let zeros = "\0".repeat(20_000_000);
    let files =
        [("app.toml", "version = \"x\"\n"), ("capstan/restart", "#!/bin/sh\n"), ("big", &zeros)];
    let target = release(&demo, "3.3.0", &archive(&files)).await;
    assert_eq!(target.hostname, "web-01");
    assert_failed(&target, "INSTALL_FAILURE", Cause::Failed, "cannot be unpacked");

    // Four megabytes that cannot be made smaller: Download sees that they will not fit.
    let mut state = 1_u32;
    let noise: String = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(u8::try_from(32 + (state >> 25) % 95).unwrap())
    })
    .take(5_000_000)
    .collect();
    let files =
        [("app.toml", "version = \"x\"\n"), ("capstan/restart", "#!/bin/sh\n"), ("big", &noise)];
    let target = release(&demo, "3.3.1", &archive(&files)).await;
    assert_failed(&target, "DOWNLOAD_FAILURE", Cause::Failed, "MiB free, the release needs");
}
