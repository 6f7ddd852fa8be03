//! The breakers of one process by the names of their dependencies, and their hand switches.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use capstan_core::dependency::{BreakerReport, Breakers, DependencyKind};
use tokio::sync::Notify;

use crate::breaker::{Breaker, Settings};

/// The breakers of this process.
#[derive(Debug, Default)]
pub struct Switchboard {
    settings: Settings,
    breakers: Mutex<BTreeMap<String, Arc<Breaker>>>,
    changed: Arc<Notify>,
}

impl Switchboard {
    /// Without any breaker yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// The breaker of a dependency; it is made by the first call.
    pub fn breaker(&self, name: &str, kind: DependencyKind) -> Arc<Breaker> {
        let mut breakers = self.lock();
        let made = || {
            let changed = Arc::clone(&self.changed);
            Arc::new(Breaker::with_changes(name, kind, self.settings, changed))
        };
        Arc::clone(breakers.entry(name.to_owned()).or_insert_with(made))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Breaker>>> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Breakers for Switchboard {
    fn reports(&self) -> Vec<BreakerReport> {
        self.lock().values().map(|breaker| breaker.report()).collect()
    }

    fn cut_off(&self, names: &BTreeSet<String>) {
        for (name, breaker) in &*self.lock() {
            breaker.switch(names.contains(name));
        }
    }

    fn is_cut_off(&self, name: &str) -> bool {
        self.lock().get(name).is_some_and(|breaker| breaker.is_cut_off())
    }

    fn is_usable(&self, name: &str) -> bool {
        self.lock().get(name).is_none_or(|breaker| !breaker.refuses())
    }

    fn changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.changed.notified())
    }
}
