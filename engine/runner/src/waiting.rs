//! Effects that stay claimed while nobody works on them: their jobs wait for a look, or for room.

use std::panic::AssertUnwindSafe;
use std::sync::PoisonError;

use capstan_core::effect::Effect;
use capstan_store::chain;
use futures::FutureExt;

use crate::job::Context;

impl Context {
    /// An effect stays claimed while its job waits; the engine gives it back when it stops.
    pub(crate) fn keep_waiting(&self, effect: Effect) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(effect);
    }

    /// The wait is over. `false`: the engine has stopped meanwhile and given the effect back.
    pub(crate) fn waits_no_more(&self, effect: Effect) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&effect)
    }

    /// Waits for an effect that is claimed meanwhile. Whoever panics there gives it back: nobody else would
    /// before the next start.
    pub(crate) async fn wait_or_give_back(&self, effect: Effect, wait: impl Future<Output = ()>) {
        if AssertUnwindSafe(wait).catch_unwind().await.is_err() {
            tracing::error!(?effect, "waiting ended badly; the work is given back");
            self.waits_no_more(effect);
            self.store.return_claim(effect);
        }
    }

    /// Gives back everything that waits for a look.
    pub(crate) async fn give_back_all(&self) {
        self.jobs.send_replace(None);
        let effects: Vec<Effect> = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.drain().collect()
        };
        if let Err(error) = self.store.give_back(&effects).await {
            tracing::warn!(error = %chain(&error), "work could not be given back");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use capstan_core::input::Input;
    use capstan_drivers::scripts::Scripts;
    use capstan_store::Store;
    use tokio::sync::{Semaphore, watch};

    use super::*;
    use crate::{Ports, Settings};

    /// A store in which one server is to be drained.
    async fn one_drain(folder: &std::path::Path) -> Store {
        let url = format!("sqlite://{}", folder.join("capstan.db").display());
        let stale_after = Duration::from_hours(1);
        let settings = capstan_store::Settings { stale_after, ..capstan_store::Settings::new(url) };
        let store = Store::open(&settings).await.expect("a store");
        let record = serde_json::json!({
            "id": "g", "revision": 1, "name": "g", "port": 80,
            "application": {"id": "a", "name": "a", "bastion": "none"},
            "health_check_url": "http://{ip}:{port}/", "load_balancer": "none", "executor": "none",
            "servers": [{"id": "s", "hostname": "s", "ip_address": "127.0.0.1", "root": "/srv"}],
        });
        let record = serde_json::from_value(record).expect("a record");
        let (group, _) = store.sync_group(record, false).await.expect("a group");
        let server = store.servers(group).await.expect("servers")[0].id;
        let pull_out = Input::PullOut { server, actor: "ann".into(), reason: "disk".into() };
        store.submit(group, pull_out).await.expect("it is pulled out");
        store
    }

    #[tokio::test]
    async fn whoever_panics_while_it_waits_gives_its_work_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = one_drain(folder.path()).await;
        let mut work = store.take_work(Arc::new(Semaphore::new(2)), 2).await.expect("work");
        let (claim, _slot) =
            work.recv().await.and_then(capstan_store::Claimed::take).expect("a claim");
        let ports = Ports {
            load_balancers: BTreeMap::new(),
            health: Arc::new(capstan_drivers::fake::FakeLoadBalancer::new()),
            executors: BTreeMap::new(),
            scripts: Arc::new(Scripts::new(None)),
            breakers: Arc::new(capstan_drivers::breaker::Switchboard::default()),
        };
        let (_stop, stopped) = watch::channel(false);
        let context = Context::new(store, ports, Settings::default(), stopped);
        context.keep_waiting(claim.effect);
        context.wait_or_give_back(claim.effect, async { panic!("on purpose") }).await;
        let again = tokio::time::timeout(Duration::from_secs(20), work.recv()).await;
        let again = again.expect("it is handed out again").and_then(capstan_store::Claimed::take);
        assert_eq!(again.map(|(claim, _)| claim.effect), Some(claim.effect));
    }
}
