//! MariaDB.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::fresh_name;
use crate::service::{Service, as_user, ends_well, free_port, run, run_with};

/// A MariaDB server. What it has committed outlives its process, and not the machine.
#[derive(Debug)]
pub struct MariaDb {
    // The server goes before the folder that it works in.
    server: Option<Service>,
    _folder: Service,
    port: u16,
    folder: PathBuf,
    settings: &'static [&'static str],
}

impl MariaDb {
    /// The server that all tests of this process share.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<MariaDb> = LazyLock::new(MariaDb::start);
        &SHARED
    }

    /// Starts a server of one's own.
    pub fn start() -> Self {
        // A commit is written to the file, and not waited for until it is on the disk.
        Self::start_with(&["--innodb-flush-log-at-trx-commit=2"])
    }

    /// One that makes each commit durable, as it does by default, for benchmarks.
    pub fn start_durable() -> Self {
        Self::start_with(&[])
    }

    fn start_with(settings: &'static [&'static str]) -> Self {
        let folder = Service::folder("mariadb", "mysql");
        let data = format!("--datadir={}", folder.join("data").display());
        run(as_user("mysql", Path::new("mariadb-install-db")).args([
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            &data,
        ]));
        let keeper = Service::keep(&folder);
        let (server, port) = (None, free_port());
        let mut maria = Self { server, _folder: keeper, port, folder, settings };
        maria.resume();
        maria
    }

    /// kill -9; what was committed stays.
    pub fn kill(&mut self) {
        self.server.take().expect("it runs").end();
    }

    /// Starts it again, where it was.
    pub fn resume(&mut self) {
        let output = Service::folder("mariadb-output", "root");
        let port = self.port;
        let mut server = as_user("mysql", Path::new("/usr/sbin/mariadbd"));
        server.args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve"]).args([
            &format!("--datadir={}", self.folder.join("data").display()),
            &format!("--port={port}"),
            &format!("--socket={}", self.folder.join("socket").display()),
            "--innodb-buffer-pool-size=64M",
            "--max-connections=400",
        ]);
        server.args(self.settings);
        let mut service = Service::start("MariaDB", port, &output, "KILL", &server);
        service.wait(|| ends_well(&mut client(port, "SELECT 1")));
        self.server = Some(service);
    }

    /// The URL of a new, empty database.
    pub fn database(&self) -> String {
        let (name, port) = (fresh_name(), self.port);
        run(&mut client(port, &format!("CREATE DATABASE {name}")));
        format!("mysql://root@127.0.0.1:{port}/{name}")
    }
}

/// Runs a dump.
pub(crate) fn restore(url: &str, dump: File) {
    let (_, place) = url.rsplit_once(':').expect("a URL with a port");
    let (port, name) = place.split_once('/').expect("a URL with a database");
    run_with(program(port).arg(name), dump);
}

fn client(port: u16, statement: &str) -> Command {
    let mut client = program(&port.to_string());
    client.args(["-e", statement]);
    client
}

fn program(port: &str) -> Command {
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "-h", "127.0.0.1", "-u", "root", "-P", port]);
    client
}
