//! The whole story by the command line, as a person would type it.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::process::Command;

use crate::harness::{Demo, PATIENCE};

/// Runs `capstan` against the demo.
async fn capstan(demo: &Demo, arguments: &[&str]) -> Output {
    capstan_at(&demo.url, &demo.token, arguments).await
}

/// Runs `capstan` against a server.
pub(crate) async fn capstan_at(url: &str, token: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_capstan"));
    command
        .args(arguments)
        .env("CAPSTAN_SERVER", url)
        .env("CAPSTAN_TOKEN", token)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    // A release that is braked is watched until a person does something.
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    output.unwrap_or_else(|_| panic!("{arguments:?} does not end")).unwrap()
}

/// Runs it, expects this exit code, and gives what it printed.
async fn expect(demo: &Demo, code: i32, arguments: &[&str]) -> String {
    let output = capstan(demo, arguments).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{text}\n{errors}");
    format!("{text}{errors}")
}

const GROUP: [&str; 2] = ["--group", "web-demo"];

async fn on_group(demo: &Demo, code: i32, words: &[&str], more: &[&str]) -> String {
    expect(demo, code, &[words, &GROUP, more].concat()).await
}

#[tokio::test]
async fn a_release_by_the_command_line_ends_with_its_exit_code() {
    let demo = Demo::start(4).await;
    let plan = on_group(&demo, 0, &["deployment", "plan"], &["--package", "1.1.0"]).await;
    assert!(plan.contains("web-01") && plan.contains("bastion"), "{plan}");

    // 1.1.0: created, and followed until a person must click.
    let create = ["deployment", "create"];
    let package = ["--package", "1.1.0", "--watch", "--until-click"];
    let told = on_group(&demo, 3, &create, &package).await;
    assert!(told.contains("SMOKE_SUCCESS"), "{told}");
    on_group(&demo, 0, &["deployment", "bake"], &[]).await;
    let told = on_group(&demo, 3, &["deployment", "watch"], &["--until-click"]).await;
    assert!(told.contains("BAKE_SUCCESS"), "{told}");
    let told = on_group(&demo, 5, &["deployment", "bake"], &[]).await;
    assert!(told.contains("rollout"), "what is allowed now is told: {told}");
    on_group(&demo, 0, &["deployment", "rollout"], &[]).await;
    let told = on_group(&demo, 0, &["deployment", "watch"], &[]).await;
    assert!(told.contains("SUCCESS"), "{told}");
    demo.assert_all_run("1.1.0").await;

    // 1.2.0 fails at its bastion and is finished: exit code 1.
    let package = ["--package", "1.2.0", "--watch", "--until-click"];
    let told = on_group(&demo, 3, &create, &package).await;
    assert!(told.contains("SMOKE_FAILURE"), "{told}");
    on_group(&demo, 0, &["deployment", "finish"], &[]).await;
    let newest = demo.newest().await.id.to_string();
    expect(&demo, 1, &["deployment", "watch", &newest]).await;

    let told = on_group(&demo, 0, &["target", "show"], &["web-01"]).await;
    assert!(told.contains("VERIFY_FAILURE (failed)") && told.contains("health"), "{told}");

    // The bastion that is left on it goes back.
    let told = on_group(&demo, 0, &["deployment", "rollback"], &["--watch"]).await;
    assert!(told.contains("SUCCESS"), "{told}");
    demo.assert_all_run("1.1.0").await;

    let package = ["package", "show", "1.1.0", "--application", "web"];
    let told = expect(&demo, 0, &package).await;
    assert!(told.contains("sha256") && told.contains("in Capstan's own store"), "{told}");
    let told = expect(&demo, 0, &["ready"]).await;
    assert!(told.starts_with("ready\n") && told.contains(" ago"), "{told}");

    // For programs: JSON, and nothing else on standard output.
    let output = capstan(&demo, &["--output", "json", "deployment", "show", &newest]).await;
    let view: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(view["status"], "FAILURE");
    let unknown = expect(&demo, 4, &["deployment", "show", "nothing-like-an-id"]).await;
    assert!(unknown.contains("nothing-like-an-id"), "{unknown}");
}
