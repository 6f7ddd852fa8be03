//! The disk under the database is full: new work stops with a clear state, and nothing is lost.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::disk::{SmallDisk, is_root, run};
use crate::harness::{Demo, PATIENCE};

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Only root can mount a file system to be filled; for others there is nothing to test here.
#[tokio::test]
async fn a_full_disk_under_the_database_stops_new_work_and_loses_nothing() {
    if !is_root() {
        eprintln!("not run: only root can mount the small file system that this test fills");
        return;
    }
    let mut demo = Demo::prepare(3);
    std::fs::create_dir_all(demo.folder().join("data")).unwrap();
    let disk = SmallDisk::mount(&demo.data(), "48m");
    // The instances have a disk of their own, as hosts do.
    let hosts = tempfile::tempdir().unwrap();
    let hosts_place = demo.data().join("host");
    std::fs::create_dir(&hosts_place).unwrap();
    run("mount", &["--bind", hosts.path().to_str().unwrap(), hosts_place.to_str().unwrap()]);
    let bound = SmallDisk::mounted(&hosts_place);
    demo.run(&[]).await;
    demo.settle_for(1).await;

    let deployment = demo.create("1.1.0", json!({})).await;
    let filler = demo.data().join("filler");
    let (refused, ready) = fill_until_refused(&demo, &filler).await;
    assert_eq!(refused["code"], "database_unavailable", "{refused}");
    assert_eq!(ready["missing"][0]["what"], "database", "{ready}");
    // What is known can still be read.
    demo.deployment(&deployment).await;

    std::fs::remove_file(&filler).unwrap();
    for (shown, click) in [("SMOKE_SUCCESS", "bake"), ("BAKE_SUCCESS", "rollout")] {
        demo.wait_for(&deployment, shown).await;
        demo.act(&deployment, click).await;
    }
    demo.wait_for(&deployment, "SUCCESS").await;
    assert_eq!(demo.ready().await.0, StatusCode::OK);
    demo.assert_all_run("1.1.0").await;
    capstan_core::checker::check(&demo.events(&deployment).await).unwrap();
    drop(demo);
    drop(bound);
    drop(disk);
}

/// Takes every byte that is left.
fn fill(file: &mut File) {
    let (large, small) = (vec![0; 1 << 20], [0; 512]);
    while file.write_all(&large).is_ok() {}
    while file.write_all(&small).is_ok() {}
}

/// Takes the disk's space and makes drafts until the database takes no more and the process says so.
/// Small writes may still fit into what the database has already.
async fn fill_until_refused(demo: &Demo, filler: &Path) -> (Value, Value) {
    let group = demo.group().await.id;
    let mut file = File::create(filler).unwrap();
    let (mut refused, mut missing) = (None, None);
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "a full disk was not noticed: {refused:?} {missing:?}");
        fill(&mut file);
        let body = json!({"group": group, "package": "1.0.0", "config": {}, "start": false});
        let (status, answer) = demo.call(Method::POST, "deployments", Some(body)).await;
        match status {
            StatusCode::CREATED => {}
            StatusCode::SERVICE_UNAVAILABLE => refused = Some(answer),
            _ => panic!("{status} {answer}"),
        }
        let (status, ready) = demo.ready().await;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            missing = Some(ready);
        }
        if let (Some(refused), Some(missing)) = (&refused, &missing) {
            return (refused.clone(), missing.clone());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
