//! A deployment in a few lines: where it stands, how far it is, what it waits for.

use capstan_core::Timestamp;
use capstan_core::batch_status::BatchStatus;
use capstan_core::view::{BatchView, DeploymentView, Tally, WaitingFor};

use super::context::word;
use super::moment;
use super::table::clean;

/// Batches that are shown; of more, those around the one that runs.
const MOST_BATCHES: usize = 12;
/// Letters of the bar.
const BAR: u32 = 30;

/// `[####+>>..!]`: serving, verified, under way, failed, to come.
fn bar(tally: Tally) -> String {
    let parts = [
        (tally.serving, '#'),
        (tally.verified, '+'),
        (tally.running, '>'),
        (tally.failed, '!'),
        (tally.pending, '.'),
        (tally.revoked + tally.set_aside, '-'),
    ];
    let mut bar = String::from("[");
    let (mut before, mut drawn) = (0, 0);
    for (count, letter) in parts {
        before += count;
        // Rounded up, so that one failed target among thousands is still seen.
        let end = (u64::from(before) * u64::from(BAR)).div_ceil(u64::from(tally.all().max(1)));
        let end = u32::try_from(end).unwrap_or(BAR);
        bar.extend(std::iter::repeat_n(letter, end.saturating_sub(drawn) as usize));
        drawn = end.max(drawn);
    }
    bar.push(']');
    bar
}

/// The one line that says most.
pub(crate) fn status_line(view: &DeploymentView) -> String {
    let tally = Tally::of(&view.counts);
    let name = clean(&view.group_name);
    let version = clean(&view.package.version);
    format!("{name} {version}: {}; {}", view.shown_status, tally.sentence())
}

/// A deployment in a few lines, without their ends.
pub(crate) fn lines(view: &DeploymentView, now: Timestamp) -> Vec<String> {
    let tally = Tally::of(&view.counts);
    let mut lines = vec![
        format!(
            "{} of {} {} to {}",
            word(&view.flavor),
            view.application,
            view.package.version,
            view.group_name
        ),
        field("id", &view.id.to_string()),
        field(
            "status",
            &format!(
                "{}, for {}",
                view.shown_status,
                moment::duration(now.since(view.status_since))
            ),
        ),
        field("progress", &format!("{} {}", bar(tally), tally.sentence())),
        field("servers", &servers(view)),
    ];
    lines.extend(batch_lines(&view.batches));
    for hold in &view.holds {
        let (reason, by) = (word(&hold.reason), &hold.by);
        let text = format!("{reason}, by {by}: {}; cleared by {}", hold.detail, hold.clears);
        lines.push(field("braked", &text));
    }
    lines.extend(view.ran_without.iter().map(|without| field("without", &without.text)));
    if !view.owed.is_empty() {
        let names: Vec<&str> = view.owed.iter().map(|owed| owed.hostname.as_str()).collect();
        let text = format!("their Markup, until the load balancer is back: {}", names.join(", "));
        lines.push(field("owed", &text));
    }
    // What a hold waits for stands on its own line above.
    let waits = view.waiting_for.iter().filter(|wait| !wait.is_hold());
    lines.extend(waits.map(|wait| field("waits for", &waiting(wait, now))));
    if !view.allowed_actions.is_empty() {
        let words: Vec<&str> = view.allowed_actions.iter().map(|action| action.word()).collect();
        lines.push(field("allowed", &words.join(", ")));
    }
    lines.iter().map(|line| clean(line)).collect()
}

/// What a deployment waits for, as one line.
pub(crate) fn waiting(wait: &WaitingFor, now: Timestamp) -> String {
    let until = match wait.until {
        Some(until) if until > now => format!(" ({} left)", moment::duration(until.since(now))),
        Some(_) | None => String::new(),
    };
    format!("{}: {}{until}", word(&wait.what), wait.text)
}

/// A name and its value.
pub(crate) fn field(name: &str, value: &str) -> String {
    format!("  {name:<10} {value}")
}

fn servers(view: &DeploymentView) -> String {
    format!(
        "{} in all; {} of at most {} out, {} may be taken now; {} failed, {} brake",
        view.total, view.out, view.l, view.free, view.failed, view.failure_limit
    )
}

fn batch_lines(batches: &[BatchView]) -> Vec<String> {
    let is_over = |batch: &BatchView| batch.status == BatchStatus::Success;
    let first = batches.iter().position(|batch| !is_over(batch)).unwrap_or(batches.len());
    let start = first.saturating_sub(2).min(batches.len().saturating_sub(MOST_BATCHES));
    let end = (start + MOST_BATCHES).min(batches.len());
    let mut lines = Vec::new();
    if start > 0 {
        lines.push(field("batches", &format!("1 to {start}: not shown")));
    }
    for batch in &batches[start..end] {
        let name = format!("batch {}", batch.index);
        let kind = if batch.is_bastion { ", bastion" } else { "" };
        let tally = Tally::of(&batch.counts).sentence();
        lines.push(field(&name, &format!("{:<9}  {tally}{kind}", word(&batch.status))));
    }
    if end < batches.len() {
        lines.push(field("batches", &format!("{} to {}: not shown", end + 1, batches.len())));
    }
    lines
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    /// A deployment as the API tells it.
    pub(crate) fn sample(status: &str, shown: &str) -> Value {
        let mut view: Value = serde_json::from_str(SAMPLE).expect("it is JSON");
        view["status"] = status.into();
        view["shown_status"] = shown.into();
        view
    }

    const SAMPLE: &str = r#"{
        "id": "018bcfe5-687b-7000-8000-000000000001",
        "group": "018bcfe5-687b-7000-8000-000000000002",
        "group_name": "web-prod", "application": "web",
        "package": {
            "id": "018bcfe5-687b-7000-8000-000000000003", "version": "1.1.0", "sha256": "ab"
        },
        "flavor": "rollout", "status_since": "2023-11-14T22:13:20Z", "holds": [],
        "total": 12, "b": 3, "l": 3, "out": 2, "free": 1, "failed": 1, "failure_limit": 3,
        "counts": {"SUCCESS": 5, "INSTALL_RUNNING": 2, "VERIFY_FAILURE": 1, "PENDING": 4},
        "batches": [
            {"index": 1, "is_bastion": true, "status": "SUCCESS", "wait_until": null,
                "counts": {"SUCCESS": 1}},
            {"index": 2, "is_bastion": false, "status": "DEPLOYING", "wait_until": null,
                "counts": {"SUCCESS": 4, "INSTALL_RUNNING": 2, "VERIFY_FAILURE": 1, "PENDING": 4}}
        ],
        "config": {
            "max_unavailable": 25, "batch_pattern": null, "max_failure": 25, "mode": "auto",
            "batch_wait_seconds": 0, "tail_wait_seconds": 0, "startup_timeout_seconds": 180,
            "ignore_verify": false
        },
        "seed": "s", "plan_hash": "h", "parent": null, "origin": null, "restores": null,
        "superseded_by": null, "created_by": "ann", "ignore_verify_reason": null,
        "created_at": "2023-11-14T22:13:20Z", "started_at": null, "ended_at": null,
        "last_seq": 0, "allowed_actions": ["brake", "revoke"], "actions": [],
        "waiting_for": [
            {"what": "host", "on": "web-3", "since": "2023-11-14T22:13:20Z", "who": "the hosts",
                "until": "2023-11-14T22:14:20Z", "text": "web-3 (INSTALL_RUNNING)."}
        ]
    }"#;

    #[test]
    fn a_deployment_fits_on_a_screen() {
        let view = sample("ROLLING_OUT", "ROLLING_OUT");
        let view: DeploymentView = serde_json::from_value(view).expect("a deployment");
        let now = view.status_since + std::time::Duration::from_secs(30);
        let expected = "\
rollout of web 1.1.0 to web-prod
  id         018bcfe5-687b-7000-8000-000000000001
  status     ROLLING_OUT, for 30 s
  progress   [#############>>>>>!!..........] 5 serving, 2 under way, 1 failed, 4 pending
  servers    12 in all; 2 of at most 3 out, 1 may be taken now; 1 failed, 3 brake
  batch 1    SUCCESS    1 serving, bastion
  batch 2    DEPLOYING  4 serving, 2 under way, 1 failed, 4 pending
  waits for  host: web-3 (INSTALL_RUNNING). (30 s left)
  allowed    brake, revoke";
        assert_eq!(lines(&view, now).join("\n"), expected);
        let line = "web-prod 1.1.0: ROLLING_OUT; 5 serving, 2 under way, 1 failed, 4 pending";
        assert_eq!(status_line(&view), line);
    }

    #[test]
    fn of_many_batches_those_around_the_running_one_are_shown() {
        let batch = |index: u32| BatchView {
            index,
            is_bastion: false,
            status: if index < 40 { BatchStatus::Success } else { BatchStatus::Pending },
            wait_until: None,
            counts: BTreeMap::new(),
        };
        let batches: Vec<BatchView> = (1..=100).map(batch).collect();
        let lines = batch_lines(&batches);
        assert_eq!(lines.len(), MOST_BATCHES + 2);
        assert!(lines[0].contains("1 to 37: not shown") && lines[1].contains("batch 38"));
        assert!(lines[13].contains("50 to 100: not shown"), "{lines:?}");
    }

    #[test]
    fn one_failure_among_thousands_is_seen_in_the_bar() {
        let tally = Tally { serving: 9_000, failed: 1, pending: 10, ..Tally::default() };
        assert_eq!(bar(tally).chars().count(), BAR as usize + 2);
        let tally = Tally { serving: 10, failed: 1, pending: 9_000, ..Tally::default() };
        assert!(bar(tally).starts_with("[#"), "{}", bar(tally));
    }
}
