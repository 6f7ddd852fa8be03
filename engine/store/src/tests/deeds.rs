//! What people do, and the entry in the audit that says so: both are written, or neither.

use std::time::Duration;

use capstan_core::dependency::{BreakerReport, BreakerState, DependencyKind};
use capstan_core::record::{Application, Bad};
use capstan_core::view::CutOff;
use capstan_core::{ApplicationId, DeploymentId, PackageId, TokenId, WebhookId};
use sea_orm::ConnectionTrait;
use uuid::Uuid;

use super::messages::new as webhook;
use super::records::{application, deployment, group_state, insert, package, store, write};
use crate::{Error, NewAudit, NewPackage, Registered, Store, WebhookChange};

const EDGE: &str = "load_balancer.edge";

/// What deeds are done to.
struct World {
    shop: Application,
    package: PackageId,
    token: TokenId,
    webhook: WebhookId,
    deployment: DeploymentId,
}

async fn world(store: &Store) -> World {
    let shop = application(store, "shop").await;
    let mut state = group_state(store, &shop, 1).await;
    let package = package(store, &shop, "1.0").await;
    let made = deployment(&state, &package);
    let id = made.id;
    let changes = insert(&mut state, made);
    write(store, &mut state, &changes).await;
    let edge = BreakerReport {
        name: EDGE.to_owned(),
        kind: DependencyKind::LoadBalancer,
        state: BreakerState::Closed,
        error: None,
    };
    store.dependencies_note(&[edge]).await.expect("noted");
    let token = store.token_create("ada", "h1").await.expect("created");
    let made = store.webhook_create(webhook("first"), None).await.expect("made").expect("new");
    World { shop, package: package.id, token, webhook: made.id, deployment: id }
}

fn new_package(world: &World, version: &str) -> NewPackage {
    NewPackage {
        application: world.shop.id,
        version: version.to_owned(),
        sha256: "bb".to_owned(),
        size: None,
        locations: Vec::new(),
        stored: true,
    }
}

fn entry(action: &str) -> NewAudit {
    NewAudit {
        actor: "ada".to_owned(),
        action: action.to_owned(),
        subject_kind: "test",
        subject: "it".to_owned(),
        deployment: None,
        answer: "accepted".to_owned(),
        detail: String::new(),
    }
}

/// The deeds that have a method of their own.
const DEEDS: [&str; 10] = [
    "package.register",
    "package.mark_bad",
    "application.create",
    "session.open",
    "dependency.cut_off",
    "webhook.create",
    "webhook.change",
    "webhook.replay",
    "session.close",
    "webhook.delete",
];

async fn act(store: &Store, world: &World, deed: &str) -> Result<(), Error> {
    let audit = Some(entry(deed));
    match deed {
        "package.register" => {
            store.package_register(new_package(world, "2.0"), audit).await.map(drop)
        }
        "package.mark_bad" => {
            let bad = Bad { by: "ada".to_owned(), reason: "it leaks".to_owned() };
            store.package_mark(world.package, Some(bad), audit).await.map(drop)
        }
        "application.create" => {
            let id = ApplicationId(Uuid::now_v7());
            let other = Application { id, name: "other".to_owned(), ..world.shop.clone() };
            store.application_put(&other, audit).await.map(drop)
        }
        "session.open" => {
            let soon = store.now() + Duration::from_mins(1);
            store.session_create("s1", world.token, "c1", soon, audit).await
        }
        "session.close" => store.session_delete("s1", audit).await,
        "dependency.cut_off" => {
            let cut = CutOff {
                by: "ada".to_owned(),
                reason: "ticket 17".to_owned(),
                since: store.now(),
                expires_at: None,
            };
            store.dependency_switch(EDGE, Some(cut), audit).await.map(drop)
        }
        "webhook.create" => store.webhook_create(webhook("second"), audit).await.map(drop),
        "webhook.change" => {
            let off = WebhookChange { enabled: Some(false), ..WebhookChange::default() };
            store.webhook_change(world.webhook, off, audit).await.map(drop)
        }
        "webhook.replay" => {
            store.webhook_replay(world.webhook, world.deployment, 0, audit).await.map(drop)
        }
        "webhook.delete" => store.webhook_delete(world.webhook, audit).await.map(drop),
        other => unreachable!("{other}"),
    }
}

/// Everything that the deeds change.
async fn seen(store: &Store, world: &World) -> String {
    let package = store.package(world.package).await.expect("read");
    let registered = store.package_by_version(world.shop.id, "2.0").await.expect("read");
    let other = store.application_by_name("other").await.expect("read");
    let session = store.session_find("s1").await.expect("read");
    let dependencies = store.dependencies().await.expect("read");
    let webhooks = store.webhooks(crate::PageRequest { limit: 9, cursor: None }).await;
    let webhooks = webhooks.expect("read").items;
    let cursors = store.reader().query_all_raw(crate::bulk::sql(
        store.reader(),
        "SELECT sent_seq FROM message_cursors",
        [],
    ));
    let cursors = cursors.await.expect("read").len();
    format!(
        "{package:?} {registered:?} {other:?} {session:?} {dependencies:?} {webhooks:?} {cursors}"
    )
}

async fn audited(store: &Store) -> Vec<String> {
    let text = "SELECT action FROM actions ORDER BY id";
    let rows = store.reader().query_all_raw(crate::bulk::sql(store.reader(), text, [])).await;
    rows.expect("read").iter().map(|row| row.try_get("", "action").expect("text")).collect()
}

async fn run(store: &Store, text: &str) {
    store.writer().execute_unprepared(text).await.expect(text);
}

#[tokio::test]
async fn a_deed_and_its_entry_are_written_together_or_not_at_all() {
    let (store, _database) = store().await;
    let world = world(&store).await;
    for deed in DEEDS {
        let before = seen(&store, &world).await;
        let known = audited(&store).await;
        run(&store, "ALTER TABLE actions RENAME TO actions_away").await;
        let refused = act(&store, &world, deed).await;
        run(&store, "ALTER TABLE actions_away RENAME TO actions").await;
        assert!(refused.is_err(), "{deed}: done without its entry");
        assert_eq!(seen(&store, &world).await, before, "{deed}");

        act(&store, &world, deed).await.expect(deed);
        assert_ne!(seen(&store, &world).await, before, "{deed}");
        assert_eq!(audited(&store).await, [known, vec![deed.to_owned()]].concat());
    }
}

#[tokio::test]
async fn a_deed_that_changes_nothing_has_no_entry() {
    let (store, _database) = store().await;
    let world = world(&store).await;
    let another = NewPackage { sha256: "cc".to_owned(), ..new_package(&world, "1.0") };
    let (_, registered) =
        store.package_register(another, Some(entry("package.register"))).await.expect("answered");
    assert_eq!(registered, Registered::OtherDigest);
    let nobody = PackageId(Uuid::now_v7());
    store.package_mark(nobody, None, Some(entry("package.clear_bad"))).await.expect("answered");
    let unknown = "load_balancer.mars";
    store
        .dependency_switch(unknown, None, Some(entry("dependency.restore")))
        .await
        .expect("answered");
    store.webhook_create(webhook("first"), Some(entry("webhook.create"))).await.expect("answered");
    let nobody = WebhookId(Uuid::now_v7());
    let off = WebhookChange { enabled: Some(false), ..WebhookChange::default() };
    store.webhook_change(nobody, off, Some(entry("webhook.change"))).await.expect("answered");
    store.webhook_delete(nobody, Some(entry("webhook.delete"))).await.expect("answered");
    let unknown = DeploymentId(Uuid::now_v7());
    let replayed =
        store.webhook_replay(world.webhook, unknown, 0, Some(entry("webhook.replay"))).await;
    assert!(!replayed.expect("answered"));
    store.session_delete("s9", Some(entry("session.close"))).await.expect("answered");
    assert_eq!(audited(&store).await, Vec::<String>::new());
}
