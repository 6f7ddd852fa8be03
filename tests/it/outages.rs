//! A database server that is slow, says nothing, refuses, or loses its answers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capstan_core::{TargetId, Timestamp};
use capstan_services::Proxy;

use crate::crash::{assert_right, drive_within};
use crate::harness::{Demo, PATIENCE};

/// How long the database is away; a variable makes it longer than a usual run of the tests has time for.
const OUTAGE: &str = "CAPSTAN_TEST_OUTAGE_SECONDS";
const SHORT_OUTAGE: Duration = Duration::from_secs(12);
/// After this time without the database nothing new is begun: what was handed out before is.
const NOTICED: Duration = Duration::from_secs(8);
/// How long whatever is sent to a slow database is on its way.
const SLOW: Duration = Duration::from_millis(200);

fn outage() -> Duration {
    let seconds = std::env::var(OUTAGE).ok();
    seconds.map_or(SHORT_OUTAGE, |text| Duration::from_secs(text.parse().unwrap()))
}

/// Releases 1.1.0 while `trouble` goes on, and checks that nothing is lost or done twice. Gives its id.
async fn release_in(demo: &mut Demo, what: &str, trouble: impl Future<Output = ()>) -> String {
    let trouble = async {
        trouble.await;
        std::future::pending::<()>().await;
    };
    let deployment = tokio::select! {
        deployment = drive_within(demo, "1.1.0", (PATIENCE + outage()) * 2) => deployment,
        () = trouble => unreachable!("it never ends"),
    };
    assert_right(demo, &deployment, "1.1.0", what).await;
    assert_eq!(demo.deaths, 0, "{what}: the process lives on");
    deployment
}

/// Orders that hosts have begun.
fn begun(data: &Path) -> usize {
    let roots = std::fs::read_dir(data.join("host")).unwrap().flatten();
    let orders = roots.flat_map(|root| std::fs::read_dir(root.path().join(".capstan/orders")));
    orders.map(|orders| orders.flatten().count()).sum()
}

/// Waits until a host has begun another order.
async fn until_more(data: &Path, count: usize) {
    while begun(data) == count {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn commits_whose_answers_are_lost_are_done_once() {
    let (mut demo, line) = Demo::start_behind_a_line(4).await;
    demo.settle_for(1).await;
    let line: Arc<Proxy> = Arc::new(line);
    let loses = Arc::clone(&line);
    release_in(&mut demo, "lost commits", async move {
        let mut tick = tokio::time::interval(Duration::from_millis(800));
        loop {
            tick.tick().await;
            loses.lose_commits(1);
        }
    })
    .await;
    assert!(line.lost_commits() >= 10, "{} answers were lost", line.lost_commits());
}

#[tokio::test]
async fn a_database_that_is_gone_stops_new_work_and_all_goes_on_afterwards() {
    let (mut demo, line) = Demo::start_behind_a_line(4).await;
    demo.settle_for(1).await;
    let data = demo.data();
    let before = begun(&data);
    release_in(&mut demo, "an outage", async {
        until_more(&data, before).await;
        for is_silent in [true, false] {
            if is_silent {
                line.silence();
            } else {
                line.refuse();
            }
            tokio::time::sleep(NOTICED).await;
            let noticed = begun(&data);
            tokio::time::sleep(outage().saturating_sub(NOTICED)).await;
            assert_eq!(begun(&data), noticed, "nothing is begun without the database");
            line.open();
            until_more(&data, noticed).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_slow_database_slows_a_release_and_breaks_nothing() {
    let (mut demo, line) = Demo::start_behind_a_line(2).await;
    demo.settle_for(1).await;
    line.slow(SLOW);
    let asked = Instant::now();
    demo.newest().await;
    assert!(asked.elapsed() >= SLOW, "an answer came after {:?}", asked.elapsed());
    let deployment = release_in(&mut demo, "a slow database", async {}).await;
    let stages = stages_begun(&demo, &deployment).await;
    assert_eq!(stages.len(), 2);
    for begun in stages.values() {
        assert!(begun.len() >= 5, "{begun:?}");
        // A stage is done after the commit that begins it, which is several statements one after the other.
        assert!(begun.windows(2).all(|it| it[1].since(it[0]) >= 5 * SLOW), "{begun:?}");
    }
}

/// When the stages of each target began.
async fn stages_begun(demo: &Demo, deployment: &str) -> BTreeMap<TargetId, Vec<Timestamp>> {
    let mut stages: BTreeMap<TargetId, Vec<Timestamp>> = BTreeMap::new();
    for event in demo.events(deployment).await {
        let begins = event.data.to.is_some_and(|status| status.ends_with("_RUNNING"));
        if let Some(target) = event.target.filter(|_| begins) {
            stages.entry(target).or_default().push(event.at);
        }
    }
    stages
}
