//! PostgreSQL.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use crate::fresh_name;
use crate::service::{Service, as_user, ends_well, free_port, run, run_with};

/// A PostgreSQL server.
#[derive(Debug)]
pub struct Postgres {
    service: Service,
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

    fn start_with(settings: &[&str]) -> Self {
        let folder = Service::folder("postgres", "postgres");
        let data = folder.join("data");
        run(as_user("postgres", &program("initdb"))
            .args(["-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data));
        let port = free_port();
        let mut server = as_user("postgres", &program("postgres"));
        server.arg("-D").arg(&data).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", ""]);
        server.args(["-c", "max_connections=400"]).args(settings);
        let mut service = Service::start("PostgreSQL", port, &folder, "QUIT", &server);
        service.wait(|| ends_well(&mut client(port, "SELECT 1")));
        Self { service }
    }

    /// The URL of a new, empty database.
    pub fn database(&self) -> String {
        let (name, port) = (fresh_name(), self.service.port);
        run(&mut client(port, &format!("CREATE DATABASE {name}")));
        format!("postgres://postgres@127.0.0.1:{port}/{name}")
    }
}

/// Runs a dump.
pub(crate) fn restore(url: &str, dump: File) {
    let mut client = Command::new(program("psql"));
    run_with(client.args(["-q", "-v", "ON_ERROR_STOP=1", "-d", url]), dump);
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
