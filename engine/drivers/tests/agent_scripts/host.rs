//! A host in a folder: its files, its orders and its stages.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A restart hook that starts a service as the README tells.
pub(crate) const SERVICE: &str = "[ ! -f ../../run/pid ] || kill $(cat ../../run/pid)
rm -f ../../run/pid
setsid sh -c 'echo $$ >../../run/pid.new; mv ../../run/pid.new ../../run/pid; exec sleep 600' &
until [ -s ../../run/pid ] && [ -d /proc/$(cat ../../run/pid) ]; do sleep 0.02; done";

pub(crate) struct Host {
    pub(crate) folder: TempDir,
}

pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) message: String,
}

impl Done {
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, sentence: &str) {
        assert_eq!(self.code, code, "{}", self.message);
        assert!(
            self.message.starts_with("capstan: ") && self.message.contains(sentence),
            "{}",
            self.message
        );
    }
}

impl Host {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, bytes).expect("write");
    }

    #[track_caller]
    pub(crate) fn pid_in(&self, name: &str) -> u32 {
        line_in(&self.root().join(name)).trim().parse().expect("a number")
    }

    pub(crate) fn fence(&self) -> String {
        fs::read_to_string(self.root().join(".capstan/fence")).expect("a fence")
    }

    pub(crate) fn order_file(&self, n: u64, name: &str) -> PathBuf {
        self.root().join(".capstan/orders").join(key(n)).join(name)
    }

    #[track_caller]
    pub(crate) fn recorded(&self, n: u64, name: &str) -> String {
        let line = line_in(&self.order_file(n, name));
        line.split(' ').next().expect("a pid").to_owned()
    }

    pub(crate) fn command(
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

    pub(crate) fn order(
        &self,
        arguments: &[&str],
        environment: &[(&str, &str)],
        input: &[u8],
    ) -> Output {
        run(self.command(scripts().join("order"), 1, "true", environment).args(arguments), input)
    }

    pub(crate) fn ask(&self, arguments: &[&str]) -> String {
        answer(&self.order(arguments, &[], b""))
    }

    pub(crate) fn status(&self, n: u64) -> String {
        self.ask(&["status", &key(n)])
    }

    pub(crate) fn start(&self, n: u64, script: &str) -> String {
        self.start_with(n, script, &[])
    }

    pub(crate) fn start_with(&self, n: u64, script: &str, more: &[(&str, &str)]) -> String {
        answer(&run(
            self.command(scripts().join("order"), n, script, more).arg("start"),
            script.as_bytes(),
        ))
    }

    pub(crate) fn spawn_start(&self, n: u64, script: &str) -> Child {
        let mut command = self.command(scripts().join("order"), n, script, &[]);
        command.arg("start").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("order");
        child.stdin.take().expect("stdin").write_all(script.as_bytes()).expect("a script");
        child
    }

    pub(crate) fn end_of(&self, n: u64) -> String {
        let mut state = String::new();
        until("the order ends", || {
            state = self.status(n);
            state != "running"
        });
        state
    }

    pub(crate) fn log(&self, n: u64) -> Vec<u8> {
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

    pub(crate) fn hook(&self, name: &str, body: &str) {
        let path = self.root().join("work/capstan").join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(&path, format!("#!/bin/sh\necho {name} >>../../shared/hooks\n{body}\n"))
            .expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
    }

    /// A package with all hooks, of what is in the folder `work`.
    pub(crate) fn release(&self, version: &str, restart: &str) -> String {
        for name in ["pre-install", "post-install", "pre-restart", "post-restart"] {
            self.hook(name, "");
        }
        self.hook("restart", restart);
        self.pack(version)
    }

    pub(crate) fn pack(&self, version: &str) -> String {
        self.pack_with(version, &[])
    }

    pub(crate) fn pack_with(&self, version: &str, arguments: &[&str]) -> String {
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

    pub(crate) fn stage_command(
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
        // A hook may wait for its service for ever.
        let mut command = Command::new("timeout");
        command
            .args(["60", "sh"])
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
    pub(crate) fn stage(
        &self,
        stage: &str,
        version: &str,
        sha: &str,
        more: &[(&str, &str)],
    ) -> Done {
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

    pub(crate) fn install(&self, version: &str, sha: &str) -> Done {
        self.stage("install", version, sha, &[])
    }

    pub(crate) fn install_keeping(&self, version: &str, sha: &str, keep: &str) -> Done {
        self.stage("install", version, sha, &[("CAPSTAN_KEEP_RELEASES", keep)])
    }

    pub(crate) fn verify(
        &self,
        version: &str,
        sha: &str,
        url: &str,
        more: &[(&str, &str)],
    ) -> Done {
        let mut environment = vec![("CAPSTAN_HEALTH_URL", url)];
        environment.extend_from_slice(more);
        self.stage("verify", version, sha, &environment)
    }

    pub(crate) fn report(&self) -> (i32, String) {
        let output = self
            .stage_command("report", "", "", &[])
            .stdout(Stdio::piped())
            .output()
            .expect("report");
        (output.status.code().unwrap_or(-1), String::from_utf8(output.stdout).expect("text"))
    }
}

pub(crate) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../agent-scripts")
        .canonicalize()
        .expect("agent-scripts")
}

pub(crate) fn rendered(stage: &str) -> String {
    let read =
        |name: &str| fs::read_to_string(scripts().join("generic").join(name)).expect("a script");
    read("prelude.sh") + &read(stage)
}

pub(crate) fn key(n: u64) -> String {
    format!("00000000-0000-7000-8000-{n:012x}")
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

pub(crate) fn run(command: &mut Command, input: &[u8]) -> Output {
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

pub(crate) fn answer(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("text").trim_end().to_owned()
}

pub(crate) fn shell(folder: &Path, commands: &str) {
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

pub(crate) fn kill(signal: &str, process: &str) {
    let sent = Command::new("sh").arg("-c").arg(format!("kill -s {signal} -- {process}")).status();
    assert!(sent.is_ok());
}

/// What a script writes there, once its line is whole: a shell makes the file first and writes afterwards.
#[track_caller]
pub(crate) fn line_in(path: &Path) -> String {
    let mut text = String::new();
    until("a line is written", || {
        text = fs::read_to_string(path).unwrap_or_default();
        text.ends_with('\n')
    });
    text
}

pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[track_caller]
pub(crate) fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !reached() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
