//! `RabbitMQ`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::fresh_name;
use crate::service::{PATIENCE, Service, ends_well, free_port, limited, run};

/// The program itself: the wrapper of Debian becomes another user.
const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
/// It takes messages however full the disk is that the tests lie on.
const CONFIGURATION: &str = "\
listeners.tcp.local = 127.0.0.1:PORT
loopback_users.guest = true
disk_free_limit.absolute = 1MB
";
/// What a client says first; a server that is up answers with a frame of type 1.
const HELLO: &[u8] = b"AMQP\0\0\x09\x01";

/// A `RabbitMQ` server, with the user guest.
#[derive(Debug)]
pub struct RabbitMq {
    // The server goes before the daemon that knows its name.
    server: Option<Service>,
    _names: Service,
    port: u16,
    environment: Vec<(String, String)>,
}

impl RabbitMq {
    /// The server that all tests of this process share. Kill one of your own instead.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<RabbitMq> = LazyLock::new(RabbitMq::start);
        &SHARED
    }

    /// Starts a server of one's own.
    pub fn start() -> Self {
        // It goes with the daemon, so the server finds its data when it is started again.
        let folder = Service::folder("rabbitmq", "root");
        let (port, dist, names) = (free_port(), free_port(), free_port());
        let lies = |name: &str| folder.join(name).display().to_string();
        std::fs::write(
            folder.join("rabbitmq.conf"),
            CONFIGURATION.replace("PORT", &port.to_string()),
        )
        .expect("the configuration is written");
        std::fs::write(folder.join("plugins"), "[].").expect("no plugins");
        let environment: Vec<(String, String)> = [
            ("RUNNING_UNDER_SYSTEMD", "1".to_owned()),
            ("HOME", lies("")),
            ("RABBITMQ_NODENAME", format!("capstan{port}@localhost")),
            ("RABBITMQ_NODE_PORT", port.to_string()),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_DIST_PORT", dist.to_string()),
            ("RABBITMQ_MNESIA_BASE", lies("mnesia")),
            ("RABBITMQ_LOG_BASE", lies("log")),
            ("RABBITMQ_CONFIG_FILE", lies("rabbitmq")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", lies("plugins")),
            ("RABBITMQ_GENERATED_CONFIG_DIR", lies("generated")),
            ("RABBITMQ_PID_FILE", lies("pid")),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 +sbwt none".to_owned()),
            ("ERL_EPMD_PORT", names.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let mut epmd = Command::new("epmd");
        epmd.args(["-port", &names.to_string(), "-address", "127.0.0.1"]);
        let mut names = Service::start("epmd", names, &folder, "KILL", &epmd);
        names.wait(|| true);
        let mut rabbit = Self { server: None, _names: names, port, environment };
        rabbit.resume();
        rabbit
    }

    /// kill -9; what was confirmed stays.
    pub fn kill(&mut self) {
        self.server.take().expect("it runs").end();
    }

    /// Starts it again.
    pub fn resume(&mut self) {
        let mut program = Command::new("env");
        program.args(self.environment.iter().map(|(name, value)| format!("{name}={value}")));
        program.arg(PROGRAM);
        let output = Service::folder("rabbitmq-output", "root");
        let mut server = Service::start("RabbitMQ", self.port, &output, "KILL", &program);
        let port = self.port;
        server.wait(|| greets(port));
        self.server = Some(server);
    }

    /// The URL of the virtual host that is there from the start: for who has the server alone.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    fn control(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("env");
        command.args(self.environment.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(CONTROL).args(arguments);
        command
    }

    /// How many messages a queue of the first virtual host has, those that somebody took and has not answered as
    /// well; none: the server does not say.
    pub fn messages(&self, queue: &str) -> Option<u64> {
        let mut command = limited(&self.control(&["-q", "list_queues", "name", "messages"]));
        let output = command.stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut rows = text.lines().filter_map(|line| line.split_once('\t'));
        rows.find(|(name, _)| *name == queue)?.1.trim().parse().ok()
    }

    /// The URL of a new, empty virtual host.
    pub fn vhost(&self) -> String {
        let name = fresh_name();
        // A server that greets may not have all of its parts yet.
        let deadline = Instant::now() + PATIENCE;
        while !ends_well(&mut self.control(&["await_startup"])) {
            assert!(Instant::now() < deadline, "RabbitMQ greets, and does not come up");
            std::thread::sleep(Duration::from_millis(100));
        }
        run(&mut self.control(&["add_vhost", &name]));
        run(&mut self.control(&["set_permissions", "-p", &name, "guest", ".*", ".*", ".*"]));
        format!("amqp://guest:guest@127.0.0.1:{}/{name}", self.port)
    }
}

fn greets(port: u16) -> bool {
    let greet = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(HELLO)?;
        let mut first = [0];
        stream.read_exact(&mut first)?;
        Ok(first == [1])
    };
    greet().unwrap_or(false)
}
