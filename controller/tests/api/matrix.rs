//! Every call that the interface's own description names, with bad input of every kind and with good
//! input. A call that is added later is walked too; what it needs and is not known here fails.

mod schema;
mod stage;

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};

use crate::fakes::sha256;
use schema::faults;
use stage::{ARCHIVE, Asked, Call, LARGEST, Stage, assert_described, parameters, reference};

const NOBODY: &str = "0193a5c0-0000-7000-8000-00000000dead";

/// Paths that answer without a token, and why. None of them is a call of the API.
const OPEN: [(&str, &str); 5] = [
    ("/api/openapi.json", "the description holds nothing of an installation"),
    ("/healthz", "a supervisor that has no token asks"),
    ("/readyz", "a load balancer that has no token asks"),
    ("/metrics", "Prometheus on this machine asks; from another machine it needs a token"),
    ("/packages/{file}", "hosts have no token; who knows the digest knows the content"),
];

/// Parameters of queries that take any text, and why.
const FREE_TEXT: [(&str, &str); 2] = [
    ("search", "whatever is typed is looked for"),
    ("name", "whatever is typed is looked for, a group's name or its id in the CMDB"),
];

#[tokio::test]
async fn no_call_answers_without_a_known_token() {
    let stage = Stage::set().await;
    stage
        .walk(async |call| {
            assert!(!OPEN.iter().any(|(path, _)| *path == call.path), "{} is open", call.path);
            assert!(call.operation["security"].is_null(), "{} has rules of its own", call.name);
            for token in ["", "Bearer cap_wrong", "Bearer", "Basic YWRtaW46"] {
                let token = (!token.is_empty()).then(|| token.to_owned());
                let problem =
                    stage.refused(call, Asked { token, ..stage.good(call) }, &[401]).await;
                assert_eq!(problem["code"], "unauthorized");
            }
        })
        .await;
    for (path, why) in OPEN {
        let path = path.replace("{file}", &format!("{}.tar.gz", sha256(ARCHIVE)));
        let request = Request::get(&path).body(Body::empty()).expect("a request");
        let status = stage.world.send(request).await.status;
        assert!(![401, 403, 404].contains(&status.as_u16()), "{path}: {status}, though {why}");
    }
}

#[tokio::test]
async fn every_id_and_name_in_a_path_is_checked() {
    let stage = Stage::set().await;
    stage
        .walk(async |call| {
            for parameter in parameters(call, "path") {
                let name = parameter["name"].as_str().expect("a name");
                let with = |value: &str| {
                    let good = format!("/{}", stage.value(parameter));
                    let asked = stage.good(call);
                    let path = asked.path.replacen(&good, &format!("/{value}"), 1);
                    assert_ne!(path, asked.path);
                    Asked { path, ..asked }
                };
                if reference(&parameter["schema"]).is_some() {
                    for text in ["x", "7", "0193a5c0-0000-7000-8000-00000000dea"] {
                        let problem = stage.refused(call, with(text), &[400]).await;
                        assert_eq!(problem["code"], "invalid_id");
                        assert_eq!(
                            (&problem["field"], &problem["value"]),
                            (&json!(name), &json!(text))
                        );
                    }
                }
                // A byte that is no UTF-8.
                let problem = stage.refused(call, with("%FF"), &[400]).await;
                assert_eq!(problem["field"], name, "{}: {problem}", call.name);
                let Some((value, code)) = unknown(call, name) else { continue };
                let problem = stage.refused(call, with(value), &[404]).await;
                let detail = problem["detail"].as_str().expect("a detail");
                assert!(detail.contains(value), "{}: {detail}", call.name);
                assert!(problem["code"].as_str().is_some_and(|it| it.ends_with(code)), "{problem}");
            }
        })
        .await;
}

/// A value of a parameter in a path that names nothing, and how the code of the refusal ends; none
/// where every value is good.
fn unknown(call: &Call, parameter: &str) -> Option<(&'static str, &'static str)> {
    match (call.name.as_str(), parameter) {
        // A new version is what an upload is for.
        ("packages_upload", "version") => None,
        ("dependencies_change", "name") => Some(("load_balancer.mars", "dependency_unknown")),
        (_, "id") => Some((NOBODY, "_unknown")),
        (_, "application") => Some(("nothing", "application_unknown")),
        (_, "version") => Some(("9.9", "package_unknown")),
        (_, "action") => Some(("explode", "action_unknown")),
        (name, parameter) => panic!("say how {name} answers to an unknown {parameter}"),
    }
}

#[tokio::test]
async fn a_path_takes_the_described_methods_and_no_other() {
    let stage = Stage::set().await;
    let calls = stage.calls();
    stage
        .walk(async |call| {
            for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                if calls.iter().any(|it| (&it.path, &it.method) == (&call.path, &method)) {
                    continue;
                }
                let other = Call { method, ..call.clone() };
                let reply = stage.send(&other, stage.good(call)).await;
                let allowed = reply.header("allow").to_owned();
                assert!(allowed.contains(call.method.as_str()), "{}: {allowed}", call.name);
                reply.problem(405, "unknown_method");
            }
        })
        .await;
}

#[tokio::test]
async fn every_body_is_read_strictly() {
    let stage = Stage::set().await;
    stage
        .walk(async |call| {
            let good = || stage.good(call);
            if call.operation["requestBody"].is_null() {
                return;
            }
            let large = Asked { body: vec![b' '; LARGEST + 1], ..good() };
            assert_eq!(stage.refused(call, large, &[413]).await["code"], "body_too_large");
            let Some(schema) = stage.body_schema(call) else { return };
            let broken = Asked { body: b"{\"a".to_vec(), ..good() };
            assert_eq!(stage.refused(call, broken, &[400]).await["code"], "invalid_json");
            let plain = Asked { kind: "text/plain", ..good() };
            assert_eq!(stage.refused(call, plain, &[415]).await["code"], "not_json");
            let unnamed = Asked { kind: "", ..good() };
            assert_eq!(stage.refused(call, unnamed, &[415]).await["code"], "not_json");
            for body in [json!(7), json!("x"), json!(true), Value::Null, json!([])] {
                stage.refused_body(call, &body, "body").await;
            }
            assert_eq!(schema["additionalProperties"], false, "{} says so", call.name);
            for name in schema["required"].as_array().into_iter().flatten() {
                let name = name.as_str().expect("a name");
                let mut body = stage.good_body(call);
                body.as_object_mut().expect("an object").remove(name);
                stage.refused_body(call, &body, name).await;
            }
            every_member(&stage, call, schema, &[]).await;
        })
        .await;
}

/// Each member of an object with a value of another type, and one that is not known.
async fn every_member(stage: &Stage, call: &Call, schema: &Value, above: &[&str]) {
    let with = |name: &str, value: Value| {
        let mut body = stage.good_body(call);
        let mut place = &mut body;
        for name in above {
            place = &mut place[*name];
        }
        place[name] = value;
        body
    };
    let problem = stage.refused_body(call, &with("colour", json!("red")), "colour").await;
    let detail = problem["detail"].as_str().expect("a detail");
    assert!(detail.contains("unknown field `colour`"), "{}: {detail}", call.name);
    for (name, member) in schema["properties"].as_object().expect("members") {
        let member = stage.schema(member);
        let kind = &member["type"];
        let has = |word: &str| {
            kind == word || kind.as_array().is_some_and(|it| it.contains(&json!(word)))
        };
        let wrong = if has("string") || has("object") { json!(7) } else { json!("many") };
        let path = [above, &[name]].concat();
        let problem = stage.refused_body(call, &with(name, wrong.clone()), &path.join(".")).await;
        assert_eq!(problem["value"], wrong, "{}: {problem}", call.name);
        if member["properties"].is_object() {
            Box::pin(every_member(stage, call, member, &path)).await;
        }
    }
}

#[tokio::test]
async fn every_parameter_of_a_query_is_checked() {
    let stage = Stage::set().await;
    stage
        .walk(async |call| {
            let with = |name: &str, value: &str| {
                let good = stage.good(call);
                Asked { path: format!("{}?{name}={value}", good.path), ..good }
            };
            let problem = stage.refused(call, with("colour", "red"), &[422]).await;
            assert_eq!(problem["field"], "colour");
            for parameter in parameters(call, "query") {
                let name = parameter["name"].as_str().expect("a name");
                for value in bad_values(name, stage.schema(&parameter["schema"])) {
                    let problem = stage.refused(call, with(name, &value), &[400, 422]).await;
                    assert_eq!(problem["field"], name, "{}: {problem}", call.name);
                    let shown = problem["value"].as_str().map(str::to_owned);
                    let shown = shown.unwrap_or_else(|| problem["value"].to_string());
                    assert_eq!(shown, value, "{}: {problem}", call.name);
                }
            }
        })
        .await;
}

fn bad_values(name: &str, schema: &Value) -> Vec<String> {
    let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
    if name == "cursor" {
        return texts(&["x", "-1", "!"]);
    }
    if FREE_TEXT.iter().any(|(free, _)| *free == name) {
        return Vec::new();
    }
    match schema["type"].as_str() {
        Some("integer") => {
            let mut values: Vec<String> = texts(&["x", "-1", "1.5", "99999999999999999999"]);
            values.extend(schema["maximum"].as_i64().map(|most| (most + 1).to_string()));
            values.extend(
                schema["minimum"]
                    .as_i64()
                    .filter(|least| *least > 0)
                    .map(|least| (least - 1).to_string()),
            );
            values
        }
        Some("boolean") => texts(&["maybe", "1"]),
        Some("string") if schema["format"] == "uuid" => texts(&["x", "7"]),
        Some("string") if schema["enum"].is_array() => texts(&["NOTHING", "success"]),
        kind => panic!("say which values of {name} ({kind:?}) are bad, or that it is free text"),
    }
}

#[tokio::test]
async fn every_call_answers_to_good_input_as_described() {
    let stage = Stage::set().await;
    let mut calls = stage.calls();
    // What is removed is not there for others.
    calls.sort_by_key(|call| call.method == Method::DELETE);
    for call in calls {
        let reply = stage.send(&call, stage.good(&call)).await;
        let status = reply.status.as_u16();
        assert_described(&call, status);
        assert!(reply.status.is_success(), "{}: {}", call.name, reply.text());
        if status == 204 {
            assert_eq!(reply.text(), "", "{}", call.name);
            continue;
        }
        let content = &call.operation["responses"][status.to_string()]["content"];
        let kind = reply.header("content-type");
        assert!(content[kind].is_object(), "{} does not describe {kind}", call.name);
        if kind == "application/json" {
            let faults = faults(&stage.document, &content[kind]["schema"], &reply.json(), "");
            assert!(faults.is_empty(), "{}: {faults:#?}", call.name);
        }
    }
}

#[tokio::test]
async fn every_write_is_done_once_per_key() {
    for name in Stage::set().await.calls().into_iter().filter(takes_key).map(|call| call.name) {
        // Each in a world of its own: what one call does may be in another's way.
        let stage = Stage::set().await;
        let call = stage.calls().into_iter().find(|call| call.name == name).expect("it");
        let asked = || Asked { key: Some("one"), ..stage.good(&call) };
        let first = stage.send(&call, asked()).await;
        assert!(first.status.is_success(), "{name}: {}", first.text());
        assert_eq!(first.header("idempotency-replayed"), "", "{name}");
        let after = stage.world.dump().await;
        let again = stage.send(&call, asked()).await;
        assert_eq!(again.header("idempotency-replayed"), "true", "{name}");
        assert_eq!((again.status, &again.body), (first.status, &first.body), "{name}");
        assert_eq!(again.header("location"), first.header("location"), "{name}");
        let other = Asked { body: b"{ }".to_vec(), ..asked() };
        let problem = stage.refused(&call, other, &[422]).await;
        assert_eq!(problem["code"], "idempotency_other_body", "{name}");
        stage.world.dump().await.assert_is(&after, &name);
    }
}

/// Whether a call takes an `Idempotency-Key`: an upload is its own key.
fn takes_key(call: &Call) -> bool {
    call.method == Method::POST || call.method == Method::PATCH
}
