//! The database, Redis and `RabbitMQ`, each process with lines of its own to them.

use std::sync::Arc;

use capstan_services::{MariaDb, Postgres, Proxy, RabbitMq, Redis};
use tokio::sync::Mutex;

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    MariaDb,
}

/// The database server.
#[derive(Debug)]
pub(crate) enum Server {
    Postgres(Postgres),
    MariaDb(MariaDb),
}

impl Server {
    fn start(kind: Kind) -> Self {
        match kind {
            Kind::Postgres => Self::Postgres(Postgres::start()),
            Kind::MariaDb => Self::MariaDb(MariaDb::start()),
        }
    }

    fn database(&self) -> String {
        match self {
            Self::Postgres(server) => server.database(),
            Self::MariaDb(server) => server.database(),
        }
    }

    pub(crate) fn kill(&mut self) {
        match self {
            Self::Postgres(server) => server.kill(),
            Self::MariaDb(server) => server.kill(),
        }
    }

    pub(crate) fn resume(&mut self) {
        match self {
            Self::Postgres(server) => server.resume(),
            Self::MariaDb(server) => server.resume(),
        }
    }
}

/// All of them. Whoever does something to one holds it meanwhile.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) database: Arc<Mutex<Server>>,
    pub(crate) redis: Arc<Mutex<Redis>>,
    pub(crate) rabbit: Arc<Mutex<RabbitMq>>,
    pub(crate) database_url: String,
    pub(crate) redis_url: String,
    pub(crate) rabbit_url: String,
}

/// The lines of one process.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) database: Proxy,
    pub(crate) redis: Proxy,
    pub(crate) rabbit: Proxy,
    pub(crate) cmdb: Proxy,
}

impl Services {
    pub(crate) fn start(kind: Kind) -> Self {
        let rabbit = std::thread::spawn(RabbitMq::start);
        let server = Server::start(kind);
        let redis = Redis::start();
        let rabbit = rabbit.join().expect("RabbitMQ starts");
        Self {
            database_url: server.database(),
            redis_url: redis.url(),
            rabbit_url: rabbit.url(),
            database: Arc::new(Mutex::new(server)),
            redis: Arc::new(Mutex::new(redis)),
            rabbit: Arc::new(Mutex::new(rabbit)),
        }
    }

    pub(crate) fn lines(&self, cmdb_url: &str) -> Lines {
        let line = |url: &str| Proxy::to(port(url));
        Lines {
            database: line(&self.database_url),
            redis: line(&self.redis_url),
            rabbit: line(&self.rabbit_url),
            cmdb: line(cmdb_url),
        }
    }
}

fn port(url: &str) -> u16 {
    let (_, place) = url.rsplit_once(':').expect("a URL with a port");
    let digits = place.split('/').next().expect("a port");
    digits.parse().expect("a port")
}
