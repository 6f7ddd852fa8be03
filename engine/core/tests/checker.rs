//! The checker of logs finds what is wrong: a good log is bent in one place, and the rule is named.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use std::time::Duration;

use capstan_core::action::Action;
use capstan_core::checker::check;
use capstan_core::config::ConfigRequest;
use capstan_core::event::{Event, EventType};
use capstan_core::record::{Cause, HoldReason, Service};
use capstan_core::share::Share;
use capstan_core::stage::Stage;

use sim::{Setup, World};

/// The log of a rollout that failed once, was retried and succeeded.
fn good_log() -> Vec<Event> {
    let mut world = World::new(Setup { servers: 8, ..Setup::default() });
    let id = world.rollout(1, ConfigRequest::default());
    world.run_rounds(|_, stage| stage.stage == Stage::Verify, |_| {});
    world.pass(Duration::from_secs(1));
    world.act(id, Action::Retry).unwrap();
    for action in [Action::Bake, Action::Rollout] {
        world.run();
        world.pass(Duration::from_secs(1));
        world.act(id, action).unwrap();
    }
    world.run();
    let log: Vec<Event> = world.events_of(id).cloned().collect();
    check(&log).unwrap();
    log
}

fn goes_to(word: &'static str) -> impl Fn(&Event) -> bool {
    move |event| event.data.to.as_deref() == Some(word)
}

/// Changes the last event for which `wanted` is true; the rules that are then broken.
fn bent(wanted: impl Fn(&Event) -> bool, change: impl Fn(&mut Event)) -> Vec<&'static str> {
    let mut log = good_log();
    change(log.iter_mut().rfind(|event| wanted(event)).expect("there is such an event"));
    rules(&log)
}

fn rules(log: &[Event]) -> Vec<&'static str> {
    let found = check(log).expect_err("the log is bent");
    found.into_iter().map(|violation| violation.rule).collect()
}

/// The log with an event put in before the last one for which `wanted` is true.
fn with_event_before(
    wanted: impl Fn(&Event) -> bool,
    make: impl Fn(&Event) -> Event,
) -> Vec<Event> {
    let mut log = good_log();
    let place = log.iter().rposition(wanted).expect("there is such an event");
    log.insert(place, make(&log[place]));
    for (event, seq) in log.iter_mut().zip(1..) {
        event.seq = seq;
    }
    log
}

#[test]
fn gaps_and_missing_beginnings() {
    let mut log = good_log();
    log.remove(5);
    assert!(rules(&log).contains(&"S8"));
    assert!(rules(&good_log()[1..]).contains(&"S8"));
}

#[test]
fn slots() {
    let took = |event: &Event| event.data.already_out == Some(false);
    assert_eq!(bent(took, |event| event.data.out_count = Some(7)), ["S1"]);
    assert_eq!(bent(took, |event| event.data.limit = Some(3)), ["S1"]);
    assert_eq!(bent(took, |event| event.data.total = Some(9)), ["S1"]);
    assert_eq!(bent(took, |event| event.data.already_out = Some(true)), ["S1"], "it served");
    assert_eq!(bent(took, |event| event.data.already_out = None), ["S1"]);
}

#[test]
fn who_is_out_is_counted_from_the_log() {
    // A server that nobody gave back stays out, whatever the later events tell.
    let mut log = good_log();
    let is_back = |event: &&mut Event| event.data.service == Some(Service::In);
    let back = log.iter_mut().rev().filter(is_back).nth(3).expect("servers come back");
    back.data.service = Some(Service::Out);
    assert!(rules(&log).contains(&"S1"));
    let start = |event: &Event| event.data.start.is_some();
    assert!(bent(start, |event| event.data.start = None).contains(&"S1"));
    let one_is_out = |event: &mut Event| {
        let server = capstan_core::ServerId::derive(event.at, &[b"another"]);
        event.data.start.as_mut().unwrap().out.push(server);
    };
    assert!(bent(start, one_is_out).contains(&"S1"));
    let stricter = |event: &mut Event| {
        event.data.start.as_mut().unwrap().max_unavailable = Share::percent(12);
    };
    assert!(bent(start, stricter).contains(&"S1"), "one at a time, and two were taken");
}

#[test]
fn starts_while_a_hold_is_set() {
    let hold = |at: &Event| Event {
        kind: EventType::HoldSet,
        target: None,
        data: capstan_core::event::EventData {
            to: Some("user".into()),
            holds: Some(vec![HoldReason::User]),
            ..Default::default()
        },
        ..at.clone()
    };
    for start in ["MARKDOWN_RUNNING", "MARKUP_RUNNING", "DEPLOYING"] {
        assert!(rules(&with_event_before(goes_to(start), hold)).contains(&"S2"), "{start}");
    }
}

#[test]
fn failures_past_the_limit() {
    let failures = |event: &mut Event| event.data.failed_count = Some(2);
    assert!(bent(goes_to("MARKDOWN_RUNNING"), failures).contains(&"S2"), "the limit is two");
}

#[test]
fn order_of_stages_and_attempts() {
    let skips = bent(goes_to("INSTALL_RUNNING"), |event| {
        event.data.from = Some("MARKDOWN_SUCCESS".into());
    });
    assert!(skips.contains(&"table"));
    assert!(bent(goes_to("VERIFY_RUNNING"), |event| event.data.attempt = Some(7)).contains(&"S3"));
}

#[test]
fn normal_batches_before_bake() {
    let mut log = good_log();
    let early = goes_to("MARKDOWN_RUNNING");
    log.iter_mut().find(|event| early(event)).unwrap().batch = Some(2);
    assert!(rules(&log).contains(&"S4"));
}

#[test]
fn markup_on_an_old_proof() {
    let mut log = good_log();
    let place = log.iter().rposition(goes_to("MARKUP_RUNNING")).unwrap();
    for event in &mut log[place..] {
        event.at = event.at + Duration::from_secs(61);
    }
    assert_eq!(rules(&log), ["S5"]);
}

#[test]
fn markup_done_again_on_an_old_proof() {
    for kind in [EventType::TargetTry, EventType::TargetTakenOver] {
        let mut log = good_log();
        let place = log.iter().rposition(goes_to("MARKUP_RUNNING")).unwrap();
        let again =
            Event { kind, at: log[place].at + Duration::from_secs(61), ..log[place].clone() };
        log.insert(place + 1, again);
        for (event, seq) in log.iter_mut().zip(1..) {
            event.seq = seq;
        }
        assert!(rules(&log).contains(&"S5"), "{kind:?}");
    }
}

#[test]
fn keys_and_fences() {
    let start = goes_to("VERIFY_RUNNING");
    assert!(bent(&start, |event| event.data.fence = Some(1)).contains(&"S7"));
    assert!(bent(&start, |event| event.data.key = None).contains(&"S7"));
    let log = good_log();
    let first = log.iter().find_map(|event| event.data.key);
    assert!(bent(&start, |event| event.data.key = first).contains(&"S7"));
}

#[test]
fn what_is_final_stays() {
    let mut log = good_log();
    let end = log.last().unwrap();
    let mut again = end.clone();
    again.seq += 1;
    again.data.from = Some("SUCCESS".into());
    again.data.to = Some("FAILURE".into());
    log.push(again);
    assert!(rules(&log).contains(&"S9"));
}

#[test]
fn success_without_a_proof() {
    let log = good_log();
    let without: Vec<Event> = log
        .into_iter()
        .filter(|event| event.kind != EventType::TargetStatus)
        .zip(1..)
        .map(|(event, seq)| Event { seq, ..event })
        .collect();
    assert!(rules(&without).contains(&"S10"));
}

#[test]
fn unreachable_without_a_lost_answer() {
    let failed = bent(goes_to("VERIFY_FAILURE"), |event| event.cause = Some(Cause::Unreachable));
    assert_eq!(failed, ["S11"]);
}

#[test]
fn two_deployments_at_once() {
    let first = good_log();
    let other = capstan_core::DeploymentId::derive(first[0].at, &[b"another"]);
    let mut both = first.clone();
    both.extend(first.iter().map(|event| Event { deployment: Some(other), ..event.clone() }));
    assert!(rules(&both).contains(&"S6"));
}
