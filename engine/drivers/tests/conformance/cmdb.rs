//! What every CMDB driver must do with what its source gives.

use std::time::Duration;

use capstan_core::ports::{Cmdb, CmdbGroup, DriverError};
use capstan_drivers::cmdb_records::Names;
use serde_json::{Value, json};

/// A source that a test can change, and the driver that reads it.
pub(crate) trait Subject {
    fn cmdb(&self) -> &dyn Cmdb;
    /// From now on the source gives these groups.
    fn put(&self, groups: &[Value]);
}

/// The drivers that groups of these tests may name.
pub(crate) fn names() -> Names {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Names { load_balancers: names(&["none", "edge"]), executors: names(&["local"]) }
}

/// A good group of two servers; `number` keeps its addresses apart from those of others.
pub(crate) fn group(id: &str, number: u8) -> Value {
    let server = |n: u8| {
        json!({"id": format!("{id}-{n}"), "hostname": format!("{id}-{n}"), "instance": "",
            "ip_address": format!("10.0.{number}.{n}"), "port": 8080, "root": format!("/srv/{id}"),
            "idc": "sh", "pool": "a", "is_bastion": n == 1, "retired": false})
    };
    json!({"id": id, "revision": 41, "name": id,
        "application": {"id": id, "name": id, "owner": "ann", "environment": "prod",
            "kind": "generic", "bastion": "one"},
        "site": "main", "virtual_path": "/", "doc_base": format!("/srv/{id}"), "port": 8080,
        "health_check_url": "http://{ip}:{port}/healthz", "idc": "sh", "load_balancer": "edge",
        "executor": "local", "servers": [server(1), server(2)]})
}

/// The same with another value at a pointer.
pub(crate) fn with(mut group: Value, pointer: &str, value: Value) -> Value {
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent = group.pointer_mut(parent).expect("it is there");
    if value.is_null() {
        parent.as_object_mut().expect("an object").remove(name).expect("it is there");
    } else {
        parent[name] = value;
    }
    group
}

/// The source gives `web`, and the good `db` beside it.
async fn begin<M: AsyncFn() -> Box<dyn Subject>>(make: &M, web: Value) -> Box<dyn Subject> {
    let subject = make().await;
    subject.put(&[web, group("db", 2)]);
    subject
}

async fn ids(subject: &dyn Subject) -> Vec<String> {
    let groups = subject.cmdb().groups().await.expect("groups answers");
    groups.into_iter().map(|group| group.id).collect()
}

pub(crate) async fn one(subject: &dyn Subject, id: &str) -> CmdbGroup {
    subject.cmdb().group(id).await.expect("group answers").expect("the group is there")
}

/// Runs the whole suite; `make` gives a new source without groups and its driver.
pub(crate) async fn suite<M: AsyncFn() -> Box<dyn Subject>>(make: M) {
    gives_what_is_there(&make).await;
    an_empty_list_is_an_answer(&make).await;
    broken_groups_are_told_and_harm_no_other(&make).await;
    a_broken_group_is_left_out_until_it_is_good(&make).await;
    a_group_without_an_id_may_be_any(&make).await;
    doubles_are_told(&make).await;
    records_go_forward_only(&make).await;
    a_record_without_a_revision_has_none(&make).await;
    changes_are_told(&make).await;
}

async fn gives_what_is_there<M: AsyncFn() -> Box<dyn Subject>>(make: &M) {
    let given = group("web", 1);
    let subject = begin(make, given.clone()).await;
    let subject = subject.as_ref();
    assert_eq!(ids(subject).await, ["db", "web"]);
    assert_eq!(subject.cmdb().faults(), Vec::<String>::new());
    let expected: CmdbGroup = serde_json::from_value(given).expect("it is good");
    assert_eq!(one(subject, "web").await, expected);
    assert_eq!(subject.cmdb().groups().await.expect("groups answers")[1], expected);
    assert_eq!(subject.cmdb().group("other").await, Ok(None));
    // What may be left out has a default.
    let short = json!({"id": "mail", "revision": 1, "name": "mail", "doc_base": "/srv/mail",
        "application": {"id": "mail", "name": "mail"}, "port": 25,
        "health_check_url": "http://{ip}:{port}/",
        "servers": [{"id": "m", "hostname": "m", "ip_address": "10.0.9.1"}]});
    subject.put(&[short]);
    let mail = one(subject, "mail").await;
    assert_eq!((mail.load_balancer.as_str(), mail.executors.join(" ").as_str()), ("none", "local"));
    assert_eq!((mail.application.kind.as_str(), mail.servers[0].port), ("generic", None));
}

async fn an_empty_list_is_an_answer<M: AsyncFn() -> Box<dyn Subject>>(make: &M) {
    let subject = make().await;
    subject.put(&[]);
    assert_eq!(subject.cmdb().groups().await, Ok(Vec::new()));
    assert_eq!(subject.cmdb().group("web").await, Ok(None));
}

/// A pointer into the good group, what is put there, and what is said of it.
fn broken() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("/port", json!("http"), "`port`: invalid type: string \"http\""),
        ("/port", json!(80800), "`port`: invalid value: integer `80800`"),
        ("/port", json!(0), "the port must be from 1 to 65535"),
        ("/port", Value::Null, "missing field `port`"),
        ("/sight", json!("main"), "unknown field `sight`"),
        ("/servers", json!(3), "`servers`: invalid type"),
        ("/application/bastion", json!("two"), "unknown variant `two`"),
        ("/servers/1/port", json!("http"), "`port`: invalid type: string \"http\""),
        ("/servers/1/is_bastion", json!("maybe"), "`is_bastion`: invalid type"),
        ("/servers/1/hostname", Value::Null, "missing field `hostname`"),
        ("/servers/1/hostname", json!("-rf"), "the hostname is `-rf`"),
        ("/servers/1/ip_address", json!("web"), "`web` is no IP address"),
        ("/servers/1/root", json!("/srv/../etc"), "the root `/srv/../etc`"),
        ("/servers/1/id", json!("web-1"), "the server id web-1 is used twice"),
        ("/load_balancer", json!("f5"), "no load balancer named `f5`; configured are: none, edge"),
        ("/executor", json!("salt"), "no executor named `salt`; configured are: local"),
        ("/health_check_url", json!("ftp://{ip}"), "health_check_url is `ftp://{ip}`"),
    ]
}

async fn broken_groups_are_told_and_harm_no_other<M: AsyncFn() -> Box<dyn Subject>>(make: &M) {
    for (pointer, value, expected) in broken() {
        let subject = begin(make, with(group("web", 1), pointer, value)).await;
        let subject = subject.as_ref();
        assert_eq!(ids(subject).await, ["db"], "{expected}");
        let faults = subject.cmdb().faults();
        let says = |fault: &&String| fault.contains(expected) && fault.contains(", group web: ");
        let fault = faults.iter().find(says);
        let fault = fault.unwrap_or_else(|| panic!("{expected}: {faults:?}"));
        assert!(fault.ends_with("(it is left out)"), "{fault}");
        // It is broken, and not taken for one that is not there.
        let refused = subject.cmdb().group("web").await;
        assert!(
            matches!(&refused, Err(DriverError::Refused(reason)) if reason.contains(expected)),
            "{expected}: {refused:?}"
        );
        assert_eq!(one(subject, "db").await.id, "db");
    }
}

async fn a_broken_group_is_left_out_until_it_is_good<M: AsyncFn() -> Box<dyn Subject>>(make: &M) {
    let subject = begin(make, group("web", 1)).await;
    let subject = subject.as_ref();
    let before = subject.cmdb().groups().await.expect("groups answers");
    subject.put(&[with(group("web", 1), "/port", json!("http")), group("db", 2)]);
    // Nobody knows whether the record before is still right: it is not given as if it were.
    assert_eq!(ids(subject).await, ["db"]);
    let faults = subject.cmdb().faults();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].ends_with("(its last good record stays in force)"), "{faults:?}");
    let refused = subject.cmdb().group("web").await;
    assert!(matches!(&refused, Err(DriverError::Refused(_))), "{refused:?}");
    subject.put(&[group("web", 1), group("db", 2)]);
    assert_eq!(subject.cmdb().groups().await, Ok(before));
    assert_eq!(subject.cmdb().faults(), Vec::<String>::new());
}

async fn a_group_without_an_id_may_be_any<M: AsyncFn() -> Box<dyn Subject>>(make: &M) {
    let subject = begin(make, group("web", 1)).await;
    let subject = subject.as_ref();
    let before = subject.cmdb().groups().await.expect("groups answers");
    subject.put(&[with(group("web", 1), "/id", Value::Null), group("db", 2)]);
    assert_eq!(ids(subject).await, ["db"]);
    assert!(subject.cmdb().faults()[0].contains("missing field `id`"));
    subject.put(&[group("web", 1), group("db", 2)]);
    assert_eq!(subject.cmdb().groups().await, Ok(before));
}

async fn doubles_are_told<M: AsyncFn() -> Box<dyn Subject>>(make: &M) {
    let subject = begin(make, with(group("web", 1), "/servers/0/ip_address", json!("10.0.2.1")));
    let subject = subject.await;
    let subject = subject.as_ref();
    assert_eq!(ids(subject).await, ["web"]);
    let faults = subject.cmdb().faults();
    assert!(faults[0].contains("group db: db-1 has the address 10.0.2.1"), "{faults:?}");
    // The other one has a record from before, with the same address: that keeps nobody out.
    subject.put(&[group("web", 1), group("db", 2)]);
    let grown = |at: i64| {
        let taken = with(group("web", 1), "/servers/0/ip_address", json!("10.0.2.1"));
        with(taken, "/revision", json!(at))
    };
    let subject = begin(make, group("web", 1)).await;
    let subject = subject.as_ref();
    assert_eq!(ids(subject).await, ["db", "web"]);
    subject.put(&[grown(42), group("db", 2)]);
    assert_eq!(ids(subject).await, ["web"]);
    let listed = subject.cmdb().groups().await.expect("groups answers").remove(0);
    assert_eq!(one(subject, "web").await, listed);
    assert_eq!(listed.servers[0].ip_address, "10.0.2.1");
    // One that is broken in itself keeps what it had: nobody else may take it meanwhile.
    let subject = begin(make, group("web", 1)).await;
    let subject = subject.as_ref();
    assert_eq!(ids(subject).await, ["db", "web"]);
    subject.put(&[grown(42), with(group("db", 2), "/port", json!("http"))]);
    assert_eq!(ids(subject).await, Vec::<String>::new());
    let refused = subject.cmdb().group("web").await;
    assert!(matches!(refused, Err(DriverError::Refused(_))), "{refused:?}");
    let subject = begin(make, group("web", 1)).await;
    let subject = subject.as_ref();

    let newer = with(group("web", 1), "/revision", json!(43));
    subject.put(&[newer, with(group("web", 3), "/port", json!(1))]);
    assert_eq!(ids(subject).await, ["web"]);
    assert_eq!(subject.cmdb().groups().await.expect("groups answers")[0].port, 8080);
    let faults = subject.cmdb().faults();
    assert!(faults[0].ends_with("the group is there twice (the first one counts)"), "{faults:?}");
}

async fn records_go_forward_only<M: AsyncFn() -> Box<dyn Subject>>(make: &M) {
    let at = |revision: i64, port: u16| {
        with(with(group("web", 1), "/revision", json!(revision)), "/port", json!(port))
    };
    let subject = begin(make, at(41, 8080)).await;
    let subject = subject.as_ref();
    let shown = async || {
        let listed = subject.cmdb().groups().await.expect("groups answers").remove(1);
        assert_eq!(one(subject, "web").await, listed);
        (listed.revision, listed.port)
    };
    assert_eq!(shown().await, (41, 8080));
    subject.put(&[at(42, 8090), group("db", 2)]);
    assert_eq!(shown().await, (42, 8090));
    // An older one does not count, and neither does one that changed without a new revision.
    subject.put(&[at(41, 8080), group("db", 2)]);
    let listed = subject.cmdb().groups().await.expect("groups answers");
    let mut web = listed.iter().filter(|group| group.id == "web");
    assert!(web.all(|group| (group.revision, group.port) == (42, 8090)), "{listed:?}");
    subject.put(&[at(42, 8091), group("db", 2)]);
    assert_eq!(ids(subject).await, ["db"]);
    let faults = subject.cmdb().faults();
    assert!(faults[0].contains("its revision 42 is not above the one before, 42"), "{faults:?}");
    subject.put(&[at(43, 8091), group("db", 2)]);
    assert_eq!(shown().await, (43, 8091));
}

async fn a_record_without_a_revision_has_none<M: AsyncFn() -> Box<dyn Subject>>(make: &M) {
    let bare =
        |port: u16| with(with(group("web", 1), "/revision", Value::Null), "/port", json!(port));
    let subject = begin(make, bare(8080)).await;
    let subject = subject.as_ref();
    let shown = async || {
        let listed = subject.cmdb().groups().await.expect("groups answers").remove(1);
        assert_eq!(one(subject, "web").await, listed);
        (listed.revision, listed.port)
    };
    assert_eq!(shown().await, (0, 8080));
    subject.put(&[bare(8090), group("db", 2)]);
    assert_eq!(shown().await, (0, 8090));
    // It may get some, and lose them again.
    subject.put(&[group("web", 1), group("db", 2)]);
    assert_eq!(shown().await, (41, 8080));
    subject.put(&[bare(8090), group("db", 2)]);
    assert_eq!(shown().await, (0, 8090));
}

async fn changes_are_told<M: AsyncFn() -> Box<dyn Subject>>(make: &M) {
    let subject = begin(make, group("web", 1)).await;
    let subject = subject.as_ref();
    let told = async |within: Duration| {
        let told = tokio::time::timeout(within, subject.cmdb().changed()).await;
        told.inspect(|told| assert_eq!(*told, Ok(()))).is_ok()
    };
    // What was told of the first reading, if anything, does not count.
    subject.cmdb().groups().await.expect("groups answers");
    told(Duration::from_millis(300)).await;
    let newer = with(with(group("web", 1), "/revision", json!(42)), "/port", json!(8090));
    subject.put(&[newer, group("db", 2)]);
    assert!(told(Duration::from_secs(10)).await, "the change was not told");
    assert_eq!(subject.cmdb().groups().await.expect("groups answers")[1].port, 8090);
    assert!(!told(Duration::from_millis(300)).await, "nothing changed");
}
