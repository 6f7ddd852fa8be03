//! The CMDB in a file: what is broken is told with its line and takes nothing good away.

#[path = "conformance/cmdb.rs"]
mod conformance;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use capstan_core::ports::{Cmdb, CmdbGroup, DriverError};
use capstan_core::record::{BastionRule, OnLbFailure};
use capstan_drivers::file_cmdb::FileCmdb;
use conformance::{Subject, names, suite};
use serde_json::{Value, json};
use tempfile::TempDir;

const GOOD: &str = r"groups:
  - id: web-prod
    name: web-prod
    application: {id: web, name: web, owner: ann, environment: prod, kind: generic, bastion: none}
    site: main
    doc_base: /srv/web
    port: 8080
    health_check_url: http://{ip}:{port}/healthz
    idc: no
    load_balancer: edge
    on_lb_failure: bypass
    servers:
      - {id: web-1, hostname: web-1, ip_address: 10.0.0.1, is_bastion: true}
      - id: web-2
        hostname: web-2
        instance: 01
        ip_address: 10.0.0.2
        port: 8081
        root: /srv/web-2
        idc: pd
        pool: a
  - id: db-prod
    name: db-prod
    application: {id: db, name: db}
    doc_base: /srv/db
    port: 5432
    health_check_url: http://{ip}:{port}/
    servers: [{id: db-1, hostname: db-1, ip_address: 10.0.1.1}]
";

struct File {
    _folder: TempDir,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = Self { path: folder.path().join("cmdb.yaml"), _folder: folder };
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).expect("a file");
    }

    async fn open(&self) -> FileCmdb {
        open(&self.path).await
    }
}

async fn open(path: &Path) -> FileCmdb {
    FileCmdb::open(path, names()).await
}

async fn group(cmdb: &FileCmdb, id: &str) -> CmdbGroup {
    cmdb.group(id).await.expect("group answers").expect("the group is there")
}

fn with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replacen(from, to, 1)
}

/// A file and its driver.
struct Watched {
    file: File,
    cmdb: FileCmdb,
}

impl Subject for Watched {
    fn cmdb(&self) -> &dyn Cmdb {
        &self.cmdb
    }

    fn put(&self, groups: &[Value]) {
        self.file.write(&json!({"groups": groups}).to_string());
    }
}

#[tokio::test]
async fn file_conforms() {
    suite(async || {
        let file = File::new("groups: []");
        let cmdb = file.open().await;
        Box::new(Watched { file, cmdb }) as Box<dyn Subject>
    })
    .await;
}

#[tokio::test]
async fn a_good_file_is_read_whole() {
    let file = File::new(GOOD);
    let cmdb = file.open().await;
    assert_eq!(cmdb.faults(), Vec::<String>::new());
    assert_eq!(cmdb.groups().await.expect("groups answers").len(), 2);
    let web = group(&cmdb, "web-prod").await;
    assert_eq!(
        (web.application.bastion, web.on_lb_failure),
        (BastionRule::None, OnLbFailure::Bypass)
    );
    assert!(web.servers[0].is_bastion);
    // Words that YAML takes for something else are what is written.
    assert_eq!((web.idc.as_str(), web.servers[1].instance.as_str()), ("no", "01"));
    assert_eq!((web.servers[0].port, web.servers[1].port), (None, Some(8081)));
    let db = group(&cmdb, "db-prod").await;
    assert_eq!((db.load_balancer.as_str(), db.executors.join(" ").as_str()), ("none", "local"));
    assert_eq!(db.application.kind, "generic");
    assert_eq!(cmdb.group("other").await, Ok(None));
}

/// What is replaced in the good file, by what, and what is then said of it.
const BROKEN: &[(&str, &str, &str)] = &[
    ("    site: main", "    sight: main", "line 5, group web-prod: unknown field `sight`"),
    ("    port: 8080\n", "", "line 2, group web-prod: missing field `port`"),
    ("port: 8080", "port: 80800", "line 7, group web-prod: `port`: invalid value: integer `80800`"),
    ("port: 8080", "port: 0", "the port must be from 1 to 65535"),
    ("port: 8081", "port: http", "line 18, group web-prod: `port`: invalid type: string \"http\""),
    ("bastion: none", "bastion: two", "line 4, group web-prod: `bastion`: unknown variant `two`"),
    ("id: web-2", "id: web 2", "line 14, group web-prod: the id of the server is `web 2`"),
    ("hostname: web-2", "hostname: -rf", "line 14, group web-prod: the hostname is `-rf`"),
    ("ip_address: 10.0.0.2", "ip_address: web", "line 14, group web-prod: `web` is no IP address"),
    ("root: /srv/web-2", "root: /srv/../etc", "line 14, group web-prod: the root `/srv/../etc`"),
    ("    doc_base: /srv/web\n", "", "web-1 has no root, and the group has no doc_base"),
    ("hostname: web-2", "hostname:", "line 15, group web-prod: `hostname`: the value is missing"),
    (
        "load_balancer: edge",
        "load_balancer: f5",
        "no load balancer named `f5`; configured are: none, edge",
    ),
    ("    idc: no", "    executor: salt", "no executor named `salt`; configured are: local"),
    (
        "    idc: no",
        "    executors: [local, salt]",
        "no executor named `salt`; configured are: local",
    ),
    ("    idc: no", "    executors: [local, local]", "executors names `local` twice"),
    ("    idc: no", "    executors: []", "executors is empty; it must name at least one"),
    ("    idc: no", "    executors: 5", "`executors`: invalid type: integer `5`, expected a name"),
    ("http://{ip}:{port}/healthz", "ftp://{ip}", "health_check_url is `ftp://{ip}`"),
    ("id: web-2", "id: web-1", "line 14, group web-prod: the server id web-1 is used twice"),
    (
        "hostname: web-2\n        instance: 01",
        "hostname: web-1",
        "the group has web-1 twice, first in line 13",
    ),
    (
        "hostname: web-2\n        instance: 01\n        ip_address: 10.0.0.2\n        port: 8081\n        root: /srv/web-2",
        "hostname: web-1\n        instance: b\n        ip_address: 10.0.0.1\n        port: 8081",
        "web-1 instance b has the root /srv/web, which is that of web-1",
    ),
    (
        "ip_address: 10.0.0.2\n        port: 8081",
        "ip_address: 10.0.0.1\n        port: 8080",
        "has the address 10.0.0.1 and port 8080, which are those of web-1 of the group web-prod",
    ),
];

#[tokio::test]
async fn a_broken_group_is_told_with_line_and_reason() {
    for (from, to, expected) in BROKEN {
        let file = File::new(&with(from, to));
        let cmdb = file.open().await;
        let faults = cmdb.faults();
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:?}");
        assert!(faults.iter().all(|fault| fault.ends_with("(it is left out)")), "{faults:?}");
        // The neighbour is not harmed, and the broken one is not taken for one that is not there.
        assert!(cmdb.group("db-prod").await.is_ok_and(|group| group.is_some()), "{expected}");
        let refused = cmdb.group("web-prod").await;
        assert!(matches!(refused, Err(DriverError::Refused(_))), "{expected}: {refused:?}");
    }
}

#[tokio::test]
async fn a_broken_group_is_refused_until_it_is_good() {
    let file = File::new(GOOD);
    let cmdb = file.open().await;
    let before = group(&cmdb, "web-prod").await;
    file.write(&with("port: 8080", "prot: 8080").replace("port: 5432", "port: 5433"));
    let refused = async |expected: &str| match cmdb.group("web-prod").await {
        Err(DriverError::Refused(reason)) => assert!(reason.contains(expected), "{reason}"),
        answer => panic!("{answer:?}"),
    };
    refused("`prot`").await;
    assert_eq!(group(&cmdb, "db-prod").await.port, 5433);
    let faults = cmdb.faults();
    assert!(faults[0].ends_with("(its last good record stays in force)"), "{faults:?}");
    // A group without a readable id may be any of those that are missing.
    file.write(&with("id: web-prod", "identity: web-prod"));
    refused("a group without a good id may be this one").await;
    file.write(GOOD);
    assert_eq!(group(&cmdb, "web-prod").await, before);
    assert_eq!(cmdb.faults(), Vec::<String>::new());
}

#[tokio::test]
async fn a_broken_file_gives_no_answer() {
    let file = File::new(GOOD);
    let cmdb = file.open().await;
    let before = cmdb.groups().await.expect("groups answers");
    for (text, expected) in [
        ("", "line 1: the file must be a map"),
        ("groups: 3", "line 1: the file must be a map"),
        ("groups: []\nservers: []", "line 2: unknown field `servers`"),
        ("groups:\n  - id: [", "line 2"),
        ("groups: []\ngroups: []", "line 2"),
    ] {
        file.write(text);
        assert!(matches!(cmdb.groups().await, Err(DriverError::Busy(_))), "{text}");
        assert!(matches!(cmdb.group("web-prod").await, Err(DriverError::Busy(_))), "{text}");
        let faults = cmdb.faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains(expected), "{expected}: {faults:?}");
    }
    std::fs::remove_file(&file.path).expect("it is there");
    assert!(matches!(cmdb.groups().await, Err(DriverError::Busy(_))));
    assert!(cmdb.faults()[0].contains("cannot be read"));
    file.write(GOOD);
    assert_eq!(cmdb.groups().await, Ok(before));
    // An empty list is an answer.
    file.write("groups: []");
    assert_eq!(cmdb.groups().await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_file_that_was_never_good_gives_no_answer() {
    let file = File::new("groups: 3");
    let cmdb = file.open().await;
    assert!(matches!(cmdb.groups().await, Err(DriverError::Busy(_))));
    assert!(matches!(cmdb.group("web-prod").await, Err(DriverError::Busy(_))));
    file.write(GOOD);
    assert_eq!(cmdb.groups().await.map(|groups| groups.len()), Ok(2));
}

#[tokio::test]
async fn doubles_across_groups_are_told() {
    let clash = with("ip_address: 10.0.1.1", "ip_address: 10.0.0.1, port: 8080");
    let file = File::new(&clash);
    let cmdb = file.open().await;
    let faults = cmdb.faults();
    assert!(faults[0].contains("group db-prod: db-1 has the address 10.0.0.1"), "{faults:?}");
    file.write(&with("id: db-prod", "id: web-prod"));
    assert_eq!(group(&cmdb, "web-prod").await.port, 8080);
    let faults = cmdb.faults();
    assert!(faults[0].contains("group web-prod: the group is there twice"), "{faults:?}");
    // What is retired may have a successor in its place.
    let retired = clash.replace("is_bastion: true", "retired: true");
    file.write(&retired);
    assert_eq!(group(&cmdb, "db-prod").await.servers.len(), 1);
    file.write(&with("{id: db, name: db}", "{id: web, name: db}"));
    assert!(cmdb.groups().await.is_ok());
    let faults = cmdb.faults();
    assert!(faults[0].contains("the application web is described differently"), "{faults:?}");
}

#[tokio::test]
async fn revisions_are_as_they_are_given() {
    assert_eq!(group(&File::new(GOOD).open().await, "web-prod").await.revision, 0);
    let numbered = |revision: i64, port: u16| {
        with("    port: 8080", &format!("    revision: {revision}\n    port: {port}"))
    };
    let file = File::new(&numbered(41, 8080));
    let cmdb = file.open().await;
    assert_eq!(group(&cmdb, "web-prod").await.revision, 41);
    file.write(&numbered(42, 8090));
    assert_eq!(group(&cmdb, "web-prod").await.revision, 42);
    file.write(&numbered(42, 8091));
    assert!(matches!(cmdb.group("web-prod").await, Err(DriverError::Refused(_))));
    assert!(cmdb.faults()[0].contains("its revision 42 is not above the one before, 42"));
}

#[tokio::test]
async fn a_change_is_told_however_the_file_is_written() {
    let file = File::new(GOOD);
    let cmdb = file.open().await;
    let told = async || {
        let began = Instant::now();
        let told = tokio::time::timeout(Duration::from_secs(10), cmdb.changed()).await;
        assert!(matches!(told, Ok(Ok(()))), "the change was not told");
        // Sooner than the comparison that does not need to hear of it.
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    };
    told().await;
    file.write(&with("port: 8080", "port: 8090"));
    told().await;
    let beside = file.path.with_extension("new");
    std::fs::write(&beside, with("port: 8080", "port: 8091")).expect("a file");
    std::fs::rename(&beside, &file.path).expect("it is moved");
    told().await;
    assert_eq!(group(&cmdb, "web-prod").await.port, 8091);
    // Written again without a change.
    file.write(&with("port: 8080", "port: 8091"));
    let silent = tokio::time::timeout(Duration::from_millis(500), cmdb.changed()).await;
    assert!(silent.is_err(), "nothing changed");
}

#[tokio::test]
async fn a_large_fleet_is_read() {
    use std::fmt::Write as _;
    let mut text = "groups:\n".to_owned();
    for group in 0..100 {
        writeln!(
            text,
            "  - id: g{group}\n    name: g{group}\n    application: {{id: a{group}, name: a{group}}}\n    \
             doc_base: /srv/a{group}\n    port: 8080\n    \
             health_check_url: http://{{ip}}:{{port}}/\n    servers:"
        )
        .expect("writing to a string");
        for server in 0..100 {
            writeln!(
                text,
                "      - {{id: s{group}-{server}, hostname: h{group}-{server}, idc: sh, pool: a, \
                 ip_address: 10.1.{group}.{server}, is_bastion: false, retired: false}}"
            )
            .expect("writing to a string");
        }
    }
    let file = File::new(&text);
    let cmdb = file.open().await;
    assert_eq!(cmdb.faults(), Vec::<String>::new());
    assert_eq!(cmdb.groups().await.expect("groups answers").len(), 100);
}

#[tokio::test]
async fn the_example_of_the_documentation_is_an_inventory() {
    let page = include_str!("../../../docs/first-release.md");
    let example = page.split("```yaml\n").nth(1).expect("an example");
    let file = File::new(example.split("```").next().expect("its end"));
    let cmdb = file.open().await;
    assert_eq!(cmdb.faults(), Vec::<String>::new());
    let group = group(&cmdb, "web-prod").await;
    assert_eq!(group.application.bastion, BastionRule::One);
    assert_eq!((group.servers.len(), group.servers[1].port), (2, Some(8082)));
}
