//! The scripts that run on hosts, run here as they run there: `agent-scripts/order` and the stages of the
//! kind `generic`, against a folder, real processes and a small HTTP server.
//!
//! Over 400 lines, because the scripts are one contract and share this file's host and server.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

// ------------------------------------------------------------------------------------------------ orders

#[test]
fn an_order_runs_once_with_a_clean_environment() {
    let host = Host::new();
    let script = "env | cut -d= -f1 | sort | tr '\\n' ' '; pwd; echo once >>runs; exit 3";
    assert_eq!(host.start(1, script), "accepted");
    assert_eq!(host.end_of(1), "ended 3");
    assert_eq!(host.start(1, script), "ended 3", "a known key answers its state");
    assert_eq!(fs::read_to_string(host.root().join("runs")).expect("runs"), "once\n");
    let log = String::from_utf8(host.log(1)).expect("text");
    let expected = "CAPSTAN_FENCE CAPSTAN_KEY CAPSTAN_ROOT CAPSTAN_SCRIPT_SHA256 CAPSTAN_TIMEOUT_SECONDS HOME LANG PATH PWD ";
    assert_eq!(log, format!("{expected}{}\n", host.root().display()));
    assert_eq!(host.status(2), "unknown");
    assert_eq!(host.ask(&["log", &key(2), "0"]), "");
}

#[test]
fn a_script_may_bring_its_own_interpreter() {
    let host = Host::new();
    host.start(1, "#!/usr/bin/env -S sh -e\nfalse\nexit 7\n");
    assert_eq!(host.end_of(1), "ended 1");
}

#[test]
fn fences_only_grow() {
    let host = Host::new();
    assert_eq!(host.start(5, "true"), "accepted");
    host.end_of(5);
    assert_eq!(host.start(4, "true"), "stale 5");
    assert_eq!(host.status(4), "unknown");
    assert_eq!(host.ask(&["cancel", &key(4), "4"]), "stale 5");
    assert_eq!(host.ask(&["cancel", &key(5), "6"]), "ended 0");
    assert_eq!(host.fence(), "6\n");
    assert_eq!(
        host.ask(&["cancel", &key(9), "9"]),
        "cancelled",
        "its start may still be on the way"
    );
    assert_eq!(host.start(9, "true"), "cancelled");
    let top = "4611686018427387904";
    assert_eq!(host.ask(&["cancel", &key(10), top]), "cancelled");
    assert_eq!(host.start(11, "true"), format!("stale {top}"));
}

#[test]
fn an_older_order_is_gone_before_the_newer_starts() {
    let host = Host::new();
    // A group of its own inside the session (timeout makes one) and a deaf process: both must go.
    host.start(
        1,
        "trap '' TERM; echo $$ >old; timeout 90 sleep 90 & echo $! >old2; sleep 91; sleep 92",
    );
    until("the old script is there", || host.root().join("old2").exists());
    let old = [host.pid_in("old"), host.pid_in("old2")];
    assert!(old.iter().all(|pid| is_alive(*pid)));
    let begun = Instant::now();
    let look = "for f in old old2; do read -r state 2>/dev/null <\"/proc/$(cat $f)/status\" && grep State /proc/$(cat $f)/status | grep -v Z; done; echo alone; sleep 60";
    assert_eq!(host.start(2, look), "accepted");
    assert!(begun.elapsed() < Duration::from_secs(2), "accepted after {:?}", begun.elapsed());
    assert_eq!(host.status(1), "cancelled");
    assert!(old.iter().all(|pid| !is_alive(*pid)));
    until("the new script has looked", || !host.log(2).is_empty());
    assert_eq!(host.log(2), b"alone\n");
    assert_eq!(host.status(2), "running");
    assert_eq!(host.ask(&["cancel", &key(2), "2"]), "cancelled");
    assert_eq!(host.status(2), "cancelled");
}

#[test]
fn the_time_limit_holds_when_nobody_asks() {
    let host = Host::new();
    let script = "trap '' TERM; echo $$ >pid; sleep 60; sleep 60";
    host.start_with(
        1,
        script,
        &[("CAPSTAN_TIMEOUT_SECONDS", "30"), ("CAPSTAN_ORDER_TIMEOUT_SECONDS", "1")],
    );
    until("the script is there", || host.root().join("pid").exists());
    let pid = host.pid_in("pid");
    until("the script is gone", || !is_alive(pid));
    assert_eq!(host.end_of(1), "ended 124");
}

#[test]
fn much_output_is_cut_and_never_blocks() {
    let host = Host::new();
    let begun = Instant::now();
    host.start(1, "yes capstan | head -c 100000000; echo end >&2; exit 4");
    assert_eq!(host.end_of(1), "ended 4");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let log = host.log(1);
    assert!(log.ends_with(b"\n[capstan: output cut after 1048576 bytes]\n"));
    assert_eq!(log.len(), 1_048_576 + 43);

    host.start_with(2, "printf 0123456789", &[("CAPSTAN_LOG_LIMIT_BYTES", "10")]);
    assert_eq!(host.end_of(2), "ended 0");
    assert_eq!(host.log(2), b"0123456789", "nothing was cut");
}

#[test]
fn output_is_bytes_and_whole_when_the_end_is_seen() {
    let host = Host::new();
    let bytes: Vec<u8> =
        (0..300_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    host.put("bytes", &bytes);
    for round in 1..=5 {
        host.start(round, "cat bytes");
        let mut seen = Vec::new();
        let mut ended = false;
        until("the output ends", || {
            let answer =
                host.order(&["look", &key(round), &seen.len().to_string()], &[], b"").stdout;
            let split = answer.iter().position(|byte| *byte == b'\n').expect("a line");
            ended = ended || answer.starts_with(b"ended 0\n");
            seen.extend_from_slice(&answer[split + 1..]);
            ended && answer.len() == split + 1
        });
        assert!(seen == bytes, "round {round}: {} bytes", seen.len());
    }
}

#[test]
fn what_dies_without_a_code_is_lost() {
    let host = Host::new();
    host.start(1, "echo $$ >pid; sleep 70 & echo $! >child; wait");
    until("the script is there", || host.root().join("child").exists());
    kill("KILL", &host.pid_in("pid").to_string());
    assert_eq!(host.end_of(1), "lost");
    until("its child is gone", || !is_alive(host.pid_in("child")));

    // The whole machinery is killed; only a child is left, which the next order must end.
    host.start(2, "sleep 71 & echo $! >child; echo $$ >pid2; wait");
    until("the script is there", || host.root().join("pid2").exists());
    kill("KILL", &host.recorded(2, "supervisor"));
    assert_eq!(host.status(2), "running", "the script itself goes on");
    kill("KILL", &host.recorded(2, "runner"));
    kill("KILL", &host.pid_in("pid2").to_string());
    until("it is lost", || host.status(2) == "lost");
    let child = host.pid_in("child");
    assert!(is_alive(child));
    assert_eq!(host.start(3, "exit 0"), "accepted");
    assert!(!is_alive(child));
    assert_eq!(host.status(2), "lost");
    assert_eq!(host.end_of(3), "ended 0");
    let reader = host.recorded(2, "reader").trim().parse().expect("a number");
    until("nothing is left that reads the log", || !is_alive(reader));
}

#[test]
fn a_reboot_makes_orders_lost_and_numbers_are_not_trusted() {
    let host = Host::new();
    host.start(1, "sleep 60");
    until("the runner is there", || host.order_file(1, "runner").exists());
    for (name, field) in [("supervisor", 2), ("runner", 2), ("supervisor", 1), ("runner", 1)] {
        let path = host.order_file(1, name);
        let line = fs::read_to_string(&path).expect("a record");
        let mut fields: Vec<&str> = line.split_whitespace().collect();
        fields[field] = "1";
        fs::write(&path, format!("{}\n", fields.join(" "))).expect("write");
        let both = name == "runner";
        assert_eq!(host.status(1), if both || field == 1 { "lost" } else { "running" });
    }
    let session = host.recorded(1, "runner");
    kill("KILL", &format!("-{session}"));
}

#[test]
fn order_killed_anywhere_never_runs_two_scripts_or_one_twice() {
    let host = Host::new();
    let script = "if [ -f holder ] && read -r h <holder && [ -d /proc/$h ] && ! grep -q 'State:.Z' /proc/$h/status; then echo $h >>overlap; fi
echo $$ >holder; echo $CAPSTAN_KEY >>runs; sleep 0.03";
    for n in 1..=60_u64 {
        let mut child = host.spawn_start(n, script);
        // The instant of the fault, spread over the whole of `start`.
        thread::sleep(Duration::from_micros(n * 400));
        child.kill().expect("kill");
        child.wait().expect("wait");
        let answer = host.start(n, script);
        assert!(
            ["accepted", "running", "lost", "ended 0"].contains(&answer.as_str()),
            "start {n} again: {answer}"
        );
    }
    host.end_of(60);
    assert!(!host.root().join("overlap").exists(), "two scripts were under way");
    let runs = fs::read_to_string(host.root().join("runs")).expect("runs");
    let distinct: BTreeSet<&str> = runs.lines().collect();
    assert_eq!(distinct.len(), runs.lines().count(), "a key ran twice");
    assert_eq!(host.fence(), "60\n");
    assert_eq!(host.start(100, "exit 5"), "accepted");
    assert_eq!(host.end_of(100), "ended 5");
    let leftovers = fs::read_dir(host.root().join(".capstan/orders")).expect("orders").count();
    assert!(leftovers <= 24, "{leftovers} orders are kept");
}

#[test]
fn a_caller_is_never_held_and_a_service_survives() {
    let host = Host::new();
    let service = "while :; do echo beat; echo beat >>beats; sleep 0.02; done";
    let script = format!("setsid sh -c '{service}' & echo $! >service; echo started");
    let begun = Instant::now();
    // Descriptors that an executor may leak: the pipe must close all the same.
    let command = format!("exec 3>&1 5>&1 8>&1; exec {} start", scripts().join("order").display());
    let output = run(host.command("sh", 1, &script, &[]).args(["-c", &command]), script.as_bytes());
    assert_eq!(output.stdout, b"accepted\n");
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(
        host.end_of(1),
        "ended 0",
        "a service that keeps its output open does not keep the order"
    );
    let log = host.log(1);
    assert!(log.starts_with(b"started") || log.windows(8).any(|part| part == b"started\n"));
    let beats = || fs::metadata(host.root().join("beats")).map_or(0, |file| file.len());
    let before = beats();
    until("the service goes on", || beats() > before + 50);
    assert_eq!(host.log(1), log, "the log of an ended order does not change");
    host.start(2, "exit 0");
    host.end_of(2);
    let service = host.pid_in("service");
    assert!(is_alive(service), "neither the end nor a newer order touches the service");
    kill("KILL", &format!("-{service}"));
}

#[test]
fn a_held_lock_is_busy_and_a_wrong_digest_refused() {
    let host = Host::new();
    let wrong = host.start_with(1, "true", &[("CAPSTAN_SCRIPT_SHA256", &"0".repeat(64))]);
    assert!(wrong.starts_with("refused digest"), "{wrong}");
    assert_eq!(host.status(1), "unknown");
    assert_eq!(host.fence(), "1\n");

    let lock = host.root().join(".capstan/lock");
    let mut holder = Command::new("flock")
        .arg(&lock)
        .args(["sleep", "30"])
        .process_group(0)
        .spawn()
        .expect("flock");
    let taken = || {
        !Command::new("flock").arg("-n").arg(&lock).arg("true").status().expect("flock").success()
    };
    until("the lock is taken", taken);
    let begun = Instant::now();
    assert_eq!(host.start(2, "true"), "busy");
    assert!(begun.elapsed() < Duration::from_secs(2));
    kill("KILL", &format!("-{}", holder.id()));
    holder.wait().expect("wait");
    assert_eq!(host.start(2, "true"), "accepted");
}

#[test]
fn wrong_use_is_told_with_code_64() {
    let host = Host::new();
    let key = key(1);
    let bad: [Wrong; 14] = [
        (&[], &[]),
        (&["dance"], &[]),
        (&["status"], &[]),
        (&["status", "../../../../../../../../etc/passwd12"], &[]),
        (&["status", "0"], &[]),
        (&["status", &key], &[("CAPSTAN_ROOT", "/")]),
        (&["status", &key], &[("CAPSTAN_ROOT", "///")]),
        (&["status", &key], &[("CAPSTAN_ROOT", "srv")]),
        (&["status", &key], &[("CAPSTAN_ROOT", "/srv/../etc")]),
        (&["cancel", &key, "0"], &[]),
        (&["cancel", &key, "4611686018427387905"], &[]),
        (&["cancel", &key, "99999999999999999999"], &[]),
        (&["log", &key, "-1"], &[]),
        (&["start"], &[("CAPSTAN_TIMEOUT_SECONDS", "1m")]),
    ];
    for (arguments, environment) in bad {
        let output = host.order(arguments, environment, b"true");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{arguments:?} {environment:?}: {said}");
        assert!(said.starts_with("order: ") && output.stdout.is_empty(), "{said}");
    }
}

/// Arguments and environment of a call that is refused.
type Wrong<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);

// ---------------------------------------------------------------------------------------------- download

#[test]
fn download_resumes_moves_on_to_mirrors_and_checks_the_digest() {
    let host = Host::new();
    let package: Arc<Vec<u8>> =
        Arc::new((0..200_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect());
    let sha = digest(&package);
    let body = Arc::clone(&package);
    let server = Server::start(move |request| match request.path.as_str() {
        "/missing" => Reply::status(404),
        "/wrong" => Reply::body(b"something else"),
        "/huge" if request.method == "HEAD" => {
            Reply::status(200).header("Content-Length", "900000000000000")
        }
        "/no-range" => Reply::body(&body),
        "/cut" => Reply::body(&body).cut_after(1000),
        _ => Reply::body(&body).part(request.range),
    });
    let at = |path: &str| format!("http://{}/{path}", server.address);
    let get = |urls: &str| host.stage("download", "1.0", &sha, &[("CAPSTAN_PACKAGE_URLS", urls)]);
    let place = host.root().join(format!("packages/{sha}.tar.gz"));
    let part = host.root().join(format!("packages/{sha}.part"));

    let mirrors = format!("ftp://x/y {} {} {}", at("missing"), at("wrong"), at("good"));
    assert_eq!(get(&mirrors).code, 0);
    assert!(fs::read(&place).expect("package") == *package);
    assert_eq!(get(&at("good")).code, 10);

    for (left, url) in [
        (&package[..150_000], "good"),
        (b"garbage", "good"),
        (&package[..9], "no-range"),
        (&package[..], "good"),
    ] {
        fs::remove_file(&place).expect("remove");
        fs::write(&part, left).expect("write");
        assert_eq!(get(&at(url)).code, 0, "{url} after {} bytes", left.len());
        assert!(fs::read(&place).expect("package") == *package);
        assert!(!part.exists());
    }
    assert!(server.saw("Range: bytes=150000-"), "it went on where it had stopped");

    fs::write(&place, b"rotten").expect("write");
    assert_eq!(get(&format!("{} {}", at("cut"), at("good"))).code, 0);
    assert!(server.saw("Range: bytes=1000-"), "the next place goes on where the first broke off");
    fs::remove_file(&place).expect("remove");

    get(&at("wrong")).expect(20, "another digest");
    get(&at("huge")).expect(20, "MiB free");
    get(&at("missing")).expect(1, "404");
    get("").expect(20, "no address");
    let refused = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    get(&format!("http://{refused}/x")).expect(1, "cannot be fetched");
    let file = host.root().join("local.tar.gz");
    fs::write(&file, &*package).expect("write");
    assert_eq!(get(&format!("file://{}", file.display())).code, 0);
}

// ----------------------------------------------------------------------------------------------- install

#[test]
fn install_restarts_once_and_again_when_the_process_died() {
    let host = Host::new();
    let one = host.release("1.0", SERVICE);
    assert_eq!(host.install("1.0", &one).code, 0);
    assert_eq!(
        fs::read_link(host.root().join("current")).expect("link"),
        Path::new("releases/1.0")
    );
    let hooks = fs::read_to_string(host.root().join("shared/hooks")).expect("hooks");
    assert_eq!(hooks, "pre-install\npost-install\npre-restart\nrestart\npost-restart\n");
    let first = host.pid_in("run/pid");
    assert_eq!(host.install("1.0", &one).code, 10);
    assert_eq!(host.report(), (0, format!("1.0 {one}\n")));
    kill("KILL", &format!("-{first}"));
    until("the service is gone", || !is_alive(first));
    assert_eq!(host.report(), (3, String::new()));
    assert_eq!(host.install("1.0", &one).code, 0, "from the release, without a package");
    assert_ne!(host.pid_in("run/pid"), first);

    // The same version with another content takes the place of the first.
    host.put("work/more", b"x");
    let other = host.release("1.0", SERVICE);
    assert_ne!(one, other);
    assert_eq!(host.install("1.0", &other).code, 0);
    assert!(host.root().join("current/more").exists());
    assert_eq!(host.report(), (0, format!("1.0 {other}\n")));
    kill("KILL", &format!("-{}", host.pid_in("run/pid")));
}

#[test]
fn install_keeps_the_last_used_and_the_previous_release() {
    let host = Host::new();
    let mut digests = Vec::new();
    for version in ["1", "2", "3", "4"] {
        host.put("work/version", version.as_bytes());
        digests.push(host.release(version, ""));
        assert_eq!(host.install_keeping(version, digests.last().expect("one"), "2").code, 0);
    }
    let releases = || {
        let entries = fs::read_dir(host.root().join("releases")).expect("releases");
        entries
            .map(|entry| entry.expect("entry").file_name().into_string().expect("name"))
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(releases(), BTreeSet::from(["3".into(), "4".into()]));
    assert_eq!(host.install_keeping("3", &digests[2], "1").code, 0, "a switch, no package");
    assert_eq!(releases(), BTreeSet::from(["3".into(), "4".into()]), "4 is the previous one");
    assert_eq!(host.install("5", &digests[0]).code, 20, "its package is not on the host");
    for version in ["../x", ".hidden", "", "a/b", "-rf"] {
        assert_eq!(host.install(version, &digests[0]).code, 20, "{version}");
    }
}

#[test]
fn a_failing_hook_is_told_and_20_is_passed_on() {
    let host = Host::new();
    host.release("1", "");
    host.hook("restart", "exit 7");
    let sha = host.pack("1");
    host.install("1", &sha).expect(1, "hook restart ended with code 7");
    assert_eq!(host.report().0, 3, "what runs is not known");
    host.hook("restart", "exit 20");
    let sha = host.pack("2");
    host.install("2", &sha).expect(20, "restart");
}

#[test]
fn install_refuses_archives_that_reach_out() {
    let cases: [(&str, &str, &[&str], &str); 11] = [
        ("absolute", "echo x >f", &["--transform=flags=r;s,^./f$,/tmp/capstan-evil,"], "absolute"),
        ("parent", "echo x >f", &["--transform=flags=r;s,^./f$,a/../../evil,"], "leads out"),
        ("absolute link", "ln -s /etc l", &[], "out of the release"),
        ("climbing link", "mkdir d; ln -s ../../x d/l", &[], "out of the release"),
        (
            "link over a link",
            "mkdir -p a/b; ln -s ../.. a/b/s; ln -s a/b/s/../x l",
            &[],
            "out of the release",
        ),
        (
            "hard link",
            "echo x >f; ln f g",
            &["--transform=flags=h;s,^./.$,../../f,"],
            "out of the release",
        ),
        (
            "below a link",
            "mkdir t; ln -s t s; echo x >f",
            &["--transform=flags=r;s,^./f$,s/f,"],
            "below the link",
        ),
        ("pipe", "mkfifo p", &[], "neither a file"),
        ("device", "mknod d c 1 3 2>/dev/null || mkfifo d", &[], "neither a file"),
        ("marker", "echo 1 2 >.capstan-release", &[], "of its own"),
        ("arrow", "ln -s /etc 'a -> b'", &[], "out of the release"),
    ];
    for (name, make, arguments, sentence) in cases {
        let host = Host::new();
        host.put("work/.keep", b"");
        shell(&host.root().join("work"), make);
        let sha = host.pack_with("1", arguments);
        let done = host.install("1", &sha);
        assert!(done.message.contains(sentence), "{name}: {} {}", done.code, done.message);
        assert_eq!(done.code, 20, "{name}");
        assert!(
            !Path::new("/tmp/capstan-evil").exists() && !host.root().join("releases/1").exists()
        );
        assert!(
            !host.root().join(format!("packages/{sha}.tar.gz")).exists(),
            "{name}: the file is gone"
        );
    }
    let host = Host::new();
    host.put("work/a/file", b"x");
    let fine =
        "ln -s ../a/file a/up; ln -s a b; ln a/file 'a/hard -> er'; ln -s file 'a/ odd\nname \\ ü'";
    shell(&host.root().join("work"), fine);
    let sha = host.pack("1");
    let done = host.install("1", &sha);
    assert_eq!(done.code, 0, "{}", done.message);
    assert!(
        host.root().join("current/b/up").exists()
            && host.root().join("current/a/ odd\nname \\ ü").exists()
    );
}

#[test]
fn a_truncated_package_is_thrown_away() {
    let host = Host::new();
    host.put("work/data", &vec![7; 300_000]);
    let whole = host.pack("1");
    let path = host.root().join(format!("packages/{whole}.tar.gz"));
    let bytes = fs::read(&path).expect("package");
    let cut = &bytes[..bytes.len() / 2];
    fs::write(&path, cut).expect("write");
    host.install("1", &whole).expect(20, "damaged");
    assert!(!path.exists());
    // Truncated before it was registered: the digest is right, the archive is not.
    let sha = digest(cut);
    fs::write(host.root().join(format!("packages/{sha}.tar.gz")), cut).expect("write");
    host.install("1", &sha).expect(20, "truncated");
    assert!(!host.root().join("releases/1").exists() && !host.root().join("current").exists());
}

#[test]
fn install_killed_anywhere_comes_to_the_same_end() {
    let host = Host::new();
    host.put("work/data", &vec![9; 400_000]);
    for n in 0..30_u64 {
        let version = if n % 3 == 0 { "a" } else { "b" };
        host.put("work/round", n.to_string().as_bytes());
        let sha = host
            .release(version, "echo $CAPSTAN_VERSION $CAPSTAN_PACKAGE_SHA256 >../../shared/runs");
        let mut child = host
            .stage_command("install", version, &sha, &[])
            .process_group(0)
            .spawn()
            .expect("spawn");
        // The instant of the fault.
        thread::sleep(Duration::from_millis(n * 37 % 60));
        kill("KILL", &format!("-{}", child.id()));
        child.wait().expect("wait");
        let reported = host.report();
        if reported.0 == 0 {
            let runs = fs::read_to_string(host.root().join("shared/runs")).expect("runs");
            assert_eq!(reported.1, runs, "round {n}: what is reported is what runs");
        }
        let done = host.install(version, &sha);
        assert!(done.code == 0 || done.code == 10, "round {n}: {} {}", done.code, done.message);
        let runs = fs::read_to_string(host.root().join("shared/runs")).expect("runs");
        assert_eq!(runs, format!("{version} {sha}\n"), "round {n}");
        assert_eq!(host.report(), (0, runs));
        assert_eq!(fs::read(host.root().join("current/data")).expect("data").len(), 400_000);
    }
    let hidden = fs::read_dir(host.root().join("releases")).expect("releases").count();
    assert_eq!(hidden, 2, "nothing half-done is left");
}

// ------------------------------------------------------------------------------------------------ verify

#[test]
fn verify_takes_only_the_right_healthy_release() {
    let host = Host::new();
    let sha = host.release("2.0", SERVICE);
    host.install("2.0", &sha);
    let begun = Instant::now();
    let server = Server::start(move |request| match request.path.as_str() {
        "/late" if begun.elapsed() < Duration::from_millis(800) => Reply::status(503),
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
        let done = verify(path, &[("CAPSTAN_SETTLE_SECONDS", "1")]);
        assert_eq!(done.code, 0, "{path}: {}", done.message);
    }
    let checks: Vec<_> = thread::scope(|scope| {
        let waits = [
            ("/bad", 21, "answers 500"),
            ("/hang", 21, "does not answer in time"),
            ("/loop", 21, "redirects"),
            ("/old", 20, "version 1.9 answers, not 2.0"),
        ]
        .map(|(path, code, sentence)| {
            let verify = &verify;
            scope.spawn(move || {
                let begun = Instant::now();
                verify(path, &[]).expect(code, sentence);
                begun.elapsed()
            })
        });
        waits.into_iter().map(|wait| wait.join().expect("verify")).collect()
    });
    assert!(
        checks.iter().all(|took| *took < Duration::from_millis(3900)),
        "{checks:?}: within the limit of 4 s"
    );
    let begun = Instant::now();
    verify("/bad", &[("CAPSTAN_STAGE", "CHECK")]).expect(21, "500");
    verify("/old", &[("CAPSTAN_STAGE", "CHECK")]).expect(20, "1.9");
    assert!(begun.elapsed() < Duration::from_secs(2), "a check does not wait");
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

#[test]
fn a_stage_runs_as_an_order() {
    let host = Host::new();
    let sha = host.release("1", SERVICE);
    let script = rendered("install");
    let environment = [("CAPSTAN_VERSION", "1"), ("CAPSTAN_PACKAGE_SHA256", sha.as_str())];
    assert_eq!(host.start_with(1, &script, &environment), "accepted");
    assert_eq!(host.end_of(1), "ended 0");
    assert!(host.log(1).ends_with(b"1 is installed\n"));
    let service = host.pid_in("run/pid");
    assert!(is_alive(service));
    assert_eq!(host.start_with(2, &script, &environment), "accepted");
    assert_eq!(host.end_of(2), "ended 10");
    kill("KILL", &format!("-{service}"));
}

// ------------------------------------------------------------------------------------- the host and its files

/// A restart hook that starts a service as the README tells.
const SERVICE: &str = "[ ! -f ../../run/pid ] || kill $(cat ../../run/pid)
rm -f ../../run/pid
setsid sh -c 'echo $$ >../../run/pid.new; mv ../../run/pid.new ../../run/pid; exec sleep 600' &
until [ -s ../../run/pid ] && [ -d /proc/$(cat ../../run/pid) ]; do sleep 0.02; done";

struct Host {
    folder: TempDir,
}

struct Done {
    code: i32,
    message: String,
}

impl Done {
    #[track_caller]
    fn expect(&self, code: i32, sentence: &str) {
        assert_eq!(self.code, code, "{}", self.message);
        assert!(
            self.message.starts_with("capstan: ") && self.message.contains(sentence),
            "{}",
            self.message
        );
    }
}

impl Host {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, bytes).expect("write");
    }

    fn pid_in(&self, name: &str) -> u32 {
        let text = fs::read_to_string(self.root().join(name)).expect("a pid file");
        text.trim().parse().expect("a number")
    }

    fn fence(&self) -> String {
        fs::read_to_string(self.root().join(".capstan/fence")).expect("a fence")
    }

    fn order_file(&self, n: u64, name: &str) -> PathBuf {
        self.root().join(".capstan/orders").join(key(n)).join(name)
    }

    fn recorded(&self, n: u64, name: &str) -> String {
        let line = fs::read_to_string(self.order_file(n, name)).expect("a record");
        line.split(' ').next().expect("a pid").to_owned()
    }

    fn command(
        &self,
        program: impl AsRef<std::ffi::OsStr>,
        n: u64,
        script: &str,
        more: &[(&str, &str)],
    ) -> Command {
        let mut command = Command::new(program);
        command
            .env("CAPSTAN_ROOT", self.root())
            .env("CAPSTAN_KEY", key(n))
            .env("CAPSTAN_FENCE", n.to_string())
            .env("CAPSTAN_TIMEOUT_SECONDS", "60")
            .env("CAPSTAN_SCRIPT_SHA256", digest(script.as_bytes()))
            .env("NOISE", "several\nlines\nexport LD_PRELOAD=x")
            .envs(more.iter().copied());
        command
    }

    fn order(&self, arguments: &[&str], environment: &[(&str, &str)], input: &[u8]) -> Output {
        run(self.command(scripts().join("order"), 1, "true", environment).args(arguments), input)
    }

    fn ask(&self, arguments: &[&str]) -> String {
        answer(&self.order(arguments, &[], b""))
    }

    fn status(&self, n: u64) -> String {
        self.ask(&["status", &key(n)])
    }

    fn start(&self, n: u64, script: &str) -> String {
        self.start_with(n, script, &[])
    }

    fn start_with(&self, n: u64, script: &str, more: &[(&str, &str)]) -> String {
        answer(&run(
            self.command(scripts().join("order"), n, script, more).arg("start"),
            script.as_bytes(),
        ))
    }

    fn spawn_start(&self, n: u64, script: &str) -> Child {
        let mut command = self.command(scripts().join("order"), n, script, &[]);
        command.arg("start").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("order");
        child.stdin.take().expect("stdin").write_all(script.as_bytes()).expect("a script");
        child
    }

    fn end_of(&self, n: u64) -> String {
        let mut state = String::new();
        until("the order ends", || {
            state = self.status(n);
            state != "running"
        });
        state
    }

    fn log(&self, n: u64) -> Vec<u8> {
        let mut log = Vec::new();
        loop {
            let part = self.order(&["log", &key(n), &log.len().to_string()], &[], b"").stdout;
            if part.is_empty() {
                return log;
            }
            assert!(part.len() <= 65_536);
            log.extend(part);
        }
    }

    fn hook(&self, name: &str, body: &str) {
        let path = self.root().join("work/capstan").join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(&path, format!("#!/bin/sh\necho {name} >>../../shared/hooks\n{body}\n"))
            .expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    }

    /// A package with all hooks, of what is in the folder `work`.
    fn release(&self, version: &str, restart: &str) -> String {
        for name in ["pre-install", "post-install", "pre-restart", "post-restart"] {
            self.hook(name, "");
        }
        self.hook("restart", restart);
        self.pack(version)
    }

    fn pack(&self, version: &str) -> String {
        self.pack_with(version, &[])
    }

    fn pack_with(&self, version: &str, arguments: &[&str]) -> String {
        let archive = self.folder.path().join(format!("{version}.tar.gz"));
        let work = self.root().join("work");
        let made = Command::new("tar")
            .arg("-czPf")
            .arg(&archive)
            .args(arguments)
            .arg("-C")
            .arg(work)
            .arg(".")
            .status();
        assert!(made.expect("tar").success());
        let bytes = fs::read(archive).expect("archive");
        let sha = digest(&bytes);
        self.put(&format!("packages/{sha}.tar.gz"), &bytes);
        sha
    }

    fn stage_command(
        &self,
        stage: &str,
        version: &str,
        sha: &str,
        more: &[(&str, &str)],
    ) -> Command {
        let path = self.folder.path().join(format!("rendered-{stage}"));
        if !path.exists() {
            fs::write(&path, rendered(stage)).expect("write");
        }
        let mut command = Command::new("sh");
        command
            .arg(path)
            .env("CAPSTAN_ROOT", self.root())
            .env("CAPSTAN_VERSION", version)
            .env("CAPSTAN_PACKAGE_SHA256", sha)
            .env("CAPSTAN_TIMEOUT_SECONDS", "4")
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Runs a stage as its order would; both outputs are one stream of which the last line counts.
    fn stage(&self, stage: &str, version: &str, sha: &str, more: &[(&str, &str)]) -> Done {
        fs::create_dir_all(self.root()).expect("root");
        // A file and not a pipe: a service that keeps its output must not keep the test.
        let mut file = tempfile::tempfile().expect("a file");
        let out = file.try_clone().expect("a handle");
        let errors = file.try_clone().expect("a handle");
        let status = self
            .stage_command(stage, version, sha, more)
            .stdout(out)
            .stderr(errors)
            .status()
            .expect("sh");
        let mut text = Vec::new();
        std::io::Seek::rewind(&mut file).expect("rewind");
        file.read_to_end(&mut text).expect("read");
        let text = String::from_utf8_lossy(&text);
        Done {
            code: status.code().unwrap_or(-1),
            message: text.lines().last().unwrap_or_default().to_owned(),
        }
    }

    fn install(&self, version: &str, sha: &str) -> Done {
        self.stage("install", version, sha, &[])
    }

    fn install_keeping(&self, version: &str, sha: &str, keep: &str) -> Done {
        self.stage("install", version, sha, &[("CAPSTAN_KEEP_RELEASES", keep)])
    }

    fn verify(&self, version: &str, sha: &str, url: &str, more: &[(&str, &str)]) -> Done {
        let mut environment = vec![("CAPSTAN_HEALTH_URL", url)];
        environment.extend_from_slice(more);
        self.stage("verify", version, sha, &environment)
    }

    fn report(&self) -> (i32, String) {
        let output = self
            .stage_command("report", "", "", &[])
            .stdout(Stdio::piped())
            .output()
            .expect("report");
        (output.status.code().unwrap_or(-1), String::from_utf8(output.stdout).expect("text"))
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../agent-scripts")
        .canonicalize()
        .expect("agent-scripts")
}

fn rendered(stage: &str) -> String {
    let read =
        |name: &str| fs::read_to_string(scripts().join("generic").join(name)).expect("a script");
    read("prelude.sh") + &read(stage)
}

fn key(n: u64) -> String {
    format!("00000000-0000-7000-8000-{n:012x}")
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // Whoever refuses its arguments does not read its input.
    let written = child.stdin.take().expect("stdin").write_all(input);
    let output = child.wait_with_output().expect("output");
    assert!(written.is_ok() || !output.status.success());
    output
}

fn answer(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("text").trim_end().to_owned()
}

fn shell(folder: &Path, commands: &str) {
    assert!(
        Command::new("sh")
            .arg("-ec")
            .arg(commands)
            .current_dir(folder)
            .status()
            .expect("sh")
            .success()
    );
}

fn kill(signal: &str, process: &str) {
    let sent = Command::new("sh").arg("-c").arg(format!("kill -s {signal} -- {process}")).status();
    assert!(sent.is_ok());
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[track_caller]
fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !reached() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

// -------------------------------------------------------------------------------------------- the server

struct Server {
    address: String,
    seen: Arc<Mutex<String>>,
}

struct Request {
    method: String,
    path: String,
    range: usize,
}

struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    sent: usize,
    hangs: bool,
}

impl Reply {
    fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), sent: usize::MAX, hangs: false }
    }

    fn body(bytes: &[u8]) -> Self {
        Self { body: bytes.to_vec(), ..Self::status(200) }
    }

    fn hang() -> Self {
        Self { hangs: true, ..Self::status(200) }
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn cut_after(self, bytes: usize) -> Self {
        Self { sent: bytes, ..self }
    }

    fn part(mut self, from: usize) -> Self {
        if from == 0 {
            return self;
        }
        let total = self.body.len();
        if from >= total {
            return Self::status(416).header("Content-Range", &format!("bytes */{total}"));
        }
        self.body.drain(..from);
        Self { status: 206, ..self }
            .header("Content-Range", &format!("bytes {from}-{}/{total}", total - 1))
    }
}

impl Server {
    fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let seen: Arc<Mutex<String>> = Arc::default();
        let log = Arc::clone(&seen);
        let reply = Arc::new(reply);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (reply, log) = (Arc::clone(&reply), Arc::clone(&log));
                thread::spawn(move || serve(stream, &*reply, &log));
            }
        });
        Self { address, seen }
    }

    fn saw(&self, text: &str) -> bool {
        self.seen.lock().expect("lock").contains(text)
    }
}

/// One request and one answer; a caller that hangs up is no fault of the server's.
fn serve(stream: TcpStream, reply: &dyn Fn(&Request) -> Reply, log: &Mutex<String>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ').map(str::to_owned);
    let mut request = Request { method: words.next()?, path: words.next()?, range: 0 };
    let mut text = format!("{first}\n");
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        if let Some(from) = line.strip_prefix("Range: bytes=") {
            request.range = from.trim_end_matches('-').parse().ok()?;
        }
        text.push_str(&line);
        text.push('\n');
    }
    log.lock().ok()?.push_str(&text);
    let answer = reply(&request);
    if answer.hangs {
        thread::sleep(Duration::from_secs(30));
        return None;
    }
    let mut head = vec![format!("HTTP/1.1 {} Some Reason\r\nConnection: close\r\n", answer.status)];
    head.extend(answer.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")));
    if !answer.headers.iter().any(|(name, _)| *name == "Content-Length") {
        head.push(format!("Content-Length: {}\r\n", answer.body.len()));
    }
    let mut stream = stream;
    stream.write_all(head.concat().as_bytes()).ok()?;
    stream.write_all(b"\r\n").ok()?;
    if request.method != "HEAD" {
        stream.write_all(&answer.body[..answer.body.len().min(answer.sent)]).ok()?;
    }
    Some(())
}
