//! A plan in plain English.

use std::fmt::Write as _;
use std::time::Duration;

use capstan_core::plan::{Named, Plan, PlannedBatch};

use super::moment;
use super::table::{Fit, Table, clean};

/// Servers of a batch that are named in its row.
const MOST_NAMES: usize = 50;

/// What a deployment would do: sentences, then a table.
pub(crate) fn render(plan: &Plan, group: &str, version: &str, width: Option<usize>) -> String {
    let visited: usize = plan.batches.iter().map(|batch| batch.servers.len()).sum();
    let mut text = format!(
        "{version} to {group}: {visited} of {} servers in {}.\n",
        plan.total,
        counted(plan.batches.len(), "batch", "batches")
    );
    let mut say = |sentence: String| {
        text.push_str("  ");
        text.push_str(&clean(&sentence));
        text.push('\n');
    };
    say(format!(
        "At most {} may be out of service at once (L; the strategy allows B = {}); {} out now, so \
         {} may be taken at once.",
        plan.l,
        plan.b,
        are(plan.out.len()),
        plan.free
    ));
    say(format!(
        "{} the deployment: nothing new starts then, until a person decides.",
        counted(plan.failure_limit as usize, "failed server brakes", "failed servers brake")
    ));
    say(bastion(plan));
    say(format!(
        "It takes about {}, as a rough guess.",
        moment::duration(Duration::from_secs(plan.estimated_seconds))
    ));
    for note in &plan.notes {
        say(format!("Note: {note}."));
    }
    list(&mut text, "Out now", &plan.out);
    list(&mut text, "Left out of this deployment", &plan.left_out);
    text.push('\n');
    text.push_str(&batches(&plan.batches).render(width, "no batches"));
    writeln!(text, "\nseed {}, plan hash {}", clean(&plan.seed), clean(&plan.plan_hash))
        .expect("a text can be written to");
    text
}

fn bastion(plan: &Plan) -> String {
    match plan.batches.first() {
        Some(batch) if batch.is_bastion => format!(
            "Batch 1 is the bastion batch, {}: it stops after Verify and waits for `bake`, then for \
             `rollout`.",
            counted(batch.servers.len(), "server", "servers")
        ),
        Some(_) | None => "There is no bastion batch: every batch serves at once.".to_owned(),
    }
}

fn are(count: usize) -> String {
    if count == 1 { "1 is".to_owned() } else { format!("{count} are") }
}

/// A number with its noun.
fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn list(text: &mut String, title: &str, named: &[Named]) {
    if named.is_empty() {
        return;
    }
    writeln!(text, "  {title}:").expect("a text can be written to");
    for item in named {
        let line = clean(&format!("{}: {}", item.hostname, item.why));
        writeln!(text, "    {line}").expect("a text can be written to");
    }
}

fn batches(batches: &[PlannedBatch]) -> Table {
    let heads = [("BATCH", Fit::Number), ("KIND", Fit::Whole), ("SERVERS", Fit::Number)];
    let mut table = Table::new([heads[0], heads[1], heads[2], ("WHO", Fit::Cut)]);
    for batch in batches {
        let names = batch.servers.iter().take(MOST_NAMES).map(|server| server.hostname.as_str());
        let more = batch.servers.len().saturating_sub(MOST_NAMES);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        table.row([
            batch.index.to_string(),
            if batch.is_bastion { "bastion" } else { "normal" }.to_owned(),
            batch.servers.len().to_string(),
            names.collect::<Vec<_>>().join(" ") + &more,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use capstan_core::ServerId;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plan_is_told_in_plain_english() {
        let id: ServerId = "018bcfe5-687b-7000-8000-000000000001".parse().expect("an id");
        let server = |name: &str| json!({"server": id, "hostname": name});
        let plan = json!({
            "seed": "s1", "total": 5, "b": 1, "l": 2, "free": 1,
            "out": [{"server": id, "hostname": "web-5", "why": "pulled out by ann: disk"}],
            "left_out": [{"server": id, "hostname": "web-5", "why": "pulled out by ann: disk"}],
            "batches": [
                {"index": 1, "is_bastion": true, "servers": [server("web-1")]},
                {"index": 2, "is_bastion": false, "servers": [server("web-2"), server("web-3")]}
            ],
            "failure_limit": 1, "notes": [], "estimated_seconds": 90, "plan_hash": "h1"
        });
        let plan: Plan = serde_json::from_value(plan).expect("a plan");
        let expected = "\
1.1.0 to web-prod: 3 of 5 servers in 2 batches.
  At most 2 may be out of service at once (L; the strategy allows B = 1); 1 is out now, so 1 may be \
taken at once.
  1 failed server brakes the deployment: nothing new starts then, until a person decides.
  Batch 1 is the bastion batch, 1 server: it stops after Verify and waits for `bake`, then for \
`rollout`.
  It takes about 1 m 30 s, as a rough guess.
  Out now:
    web-5: pulled out by ann: disk
  Left out of this deployment:
    web-5: pulled out by ann: disk

BATCH  KIND     SERVERS  WHO
    1  bastion        1  web-1
    2  normal         2  web-2 web-3

seed s1, plan hash h1
";
        assert_eq!(render(&plan, "web-prod", "1.1.0", None), expected);
    }
}
