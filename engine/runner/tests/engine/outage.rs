//! A database that is away for longer than a stage may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use capstan_core::action::Action;
use capstan_core::config::ConfigRequest;
use capstan_drivers::fake::{Asked, Fault, Outcome};
use capstan_services::Database;

use crate::world::{PATIENCE, World, success};

const LEASE: Duration = Duration::from_millis(1_200);
/// More than any stage may take.
const LONG: Duration = Duration::from_mins(20);
/// More than the longest wait between two steps of a stage.
const STEPS: Duration = Duration::from_secs(2);

/// The stage says nothing of its host, so it does not fail for it: it begins when the database is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_could_not_begin_in_its_time_begins_afterwards() {
    let (database, line) = Database::shared().behind_a_line();
    let settings =
        capstan_store::Settings { lease: LEASE, ..capstan_store::Settings::new(&database.url) };
    let (is_busy, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
    let (busy, count) = (Arc::clone(&is_busy), Arc::clone(&asked));
    let rule = move |it: &Asked<'_>| {
        let is_install = it.stage == "INSTALL";
        count.fetch_add(u32::from(is_install), Ordering::SeqCst);
        let fault = is_install && busy.load(Ordering::SeqCst);
        Outcome::exit(0).with(if fault { Fault::Busy } else { Fault::None })
    };
    let world = World::shared(&settings, 2, ConfigRequest::default(), rule).await;
    let engine = world.engine(8);
    world.act(Action::Start).await;
    until("a stage waits for its host", async || asked.load(Ordering::SeqCst) > 0).await;

    line.silence();
    until("the process does not act without the database", async || !world.store.may_act()).await;
    // A step may have begun just before.
    tokio::time::sleep(STEPS).await;
    is_busy.store(false, Ordering::SeqCst);
    let so_far = asked.load(Ordering::SeqCst);
    world.clock.pass(LONG);
    tokio::time::sleep(STEPS).await;
    assert_eq!(asked.load(Ordering::SeqCst), so_far, "nothing is asked of a host meanwhile");
    line.open();

    // Connections that were cut fail the first who gets them.
    until("it comes to its end", async || {
        let view = world.store.deployment_view(world.deployment).await;
        view.is_ok_and(|view| view.is_some_and(|view| success(&view)))
    })
    .await;
    world.assert_right().await;
    engine.stop().await;
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}
