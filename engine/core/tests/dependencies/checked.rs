//! The checker sees S12 in the log.

use capstan_core::action::Action;
use capstan_core::checker::check;
use capstan_core::deployment_status::DeploymentStatus as Status;
use capstan_core::event::{Event, EventType};
use capstan_core::record::Service;

use super::sim::case::{baked, half};
use super::sim::hosts::EDGE;
use super::{come_back, cut_off, ours, rolling};

fn bypassed_log() -> Vec<Event> {
    let mut case = rolling();
    cut_off(&mut case);
    case.run();
    come_back(&mut case);
    case.run().is(Status::Success);
    let log: Vec<Event> = case.world.events_of(case.id).cloned().collect();
    check(&log).unwrap();
    log
}

fn bent(wanted: impl Fn(&Event) -> bool, change: impl Fn(&mut Event)) -> Vec<&'static str> {
    let mut log = bypassed_log();
    change(log.iter_mut().find(|event| wanted(event)).expect("there is such an event"));
    check(&log).expect_err("the log is bent").into_iter().map(|found| found.rule).collect()
}

#[test]
fn the_checker_finds_what_breaks_s12() {
    let bypassed = |event: &Event, to: &str| {
        event.kind == EventType::TargetStatus
            && event.data.bypassed == Some(true)
            && event.data.to.as_deref() == Some(to)
    };
    let called =
        bent(|event| bypassed(event, "MARKDOWN_RUNNING"), |event| event.data.bypassed = None);
    assert!(called.contains(&"S12"), "{called:?}");
    let serves = bent(
        |event| bypassed(event, "SUCCESS"),
        |event| {
            event.data.service = Some(Service::In);
            event.data.out_because = None;
        },
    );
    assert!(serves.contains(&"S12"), "{serves:?}");
    let cut = |event: &Event| event.kind == EventType::DependencyCutOff;
    let untold = bent(cut, |event| event.data.bypassed = Some(false));
    assert!(untold.contains(&"S12"), "{untold:?}");
    let holds = bent(cut, |event| event.data.held_by = Some(vec![EDGE.to_owned()]));
    assert!(holds.contains(&"S12"), "{holds:?}");
}

#[test]
fn the_checker_counts_who_is_out_by_us() {
    // The same log, of a balancer that was cut off before more than half of B were out.
    let mut case = baked(12, half());
    case.act(Action::Rollout);
    assert!(ours(&case) > 3);
    let mut log: Vec<Event> = case.world.events_of(case.id).cloned().collect();
    for event in &mut log {
        if let Some(start) = &mut event.data.start {
            start.bypassed = true;
        }
        let word = event.data.to.as_deref().unwrap_or_default();
        if word.starts_with("MARK") && event.data.out_count.is_some() {
            event.data.bypassed = Some(true);
        }
    }
    let found = check(&log).expect_err("too many were taken");
    let counted = found.iter().any(|it| it.rule == "S12" && it.message.contains("out by us"));
    assert!(counted, "{found:?}");
}
