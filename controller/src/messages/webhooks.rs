//! One reader per webhook: made, changed and ended as the table says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use capstan_core::WebhookId;
use capstan_store::Webhook;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::webhook;
use crate::app::App;
use crate::problem::chain;

/// How often the table is looked at, if this process has not changed it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

struct Running {
    /// What it was started with.
    webhook: Webhook,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Runs a reader for each webhook that is switched on, until `shutdown`.
pub(super) async fn run(app: Arc<App>, shutdown: CancellationToken) {
    let mut running: BTreeMap<WebhookId, Running> = BTreeMap::new();
    while !shutdown.is_cancelled() {
        match app.store.webhooks_enabled().await {
            Ok(wanted) => fit(&app, &shutdown, &mut running, wanted).await,
            Err(error) => tracing::warn!(error = chain(&error), "webhooks cannot be listed"),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = app.webhooks_changed.notified() => {}
            () = shutdown.cancelled() => {}
        }
    }
    for (_, reader) in running {
        end(reader).await;
    }
}

async fn fit(
    app: &Arc<App>,
    shutdown: &CancellationToken,
    running: &mut BTreeMap<WebhookId, Running>,
    wanted: Vec<Webhook>,
) {
    let mut wanted: BTreeMap<WebhookId, Webhook> =
        wanted.into_iter().map(|webhook| (webhook.view.id, webhook)).collect();
    for (id, reader) in std::mem::take(running) {
        let is_same = wanted.get(&id).is_some_and(|it| calls_the_same(it, &reader.webhook));
        if is_same && !reader.task.is_finished() {
            wanted.remove(&id);
            running.insert(id, reader);
        } else {
            end(reader).await;
        }
    }
    for (id, webhook) in wanted {
        let stop = shutdown.child_token();
        let task = tokio::spawn(webhook::run(app.clone(), webhook.clone(), stop.clone()));
        running.insert(id, Running { webhook, stop, task });
    }
}

fn calls_the_same(a: &Webhook, b: &Webhook) -> bool {
    let of = |it: &Webhook| (it.view.url.clone(), it.view.events.clone(), it.secret.clone());
    of(a) == of(b)
}

async fn end(reader: Running) {
    reader.stop.cancel();
    if let Err(error) = reader.task.await {
        let webhook = reader.webhook.view.name;
        tracing::error!(webhook, %error, "the reader of a webhook ended badly");
    }
}
