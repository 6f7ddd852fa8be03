//! The message broker, against a real `RabbitMQ`.

use std::time::Duration;

use capstan_core::message::{Broker, Inbox, Incoming, Message, Replayed, Verdict, Waiting};
use capstan_core::ports::{Call, DriverError};
use capstan_drivers::amqp::{
    AmqpBroker, AmqpInbox, CMDB, DEAD, EVENTS, QUEUE, REASON, Settings, Topology,
};
use capstan_drivers::guard::BROKER_LIMIT;
use capstan_services::{Proxy, RabbitMq};
use futures::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

const PATIENCE: Duration = Duration::from_mins(1);
/// How long the broker may take to let somebody in.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);

fn settings(url: &str) -> Settings {
    Settings { url: url.to_owned(), topology: Topology::Declared }
}

fn message(number: usize) -> Message {
    Message {
        id: format!("s/{number}"),
        key: "target.MARKUP_RUNNING".to_owned(),
        kind: "capstan.target.status".to_owned(),
        body: format!("{{\"n\": {number}}}"),
    }
}

async fn connect(url: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

async fn channel(url: &str) -> (Connection, Channel) {
    let connected = tokio::time::timeout(CONNECTS_WITHIN, connect(url)).await;
    connected.expect("in time").expect("a channel")
}

/// What the broker answers on such a connection. A call of the client may never be answered when its
/// connection is lost.
async fn answered<T>(call: impl Future<Output = lapin::Result<T>>) -> T {
    tokio::time::timeout(PATIENCE, call).await.expect("in time").expect("a good answer")
}

/// A queue of the test's own, bound to the events.
async fn listen(channel: &Channel, key: &str) {
    let (durable, none) = (QueueDeclareOptions::durable(), FieldTable::default());
    answered(channel.queue_declare("mine".into(), durable, none.clone())).await;
    let bound = channel.queue_bind(
        "mine".into(),
        EVENTS.into(),
        key.into(),
        QueueBindOptions::default(),
        none,
    );
    answered(bound).await;
}

async fn take(channel: &Channel, count: usize) -> Vec<Delivery> {
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume("mine".into(), "".into(), options, none);
    let mut consumer = answered(consumer).await;
    let mut all = Vec::new();
    while all.len() < count {
        let next = tokio::time::timeout(PATIENCE, consumer.next()).await.expect("in time");
        let delivery = next.expect("a message").expect("a connection");
        answered(delivery.acker.ack(BasicAckOptions::default())).await;
        all.push(delivery);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_come_in_their_order_with_their_ids_and_outlive_the_broker() {
    let mut rabbit = tokio::task::spawn_blocking(RabbitMq::start).await.expect("it starts");
    let url = rabbit.vhost();
    let broker = AmqpBroker::new(settings(&url));
    // Nobody listens yet: that is no failure.
    broker.publish(&[message(0)]).await.expect("unrouted");
    let (connection, mine) = channel(&url).await;
    listen(&mine, "target.*").await;
    let sent: Vec<Message> = (1..=300).map(message).collect();
    broker.publish(&sent).await.expect("confirmed");
    drop((connection, mine));

    rabbit.kill();
    let refused = in_time(broker.publish(&[message(301)])).await;
    assert!(matches!(refused, Err(DriverError::Unknown(_))), "{refused:?}");
    rabbit.resume();
    // It greets before its virtual hosts are there.
    tokio::time::timeout(PATIENCE, async {
        while in_time(broker.publish(&[message(301)])).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("it connects again");
    let (_connection, mine) = channel(&url).await;
    let all = take(&mine, 301).await;
    for (delivery, number) in all.iter().zip(1..) {
        let expected = message(number);
        assert_eq!(String::from_utf8_lossy(&delivery.data), expected.body);
        let properties = &delivery.properties;
        let id = properties.message_id().as_ref().map(ToString::to_string);
        assert_eq!(id.as_deref(), Some(expected.id.as_str()));
        let kind = properties.content_type().as_ref().map(ToString::to_string);
        assert_eq!(kind.as_deref(), Some("application/cloudevents+json"));
        assert_eq!(*properties.delivery_mode(), Some(2), "it is persistent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_made_if_it_should_only_be_checked() {
    let url = tokio::task::spawn_blocking(|| RabbitMq::shared().vhost()).await.expect("a vhost");
    let checked = Settings { topology: Topology::Checked, ..settings(&url) };
    let refused = AmqpBroker::new(checked.clone()).publish(&[message(1)]).await;
    let Err(DriverError::Refused(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains(EVENTS), "{why}");
    AmqpBroker::new(settings(&url)).publish(&[message(1)]).await.expect("made");
    AmqpBroker::new(checked).publish(&[message(1)]).await.expect("it is there");
    let shown = format!("{:?}", settings("amqp://u:hidden@h/"));
    assert!(!shown.contains("hidden"), "{shown}");
}

async fn tell(channel: &Channel, key: &str, body: &str) {
    let (options, plain) = (BasicPublishOptions::default(), BasicProperties::default());
    let sent = channel.basic_publish(CMDB.into(), key.into(), options, body.as_bytes(), plain);
    answered(answered(sent).await).await;
}

/// As in the product: a call is given up after this time.
async fn in_time<T>(call: Call<'_, T>) -> Result<T, DriverError> {
    let answer = tokio::time::timeout(BROKER_LIMIT, call).await;
    answer.unwrap_or_else(|_| Err(DriverError::Unknown("it was given up".to_owned())))
}

async fn next(inbox: &AmqpInbox) -> Incoming {
    tokio::time::timeout(PATIENCE, inbox.next()).await.expect("in time").expect("a message")
}

async fn until_waiting(inbox: &AmqpInbox, wanted: Waiting) {
    let came = tokio::time::timeout(PATIENCE, async {
        while inbox.waiting().await.expect("counted") != wanted {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(came.await.is_ok(), "{:?} is not {wanted:?}", in_time(inbox.waiting()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_settled_comes_again_and_poison_is_laid_aside_with_its_reason() {
    let url = tokio::task::spawn_blocking(|| RabbitMq::shared().vhost()).await.expect("a vhost");
    let inbox = AmqpInbox::new(settings(&url));
    until_waiting(&inbox, Waiting::default()).await;
    let (_connection, mine) = channel(&url).await;
    tell(&mine, "group.changed.web.prod", "one").await;
    tell(&mine, "group.changed.db", "two").await;
    tell(&mine, "server.changed.db", "nothing of ours").await;

    let one = next(&inbox).await;
    assert_eq!((one.key.as_str(), &one.body[..]), ("group.changed.web.prod", &b"one"[..]));
    inbox.close().await.expect("closed");
    inbox.settle(one.tag, Verdict::Done).await.expect("too late, and no matter");
    expect_lost(&inbox).await;
    let again = next(&inbox).await;
    assert_eq!(again.body, b"one");
    assert_ne!(again.tag, one.tag);
    inbox.settle(again.tag, Verdict::Done).await.expect("acknowledged");
    let two = next(&inbox).await;
    assert_eq!(two.body, b"two");
    let poison = Verdict::Poison("it is no message".to_owned());
    inbox.settle(two.tag, poison).await.expect("laid aside");
    inbox.close().await.expect("closed");
    until_waiting(&inbox, Waiting { queued: 0, dead: 1 }).await;

    let dead = answered(mine.basic_get(DEAD.into(), BasicGetOptions::default())).await;
    let dead = dead.expect("one is there");
    let headers = dead.delivery.properties.headers().clone().expect("headers");
    let header = |name: &str| match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(header(REASON), "it is no message");
    assert_eq!(header("x-capstan-key"), "group.changed.db");
    let back = lapin::options::BasicNackOptions { requeue: true, ..Default::default() };
    answered(dead.delivery.acker.nack(back)).await;
    until_waiting(&inbox, Waiting { queued: 0, dead: 1 }).await;
    let replayed = in_time(inbox.replay(10)).await.expect("replayed");
    assert_eq!(replayed, Replayed { moved: 1, left: 0 });
    until_waiting(&inbox, Waiting { queued: 1, dead: 0 }).await;
    expect_lost(&inbox).await;
    assert_eq!(next(&inbox).await.body, b"two", "{QUEUE} has it again");
    assert_eq!(in_time(inbox.replay(10)).await.expect("asked"), Replayed::default());
}

/// Whoever asks first after a connection was given up is told so.
async fn expect_lost(inbox: &AmqpInbox) {
    let lost = tokio::time::timeout(PATIENCE, inbox.next()).await.expect("in time");
    assert!(matches!(lost, Err(DriverError::Busy(_))), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_message_lets_go_when_the_connection_is_given_up() {
    let url = tokio::task::spawn_blocking(|| RabbitMq::shared().vhost()).await.expect("a vhost");
    let inbox = AmqpInbox::new(settings(&url));
    let (_connection, mine) = channel(&url).await;
    until_waiting(&inbox, Waiting::default()).await;
    tell(&mine, "group.changed.web", "one").await;
    let one = next(&inbox).await;
    // Nothing more comes: it waits for ever.
    let closing = async {
        tokio::task::yield_now().await;
        inbox.close().await
    };
    let both = async { tokio::join!(inbox.next(), closing) };
    let (waited, closed) = tokio::time::timeout(PATIENCE, both).await.expect("at once");
    closed.expect("closed");
    assert!(matches!(waited, Err(DriverError::Busy(_))), "{waited:?}");
    let again = next(&inbox).await;
    assert_eq!(again.body, one.body, "it comes again");
}

/// Nothing arrives any more, and nobody is told: whoever waits finds out by itself.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_message_notices_a_silent_line() {
    let url = tokio::task::spawn_blocking(|| RabbitMq::shared().vhost()).await.expect("a vhost");
    let proxy = Proxy::to(url_port(&url));
    let inbox = AmqpInbox::new(settings(&proxy.url(&url)));
    let (_connection, mine) = channel(&url).await;
    until_waiting(&inbox, Waiting::default()).await;
    tell(&mine, "group.changed.web", "one").await;
    let one = next(&inbox).await;
    proxy.silence();
    let waited = tokio::time::timeout(PATIENCE, inbox.next()).await.expect("it is noticed");
    assert!(matches!(waited, Err(DriverError::Unknown(_))), "{waited:?}");
    proxy.open();
    assert_eq!(next(&inbox).await.body, one.body, "it comes again");
}

/// Lays messages with these numbers aside.
async fn lay_aside(channel: &Channel, count: usize) {
    let (options, plain) = (BasicPublishOptions::default(), BasicProperties::default());
    for number in 0..count {
        let (key, body) = (DEAD.into(), number.to_string());
        let sent = channel.basic_publish("".into(), key, options, body.as_bytes(), plain.clone());
        answered(answered(sent).await).await;
    }
}

/// Takes everything out of a queue.
async fn drained(channel: &Channel, queue: &'static str) -> Vec<usize> {
    let mut all = Vec::new();
    loop {
        let got = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true });
        let Some(got) = answered(got).await else { return all };
        let text = String::from_utf8(got.delivery.data.clone()).expect("text");
        all.push(text.parse().expect("a number"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_messages_go_back_in_bounded_calls_and_none_is_lost() {
    const COUNT: usize = 2_000;
    const CUTS: [u64; 4] = [30, 60, 90, 150];
    let direct = tokio::task::spawn_blocking(|| RabbitMq::shared().vhost()).await.expect("a vhost");
    let port = url_port(&direct);
    let proxy = Proxy::to(port);
    let inbox = AmqpInbox::new(settings(&proxy.url(&direct)));
    until_waiting(&inbox, Waiting::default()).await;
    let (_connection, mine) = channel(&direct).await;
    lay_aside(&mine, COUNT).await;
    // Cut off in the middle, wherever that is.
    for after in CUTS {
        let cut = async {
            tokio::time::sleep(Duration::from_millis(after)).await;
            proxy.cut();
        };
        let (replayed, ()) = tokio::join!(in_time(inbox.replay(u32::MAX)), cut);
        if let Ok(replayed) = replayed {
            assert!(usize::try_from(replayed.moved).expect("few") <= COUNT);
        }
    }
    // A slow line: a call ends in time, and says that more is left.
    proxy.slow(Duration::from_millis(5));
    let replayed = in_time(inbox.replay(u32::MAX)).await.expect("in part");
    assert!(replayed.moved > 0 && replayed.left > 0, "{replayed:?}");
    proxy.open();
    let first = in_time(inbox.replay(7)).await.expect("some");
    assert_eq!((first.moved, first.left), (7, replayed.left - 7));
    while in_time(inbox.replay(u32::MAX)).await.expect("the rest").left > 0 {}
    let mut all = drained(&mine, QUEUE).await;
    assert!(drained(&mine, DEAD).await.is_empty());
    let came = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, (0..COUNT).collect::<Vec<_>>());
    assert!(came - COUNT <= CUTS.len() * 100, "{came}: more than a lot came twice for a cut");
}

fn url_port(url: &str) -> u16 {
    let after = url.split_once("127.0.0.1:").expect("a service on this machine").1;
    after.split('/').next().and_then(|port| port.parse().ok()).expect("a port")
}
