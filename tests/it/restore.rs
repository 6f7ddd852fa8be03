//! The database is backed up while a rollout is under way, lost, and restored: docs/operations.md, tried.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use capstan_core::decide::RESTORED_FENCES;
use capstan_core::event::{Event, EventType};
use reqwest::Method;
use serde_json::json;

use crate::crash::{LOOK_EVERY, assert_keys_ran_once};
use crate::harness::{Demo, PATIENCE};

/// How long a program may take, in seconds: what it asks of the database may wait for a lock.
const PROGRAM_SECONDS: &str = "120";

/// The database of a demo, in the hands of whoever backs it up.
enum Kept {
    File(PathBuf),
    Postgres(String),
    MariaDb { port: String, name: String },
}

impl Kept {
    fn of(demo: &Demo) -> Self {
        if demo.is_on_file() {
            return Self::File(demo.data().join("capstan.db"));
        }
        let url = demo.database();
        if url.starts_with("postgres") {
            return Self::Postgres(url.to_owned());
        }
        let place = url.split_once("127.0.0.1:").expect("a server of a test").1;
        let (port, name) = place.split_once('/').expect("a database");
        Self::MariaDb { port: port.to_owned(), name: name.to_owned() }
    }

    fn url(&self) -> String {
        match self {
            Self::File(path) => format!("sqlite://{}", path.display()),
            Self::Postgres(url) => url.clone(),
            Self::MariaDb { port, name } => format!("mysql://root@127.0.0.1:{port}/{name}"),
        }
    }

    fn back_up(&self, backup: &Path) {
        let backup = backup.display();
        match self {
            Self::File(path) => {
                let statement = format!("VACUUM INTO '{backup}'");
                run(program("sqlite3").arg(path).arg(statement));
            }
            Self::Postgres(url) => {
                let dump = format!("--file={backup}");
                run(program("pg_dump").args(["--format=custom", &dump, url]));
            }
            Self::MariaDb { port, name } => {
                let dump = format!("--result-file={backup}");
                let options = ["--single-transaction", "--triggers", &dump, name];
                run(client("mariadb-dump", port).args(options));
            }
        }
    }

    /// The database is gone, and comes back as it was backed up.
    fn restore(&self, backup: &Path) {
        match self {
            Self::File(path) => {
                for end in ["db", "db-wal", "db-shm"] {
                    let gone = std::fs::remove_file(path.with_extension(end));
                    assert!(gone.is_ok() || end != "db");
                }
                std::fs::copy(backup, path).unwrap();
            }
            Self::Postgres(url) => {
                let (server, name) = url.rsplit_once('/').expect("a database");
                for statement in [
                    format!("DROP DATABASE {name} WITH (FORCE)"),
                    format!("CREATE DATABASE {name}"),
                ] {
                    let server = format!("{server}/postgres");
                    run(program("psql").args(["-q", "-c", &statement, &server]));
                }
                let into = format!("--dbname={url}");
                run(program("pg_restore").args(["--exit-on-error", &into]).arg(backup));
            }
            Self::MariaDb { port, name } => {
                let statement = format!("DROP DATABASE {name}; CREATE DATABASE {name}");
                run(client("mariadb", port).args(["-e", &statement]));
                let dump = std::fs::File::open(backup).unwrap();
                run(client("mariadb", port).arg(name).stdin(dump));
            }
        }
    }
}

/// A program that is ended when it takes long.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args([PROGRAM_SECONDS, name]);
    command
}

/// A client of `MariaDB` for a server of a test.
pub(crate) fn client(name: &str, port: &str) -> Command {
    let mut client = program(name);
    client.args(["--no-defaults", "-h", "127.0.0.1", "-u", "root", "-P", port]);
    client
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}

fn raise_fences(kept: &Kept) -> Output {
    let folder = tempfile::tempdir().unwrap();
    program(env!("CARGO_BIN_EXE_capstan"))
        .args(["fence", "raise"])
        .current_dir(folder.path())
        .env("CAPSTAN__DATABASE__URL", kept.url())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Loses the database, restores it and starts again, as the runbook says.
async fn lose_and_restore(demo: &mut Demo, kept: &Kept, backup: &Path) {
    let refused = raise_fences(kept);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("stop"), "a Capstan runs on it: {said}");
    demo.kill();
    kept.restore(backup);
    let raised = raise_fences(kept);
    let said = String::from_utf8_lossy(&raised.stderr);
    assert!(raised.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&raised.stdout).contains("of 1 groups are raised"));
    demo.run(&[]).await;
}

/// Clicks what a person would, until it has ended well.
async fn drive(demo: &Demo, deployment: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let view = demo.deployment(deployment).await;
        if view.status.is_final() {
            assert_eq!(view.shown_status, "SUCCESS", "{:?}", view.counts);
            return;
        }
        assert!(Instant::now() < deadline, "{}: {:?}", view.shown_status, view.waiting_for);
        for action in ["retry", "bake", "rollout"] {
            if view.allowed_actions.iter().any(|allowed| allowed.word() == action) {
                let path = format!("deployments/{deployment}/{action}");
                // Refused: it went on by itself meanwhile.
                demo.call(Method::POST, &path, Some(json!({}))).await;
                break;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn assert_rules(events: &[Event]) {
    if let Err(violations) = capstan_core::checker::check(events) {
        panic!("{violations:#?}");
    }
}

/// Hosts have seen fences past everything that was given out before.
fn assert_fences_raised(demo: &Demo) {
    for place in 1..=usize::from(demo.hosts) {
        let path = demo.root(place).join(".capstan/fence");
        let fence: i64 = std::fs::read_to_string(&path).unwrap().trim().parse().unwrap();
        assert!(fence > RESTORED_FENCES, "{}: {fence}", path.display());
    }
}

/// After the backup the rollout ended, and was rolled back: every host runs something else than what the
/// restored record says of it, and has ended the orders that it has under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_was_under_way_in_a_backup_comes_to_its_end() {
    let mut demo = Demo::start(4).await;
    let kept = Kept::of(&demo);
    // Verify takes as long as a backup, at least.
    demo.settle_for(3).await;
    let config = json!({"max_unavailable": 50, "batch_pattern": "50%+50%"});
    let deployment = demo.create("1.1.0", config).await;
    demo.click_past_the_bastion(&deployment).await;
    demo.wait_until(&deployment, |view| view.counts.contains_key("VERIFY_RUNNING")).await;
    let backup = demo.folder().join("backup");
    kept.back_up(&backup);
    drive(&demo, &deployment).await;
    let back = demo.roll_back().await;
    drive(&demo, &back).await;
    demo.assert_all_run("1.0.0").await;

    lose_and_restore(&mut demo, &kept, &backup).await;
    assert_eq!(demo.newest().await.id.to_string(), deployment, "what came later is not known");
    drive(&demo, &deployment).await;
    demo.assert_all_run("1.1.0").await;
    let events = demo.events(&deployment).await;
    assert_rules(&events);
    let anew = |event: &&Event| {
        let said = event.data.message.as_deref();
        event.kind == EventType::TargetTry && said.is_some_and(|it| it.contains("backup"))
    };
    assert!(events.iter().filter(anew).count() > 0, "nothing was under way in the backup");
    let relapsed = |event: &&Event| event.cause.is_some_and(|cause| cause.word() == "relapsed");
    assert!(events.iter().filter(relapsed).count() > 0, "no success was doubted");
    assert_fences_raised(&demo);
    assert_keys_ran_once(&demo.data(), "restored");
}

/// The backup knows nothing of the release that the hosts run.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_ahead_of_a_backup_get_the_next_release() {
    let mut demo = Demo::start(3).await;
    let kept = Kept::of(&demo);
    demo.settle_for(1).await;
    let before = demo.create("1.1.0", json!({})).await;
    drive(&demo, &before).await;
    let backup = demo.folder().join("backup");
    kept.back_up(&backup);
    let lost = demo.create("1.0.0", json!({})).await;
    drive(&demo, &lost).await;

    lose_and_restore(&mut demo, &kept, &backup).await;
    demo.assert_all_run("1.0.0").await;
    let next = demo.create("1.1.0", json!({})).await;
    drive(&demo, &next).await;
    demo.assert_all_run("1.1.0").await;
    let mut events = demo.events(&before).await;
    events.extend(demo.events(&next).await);
    assert_rules(&events);
    assert_fences_raised(&demo);
    assert_keys_ran_once(&demo.data(), "restored");
}
