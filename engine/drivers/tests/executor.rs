//! Executors: the conformance suite over real processes and in memory, and what each has of its own.

#[path = "conformance/executor.rs"]
mod conformance;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capstan_core::OrderKey;
use capstan_core::ports::{DriverError, Endpoint, Executor, Order, OrderState, Report};
use capstan_drivers::fake::{End, FakeExecutor, Fault, Outcome};
use capstan_drivers::guard::Guard;
use capstan_drivers::local::{Error, LocalExecutor};
use conformance::{Behaviour, Subject, endpoint, new_key, script};
use tempfile::TempDir;

struct Local {
    folder: TempDir,
    executor: Arc<LocalExecutor>,
}

impl Local {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let prefixes = vec![folder.path().join("hosts")];
        let executor = LocalExecutor::new(folder.path().join("programs"), prefixes)
            .expect("the folder can be written");
        Self { folder, executor: Arc::new(executor) }
    }

    fn server(&self, name: &str) -> Endpoint {
        let root = self.folder.path().join("hosts").join(name);
        endpoint(root.to_str().expect("the path is UTF-8"))
    }
}

fn local_order(server: &Endpoint, body: &str) -> Order {
    let environment = [
        ("CAPSTAN_STAGE", "INSTALL"),
        ("CAPSTAN_ROOT", server.root.as_str()),
        ("CAPSTAN_TIMEOUT_SECONDS", "10"),
    ];
    Order {
        key: new_key(),
        fence: 1,
        time_limit: Duration::from_secs(15),
        script: Arc::new(script(body)),
        environment: environment
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    }
}

impl Subject for Local {
    fn executor(&self) -> Arc<dyn Executor> {
        Arc::clone(&self.executor) as Arc<dyn Executor>
    }

    fn fresh(&self) -> Endpoint {
        self.server(&new_key().to_string())
    }

    fn script(&self, _server: &Endpoint, _key: OrderKey, behaviour: Behaviour) -> (String, String) {
        let act = match behaviour {
            Behaviour::Exit("", code) => format!("exit {code}"),
            Behaviour::Exit(text, code) => format!("echo {text}; exit {code}"),
            Behaviour::Print(count) => format!("head -c {count} /dev/zero | tr '\\0' x"),
            Behaviour::Linger => "sleep 60".to_owned(),
        };
        let body = format!("echo $CAPSTAN_KEY >>$CAPSTAN_ROOT/runs\n{act}\n");
        (body, "INSTALL".to_owned())
    }

    fn runs(&self, server: &Endpoint, key: OrderKey) -> usize {
        let runs = std::fs::read_to_string(Path::new(&server.root).join("runs"));
        let key = key.to_string();
        runs.unwrap_or_default().lines().filter(|line| *line == key).count()
    }

    fn lose(&self, server: &Endpoint, key: OrderKey) {
        let runner = format!("{}/.capstan/orders/{key}/runner", server.root);
        let mut line = String::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !line.ends_with('\n') {
            assert!(Instant::now() < deadline, "the order runs");
            std::thread::sleep(Duration::from_millis(10));
            line = std::fs::read_to_string(&runner).unwrap_or_default();
        }
        let pid = line.split(' ').next().expect("it begins with the process");
        let killed = Command::new("kill").args(["-KILL", pid]).status().expect("kill runs");
        assert!(killed.success());
    }
}

struct Fake(Arc<FakeExecutor>);

impl Subject for Fake {
    fn executor(&self) -> Arc<dyn Executor> {
        Arc::clone(&self.0) as Arc<dyn Executor>
    }

    fn fresh(&self) -> Endpoint {
        endpoint("/srv/web")
    }

    fn script(&self, server: &Endpoint, key: OrderKey, behaviour: Behaviour) -> (String, String) {
        let outcome = match behaviour {
            Behaviour::Exit("", code) => Outcome::exit(code),
            Behaviour::Exit(text, code) => Outcome::exit(code).printing(format!("{text}\n")),
            Behaviour::Print(count) => Outcome::exit(0).printing(vec![b'x'; count]),
            Behaviour::Linger => Outcome::exit(0).after(Duration::from_mins(1)),
        };
        let stage = key.to_string();
        self.0.script(server.server, &stage, 1, outcome.clone());
        // A second run must not go unseen because it would do something else.
        self.0.script(server.server, &stage, 2, outcome);
        (String::new(), stage)
    }

    fn runs(&self, _server: &Endpoint, key: OrderKey) -> usize {
        self.0.runs(key)
    }

    fn lose(&self, server: &Endpoint, _key: OrderKey) {
        self.0.reboot(server.server);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_conforms() {
    conformance::suite(&Local::new()).await;
}

#[tokio::test]
async fn fake_conforms() {
    conformance::suite(&Fake(Arc::new(FakeExecutor::new()))).await;
}

#[tokio::test]
async fn local_refuses_roots_outside_its_folders() {
    let local = Local::new();
    let hosts = local.folder.path().join("hosts");
    let hosts = hosts.to_str().expect("the path is UTF-8");
    let sideways = format!("{hosts}/../programs");
    let nearly = format!("{hosts}-2/web");
    for root in ["", "relative", "/", "/etc", hosts, &sideways, &nearly] {
        let server = endpoint(root);
        let answer = local.executor.look(&server, new_key(), 0).await;
        assert!(matches!(answer, Err(DriverError::Refused(_))), "{root}: {answer:?}");
        let answer = local.executor.report(&server, &script("exit 3")).await;
        assert!(matches!(answer, Err(DriverError::Refused(_))), "{root}: {answer:?}");
    }
    let bad = LocalExecutor::new(local.folder.path(), vec![PathBuf::from("/srv/../etc")]);
    assert!(matches!(bad, Err(Error::Prefix { .. })));
}

#[tokio::test]
async fn local_gives_a_script_its_environment_and_nothing_else() {
    let local = Local::new();
    let server = local.server("web");
    let mut order = local_order(&server, "env | cut -d= -f1 | sort");
    order.environment.insert("CAPSTAN_VERSION".to_owned(), "1.0".to_owned());
    local.executor.start(&server, &order).await.expect("it is taken");
    let deadline = Instant::now() + Duration::from_secs(30);
    let look = loop {
        assert!(Instant::now() < deadline, "the order does not end");
        let look = local.executor.look(&server, order.key, 0).await.expect("look answers");
        if look.state != OrderState::Running {
            break look;
        }
    };
    assert_eq!(look.state, OrderState::Ended(0));
    let output = String::from_utf8(look.output).expect("names are text");
    for name in output.lines() {
        let is_known = name.starts_with("CAPSTAN_")
            || ["PATH", "HOME", "LANG", "PWD", "OLDPWD", "SHLVL", "_"].contains(&name);
        assert!(is_known, "{name} reached the script");
    }
    assert!(output.lines().any(|name| name == "CAPSTAN_VERSION"));
}

#[tokio::test]
async fn local_refuses_what_no_host_may_run() {
    let local = Local::new();
    let server = local.server("web");
    let mut changed = local_order(&server, "exit 0");
    changed.script = Arc::new(capstan_core::ports::Script {
        sha256: changed.script.sha256.clone(),
        body: "exit 1".to_owned(),
    });
    let mut preloaded = local_order(&server, "exit 0");
    preloaded.environment.insert("LD_PRELOAD".to_owned(), "/tmp/x.so".to_owned());
    let mut elsewhere = local_order(&server, "exit 0");
    elsewhere.environment.insert("CAPSTAN_ROOT".to_owned(), "/etc".to_owned());
    let mut fenceless = local_order(&server, "exit 0");
    fenceless.fence = 0;
    for (order, reason) in [
        (changed, "digest: the script has sha256"),
        (preloaded, "`LD_PRELOAD`"),
        (elsewhere, "for another root"),
        (fenceless, "CAPSTAN_FENCE must be"),
    ] {
        match local.executor.start(&server, &order).await {
            Err(DriverError::Refused(sentence)) => assert!(sentence.contains(reason), "{sentence}"),
            other => panic!("{reason}: {other:?}"),
        }
        let look = local.executor.look(&server, order.key, 0).await.expect("look answers");
        assert_eq!(look.state, OrderState::Unknown);
    }
}

#[tokio::test]
async fn local_reports() {
    let local = Local::new();
    let server = local.server("web");
    let digest = "ab".repeat(32);
    let report = async |body: &str| local.executor.report(&server, &script(body)).await;
    let running = Report { version: "1.0".to_owned(), sha256: digest.clone() };
    assert_eq!(report(&format!("echo 1.0 {digest}")).await, Ok(Some(running.clone())));
    let python = format!("#!/usr/bin/env python3\nprint('1.0 {digest}')\n");
    assert_eq!(report(&python).await, Ok(Some(running)));
    assert_eq!(report("exit 3").await, Ok(None));
    assert!(matches!(report("echo 1.0").await, Err(DriverError::Refused(_))));
    assert_eq!(
        report("echo capstan: no root; exit 20").await,
        Err(DriverError::Refused("web-1: capstan: no root".to_owned()))
    );
    assert!(matches!(report("exit 1").await, Err(DriverError::Unknown(_))));
    let began = Instant::now();
    assert!(matches!(report("sleep 30").await, Err(DriverError::Unknown(_))));
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn local_is_busy_when_its_processes_are() {
    let local = Local::new();
    let executor = LocalExecutor::new(
        local.folder.path().join("programs"),
        vec![local.folder.path().join("hosts")],
    );
    let executor = executor.expect("the folder can be written").with_processes(1);
    let server = local.server("web");
    let slow = script("sleep 1; exit 3");
    let (first, second) =
        tokio::join!(executor.report(&server, &slow), executor.look(&server, new_key(), 0));
    assert_eq!(first, Ok(None));
    assert!(matches!(second, Err(DriverError::Busy(_))), "{second:?}");
}

fn stage_order(stage: &str, version: &str) -> Order {
    let environment =
        [("CAPSTAN_STAGE", stage), ("CAPSTAN_VERSION", version), ("CAPSTAN_PACKAGE_SHA256", "00")];
    Order {
        key: new_key(),
        fence: 1,
        time_limit: Duration::from_mins(1),
        script: Arc::new(script("")),
        environment: environment
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    }
}

#[tokio::test]
async fn fake_knows_what_its_servers_run() {
    let fake = FakeExecutor::new();
    let server = endpoint("/srv/web");
    let start = async |order: Order| fake.start(&server, &order).await;
    assert_eq!(start(stage_order("CHECK", "1")).await, Ok(OrderState::Ended(20)));
    assert_eq!(start(stage_order("INSTALL", "1")).await, Ok(OrderState::Ended(0)));
    assert_eq!(start(stage_order("VERIFY", "1")).await, Ok(OrderState::Ended(0)));
    assert_eq!(start(stage_order("VERIFY", "2")).await, Ok(OrderState::Ended(20)));
    fake.script(server.server, "INSTALL", 2, Outcome::exit(1));
    assert_eq!(start(stage_order("INSTALL", "2")).await, Ok(OrderState::Ended(1)));
    let running = fake.report(&server, &script("")).await.expect("report answers");
    assert_eq!(running.map(|report| report.version), Some("1".to_owned()));
    let stages: Vec<_> = fake.history(server.server).into_iter().map(|ran| ran.stage).collect();
    assert_eq!(stages, ["CHECK", "INSTALL", "VERIFY", "VERIFY", "INSTALL"]);
}

#[tokio::test]
async fn fake_loses_questions_answers_and_memories() {
    let fake = FakeExecutor::with_rule(|asked| match asked.nth {
        1 => Outcome::exit(0).with(Fault::LoseQuestion),
        2 => Outcome::exit(0).with(Fault::LoseAnswer),
        3 => Outcome::ends(End::Forget),
        4 => Outcome::ends(End::Vanish),
        5 => Outcome::exit(0).with(Fault::Busy),
        6 => Outcome::exit(0).with(Fault::Refuse),
        _ => Outcome::exit(0).never(),
    });
    let server = endpoint("/srv/web");
    let give = async || {
        let order = stage_order("INSTALL", "1");
        let answer = fake.start(&server, &order).await;
        let look = fake.look(&server, order.key, 0).await.expect("look answers");
        (answer, look.state, fake.runs(order.key))
    };
    let (answer, state, runs) = give().await;
    assert!(matches!(answer, Err(DriverError::Unknown(_))));
    assert_eq!((state, runs), (OrderState::Unknown, 0));
    let (answer, state, runs) = give().await;
    assert!(matches!(answer, Err(DriverError::Unknown(_))));
    assert_eq!((state, runs), (OrderState::Ended(0), 1));
    assert_eq!(give().await.1, OrderState::Unknown);
    assert_eq!(give().await.1, OrderState::Lost);
    assert!(matches!(give().await.0, Err(DriverError::Busy(_))));
    assert!(matches!(give().await.0, Err(DriverError::Refused(_))));
    assert_eq!(give().await.0, Ok(OrderState::Running));
    fake.cut_off(server.server);
    let look = fake.look(&server, new_key(), 0).await;
    assert!(matches!(look, Err(DriverError::Unknown(_))));
    fake.reconnect(server.server);
    fake.wipe(server.server);
    assert_eq!(fake.running(server.server), None);
}

#[tokio::test]
async fn a_slow_answer_becomes_unknown_behind_the_guard() {
    let fake =
        FakeExecutor::with_rule(|_| Outcome::exit(0).with(Fault::Delay(Duration::from_secs(30))));
    let guarded = Guard::executor("salt", Arc::new(fake)).with_limit(Duration::from_millis(50));
    let order = stage_order("INSTALL", "1");
    let server = endpoint("/srv/web");
    assert_eq!(
        guarded.start(&server, &order).await,
        Err(DriverError::Unknown("`salt` did not answer `start` within 50 ms".to_owned()))
    );
    // It did happen.
    let look = guarded.look(&server, order.key, 0).await.expect("look answers");
    assert_eq!(look.state, OrderState::Ended(0));
}

#[tokio::test]
async fn fake_takes_a_whole_fleet_at_speed() {
    let fake = FakeExecutor::new();
    let began = Instant::now();
    for _ in 0..10_000 {
        let server = endpoint("/srv/web");
        for stage in ["DOWNLOAD", "INSTALL", "VERIFY"] {
            let answer = fake.start(&server, &stage_order(stage, "1")).await;
            assert_eq!(answer, Ok(OrderState::Ended(0)));
        }
    }
    assert_eq!(fake.total_runs(), 30_000);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
