//! Messages about changes in the CMDB when something hangs, with an inbox that the tests script.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use capstan_controller::Settings;
use capstan_core::message::{Inbox, Incoming, Replayed, Verdict, Waiting};
use capstan_core::ports::{Call, DriverError};
use capstan_services::Lines;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fakes::record;
use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(30);
/// Less than a call to the CMDB may take.
const SOON: Duration = Duration::from_secs(5);

/// A broker in memory: what is not settled comes again after the connection was given up.
#[derive(Default)]
struct ScriptedInbox {
    state: Mutex<State>,
    news: Notify,
    given_up: Notify,
    connections: AtomicU32,
    is_mute: AtomicBool,
}

#[derive(Default)]
struct State {
    next_tag: u64,
    queue: VecDeque<Incoming>,
    open: Vec<Incoming>,
    settled: Vec<(String, Verdict)>,
}

impl ScriptedInbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, group: &str, revision: i64) {
        let body = json!({"specversion": "1.0", "data": {"group": group, "revision": revision}});
        let mut state = self.state();
        state.next_tag += 1;
        let tag = state.next_tag;
        let key = format!("{group} {revision}");
        state.queue.push_back(Incoming { tag, key, body: body.to_string().into_bytes() });
        self.news.notify_one();
    }

    fn settled(&self, group: &str) -> Vec<Verdict> {
        let state = self.state();
        let of_it = state.settled.iter().filter(|(key, _)| key.starts_with(&format!("{group} ")));
        of_it.map(|(_, verdict)| verdict.clone()).collect()
    }

    async fn until_settled(&self, group: &str, count: usize, within: Duration) {
        let came = tokio::time::timeout(within, async {
            while self.settled(group).len() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(came.await.is_ok(), "{group}: {:?}", self.state().settled);
    }

    /// Waits until everything that was told is with the controller.
    async fn until_taken(&self) {
        let taken = tokio::time::timeout(PATIENCE, async {
            while !self.state().queue.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        taken.await.expect("all are taken");
    }
}

impl Inbox for ScriptedInbox {
    fn next(&self) -> Call<'_, Incoming> {
        Box::pin(async {
            loop {
                {
                    let mut state = self.state();
                    if let Some(incoming) = state.queue.pop_front() {
                        state.open.push(incoming.clone());
                        return Ok(incoming);
                    }
                }
                tokio::select! {
                    biased;
                    () = self.given_up.notified() => {
                        return Err(DriverError::Busy("given up".to_owned()));
                    }
                    () = self.news.notified() => {}
                }
            }
        })
    }

    fn settle(&self, tag: u64, verdict: Verdict) -> Call<'_, ()> {
        Box::pin(async move {
            if self.is_mute.load(Ordering::SeqCst) {
                return Err(DriverError::Busy("scripted: not asked".to_owned()));
            }
            let mut state = self.state();
            if let Some(at) = state.open.iter().position(|it| it.tag == tag) {
                let incoming = state.open.remove(at);
                state.settled.push((incoming.key, verdict));
            }
            Ok(())
        })
    }

    fn close(&self) -> Call<'_, ()> {
        Box::pin(async {
            self.connections.fetch_add(1, Ordering::SeqCst);
            let mut state = self.state();
            for mut incoming in std::mem::take(&mut state.open) {
                state.next_tag += 1;
                incoming.tag = state.next_tag;
                state.queue.push_back(incoming);
            }
            self.given_up.notify_one();
            Ok(())
        })
    }

    fn waiting(&self) -> Call<'_, Waiting> {
        Box::pin(async { Ok(Waiting::default()) })
    }

    fn replay(&self, _: u32) -> Call<'_, Replayed> {
        Box::pin(async { Ok(Replayed::default()) })
    }
}

struct Listening {
    world: World,
    inbox: Arc<ScriptedInbox>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Listening {
    async fn start() -> Self {
        let inbox = Arc::<ScriptedInbox>::default();
        let world = World::with_inbox(Settings::default(), Some(inbox.clone())).await;
        let stop = CancellationToken::new();
        let task = tokio::spawn(world.controller.clone().run_messages(stop.clone()));
        Self { world, inbox, stop, task }
    }

    fn calls(&self) -> u32 {
        self.world.cmdb.calls.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_group_that_hangs_keeps_no_other_waiting() {
    let listening = Listening::start().await;
    let (cmdb, inbox) = (&listening.world.cmdb, &listening.inbox);
    cmdb.put(record("broken", "broken", 2));
    cmdb.put(record("web", "web", 2));
    cmdb.hold("broken");
    for _ in 0..40 {
        inbox.tell("broken", 1);
    }
    cmdb.until_asked(1).await;
    inbox.until_taken().await;
    inbox.tell("web", 1);
    inbox.until_settled("web", 1, SOON).await;
    assert!(inbox.settled("broken").is_empty(), "nothing is stored of it");
    let calls = listening.calls();
    assert_eq!(calls, 2, "one for each group");
    cmdb.let_go("broken");
    inbox.until_settled("broken", 40, PATIENCE).await;
    assert_eq!(listening.calls(), calls, "one refresh answers all that came before it");
}

/// However many messages are about it, it takes one place of those that the broker has for us.
#[tokio::test]
async fn of_the_messages_about_a_broken_group_the_newest_waits() {
    let listening = Listening::start().await;
    let (cmdb, inbox) = (&listening.world.cmdb, &listening.inbox);
    cmdb.broken.lock().expect("no test has panicked").insert("broken".to_owned());
    cmdb.put(record("broken", "broken", 2));
    for revision in [1, 3, 9, 2, 9, 4] {
        inbox.tell("broken", revision);
    }
    inbox.until_settled("broken", 5, PATIENCE).await;
    cmdb.until_asked(4).await;
    assert_eq!(inbox.settled("broken"), vec![Verdict::Done; 5], "one is left");
    let open: Vec<_> = inbox.state().open.iter().map(|it| it.key.clone()).collect();
    assert_eq!(open, ["broken 9"]);
    cmdb.broken.lock().expect("no test has panicked").clear();
    for _ in 0..9 {
        cmdb.put(record("broken", "broken", 3));
    }
    inbox.until_settled("broken", 6, PATIENCE).await;
    assert_eq!(inbox.settled("broken"), vec![Verdict::Done; 6]);
    assert_eq!(listening.world.store.group_revision("broken").await.expect("read"), Some(10));
}

#[tokio::test]
async fn what_comes_while_a_refresh_is_under_way_shares_the_next_one() {
    let listening = Listening::start().await;
    let (cmdb, inbox) = (&listening.world.cmdb, &listening.inbox);
    cmdb.put(record("web", "web", 2));
    cmdb.hold("web");
    inbox.tell("web", 1);
    cmdb.until_asked(1).await;
    cmdb.put(record("web", "web", 3));
    for _ in 0..10 {
        inbox.tell("web", 2);
    }
    inbox.until_taken().await;
    assert!(inbox.settled("web").is_empty(), "nothing is answered before it is stored");
    cmdb.let_go("web");
    inbox.until_settled("web", 11, PATIENCE).await;
    assert!(inbox.settled("web").iter().all(|verdict| *verdict == Verdict::Done));
    assert_eq!(listening.calls(), 2);
    assert_eq!(listening.world.store.group_revision("web").await.expect("read"), Some(2));
}

/// Whatever number a message has: nothing says that the record in the cache is as new.
#[tokio::test]
async fn each_message_about_a_group_without_revisions_asks_for_it() {
    let listening = Listening::start().await;
    let (cmdb, inbox) = (&listening.world.cmdb, &listening.inbox);
    for (count, (servers, told)) in [(2, 7), (3, 5), (4, 0), (5, 7)].into_iter().enumerate() {
        cmdb.put_bare(record("web", "web", servers));
        inbox.tell("web", told);
        inbox.until_settled("web", count + 1, PATIENCE).await;
        let store = &listening.world.store;
        let group = store.group_id_by_external("web").await.expect("read").expect("it is known");
        let view = store.group(group).await.expect("read").expect("it is known");
        assert_eq!((view.total as usize, view.cmdb_revision), (servers, 0));
    }
    assert!(inbox.settled("web").iter().all(|verdict| *verdict == Verdict::Done));
    assert_eq!(listening.calls(), 4);
}

#[tokio::test]
async fn a_group_that_the_cmdb_shows_later_than_it_tells_of_is_taken() {
    let listening = Listening::start().await;
    let (cmdb, inbox) = (&listening.world.cmdb, &listening.inbox);
    inbox.tell("new", 1);
    inbox.tell("never", 1);
    // Each is asked for again.
    cmdb.until_asked(4).await;
    assert!(inbox.settled("new").is_empty() && inbox.settled("never").is_empty());
    cmdb.put(record("new", "new", 2));
    inbox.until_settled("new", 1, PATIENCE).await;
    assert_eq!(inbox.settled("new"), [Verdict::Done]);
    inbox.until_settled("never", 1, PATIENCE).await;
    let [Verdict::Poison(reason)] = &inbox.settled("never")[..] else { panic!("it is laid aside") };
    assert!(reason.contains("never") && reason.contains("6 times"), "{reason}");
}

#[tokio::test]
async fn a_broker_that_takes_no_answers_is_asked_less_and_less_and_told_of_once() {
    let lines = Lines::default();
    let _watched = lines.watch();
    let listening = Listening::start().await;
    let inbox = &listening.inbox;
    listening.world.cmdb.put(record("web", "web", 2));
    inbox.is_mute.store(true, Ordering::SeqCst);
    let began = Instant::now();
    for _ in 0..3 {
        inbox.tell("web", 1);
    }
    let connected = tokio::time::timeout(PATIENCE, async {
        while inbox.connections.load(Ordering::SeqCst) < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    connected.await.expect("it connects again");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1750), "it waits 250 ms, 500 ms, 1 s at least: {took:?}");
    assert_eq!(lines.count("WARN", "no messages of the CMDB"), 1);
    inbox.is_mute.store(false, Ordering::SeqCst);
    inbox.until_settled("web", 3, PATIENCE).await;
    assert_eq!(lines.count("INFO", "messages of the CMDB come again"), 1);
    assert_eq!(lines.count("WARN", ""), 1, "{lines:?}");
}

#[tokio::test]
async fn a_cmdb_that_hangs_delays_no_stop() {
    let listening = Listening::start().await;
    listening.world.cmdb.put(record("web", "web", 2));
    listening.world.cmdb.hold("web");
    listening.inbox.tell("web", 1);
    listening.world.cmdb.until_asked(1).await;
    listening.stop.cancel();
    let ended = tokio::time::timeout(SOON, listening.task).await;
    ended.expect("it ends at once").expect("it ends well");
    assert!(listening.inbox.settled("web").is_empty());
    assert_eq!(listening.inbox.state().queue.len(), 1, "it comes again, to another process");
}
