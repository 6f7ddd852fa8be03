//! The traps of a job queue, each with a test that would catch it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use capstan_core::action::Action;
use capstan_core::config::ConfigRequest;
use capstan_core::event::EventType;
use capstan_drivers::fake::{Asked, Fault, Outcome};
use capstan_runner::Settings;
use capstan_store::Store;

use crate::world::{PATIENCE, World, record, success};

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_with_a_balancer_that_drains_comes_to_success() {
    let world = World::new(60, ConfigRequest::default(), |_| Outcome::exit(0)).await;
    let engine = world.engine(64);
    world.act(Action::Start).await;
    world.wait(success).await;
    world.assert_right().await;
    assert_eq!(world.hosts.total_runs(), 60 * 3, "download, install and verify of each");
    engine.stop().await;
}

/// Hosts that work longer than there are slots for: nothing is claimed twice, nothing starves.
#[tokio::test(flavor = "multi_thread")]
async fn long_stages_on_few_slots_run_once() {
    let slow = |_: &Asked<'_>| Outcome::exit(0).after(Duration::from_millis(300));
    let world = World::new(24, ConfigRequest::default(), slow).await;
    let engine = world.engine(2);
    world.act(Action::Start).await;
    world.wait(success).await;
    world.assert_right().await;
    assert_eq!(world.hosts.total_runs(), 24 * 3);
    engine.stop().await;
}

/// A timer with nothing else going on: the engine wakes for it by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_between_batches_ends_without_a_lost_wake_up() {
    let config = ConfigRequest { batch_wait_seconds: Some(1), ..ConfigRequest::default() };
    let world = World::new(8, config, |_| Outcome::exit(0)).await;
    let engine = world.engine(8);
    world.act(Action::Start).await;
    let view = world.wait(success).await;
    let took = view.ended_at.unwrap().since(view.started_at.unwrap());
    assert!(took >= Duration::from_secs(3), "three waits of a second, it took {took:?}");
    world.assert_right().await;
    engine.stop().await;
}

/// A graceful stop in the middle, and another engine in the same process.
#[tokio::test(flavor = "multi_thread")]
async fn another_engine_goes_on_where_the_first_stopped() {
    let slow = |_: &Asked<'_>| Outcome::exit(0).after(Duration::from_millis(200));
    let world = World::new(16, ConfigRequest::default(), slow).await;
    let engine = world.engine(4);
    world.act(Action::Start).await;
    world.wait(|view| view.counts.contains_key("INSTALL_RUNNING")).await;
    engine.stop().await;
    let engine = world.engine(4);
    world.wait(success).await;
    world.assert_right().await;
    engine.stop().await;
}

/// A driver that panics ends one step of one job, and no worker.
#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_panics_costs_a_moment() {
    let panicked = AtomicBool::new(false);
    let once = move |asked: &Asked<'_>| {
        let first = asked.stage == "INSTALL" && !panicked.swap(true, Ordering::SeqCst);
        assert!(!first, "a bug in a driver");
        Outcome::exit(0)
    };
    let world = World::new(4, ConfigRequest::default(), once).await;
    let engine = world.engine(4);
    world.act(Action::Start).await;
    world.wait(success).await;
    engine.stop().await;
}

/// Answers are lost, and the order did or did not arrive: it is asked for by its key.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_asked_for_by_key() {
    let lossy = |asked: &Asked<'_>| {
        let mut outcome = Outcome::exit(0);
        outcome.fault = match (asked.stage, asked.nth) {
            ("DOWNLOAD", 1) => Fault::LoseAnswer,
            ("INSTALL", 1) => Fault::LoseQuestion,
            _ => Fault::None,
        };
        outcome
    };
    // An unknown target counts as failed (S2); here nothing shall brake.
    let config = ConfigRequest { max_failure: Some(100), ..ConfigRequest::default() };
    let world = World::new(6, config, lossy).await;
    let engine = world.engine(8);
    world.act(Action::Start).await;
    world.wait(success).await;
    world.assert_right().await;
    engine.stop().await;
}

/// A host that refuses to say how an order stands says nothing of its script: it is asked on (S11).
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_look_is_no_end_of_an_order() {
    let slow = |asked: &Asked<'_>| match asked.stage {
        "DOWNLOAD" => Outcome::exit(0).after(Duration::from_millis(200)),
        _ => Outcome::exit(0),
    };
    // One of four, so that an unknown target does not brake.
    let config = ConfigRequest { max_failure: Some(100), ..ConfigRequest::default() };
    let world = World::new(4, config, slow).await;
    let server = world.store.servers(world.group).await.unwrap()[0].id;
    world.hosts.refuse_looks(server, true);
    let engine = world.engine(8);
    world.act(Action::Start).await;
    world.wait_for_event(EventType::TargetUnknown).await;
    world.hosts.refuse_looks(server, false);
    world.wait(success).await;
    world.assert_right().await;
    engine.stop().await;
}

/// A host that is set up anew under another id is the same instance, with the fence that it has seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_comes_back_under_a_new_id_keeps_its_row() {
    let world = World::new(3, ConfigRequest::default(), |_| Outcome::exit(0)).await;
    let before = world.store.servers(world.group).await.unwrap();
    let mut again = record(3);
    again.revision = 2;
    again.servers[0].id = "s0-new".into();
    world.store.sync_group(again, false).await.unwrap();
    let after = world.store.servers(world.group).await.unwrap();
    let ids = |rows: &[capstan_core::view::ServerView]| {
        rows.iter().map(|row| row.id).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(ids(&before), ids(&after));
    assert!(after.iter().all(|row| !row.retired), "{after:#?}");
}

/// Two instances swap their names in the CMDB: names are unique, also for an instant.
#[tokio::test(flavor = "multi_thread")]
async fn two_servers_may_swap_their_names() {
    let world = World::new(3, ConfigRequest::default(), |_| Outcome::exit(0)).await;
    let mut swapped = record(3);
    swapped.revision = 2;
    swapped.servers[0].hostname = "host-001".into();
    swapped.servers[1].hostname = "host-000".into();
    world.store.sync_group(swapped, false).await.unwrap();
    let servers = world.store.servers(world.group).await.unwrap();
    let name =
        |root: &str| servers.iter().find(|row| row.root == root).map(|row| row.hostname.as_str());
    assert_eq!(name("/srv/0"), Some("host-001"));
    assert_eq!(name("/srv/1"), Some("host-000"));
    assert_eq!(name("/srv/2"), Some("host-002"));
}

/// A second process on the same file would take over what the first is doing.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_in_use_is_not_opened_again() {
    let world = World::new(1, ConfigRequest::default(), |_| Outcome::exit(0)).await;
    let folder = world.folder.as_ref().unwrap().path();
    let url = format!("sqlite://{}", folder.join("capstan.db").display());
    let settings =
        capstan_store::Settings { stale_after: PATIENCE, ..capstan_store::Settings::new(url) };
    let refused = Store::open(&settings).await.unwrap_err().to_string();
    assert!(refused.contains("another Capstan runs on this database"), "{refused}");
}

/// When no more stages may be under way, those that wait hold no slot: looks and timers go on.
#[tokio::test(flavor = "multi_thread")]
async fn stages_that_have_no_room_do_not_keep_others_waiting() {
    let slow = |_: &Asked<'_>| Outcome::exit(0).after(Duration::from_mins(1));
    let config = ConfigRequest { max_unavailable: Some(50), ..ConfigRequest::default() };
    let world = World::new(16, config, slow).await;
    let settings = Settings { slots: 2, under_way: 1, ..Settings::default() };
    let engine = world.engine_with(settings);
    world.act(Action::Start).await;
    let servers = world.store.servers(world.group).await.unwrap();
    let looked_at = tokio::time::timeout(PATIENCE, async {
        while servers.iter().any(|row| world.balancer.calls(row.id).looks < 2) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    looked_at.await.expect("every server is looked at every few seconds");
    engine.stop().await;
}

/// Whoever waited for room is done in the end, once.
#[tokio::test(flavor = "multi_thread")]
async fn stages_that_waited_for_room_run_once() {
    let slow = |_: &Asked<'_>| Outcome::exit(0).after(Duration::from_millis(50));
    let config = ConfigRequest { max_unavailable: Some(50), ..ConfigRequest::default() };
    let world = World::new(40, config, slow).await;
    let settings = Settings { slots: 4, under_way: 2, ..Settings::default() };
    let engine = world.engine_with(settings.clone());
    world.act(Action::Start).await;
    world.wait(|view| view.counts.contains_key("INSTALL_RUNNING")).await;
    engine.stop().await;
    let engine = world.engine_with(settings);
    world.wait(success).await;
    world.assert_right().await;
    assert_eq!(world.hosts.total_runs(), 40 * 3);
    engine.stop().await;
}
