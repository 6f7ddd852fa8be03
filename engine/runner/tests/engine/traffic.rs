//! Load balancers that drain: what is waited for, what is left alone, and what comes too late.

use std::time::Duration;

use capstan_core::action::Action;
use capstan_core::config::ConfigRequest;
use capstan_core::record::{OutBecause, Service};
use capstan_drivers::fake::{Act, Asked, Fault, Outcome};

use crate::world::{World, draft, success};

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
