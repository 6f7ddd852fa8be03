//! Load balancers that drain: what is waited for, what is left alone, and what comes too late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use capstan_core::action::Action;
use capstan_core::config::{ConfigRequest, Mode};
use capstan_core::decide::LOOK_INTERVAL;
use capstan_core::event::EventType;
use capstan_core::ports::{Call, Endpoint, LoadBalancer, Seen, Sight};
use capstan_core::record::{Cause, OutBecause, Service};
use capstan_drivers::fake::{Act, Asked, FakeLoadBalancer, Fault, Outcome};
use capstan_runner::Settings;

use crate::world::{PATIENCE, World, draft, success};

/// Requests that are under way when a server is drained are waited for.
#[tokio::test(flavor = "multi_thread")]
async fn markdown_waits_until_requests_under_way_are_done() {
    let world = World::new(2, ConfigRequest::default(), |_| Outcome::exit(0)).await;
    let servers = world.store.servers(world.group).await.unwrap();
    for server in &servers {
        world.balancer.set_in_flight(server.id, 4);
    }
    let engine = world.engine(8);
    world.act(Action::Start).await;
    world.wait(success).await;
    engine.stop().await;
    for server in &servers {
        // Each look ends one request; the host was not touched before the last had ended.
        assert!(world.balancer.calls(server.id).looks >= 5, "{}", server.hostname);
    }
    world.assert_right().await;
}

/// Markup removes our own mark and no other: what somebody else took out stays out (S13).
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_took_out_stays_out() {
    // It stays out and keeps a slot, so two are needed.
    let config = ConfigRequest { max_unavailable: Some(50), ..ConfigRequest::default() };
    let world = World::new(4, config, |_| Outcome::exit(0)).await;
    let server = world.store.servers(world.group).await.unwrap().swap_remove(2);
    world.balancer.take_out(server.id);
    let engine = world.engine(8);
    world.act(Action::Start).await;
    world.wait(success).await;
    engine.stop().await;
    let servers = world.store.servers(world.group).await.unwrap();
    let row = servers.iter().find(|row| row.id == server.id).unwrap();
    assert_eq!((row.service, row.out_because), (Service::Out, Some(OutBecause::Outside)));
    assert_eq!(row.version.as_deref(), Some("1.1.0"), "it has the version all the same");
    world.assert_right().await;
}

/// An act whose answer was lost is not repeated once a later deployment has given its server an order:
/// no load balancer refuses an act that comes too late.
#[tokio::test(flavor = "multi_thread")]
async fn an_act_is_not_repeated_after_a_later_order() {
    let slow_verify = |asked: &Asked<'_>| {
        let wait = if asked.stage == "VERIFY" { 3000 } else { 0 };
        Outcome::exit(0).after(Duration::from_millis(wait))
    };
    let config = ConfigRequest { max_failure: Some(100), ..ConfigRequest::default() };
    let mut world = World::new(1, config.clone(), slow_verify).await;
    let server = world.store.servers(world.group).await.unwrap().swap_remove(0).id;
    world.balancer.fail_all(Act::Admit, Fault::LoseQuestion);
    let engine = world.engine(8);
    world.act(Action::Start).await;
    world.wait(|view| view.counts.contains_key("MARKUP_RUNNING")).await;
    world.act(Action::Revoke).await;

    world.deployment = draft(&world.store, world.group, config, "1.2.0").await;
    world.act(Action::Start).await;
    world.wait(|view| view.counts.contains_key("VERIFY_RUNNING")).await;
    world.balancer.fail_all(Act::Admit, Fault::None);
    let admits = world.balancer.calls(server).admits;
    // Verify takes longer than the longest wait between two repeats.
    world.wait(success).await;
    engine.stop().await;
    assert_eq!(world.balancer.calls(server).admits, admits + 1, "only the Markup of 1.2.0");
}

/// A load balancer whose second drain takes its time before it happens.
struct SlowSecondDrain {
    inner: Arc<FakeLoadBalancer>,
    drains: AtomicU32,
}

impl LoadBalancer for SlowSecondDrain {
    fn can_drain(&self) -> bool {
        true
    }

    fn sees_all_at_once(&self) -> bool {
        true
    }

    fn drain<'a>(&'a self, server: &'a Endpoint) -> Call<'a, ()> {
        Box::pin(async move {
            if self.drains.fetch_add(1, Ordering::SeqCst) == 1 {
                tokio::time::sleep(Duration::from_secs(6)).await;
            }
            self.inner.drain(server).await
        })
    }

    fn admit<'a>(&'a self, server: &'a Endpoint) -> Call<'a, ()> {
        self.inner.admit(server)
    }

    fn observe<'a>(&'a self, servers: &'a [Endpoint]) -> Call<'a, Vec<Seen>> {
        self.inner.observe(servers)
    }
}

/// A drain that was under way when its server's Markup began does not come after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_under_way_does_not_land_after_a_later_markup() {
    let slow_verify = |asked: &Asked<'_>| {
        let wait = if asked.stage == "VERIFY" { 8 } else { 0 };
        Outcome::exit(0).after(Duration::from_secs(wait))
    };
    let world = World::new(1, ConfigRequest::default(), slow_verify).await;
    let server = world.store.servers(world.group).await.unwrap().swap_remove(0).id;
    let slow = SlowSecondDrain { inner: Arc::clone(&world.balancer), drains: AtomicU32::new(0) };
    let engine = world.engine_over(Arc::new(slow), Settings { slots: 8, ..Settings::default() });
    world.act(Action::Start).await;
    world.wait(|view| view.counts.contains_key("VERIFY_RUNNING")).await;
    // The next look sees it in traffic, and it is drained again; that takes until after Verify.
    world.balancer.remove_mark(server);
    world.wait(success).await;
    let landed = tokio::time::timeout(PATIENCE, async {
        while world.balancer.calls(server).drains < 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    landed.await.expect("it was drained again");
    assert_eq!(world.balancer.sight(server), Sight::Serving, "Markup came last");
    engine.stop().await;
    world.assert_right().await;
}

/// A drain that lands long after it was given up on is our own act: its mark is removed again (S13).
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_lands_late_is_put_right() {
    let config = ConfigRequest { mode: Some(Mode::Manual), ..ConfigRequest::default() };
    let world = World::new(4, config, |_| Outcome::exit(0)).await;
    let engine = world.engine(8);
    world.act(Action::Start).await;
    world.wait(|view| view.counts.get("SUCCESS") == Some(&1)).await;
    let servers = world.store.servers(world.group).await.unwrap();
    let done = servers.iter().find(|row| row.version.as_deref() == Some("1.1.0")).unwrap().id;
    let endpoint = world.store.members(world.group).await.unwrap();
    let endpoint = endpoint.into_iter().find(|row| row.server == done).unwrap();
    world.balancer.drain(&endpoint).await.unwrap();
    let landed = Instant::now();
    world.wait_for_event(EventType::ServerOut).await;
    world.wait_for_event(EventType::ServerIn).await;
    assert!(landed.elapsed() < Duration::from_secs(10), "S13: {:?}", landed.elapsed());
    assert_eq!(world.balancer.sight(done), Sight::Serving);
    engine.stop().await;
    world.assert_right().await;
}

/// A lost answer to a Markup is asked for until the limit and the grace have passed (S11), though its
/// proof is too old to act again long before (S5).
#[tokio::test(flavor = "multi_thread")]
async fn a_markup_whose_answer_is_lost_for_long_is_unreachable() {
    let config = ConfigRequest { max_failure: Some(100), ..ConfigRequest::default() };
    let world = World::new(1, config, |_| Outcome::exit(0)).await;
    let server = world.store.servers(world.group).await.unwrap().swap_remove(0).id;
    world.balancer.fail_all(Act::Admit, Fault::LoseQuestion);
    let engine = world.engine(8);
    world.act(Action::Start).await;
    world.wait_for_event(EventType::TargetUnknown).await;
    world.clock.pass(Duration::from_secs(70));
    let looks = world.balancer.calls(server).looks;
    let asked_on = tokio::time::timeout(PATIENCE, async {
        while world.balancer.calls(server).looks < looks + 3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    asked_on.await.expect("it is asked for");
    let view = world.view().await;
    assert!(view.counts.contains_key("MARKUP_RUNNING"), "{:?}", view.counts);
    world.clock.pass(Duration::from_mins(2));
    world.wait(|view| view.counts.contains_key("MARKUP_FAILURE")).await;
    engine.stop().await;
    let events = world.store.events(world.deployment, 0, 1000).await.unwrap();
    let failed = events
        .iter()
        .find(|event| event.data.to.as_deref() == Some("MARKUP_FAILURE"))
        .expect("it is told");
    assert_eq!(failed.cause, Some(Cause::Unreachable));
    world.assert_right().await;
}

/// The act had happened while its proof was fresh; only that was not known for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_markup_whose_answer_is_found_late_has_succeeded() {
    let config = ConfigRequest { max_failure: Some(100), ..ConfigRequest::default() };
    let world = World::new(1, config, |_| Outcome::exit(0)).await;
    world.balancer.fail_all(Act::Admit, Fault::LoseAnswer);
    let engine = world.engine(8);
    world.act(Action::Start).await;
    world.wait_for_event(EventType::TargetUnknown).await;
    world.clock.pass(Duration::from_secs(70));
    world.wait(success).await;
    engine.stop().await;
    world.assert_right().await;
}

/// Whoever can show a whole group in one call is asked for all of it each time, and who must probe each
/// server by itself for a part (S13).
#[tokio::test(flavor = "multi_thread")]
async fn a_large_group_is_looked_at_as_a_whole_where_one_call_shows_it() {
    for must_probe in [false, true] {
        let slow = |_: &Asked<'_>| Outcome::exit(0).after(Duration::from_mins(1));
        let world = World::new(230, ConfigRequest::default(), slow).await;
        if must_probe {
            world.balancer.must_probe();
        }
        let engine = world.engine(64);
        world.act(Action::Start).await;
        world.wait(|view| view.counts.get("DOWNLOAD_RUNNING") == Some(&57)).await;
        // Nothing but the looks that are asked for here looks at a server that no target has taken.
        let mut untouched = world.store.servers(world.group).await.unwrap();
        untouched.retain(|row| row.service == Service::In);
        let looks = || untouched.iter().map(|row| world.balancer.calls(row.id).looks).sum::<u32>();
        let before = looks();
        let looked = tokio::time::timeout(PATIENCE, async {
            world.pass(LOOK_INTERVAL);
            while looks() == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        looked.await.expect("servers are looked at");
        // A look that has begun ends.
        engine.stop().await;
        let is_whole = (looks() - before) as usize >= untouched.len();
        assert_eq!(is_whole, !must_probe, "{} of {}", looks() - before, untouched.len());
    }
}

/// An act whose answer was lost may have happened, whatever its repeats are answered: it is looked for, and
/// given up by S11 alone.
#[tokio::test(flavor = "multi_thread")]
async fn an_act_that_was_lost_and_then_refused_is_unreachable() {
    for fault in [Fault::Refuse, Fault::Busy] {
        let config = ConfigRequest { max_failure: Some(100), ..ConfigRequest::default() };
        let world = World::new(1, config, |_| Outcome::exit(0)).await;
        let server = world.store.servers(world.group).await.unwrap().swap_remove(0).id;
        world.balancer.fail_next(server, Act::Drain, Fault::LoseQuestion);
        world.balancer.fail_all(Act::Drain, fault.clone());
        let engine = world.engine(8);
        world.act(Action::Start).await;
        world.wait_for_event(EventType::TargetUnknown).await;
        // Past the limit of a Markdown, and not past the grace.
        world.pass(Duration::from_secs(70));
        let looks = world.balancer.calls(server).looks;
        let asked_on = tokio::time::timeout(PATIENCE, async {
            while world.balancer.calls(server).looks < looks + 3 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        asked_on.await.unwrap_or_else(|_| panic!("{fault:?}: it is looked for"));
        world.pass(Duration::from_mins(2));
        world.wait(|view| view.counts.contains_key("MARKDOWN_FAILURE")).await;
        engine.stop().await;
        let events = world.store.events(world.deployment, 0, 1000).await.unwrap();
        let failed =
            events.iter().find(|event| event.data.to.as_deref() == Some("MARKDOWN_FAILURE"));
        assert_eq!(failed.unwrap().cause, Some(Cause::Unreachable), "{fault:?}");
        world.assert_right().await;
    }
}

/// The act that was lost had happened: it is seen, though its repeats are refused.
#[tokio::test(flavor = "multi_thread")]
async fn an_act_that_was_lost_and_then_refused_is_found() {
    // An unknown target counts as failed (S2); here nothing shall brake.
    let config = ConfigRequest { max_failure: Some(100), ..ConfigRequest::default() };
    let world = World::new(2, config, |_| Outcome::exit(0)).await;
    let server = world.store.servers(world.group).await.unwrap().swap_remove(0).id;
    world.balancer.fail_next(server, Act::Drain, Fault::LoseAnswer);
    world.balancer.fail_next(server, Act::Drain, Fault::Refuse);
    let engine = world.engine(8);
    world.act(Action::Start).await;
    world.wait_for_event(EventType::TargetUnknown).await;
    world.wait(success).await;
    engine.stop().await;
    world.assert_right().await;
}
