//! Redis.

use std::process::{Command, Stdio};

use crate::service::{Service, ends_well, free_port, limited, run};

/// A Redis server of a test's own: it can be killed, frozen and started again under its URL.
#[derive(Debug)]
pub struct Redis {
    service: Option<Service>,
    port: u16,
    password: Option<&'static str>,
}

impl Redis {
    /// Starts a server.
    pub fn start() -> Self {
        Self::with(None)
    }

    /// Starts a server that lets in who knows the password.
    pub fn start_with_password(password: &'static str) -> Self {
        Self::with(Some(password))
    }

    /// A place where a server can be started, and where none is yet.
    pub fn absent() -> Self {
        Self { service: None, port: free_port(), password: None }
    }

    fn with(password: Option<&'static str>) -> Self {
        let mut redis = Self { password, ..Self::absent() };
        redis.run();
        redis
    }

    /// Its URL, with the password.
    pub fn url(&self) -> String {
        let user = self.password.map(|password| format!(":{password}@")).unwrap_or_default();
        format!("redis://{user}127.0.0.1:{}/", self.port)
    }

    /// Starts it, empty, where it was before.
    pub fn run(&mut self) {
        let folder = Service::folder("redis", "root");
        let port = self.port.to_string();
        let mut server = Command::new("redis-server");
        server.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        server.args(["--daemonize", "no"]).arg("--dir").arg(&folder);
        server.arg("--pidfile").arg(folder.join("pid"));
        server
            .args(self.password.map(|password| ["--requirepass", password]).into_iter().flatten());
        let mut service = Service::start("Redis", self.port, &folder, "KILL", &server);
        service.wait(|| ends_well(&mut self.client(&["PING"])));
        self.service = Some(service);
    }

    /// kill -9. What was in it is gone.
    pub fn kill(&mut self) {
        if let Some(service) = self.service.take() {
            service.end();
        }
    }

    /// Stops it in its tracks: connections are let in, and nothing is answered.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on after [`Self::freeze`].
    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let service = self.service.as_ref().expect("a Redis that runs");
        let pid = std::fs::read_to_string(service.folder_of().join("pid")).expect("its pid");
        run(Command::new("kill").args([name, pid.trim()]));
    }

    /// Gives a command and returns what is answered, a line each.
    pub fn command(&self, words: &[&str]) -> String {
        let output = limited(&self.client(words)).stdin(Stdio::null()).output();
        let output = output.expect("redis-cli runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn client(&self, words: &[&str]) -> Command {
        let mut client = Command::new("redis-cli");
        client.args(["-e", "--no-auth-warning", "-p", &self.port.to_string()]);
        client.args(self.password.map(|password| ["-a", password]).into_iter().flatten());
        client.args(words);
        client
    }
}
