//! PostgreSQL.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::fresh_name;
use crate::service::{PATIENCE, Service, as_user, ends_well, free_port, run, run_with};

/// A PostgreSQL server. What it has committed outlives its processes, and not the machine.
#[derive(Debug)]
pub struct Postgres {
    // The server goes before the folder that it works in.
    server: Option<Service>,
    _folder: Service,
    port: u16,
    data: PathBuf,
    settings: &'static [&'static str],
}

impl Postgres {
    /// The server that all tests of this process share.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Postgres> = LazyLock::new(Postgres::start);
        &SHARED
    }

    /// Starts a server of one's own.
    pub fn start() -> Self {
        Self::start_with(&["-c", "fsync=off"])
    }

    /// One that makes each commit durable, as it does by default, for benchmarks.
    pub fn start_durable() -> Self {
        Self::start_with(&[])
    }

    fn start_with(settings: &'static [&'static str]) -> Self {
        let folder = Service::folder("postgres", "postgres");
        let data = folder.join("data");
        run(as_user("postgres", &program("initdb"))
            .args(["-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data));
        let keeper = Service::keep(&folder);
        let (server, port) = (None, free_port());
        let mut postgres = Self { server, _folder: keeper, port, data, settings };
        postgres.resume();
        postgres
    }

    /// kill -9 of the server and of all that it has started; what was committed stays.
    pub fn kill(&mut self) {
        let server = self.server.take().expect("it runs");
        let notes = std::fs::read_to_string(self.data.join("postmaster.pid")).expect("its pid");
        let mut pids = vec![notes.lines().next().expect("a line with its pid").to_owned()];
        pids.extend(children(&pids[0]));
        // Others may have ended by themselves meanwhile.
        ends_well(Command::new("kill").arg("-KILL").args(&pids));
        server.end();
        // A new server is not let in before the last of the old one is gone.
        let deadline = Instant::now() + PATIENCE;
        while pids.iter().any(|pid| is_alive(pid)) {
            assert!(Instant::now() < deadline, "PostgreSQL was killed and lives: {pids:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts it again, where it was.
    pub fn resume(&mut self) {
        let output = Service::folder("postgres-output", "root");
        let port = self.port;
        let mut server = as_user("postgres", &program("postgres"));
        server.arg("-D").arg(&self.data).args(["-p", &port.to_string(), "-h", "127.0.0.1"]);
        server.args(["-k", "", "-c", "max_connections=400"]).args(self.settings);
        let mut service = Service::start("PostgreSQL", port, &output, "QUIT", &server);
        service.wait(|| ends_well(&mut client(port, "SELECT 1")));
        self.server = Some(service);
    }

    /// The URL of a new, empty database.
    pub fn database(&self) -> String {
        let (name, port) = (fresh_name(), self.port);
        run(&mut client(port, &format!("CREATE DATABASE {name}")));
        format!("postgres://postgres@127.0.0.1:{port}/{name}")
    }
}

/// Runs a dump.
pub(crate) fn restore(url: &str, dump: File) {
    let mut client = Command::new(program("psql"));
    run_with(client.args(["-q", "-v", "ON_ERROR_STOP=1", "-d", url]), dump);
}

/// One that ended and that nobody has asked about counts as gone.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

/// The processes that a process has started.
fn children(pid: &str) -> Vec<String> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn client(port: u16, statement: &str) -> Command {
    let mut client = Command::new(program("psql"));
    client.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string(), "-qc", statement]);
    client
}

/// Debian keeps the programs of each version in a folder of its own, outside PATH.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let programs = versions.map(|version| version.path().join("bin").join(name));
    programs.filter(|program| program.exists()).max().unwrap_or_else(|| name.into())
}
