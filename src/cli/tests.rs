//! The command line as a whole: its help, and calls against a server that plays Capstan.

mod follow;
mod messages;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use clap::{CommandFactory, FromArgMatches, Parser};
use serde_json::json;

use super::summary::tests::sample;
use super::*;

#[derive(Debug, Parser)]
#[command(name = "capstan")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

#[test]
fn the_command_line_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn no_argument_takes_the_name_of_a_global_option() {
    fn visit(command: &clap::Command, globals: &[clap::Id]) {
        for argument in command.get_arguments().filter(|argument| !argument.is_global_set()) {
            let name = command.get_name();
            assert!(!globals.contains(argument.get_id()), "{name}: {}", argument.get_id());
        }
        command.get_subcommands().for_each(|inner| visit(inner, globals));
    }
    let command = Arguments::command();
    let globals = command.get_arguments().filter(|argument| argument.is_global_set());
    let globals: Vec<clap::Id> = globals.map(|argument| argument.get_id().clone()).collect();
    assert_eq!(globals.len(), 4);
    visit(&command, &globals);
}

#[test]
fn every_command_teaches() {
    fn visit(command: &clap::Command, path: &str) -> usize {
        let path = format!("{path} {}", command.get_name());
        assert!(command.get_about().is_some(), "{path} says nothing");
        if command.has_subcommands() {
            return command.get_subcommands().map(|inner| visit(inner, &path)).sum();
        }
        let long = command.get_long_about().unwrap_or_else(|| panic!("{path} explains nothing"));
        assert!(long.to_string().len() > 60, "{path} explains little");
        let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(example.contains(&format!("\n {path}")), "{path} has no example");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{path}: {} has no help", argument.get_id());
        }
        1
    }
    let command = Arguments::command();
    let count: usize = command.get_subcommands().map(|inner| visit(inner, " capstan")).sum();
    assert!(count > 30, "{count}");
}

#[test]
fn examples_can_be_typed() {
    fn visit(command: &clap::Command, count: &mut usize) {
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for example in text.lines().filter_map(|line| line.trim().strip_prefix("capstan ")) {
            let example = example.split([';', '&', '>']).next().unwrap_or_default();
            let example = example.replace("$(sha256sum < web-1.1.0.tar.gz | cut -c 1-64)", "ab");
            let example = example.split('>').next().unwrap_or_default();
            let words = std::iter::once("capstan")
                .chain(example.split_whitespace().map(|word| word.trim_matches('"')));
            // A reason of several words is one on the shell.
            let words: Vec<&str> = words.filter(|word| !NOISE.contains(word)).collect();
            let parsed = Arguments::try_parse_from(&words);
            assert!(parsed.is_ok(), "{example}: {}", parsed.expect_err("it failed"));
            *count += 1;
        }
        command.get_subcommands().for_each(|inner| visit(inner, count));
    }
    const NOISE: [&str; 4] = ["is", "full", "sessions", "done"];
    let mut count = 0;
    visit(&Arguments::command(), &mut count);
    assert!(count > 30, "{count}");
}

#[test]
fn a_deployment_is_named_in_one_way() {
    let parse = |line: &str| Arguments::try_parse_from(line.split_whitespace());
    assert!(parse("capstan deployment show 018bcfe5").is_ok());
    assert!(parse("capstan deployment show --group web-prod").is_ok());
    assert!(parse("capstan deployment show").is_err());
    assert!(parse("capstan deployment show 018bcfe5 --group web-prod").is_err());
    assert!(parse("capstan deployment list --status rolling_out").is_ok());
    assert!(parse("capstan deployment list --status DONE").is_err());
    assert!(parse("capstan --output json deployment list --server http://x").is_ok());
}

/// What was asked of the fake server.
#[derive(Debug, Clone)]
struct Asked {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

type Script = dyn Fn(&Asked, usize) -> Response + Send + Sync;

/// A server that plays Capstan: answers as scripted and remembers what it was asked.
#[derive(Clone)]
struct Fake {
    asked: Arc<Mutex<Vec<Asked>>>,
    script: Arc<Script>,
    url: String,
}

impl Fake {
    /// `script` gets the request and how many the same path had before.
    async fn start(script: impl Fn(&Asked, usize) -> Response + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let fake = Self { asked: Arc::default(), script: Arc::new(script), url };
        let app = Router::new().fallback(answer).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        fake
    }

    /// Runs a command line against it; gives the exit code.
    async fn run(&self, line: &str) -> u8 {
        let words = line.split_whitespace();
        let server = ["--server", &self.url, "--token", "secret"];
        let words = std::iter::once("capstan").chain(words).chain(server);
        let matches = Arguments::command().try_get_matches_from(words).expect("good arguments");
        let arguments = Arguments::from_arg_matches(&matches).expect("good arguments");
        let context = Context::new(&arguments.options).expect("a context");
        match dispatch(&context, arguments.command).await {
            Ok(code) => code,
            Err(error) => error.exit_code(),
        }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("nobody panicked").clone()
    }
}

async fn answer(
    State(fake): State<Fake>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let query = uri.query().unwrap_or_default().to_owned();
    let asked = Asked { method, path: uri.path().to_owned(), query, headers, body };
    let before = {
        let mut all = fake.asked.lock().expect("nobody panicked");
        let before = all.iter().filter(|it| it.path == asked.path).count();
        all.push(asked.clone());
        before
    };
    (fake.script)(&asked, before)
}

/// An answer that breaks off: the connection is lost.
fn broken() -> Response {
    let parts = [Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("gone"))];
    Body::from_stream(futures::stream::iter(parts)).into_response()
}

fn problem(status: StatusCode, code: &str) -> Response {
    let document =
        json!({"title": "No", "detail": "no", "code": code, "allowed_actions": ["brake"]});
    (status, document.to_string()).into_response()
}

const ID: &str = "018bcfe5-687b-7000-8000-000000000001";

#[tokio::test]
async fn a_dependency_is_listed_cut_off_and_restored() {
    let view = json!({
        "name": "load_balancer.edge", "kind": "load_balancer", "state": "open", "groups": 2,
        "since": "2023-11-14T22:13:20Z", "last_error": "no answer",
        "cut_off": {"by": "ann", "reason": "ticket-17", "since": "2023-11-14T22:13:20Z",
            "expires_at": null},
    });
    let fake = Fake::start(move |asked, _| {
        if asked.path.ends_with("mars") {
            return problem(StatusCode::NOT_FOUND, "dependency_unknown");
        }
        let body = match asked.method {
            Method::GET => json!({"items": [&view], "next_cursor": null}),
            _ => view.clone(),
        };
        body.to_string().into_response()
    })
    .await;
    assert_eq!(fake.run("dependency list").await, 0);
    let cut = "dependency cut-off load_balancer.edge --reason ticket-17 --minutes 120";
    assert_eq!(fake.run(cut).await, 0);
    assert_eq!(fake.run("dependency restore load_balancer.edge").await, 0);
    assert_ne!(fake.run("dependency restore load_balancer.mars").await, 0);
    let asked = fake.asked();
    let edge = "/api/v1/dependencies/load_balancer.edge";
    assert_eq!(
        (asked[0].method.clone(), asked[0].path.as_str()),
        (Method::GET, "/api/v1/dependencies")
    );
    assert_eq!((asked[1].method.clone(), asked[1].path.as_str()), (Method::PUT, edge));
    let body: serde_json::Value = serde_json::from_slice(&asked[1].body).expect("JSON");
    assert_eq!((&body["cut_off"], &body["reason"]), (&json!(true), &json!("ticket-17")));
    let until: capstan_core::Timestamp =
        serde_json::from_value(body["expires_at"].clone()).expect("an instant");
    let ahead = until.since(moment::now()).as_secs();
    assert!((7_100..=7_200).contains(&ahead), "{ahead}");
    let body: serde_json::Value = serde_json::from_slice(&asked[2].body).expect("JSON");
    assert_eq!(body, json!({"cut_off": false}));
    let bare = "capstan dependency cut-off load_balancer.edge".split_whitespace();
    assert!(Arguments::try_parse_from(bare).is_err(), "a reason is needed");
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_tried_again_with_the_same_key() {
    let fake = Fake::start(|_, before| match before {
        0 => broken(),
        1 => {
            let refusal = problem(StatusCode::CONFLICT, "idempotency_running");
            ([("retry-after", "0")], refusal).into_response()
        }
        _ => axum::Json(sample("BAKING", "BAKING")).into_response(),
    })
    .await;
    assert_eq!(fake.run(&format!("deployment bake {ID}")).await, 0);
    let asked = fake.asked();
    assert_eq!(asked.len(), 3);
    let keys: Vec<&str> = asked.iter().map(|asked| asked.header("idempotency-key")).collect();
    assert!(keys[0].len() == 36 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    for asked in &asked {
        assert_eq!(asked.method, Method::POST);
        assert_eq!(asked.path, format!("/api/v1/deployments/{ID}/bake"));
        assert_eq!(asked.header("authorization"), "Bearer secret");
    }
}

#[tokio::test]
async fn refusals_and_errors_have_their_own_exit_codes() {
    for (status, code) in [
        (StatusCode::CONFLICT, 5),
        (StatusCode::NOT_FOUND, 4),
        (StatusCode::UNAUTHORIZED, 4),
        (StatusCode::INTERNAL_SERVER_ERROR, 4),
    ] {
        let fake = Fake::start(move |_, _| problem(status, "x")).await;
        assert_eq!(fake.run(&format!("deployment resume {ID}")).await, code, "{status}");
        assert_eq!(fake.asked().len(), 1, "{status}");
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let nobody = Fake { asked: Arc::default(), script: Arc::new(|_, _| broken()), url };
    assert_eq!(nobody.run("application list").await, 4);
}

#[tokio::test]
async fn what_is_not_ready_is_told_and_is_no_success() {
    let readiness = |ready: bool| {
        let missing = [json!({"what": "database", "reason": "disk is full"})];
        let missing = &missing[usize::from(ready)..];
        json!({"ready": ready, "missing": missing, "warnings": [], "synced_at": null})
    };
    for (status, body, code) in [
        (StatusCode::OK, readiness(true), 0),
        (StatusCode::SERVICE_UNAVAILABLE, readiness(false), 4),
        (StatusCode::SERVICE_UNAVAILABLE, json!("a proxy speaks"), 4),
    ] {
        let fake = Fake::start(move |_, _| (status, axum::Json(&body)).into_response()).await;
        assert_eq!(fake.run("ready").await, code, "{status}");
        let asked = fake.asked();
        assert_eq!((asked.len(), asked[0].path.as_str()), (1, "/readyz"));
    }
}

#[tokio::test]
async fn an_archive_is_streamed_with_its_digest() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("web.tar.gz");
    std::fs::write(&file, b"abc").expect("a file");
    let package = json!({
        "id": ID, "application": ID, "version": "1.1.0", "sha256": "ab", "size": 3,
        "locations": [], "stored": true, "bad": null, "created_at": "2023-11-14T22:13:20Z"
    });
    let fake = Fake::start(move |_, before| match before {
        0 => broken(),
        _ => axum::Json(package.clone()).into_response(),
    })
    .await;
    let line = format!("package upload {} --application web/x --version 1.1.0", file.display());
    assert_eq!(fake.run(&line).await, 0);
    let asked = fake.asked();
    assert_eq!(asked.len(), 2);
    for asked in asked {
        assert_eq!((asked.method.as_str(), &asked.body[..]), ("PUT", &b"abc"[..]));
        assert_eq!(asked.path, "/api/v1/packages/web%2Fx/1.1.0");
        assert_eq!(asked.header("content-length"), "3");
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(asked.header("x-capstan-sha256"), digest);
    }
}

#[tokio::test]
async fn what_is_downloaded_appears_only_if_its_digest_is_right() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    for (sha256, code) in [(good, 0), ("00", 4)] {
        let package = json!({
            "id": ID, "application": ID, "version": "1", "sha256": sha256, "size": 3,
            "locations": [], "stored": true, "bad": null, "created_at": "2023-11-14T22:13:20Z"
        });
        let fake = Fake::start(move |asked, _| {
            let is_archive = asked.path.ends_with("/archive");
            if is_archive { "abc".into_response() } else { axum::Json(&package).into_response() }
        })
        .await;
        let to = folder.path().join(sha256);
        let line = format!("package download 1 --application web --to {}", to.display());
        assert_eq!(fake.run(&line).await, code);
        assert_eq!(to.exists(), code == 0);
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1);
}

#[tokio::test]
async fn names_are_looked_up_and_must_be_one() {
    let application = |id: &str, name: &str| {
        json!({"id": id, "name": name, "owner": "", "environment": "", "kind": "generic",
            "bastion": "one", "synced_at": null, "stale": false})
    };
    let other = "018bcfe5-687b-7000-8000-000000000009";
    let fake = Fake::start(move |asked, _| {
        if asked.path.ends_with("/packages") {
            return axum::Json(json!({"items": [], "next_cursor": null})).into_response();
        }
        let items = if asked.query.contains("twin") {
            vec![application(ID, "twin"), application(other, "twin")]
        } else {
            vec![application(other, "webshop"), application(ID, "web")]
        };
        axum::Json(json!({"items": items, "next_cursor": null})).into_response()
    })
    .await;
    assert_eq!(fake.run("package list --application web").await, 0);
    let asked = fake.asked();
    assert_eq!(asked[0].query, "search=web&limit=500");
    assert_eq!(asked[1].path, format!("/api/v1/applications/{ID}/packages"));
    assert_eq!(fake.run("package list --application twin").await, 4);
    assert_eq!(fake.run("package list --application nobody").await, 4);
    assert_eq!(fake.asked().len(), 4);
}
