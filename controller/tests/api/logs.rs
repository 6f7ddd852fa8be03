//! The output of hosts' scripts, by byte range.

use axum::body::Body;
use axum::http::Method;
use axum::http::header::ACCEPT;
use capstan_core::stage::Stage;
use capstan_core::{OrderKey, TargetId};
use capstan_store::OutputChunk;
use serde_json::{Value, json};

use crate::world::{World, id};

const DOWNLOAD: &[u8] = b"fetching\nfetched\n";
const INSTALL: &[u8] = b"unpacking\nswitching\n";

/// A world with a target that has printed something in two stages, and the path of its log.
async fn printed() -> (World, String) {
    let (world, ids) = World::with_group().await;
    let deployment = world.start(&ids).await;
    let targets = world.items(&format!("/api/v1/deployments/{}/targets", id(&deployment))).await;
    let target: TargetId = id(&targets[0]).parse().expect("an id");
    for (number, stage, bytes) in [(1, Stage::Download, DOWNLOAD), (2, Stage::Install, INSTALL)] {
        let key = OrderKey(uuid::Uuid::from_u128(number));
        let chunk = |offset: usize, bytes: &[u8]| OutputChunk {
            target,
            key,
            stage,
            attempt: 1,
            offset: offset as u64,
            bytes: bytes.to_vec(),
        };
        let (first, rest) = bytes.split_at(9);
        world.store.output_append(chunk(0, first)).await.expect("a store");
        world.store.output_append(chunk(9, rest)).await.expect("a store");
    }
    (world, format!("/api/v1/targets/{target}/log"))
}

fn texts(log: &Value) -> Vec<(&str, &str)> {
    let items = log["items"].as_array().expect("items").iter();
    items
        .map(|it| (it["stage"].as_str().expect("a stage"), it["text"].as_str().expect("a text")))
        .collect()
}

#[tokio::test]
async fn a_log_is_given_stage_by_stage() {
    let (world, path) = printed().await;
    let log = world.get(&path).await.expect(200);
    assert_eq!((&log["offset"], &log["limit"]), (&json!(0), &json!(1_048_576)));
    let whole = [("DOWNLOAD", "fetching\nfetched\n"), ("INSTALL", "unpacking\nswitching\n")];
    assert_eq!(texts(&log), whole);
    let part = &log["items"][0];
    assert_eq!((&part["bytes"], &part["attempt"]), (&json!(DOWNLOAD.len()), &json!(1)));
    assert_eq!(part["key"], uuid::Uuid::from_u128(1).to_string());
    assert!(part["at"].is_string());
    let request = world.request(Method::GET, &path).header(ACCEPT, "text/plain");
    let reply = world.send(request.body(Body::empty()).expect("a request")).await;
    assert_eq!(reply.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(reply.body, [DOWNLOAD, INSTALL].concat());
}

#[tokio::test]
async fn a_log_is_read_by_byte_range() {
    let (world, path) = printed().await;
    let all = [DOWNLOAD, INSTALL].concat();
    let get = async |query: &str| world.get(&format!("{path}?{query}")).await.expect(200);
    let over_the_seam = get("offset=9&limit=17").await;
    assert_eq!(texts(&over_the_seam), [("DOWNLOAD", "fetched\n"), ("INSTALL", "unpacking")]);
    assert_eq!((&over_the_seam["offset"], &over_the_seam["limit"]), (&json!(9), &json!(17)));
    // A part tells its whole size, also when less of it is given.
    assert_eq!(over_the_seam["items"][1]["bytes"], INSTALL.len());
    assert_eq!(texts(&get("limit=1").await), [("DOWNLOAD", "f")]);
    assert_eq!(texts(&get("offset=17").await), [("INSTALL", "unpacking\nswitching\n")]);
    for beyond in [all.len(), 1_000_000] {
        assert_eq!(get(&format!("offset={beyond}")).await["items"], json!([]));
    }
    assert_eq!(get("offset=18446744073709551615&limit=1048576").await["items"], json!([]));
    // Piece by piece it is the whole.
    let mut read = String::new();
    for offset in (0..all.len()).step_by(5) {
        let piece = get(&format!("offset={offset}&limit=5")).await;
        read.extend(texts(&piece).into_iter().map(|(_, text)| text));
    }
    assert_eq!(read.as_bytes(), all);
}

#[tokio::test]
async fn a_bad_range_is_refused() {
    let (world, path) = printed().await;
    for (field, value) in [
        ("offset", "-1"),
        ("offset", "x"),
        ("offset", "18446744073709551616"),
        ("limit", "0"),
        ("limit", "1048577"),
        ("limit", "-5"),
        ("limit", "all"),
    ] {
        let problem = world.get(&format!("{path}?{field}={value}")).await.problem(422, "invalid");
        assert_eq!(problem["field"], field);
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(value) && detail.contains("a whole number from"), "{detail}");
    }
    let problem = world.get(&format!("{path}?stage=install")).await.problem(422, "invalid");
    assert_eq!(problem["field"], "stage");
}
