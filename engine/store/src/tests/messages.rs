//! What a consumer reads: everything, each stream in its order, and nothing twice but what was not written
//! as sent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use capstan_core::changes::{Changes, DeploymentChanges};
use capstan_core::event::{Event, EventType};
use capstan_core::message::Message;
use capstan_core::record::Deployment;
use capstan_core::state::GroupState;
use capstan_core::{DeploymentId, Timestamp, WebhookId};
use capstan_services::Database;
use sea_orm::ConnectionTrait;
use uuid::Uuid;

use super::records::{application, deployment, event, group_state, insert, package, store, write};
use crate::bulk::sql;
use crate::{
    Batch, Begin, Feed, NewDelivery, NewWebhook, PageRequest, Settings, Store, Webhook,
    WebhookChange,
};

const NAME: &str = "broker";

/// Adds a deployment with so many events.
async fn add(store: &Store, state: &mut GroupState, events: i64) -> DeploymentId {
    let of = state.group.application.clone();
    let package = package(store, &of, &Uuid::now_v7().to_string()).await;
    let mut new: Deployment = deployment(state, &package);
    new.seq = 0;
    new.status = capstan_core::deployment_status::DeploymentStatus::Pending;
    let id = new.id;
    let changes = insert(state, new);
    write(store, state, &changes).await;
    append(store, state, id, events).await;
    id
}

/// Something happens to a deployment, so many times, in one transaction.
async fn append(store: &Store, state: &mut GroupState, id: DeploymentId, count: i64) {
    let before = state.deployment(id).expect("it is there").deployment.seq;
    let mut row = state.deployment(id).expect("it is there").deployment.clone();
    row.seq = before + count;
    state.insert(row, Vec::new(), Vec::new());
    let mut changes = Changes::default();
    changes.deployments.insert(id, DeploymentChanges::default());
    changes.events = (before + 1..=before + count).map(|seq| event(state, Some(id), seq)).collect();
    write(store, state, &changes).await;
}

fn seqs(batch: &Batch) -> BTreeMap<Uuid, Vec<i64>> {
    let stream = |events: &Vec<Event>| {
        let id = events[0].deployment.map_or(events[0].group.0, |id| id.0);
        (id, events.iter().map(|event| event.seq).collect())
    };
    batch.streams.iter().map(stream).collect()
}

async fn send_all(feed: &mut Feed, batch: &Batch) {
    let sent: Vec<usize> = batch.streams.iter().map(Vec::len).collect();
    assert!(feed.sent(batch, &sent, Vec::new()).await.expect("written"), "it is ours");
}

/// Reads and sends until there is nothing left.
async fn drain(feed: &mut Feed) -> BTreeMap<Uuid, Vec<i64>> {
    let mut all: BTreeMap<Uuid, Vec<i64>> = BTreeMap::new();
    loop {
        let batch = feed.next(7).await.expect("read");
        if batch.is_idle() {
            return all;
        }
        assert!(batch.events().count() <= 7);
        send_all(feed, &batch).await;
        for (stream, seqs) in seqs(&batch) {
            all.entry(stream).or_default().extend(seqs);
        }
    }
}

#[tokio::test]
async fn a_consumer_begins_now_and_gets_each_log_in_order_and_once() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let mut state = group_state(&store, &shop, 1).await;
    let old = add(&store, &mut state, 3).await;
    assert!(store.consumer_take(NAME, Some(Begin::Now)).await.expect("taken"));
    let mut feed = store.feed(NAME);
    assert!(feed.next(100).await.expect("read").is_idle(), "what was before is not sent");

    let one = add(&store, &mut state, 20).await;
    let two = add(&store, &mut state, 5).await;
    append(&store, &mut state, old, 1).await;
    let mut expected = BTreeMap::from([
        (one.0, (1..=20).collect::<Vec<i64>>()),
        (two.0, (1..=5).collect()),
        (old.0, vec![4]),
    ]);
    assert_eq!(drain(&mut feed).await, expected);
    assert!(feed.next(100).await.expect("read").is_idle(), "nothing is left");
    // Another process, which knows nothing but the database.
    assert!(store.feed(NAME).next(100).await.expect("read").is_empty());

    assert!(store.consumer_take("first", Some(Begin::First)).await.expect("taken"));
    expected.insert(old.0, vec![1, 2, 3, 4]);
    assert_eq!(drain(&mut store.feed("first")).await, expected, "from the beginning");
}

#[tokio::test]
async fn what_was_not_written_as_sent_comes_again() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let mut state = group_state(&store, &shop, 1).await;
    store.consumer_take(NAME, Some(Begin::Now)).await.expect("taken");
    let id = add(&store, &mut state, 10).await;
    let mut feed = store.feed(NAME);
    let batch = feed.next(100).await.expect("read");
    assert_eq!(seqs(&batch)[&id.0].len(), 10);
    assert!(feed.sent(&batch, &[4], Vec::new()).await.expect("written"));
    let again = feed.next(100).await.expect("read");
    assert_eq!(seqs(&again)[&id.0], (5..=10).collect::<Vec<i64>>());
    // The process dies before it has written that.
    let mut feed = store.feed(NAME);
    let again = feed.next(100).await.expect("read");
    assert_eq!(seqs(&again)[&id.0], (5..=10).collect::<Vec<i64>>());
    send_all(&mut feed, &again).await;
    assert!(feed.next(100).await.expect("read").is_idle());
}

/// Between two thorough looks a reader asks for what it has just sent from; everything else is found by
/// the next thorough look.
#[tokio::test]
async fn a_quick_look_follows_what_was_sent_and_a_thorough_one_finds_the_rest() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let mut state = group_state(&store, &shop, 1).await;
    let old = add(&store, &mut state, 2).await;
    store.consumer_take(NAME, Some(Begin::Now)).await.expect("taken");
    let new = add(&store, &mut state, 2).await;
    let mut feed = store.feed(NAME);
    assert_eq!(drain(&mut feed).await, BTreeMap::from([(new.0, vec![1, 2])]));
    append(&store, &mut state, new, 1).await;
    append(&store, &mut state, old, 1).await;
    assert_eq!(drain(&mut feed).await, BTreeMap::from([(new.0, vec![3])]));
    let batch = feed.next(100).await.expect("read");
    assert!(batch.is_idle() && batch.looks_again, "something may be left");
    tokio::time::timeout(Duration::from_secs(30), async {
        while feed.next(100).await.expect("read").is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("it is found");
}

#[tokio::test]
async fn a_stream_that_waits_takes_no_room_from_others_and_nothing_of_it_is_passed_over() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let mut state = group_state(&store, &shop, 1).await;
    store.consumer_take(NAME, Some(Begin::Now)).await.expect("taken");
    let held = add(&store, &mut state, 20).await;
    let free = add(&store, &mut state, 10).await;
    let mut feed = store.feed(NAME);
    let waiting = BTreeSet::from([held.0]);
    let batch = feed.next_but(10, &waiting).await.expect("read");
    assert_eq!(seqs(&batch), BTreeMap::from([(free.0, (1..=10).collect::<Vec<i64>>())]));
    send_all(&mut feed, &batch).await;
    for _ in 0..3 {
        assert!(feed.next_but(10, &waiting).await.expect("read").is_idle());
    }
    // It is found also when its group does not change any more, and by another process.
    for mut feed in [feed, store.feed(NAME)] {
        let batch = feed.next(100).await.expect("read");
        assert_eq!(seqs(&batch), BTreeMap::from([(held.0, (1..=20).collect::<Vec<i64>>())]));
    }
}

/// On a server the database of a test has processes that live, so this uses one of its own.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_after_a_restore_has_other_ids_and_what_was_there_keeps_them() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let mut state = group_state(&store, &shop, 1).await;
    let id = add(&store, &mut state, 3).await;
    let ids = async |feed: &mut Feed| -> Vec<String> {
        let batch = feed.next(100).await.expect("read");
        let of_it = batch.events().filter(|event| event.deployment == Some(id));
        of_it.map(|event| Message::of(event, batch.epoch(event)).id).collect()
    };
    let plain = |seq: i64| format!("{id}/{seq}");
    store.consumer_take("early", Some(Begin::First)).await.expect("taken");
    assert_eq!(ids(&mut store.feed("early")).await, (1..=3).map(plain).collect::<Vec<_>>());
    store.fences_raise("ada").await.expect("it is alone");
    let raised = crate::load::group(store.reader(), state.id()).await.expect("read");
    state.group = raised.expect("it is there").group;
    append(&store, &mut state, id, 2).await;
    store.consumer_take("late", Some(Begin::First)).await.expect("taken");
    let first = ids(&mut store.feed("late")).await;
    assert_eq!(first[..3], (1..=3).map(plain).collect::<Vec<_>>());
    assert!(first.len() > 3);
    for (id, seq) in first[3..].iter().zip(4..) {
        let (log, place) = id.rsplit_once('/').expect("two parts");
        assert!(place == seq.to_string() && *id != plain(seq), "{id}");
        assert!(log.starts_with(&first[0][..36]) && log.len() > 36, "{id}");
    }
    assert_eq!(ids(&mut store.feed("late")).await, first, "they stay as they are");
}

/// On a file there is one process, so this runs on PostgreSQL then.
#[tokio::test(flavor = "multi_thread")]
async fn one_process_has_a_consumer_and_another_takes_over_when_it_is_gone() {
    let database = Database::shared();
    let settings = Settings { lease: Duration::from_millis(1200), ..Settings::new(&database.url) };
    let one = Store::open(&settings).await.expect("opened");
    let two = Store::open(&settings).await.expect("opened");
    let shop = application(&one, "shop").await;
    let mut state = group_state(&one, &shop, 1).await;
    assert!(one.consumer_take(NAME, Some(Begin::Now)).await.expect("asked"));
    assert!(one.consumer_take(NAME, Some(Begin::Now)).await.expect("asked"), "it keeps it");
    assert!(!two.consumer_take(NAME, Some(Begin::Now)).await.expect("asked"));
    let id = add(&one, &mut state, 3).await;
    let mut feed = one.feed(NAME);
    let batch = feed.next(10).await.expect("read");
    one.leave().await.expect("it goes");
    assert!(two.consumer_take(NAME, Some(Begin::Now)).await.expect("asked"));
    let lost = !feed.sent(&batch, &[3], Vec::new()).await.expect("asked");
    assert!(lost, "who was taken over from writes nothing");
    let again = two.feed(NAME).next(10).await.expect("read");
    assert_eq!(seqs(&again)[&id.0], [1, 2, 3]);
    assert!(!one.consumer_take(NAME, Some(Begin::Now)).await.expect("asked"), "it may not act");
}

pub(super) fn new(name: &str) -> NewWebhook {
    NewWebhook {
        id: WebhookId(Uuid::now_v7()),
        name: name.to_owned(),
        url: "https://example.com/hook".to_owned(),
        secret: "top secret".to_owned(),
        events: "deployment.*".to_owned(),
        created_by: "ada".to_owned(),
    }
}

async fn hook(store: &Store, name: &str) -> Webhook {
    let view = store.webhook_create(new(name), None).await.expect("made").expect("a new name");
    store.webhook(view.id).await.expect("read").expect("it is there")
}

#[tokio::test]
async fn a_webhook_is_sent_a_deployment_again() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let mut state = group_state(&store, &shop, 1).await;
    let hook = hook(&store, "chat").await;
    assert!(
        store.webhook_create(new("chat"), None).await.expect("asked").is_none(),
        "a taken name"
    );
    let name = hook.consumer();
    let id = add(&store, &mut state, 4).await;
    let other = add(&store, &mut state, 2).await;
    assert!(store.consumer_take(&name, None).await.expect("taken"));
    let mut feed = store.feed(&name);
    assert_eq!(
        drain(&mut feed).await,
        BTreeMap::from([(id.0, vec![1, 2, 3, 4]), (other.0, vec![1, 2])]),
        "it begins when it is made"
    );
    append(&store, &mut state, id, 1).await;
    let batch = feed.next(10).await.expect("read");
    assert!(store.webhook_replay(hook.view.id, id, 2, None).await.expect("written"));
    let lost = !feed.sent(&batch, &[1], Vec::new()).await.expect("asked");
    assert!(lost, "what was read before is not written over it");
    assert!(store.consumer_take(&name, None).await.expect("taken"));
    assert_eq!(drain(&mut store.feed(&name)).await, BTreeMap::from([(id.0, vec![3, 4, 5])]));
    let unknown = store.webhook_replay(hook.view.id, DeploymentId(Uuid::now_v7()), 0, None).await;
    assert!(!unknown.expect("asked"));

    assert!(store.webhook_delete(hook.view.id, None).await.expect("deleted"));
    assert!(!store.webhook_delete(hook.view.id, None).await.expect("asked"));
    assert!(!store.consumer_take(&name, None).await.expect("asked"), "it is gone");
    for table in ["message_consumers", "message_groups", "message_cursors"] {
        let text = format!("SELECT COUNT(*) AS number FROM {table}");
        let row = store.reader().query_one_raw(sql(store.reader(), &text, [])).await;
        let number: i64 = row.expect("read").expect("a row").try_get("", "number").expect("one");
        assert_eq!(number, 0, "{table}");
    }
}

#[tokio::test]
async fn a_webhook_that_fails_for_too_long_is_switched_off_and_can_be_switched_on() {
    let (store, _database) = store().await;
    let id = hook(&store, "chat").await.view.id;
    let (wait, patience) = (Duration::from_secs(1), Duration::from_hours(1));
    assert!(!store.webhook_failed(id, wait, patience, "no answer").await.expect("noted"));
    assert!(!store.webhook_failed(id, wait, patience, "no answer").await.expect("noted"));
    let view = store.webhook(id).await.expect("read").expect("it is there").view;
    assert!(view.enabled && view.failing_since.is_some() && view.next_try_at.is_some());
    assert_eq!(view.failures, 2);
    store.webhook_delivered(id).await.expect("noted");
    let view = store.webhook(id).await.expect("read").expect("it is there").view;
    assert_eq!((view.failures, view.failing_since, view.next_try_at), (0, None, None));
    assert!(store.webhook_failed(id, wait, Duration::ZERO, "no answer").await.expect("noted"));
    assert!(store.webhooks_enabled().await.expect("read").is_empty());
    let view = store.webhook(id).await.expect("read").expect("it is there").view;
    assert_eq!((view.enabled, view.disabled_because.as_deref()), (false, Some("no answer")));
    let on = WebhookChange { enabled: Some(true), ..WebhookChange::default() };
    let view = store.webhook_change(id, on, None).await.expect("written").expect("it is there");
    assert!(view.enabled && view.disabled_because.is_none() && view.failures == 0);
    let shown = format!("{:?}", store.webhook(id).await.expect("read").expect("it is there"));
    assert!(!shown.contains("top secret"), "{shown}");
}

#[tokio::test]
async fn calls_are_kept_for_a_while_and_the_newest_of_them_only() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let mut state = group_state(&store, &shop, 1).await;
    let hook = hook(&store, "chat").await;
    store.consumer_take(&hook.consumer(), None).await.expect("taken");
    let call = |seq: i64, at: Timestamp| NewDelivery {
        webhook: hook.view.id,
        stream: state.id().0,
        seq,
        kind: EventType::TargetStatus,
        attempt: 1,
        at,
        status: Some(200),
        error: None,
        took: Duration::from_millis(3),
    };
    let mut calls = vec![call(1, Timestamp::from_micros(1))];
    calls.extend((2..=1011).map(|seq| call(seq, store.now())));
    let mut feed = store.feed(&hook.consumer());
    let batch = feed.next(1).await.expect("read");
    assert!(feed.sent(&batch, &[], calls).await.expect("written"));
    let request = PageRequest { limit: 500, cursor: None };
    let first = store.deliveries(hook.view.id, request).await.expect("read");
    assert!(first.items[0].event.ends_with("/1011"), "the newest comes first");
    let count = "SELECT COUNT(*) AS number FROM webhook_deliveries";
    let row = store.reader().query_one_raw(sql(store.reader(), count, [])).await;
    let number: i64 = row.expect("read").expect("a row").try_get("", "number").expect("one");
    assert_eq!(number, 1000);
    // A deployment is made, so that the state is used to its end.
    add(&store, &mut state, 1).await;
}
