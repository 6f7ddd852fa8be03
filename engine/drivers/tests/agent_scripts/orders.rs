//! `agent-scripts/order`: a script runs once per key, with fences, limits and output.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::host::{Host, is_alive, key, kill, line_in, run, scripts, until};

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
    let child = host.pid_in("child");
    kill("KILL", &host.pid_in("pid").to_string());
    assert_eq!(host.end_of(1), "lost");
    until("its child is gone", || !is_alive(child));

    // The whole machinery is killed; only a child is left, which the next order must end.
    host.start(2, "sleep 71 & echo $! >child2; echo $$ >pid2; wait");
    let script = host.pid_in("pid2");
    kill("KILL", &host.recorded(2, "supervisor"));
    assert_eq!(host.status(2), "running", "the script itself goes on");
    kill("KILL", &host.recorded(2, "runner"));
    kill("KILL", &script.to_string());
    until("it is lost", || host.status(2) == "lost");
    let child = host.pid_in("child2");
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
    line_in(&host.order_file(1, "runner"));
    for (name, field) in [("supervisor", 2), ("runner", 2), ("supervisor", 1), ("runner", 1)] {
        let path = host.order_file(1, name);
        let line = line_in(&path);
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
