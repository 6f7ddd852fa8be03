//! Output of scripts: in parts, cut at a limit, read in windows.

use capstan_core::stage::Stage;
use capstan_core::{OrderKey, TargetId};
use uuid::Uuid;

use super::records::store;
use crate::{OutputChunk, Store};

async fn append(store: &Store, target: TargetId, key: OrderKey, offset: u64, bytes: &[u8]) {
    let chunk = OutputChunk {
        target,
        key,
        stage: Stage::Install,
        attempt: 2,
        offset,
        bytes: bytes.to_vec(),
    };
    store.output_append(chunk).await.expect("output is kept");
}

#[tokio::test]
async fn parts_are_joined_and_repeated_ones_are_harmless() {
    let (store, _database) = store().await;
    let (target, first, second) =
        (TargetId(Uuid::now_v7()), OrderKey(Uuid::now_v7()), OrderKey(Uuid::now_v7()));
    append(&store, target, first, 0, b"one ").await;
    append(&store, target, first, 4, b"two\n").await;
    append(&store, target, first, 4, b"two\n").await;
    append(&store, target, first, 0, b"one two\nthree\n").await;
    append(&store, target, second, 0, b"").await;
    append(&store, target, second, 0, b"\xff four\n").await;
    append(&store, TargetId(Uuid::now_v7()), OrderKey(Uuid::now_v7()), 0, b"other").await;

    let all = store.target_log(target, 0, 1000).await.expect("read");
    let texts: Vec<&str> = all.iter().map(|part| part.text.as_str()).collect();
    assert_eq!(texts, ["one two\nthree\n", "\u{fffd} four\n"]);
    assert_eq!((all[0].stage.as_str(), all[0].attempt, all[0].bytes), ("INSTALL", 2, 14));
    let window = store.target_log(target, 12, 5).await.expect("read");
    let texts: Vec<&str> = window.iter().map(|part| part.text.as_str()).collect();
    assert_eq!(texts, ["e\n", "\u{fffd} f"]);
    let window = store.target_log(target, 15, 100).await.expect("read");
    assert_eq!(window.len(), 1);
    assert_eq!(window[0].text, " four\n");
    assert!(store.target_log(target, 1000, 10).await.expect("read").is_empty());
}

#[tokio::test]
async fn an_order_keeps_a_mebibyte_and_says_where_it_was_cut() {
    let (store, _database) = store().await;
    let (target, key) = (TargetId(Uuid::now_v7()), OrderKey(Uuid::now_v7()));
    let part = vec![b'x'; 300_000];
    for number in 0..6 {
        append(&store, target, key, number * 300_000, &part).await;
    }
    let mark = "[capstan: output cut after 1048576 bytes]\n";
    let log = store.target_log(target, 0, u32::MAX).await.expect("read");
    assert_eq!(log[0].bytes, (1 << 20) + mark.len() as u64);
    assert_eq!(log[0].text.len(), 1 << 20);
    let log = store.target_log(target, 1 << 20, u32::MAX).await.expect("read");
    assert_eq!(log[0].text, mark);
}
