//! The stage `verify`.

use std::fs;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::host::{Host, SERVICE, is_alive, kill, until};
use crate::server::{Reply, Server};

#[test]
fn verify_takes_only_the_right_healthy_release() {
    let host = Host::new();
    let sha = host.release("2.0", SERVICE);
    host.install("2.0", &sha);
    let late = AtomicU32::new(0);
    let server = Server::start(move |request| match request.path.as_str() {
        "/late" if late.fetch_add(1, Ordering::Relaxed) < 2 => Reply::status(503),
        "/late" | "/ok" => Reply::body(b"fine"),
        "/right" => Reply::body(b"fine").header("x-capstan-version", "2.0"),
        "/old" => Reply::body(b"fine").header("X-Capstan-Version", "1.9"),
        "/once" => Reply::status(302).header("Location", "/right"),
        "/loop" => Reply::status(302).header("Location", "/loop"),
        "/hang" => Reply::hang(),
        _ => Reply::status(500),
    });
    let at = |path: &str| format!("http://{}{path}", server.address);
    let verify = |path: &str, more: &[(&str, &str)]| host.verify("2.0", &sha, &at(path), more);

    for path in ["/late", "/ok", "/right", "/once"] {
        let done =
            verify(path, &[("CAPSTAN_TIMEOUT_SECONDS", "60"), ("CAPSTAN_SETTLE_SECONDS", "1")]);
        assert_eq!(done.code, 0, "{path}: {}", done.message);
    }
    // The settle time lies between the last question and the limit of 7 s: there is time for a slow answer.
    let slow = [("CAPSTAN_TIMEOUT_SECONDS", "7"), ("CAPSTAN_SETTLE_SECONDS", "3")];
    let checks: Vec<_> = thread::scope(|scope| {
        let waits = [
            ("/bad", 21, "answers 500"),
            ("/hang", 21, "does not answer in time"),
            ("/loop", 21, "redirects"),
            ("/old", 20, "version 1.9 answers, not 2.0"),
        ]
        .map(|(path, code, sentence)| {
            let (verify, slow) = (&verify, &slow);
            scope.spawn(move || {
                let begun = Instant::now();
                verify(path, slow).expect(code, sentence);
                begun.elapsed()
            })
        });
        waits.into_iter().map(|wait| wait.join().expect("verify")).collect()
    });
    let limit = Duration::from_secs(7);
    assert!(checks.iter().all(|took| *took < limit), "{checks:?}: within the limit");
    assert!(server.count("GET /bad ") > 1, "it was waited for");
    verify("/checked", &[("CAPSTAN_STAGE", "CHECK")]).expect(21, "500");
    verify("/old", &[("CAPSTAN_STAGE", "CHECK")]).expect(20, "1.9");
    assert_eq!(server.count("GET /checked "), 1, "a check does not wait");
    let closed = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    host.verify("2.0", &sha, &format!("http://{closed}/"), &[("CAPSTAN_STAGE", "CHECK")])
        .expect(21, "refuses connections");
    host.verify("2.1", &sha, &at("/ok"), &[]).expect(20, "not 2.1");
    host.verify("2.0", &"0".repeat(64), &at("/ok"), &[]).expect(20, "digest");

    host.put("fault", b"");
    verify("/ok", &[]).expect(21, "a file named fault is in the root");
    fs::remove_file(host.root().join("fault")).expect("remove");
    fs::rename(host.root().join("run/restarted"), host.root().join("kept")).expect("rename");
    verify("/ok", &[]).expect(20, "restart was not finished");
    fs::rename(host.root().join("kept"), host.root().join("run/restarted")).expect("rename");
    let service = host.pid_in("run/pid");
    kill("KILL", &format!("-{service}"));
    until("the service is gone", || !is_alive(service));
    verify("/ok", &[]).expect(20, "is gone");
}

#[test]
fn verify_watches_the_settle_time() {
    let host = Host::new();
    let sha = host.release("1", SERVICE);
    host.install("1", &sha);
    let first: Arc<Mutex<Option<Instant>>> = Arc::default();
    let server = Server::start(move |_| {
        let began = *first.lock().expect("lock").get_or_insert_with(Instant::now);
        if began.elapsed() < Duration::from_millis(500) {
            Reply::body(b"")
        } else {
            Reply::status(500)
        }
    });
    let settle = [("CAPSTAN_SETTLE_SECONDS", "3"), ("CAPSTAN_TIMEOUT_SECONDS", "10")];
    let done = host.verify("1", &sha, &format!("http://{}/", server.address), &settle);
    done.expect(21, "healthy and is no longer");

    let fine = Server::start(|_| Reply::body(b""));
    let service = host.pid_in("run/pid");
    let url = format!("http://{}/", fine.address);
    let done = thread::scope(|scope| {
        let verify = scope.spawn(|| host.verify("1", &sha, &url, &settle));
        until("it is settling", || fine.saw("GET / "));
        kill("KILL", &format!("-{service}"));
        verify.join().expect("verify")
    });
    done.expect(20, "is gone");
}
