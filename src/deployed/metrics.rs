//! Metrics: what is counted is on the page, and alerts ask for what is there.

use std::collections::BTreeMap;
use std::path::Path;

use capstan_core::event::EventType;

use super::{read, repository, yaml};

/// The metrics of the page, each with its labels.
fn documented_metrics() -> BTreeMap<String, Vec<String>> {
    let page = read("docs/metrics.md");
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `capstan_")?.split('`').next());
    let metric = |cell: &str| {
        let (name, labels) = cell.split_once('{').unwrap_or((cell, ""));
        let labels = labels.trim_end_matches('}').split(", ").map(str::to_owned);
        (format!("capstan_{name}"), labels.collect())
    };
    cells.map(metric).collect()
}

/// The metrics that the sources of a folder name where they count something.
fn counted_metrics(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            counted_metrics(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        for macro_call in ["gauge!(", "counter!(", "histogram!("] {
            let names = text.split(macro_call).skip(1).filter_map(|rest| {
                let name = rest.trim_start().strip_prefix('"')?.split('"').next()?;
                name.starts_with("capstan_").then(|| name.to_owned())
            });
            found.extend(names);
        }
    }
}

#[test]
fn what_is_counted_is_on_the_page_of_metrics() {
    let (known, mut counted) = (documented_metrics(), Vec::new());
    for folder in ["controller/src", "engine", "src"] {
        counted_metrics(&repository().join(folder), &mut counted);
    }
    assert!(counted.len() >= 20, "{counted:?}");
    for name in counted {
        assert!(known.contains_key(&name), "docs/metrics.md does not know {name}");
    }
}

/// The metrics in a query: name, and the names and texts of its matchers.
fn metrics_in(query: &str) -> Vec<(String, Vec<(String, String)>)> {
    let starts = query.match_indices("capstan_").map(|(place, _)| &query[place..]);
    starts
        .map(|rest| {
            let end = rest.find(|it: char| !it.is_ascii_alphanumeric() && it != '_');
            let (name, rest) = rest.split_at(end.unwrap_or(rest.len()));
            let inside = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
            let matchers = inside.into_iter().flat_map(|it| it.split(',')).map(|matcher| {
                let (label, text) = matcher.split_once('=').expect("label=text");
                (label.to_owned(), text.trim_matches(['~', '"']).to_owned())
            });
            (name.to_owned(), matchers.collect())
        })
        .collect()
}

#[test]
fn alerts_ask_for_metrics_that_there_are_and_lead_to_a_page_that_helps() {
    let known = documented_metrics();
    let page = read("docs/operations.md");
    let anchor = |title: &str| title.to_lowercase().replace([',', '`'], "").replace(' ', "-");
    let anchors: Vec<String> = page
        .lines()
        .filter(|line| line.starts_with("##"))
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect();
    let rules = yaml("alerts.yml");
    let rules = rules["groups"][0]["rules"].as_array().expect("rules");
    assert!(rules.len() >= 10);
    for rule in rules {
        let (name, query) = (&rule["alert"], rule["expr"].as_str().expect("a query"));
        for (metric, matchers) in metrics_in(query) {
            let base = ["_bucket", "_count", "_sum"].iter().find_map(|it| metric.strip_suffix(it));
            let labels = known.get(&metric).or_else(|| known.get(base?));
            let labels = labels.unwrap_or_else(|| panic!("{name}: there is no metric {metric}"));
            for (label, text) in matchers {
                assert!(labels.contains(&label), "{name}: {metric} has no label {label}");
                let is_event = EventType::ALL.iter().any(|it| it.word() == text);
                assert!(label != "type" || is_event, "{name}: there is no event {text}");
            }
        }
        let runbook = rule["annotations"]["runbook"].as_str().expect("a runbook");
        let place = runbook.strip_prefix("docs/operations.md#").expect("a place on the page");
        assert!(anchors.iter().any(|it| it == place), "{name}: no section {place} in {anchors:?}");
    }
}
