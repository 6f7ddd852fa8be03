//! Two engines that each think that a server is theirs: one stood still for longer than its lease while an
//! order of its own was on the way to a host. What a late act does to a load balancer is tested where
//! there is one that can drain: `engine/runner/tests/engine/split_brain.rs`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::crash::assert_keys_ran_once;
use crate::disk::run;
use crate::harness::{Demo, PATIENCE, processes_with};
use crate::many::{Process, assert_rules, create, drive};

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A host on which orders stop at the lock, before they are known and before they have read the fence: a
/// pipe stands in its place, and whoever opens it waits for a reader.
struct StoppedHost {
    root: PathBuf,
}

impl StoppedHost {
    fn at(root: PathBuf) -> Self {
        let host = Self { root };
        std::fs::create_dir_all(host.state().join("orders")).unwrap();
        let pipe = host.pipe();
        drop(std::fs::remove_file(&pipe));
        run("mkfifo", &["-m", "600", pipe.to_str().unwrap()]);
        std::fs::rename(&pipe, host.lock()).unwrap();
        host
    }

    fn state(&self) -> PathBuf {
        self.root.join(".capstan")
    }

    fn lock(&self) -> PathBuf {
        self.state().join("lock")
    }

    /// Where the pipe is once others pass.
    fn pipe(&self) -> PathBuf {
        self.state().join("stopped")
    }

    /// Waits until the start of an order stands at the lock.
    async fn late_start(&self) -> LateStart {
        let mark = format!("CAPSTAN_ROOT={}", self.root.display());
        let deadline = Instant::now() + PATIENCE;
        loop {
            for pid in processes_with(&mark) {
                if self.stands_at_lock(pid)
                    && let Some(start) = LateStart::of(pid)
                {
                    return start;
                }
            }
            assert!(Instant::now() < deadline, "no order comes to {}", self.root.display());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// It has read its script, and runs no program.
    fn stands_at_lock(&self, pid: u32) -> bool {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        self.state().join(format!("incoming.{pid}")).exists()
            && children.is_ok_and(|text| text.is_empty())
            && stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('S'))
    }

    /// Orders that come from now on do not stop; who stands there stays.
    fn let_others_pass(&self) {
        std::fs::rename(self.lock(), self.pipe()).unwrap();
    }
}

/// The start of an order that stands still on its host.
#[derive(Debug)]
struct LateStart {
    key: String,
    fence: i64,
    /// Where it answers: the engine that asked does not listen.
    answer: File,
}

impl LateStart {
    fn of(pid: u32) -> Option<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let environment = String::from_utf8(std::fs::read(folder.join("environ")).ok()?).ok()?;
        let value = |name: &str| {
            environment.split('\0').find_map(|entry| entry.strip_prefix(name)).map(str::to_owned)
        };
        let (key, fence) = (value("CAPSTAN_KEY=")?, value("CAPSTAN_FENCE=")?.parse().ok()?);
        Some(Self { key, fence, answer: File::open(folder.join("fd/1")).ok()? })
    }

    fn order(&self, root: &Path) -> PathBuf {
        root.join(".capstan/orders").join(&self.key)
    }

    /// How often it was begun; none: the host does not know it.
    fn runs(&self, root: &Path) -> Option<usize> {
        let order = self.order(root);
        order.exists().then(|| {
            let runs = std::fs::read_to_string(order.join("runs")).unwrap_or_default();
            runs.lines().count()
        })
    }

    /// Lets it go on, and gives what the host answers.
    fn go_on(&self, host: &StoppedHost) -> String {
        // For writing too: who only reads a pipe waits for a writer, and the one that stood there may be gone.
        let _reader = File::options().read(true).write(true).open(host.pipe()).unwrap();
        let mut answer = self.answer.try_clone().unwrap();
        let (sender, receiver) = mpsc::channel();
        // Not a task: the end of the test would wait for it.
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = answer.read_to_string(&mut text);
            // The test may not wait any more.
            drop(sender.send(read.map(|_| text)));
        });
        let answer = tokio::task::block_in_place(|| receiver.recv_timeout(PATIENCE));
        answer.expect("the host answers").unwrap().trim().to_owned()
    }
}

/// What the host still knows of the late order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// The engine that took over has run it, under its key.
    Known,
    /// It was long ago: hosts forget their oldest orders.
    Forgotten,
}

/// A frozen engine's order comes to the host after another engine has released it. It runs nothing: the
/// host knows its key, and if it has forgotten that, it has seen a higher fence.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_frozen_engine_had_ordered_is_refused_on_the_host() {
    let demo = Demo::start_without_engine(2).await;
    for (version, memory) in [("1.1.0", Memory::Known), ("1.0.0", Memory::Forgotten)] {
        let deployment = create(&demo, version).await;
        let host = StoppedHost::at(demo.root(1));
        let mut frozen = Process::engine(&demo);
        let late = host.late_start().await;
        frozen.signal("-STOP");
        host.let_others_pass();
        assert_eq!(late.runs(&host.root), None, "it has not been begun");

        let _other = Process::engine(&demo);
        drive(&demo, &deployment).await;
        assert_eq!(late.runs(&host.root), Some(1), "whoever took over has run it");
        if memory == Memory::Forgotten {
            std::fs::remove_dir_all(late.order(&host.root)).unwrap();
        }
        let answer = late.go_on(&host);
        match memory {
            Memory::Known => {
                assert_eq!(answer, "ended 0");
                assert_eq!(late.runs(&host.root), Some(1));
            }
            Memory::Forgotten => {
                let seen = answer.strip_prefix("stale ").expect(&answer);
                assert!(seen.parse::<i64>().unwrap() > late.fence, "{answer}: {late:?}");
                assert_eq!(late.runs(&host.root), None, "it is not begun");
            }
        }

        frozen.signal("-CONT");
        assert_eq!(frozen.ended().await.code(), Some(75), "{}", frozen.log());
        demo.assert_all_run(version).await;
        assert_keys_ran_once(&demo.data(), version);
        assert_rules(&demo.events(&deployment).await);
    }
}
