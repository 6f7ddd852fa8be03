//! A process in a folder of its own that does not outlive the one that started it.

use std::fs::{self, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a service may take to come up on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);
/// How long a program that talks to one may take, in seconds.
const PROGRAM_SECONDS: &str = "60";

/// Runs a program until its own input ends, which it does when the test's process is gone; then kills
/// the program and removes its folder. `$1`: the folder; `$2`: the signal; the rest: the program.
const KEEPER: &str = r#"
trap '' INT TERM HUP
folder=$1 signal=$2
shift 2
"$@" > "$folder/output" 2>&1 < /dev/null &
read -r _
kill "-$signal" "$!" 2> /dev/null
wait
rm -rf "$folder"
"#;

/// A running service.
#[derive(Debug)]
pub(crate) struct Service {
    name: &'static str,
    pub(crate) port: u16,
    folder: PathBuf,
    keeper: Child,
}

impl Service {
    /// A folder that `user` may use, too, if this process may give it away.
    pub(crate) fn folder(name: &str, user: &str) -> PathBuf {
        let folder = tempfile::Builder::new().prefix(&format!("capstan-{name}-")).tempdir();
        let folder = folder.expect("a temporary folder").keep();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("a folder for all");
        if is_root() {
            run(Command::new("chown").arg(user).arg(&folder));
        }
        folder
    }

    /// Keeps a folder that outlives the programs that work in it.
    pub(crate) fn keep(folder: &Path) -> Self {
        let mut program = Command::new("sleep");
        Self::start("folder", 0, folder, "KILL", program.arg("infinity"))
    }

    /// Starts a program. `signal` ends it at once.
    pub(crate) fn start(
        name: &'static str,
        port: u16,
        folder: &Path,
        signal: &str,
        program: &Command,
    ) -> Self {
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(folder)
            .arg(signal)
            .arg(program.get_program())
            .args(program.get_args())
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh starts");
        Self { name, port, folder: folder.to_owned(), keeper }
    }

    /// Waits until the service answers: until a connection is let in and `is_ready`.
    pub(crate) fn wait(&mut self, is_ready: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() || !is_ready() {
            let ended = self.keeper.try_wait().expect("the keeper is asked").is_some();
            assert!(
                !ended && Instant::now() < deadline,
                "{} does not come up: {}",
                self.name,
                fs::read_to_string(self.folder.join("output")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Service {
    /// Where it works.
    pub(crate) fn folder_of(&self) -> &Path {
        &self.folder
    }

    /// Ends it by its signal, and waits until it is gone with its folder.
    pub(crate) fn end(mut self) {
        drop(self.keeper.stdin.take());
        self.keeper.wait().expect("the keeper ends");
    }
}

/// A port that was free just now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// A program to run as `user`: database servers refuse to run as root.
pub(crate) fn as_user(user: &str, program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", user, "--clear-groups"]).arg(program);
    command
}

/// Runs a program to its end, which must be a good one.
pub(crate) fn run(command: &mut Command) {
    run_with(command, Stdio::null());
}

/// The same with an input.
pub(crate) fn run_with(command: &mut Command, input: impl Into<Stdio>) {
    let output = limited(command).stdin(input).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs a program and says whether it ended well.
pub(crate) fn ends_well(command: &mut Command) -> bool {
    let mut command = limited(command);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// The same program, which is ended when it takes long: a client waits for ever for an answer if another
/// kind of service has taken the port. Only program and arguments are taken over.
pub(crate) fn limited(command: &Command) -> Command {
    let mut limited = Command::new("timeout");
    limited.arg(PROGRAM_SECONDS).arg(command.get_program()).args(command.get_args());
    limited
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0)
}
