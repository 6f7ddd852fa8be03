//! The stage `install`, and `report`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::host::{Host, SERVICE, digest, is_alive, kill, rendered, shell, until};

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
