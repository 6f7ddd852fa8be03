//! The arrows between the crates: a test fails when one is added.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// What each crate may point at.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("capstan-core", &[]),
    ("capstan-migrations", &[]),
    ("capstan-services", &[]),
    ("capstan-drivers", &["capstan-core"]),
    ("capstan-portal", &["capstan-core"]),
    ("capstan-store", &["capstan-core", "capstan-migrations"]),
    ("capstan-runner", &["capstan-core", "capstan-store"]),
    ("capstan-controller", &["capstan-core", "capstan-store", "capstan-portal"]),
    (
        "capstan",
        &[
            "capstan-controller",
            "capstan-core",
            "capstan-drivers",
            "capstan-portal",
            "capstan-runner",
            "capstan-store",
        ],
    ),
];

#[test]
fn no_crate_points_where_it_may_not() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let found: BTreeMap<&str, BTreeSet<&str>> = packages
        .iter()
        .map(|package| {
            let arrows = package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|dependency| dependency["kind"].is_null())
                .map(|dependency| dependency["name"].as_str().unwrap())
                .filter(|name| name.starts_with("capstan"));
            (package["name"].as_str().unwrap(), arrows.collect())
        })
        .collect();
    assert_eq!(found.len(), ALLOWED.len(), "a crate was added: {:?}", found.keys());
    for (name, allowed) in ALLOWED {
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        let arrows = &found[name];
        assert!(arrows.is_subset(&allowed), "{name} points at {arrows:?}, it may at {allowed:?}");
    }
}
