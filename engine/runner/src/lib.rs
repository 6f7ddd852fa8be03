//! The roll engine: takes due effects, does each one's outside act and feeds the outcome back.
//!
//! **What it is for.** Every effect that `capstan-core` decided is a row; this crate claims due rows
//! (an apalis [`queue`]), does the act through a driver ([`order`], [`traffic`]) and submits the
//! outcome, whose decision carries the next effect. That is the chain Markdown → Download → Install →
//! Verify → Markup: one queued job per stage and target.
//!
//! **What it must not do.** Decide anything; keep a truth of its own: what it forgets by dying is read
//! from the database by the next claim; wait inside a worker while a host works.
//!
//! **Arrows.** It points at `capstan-core` and `capstan-store`; drivers reach it through the ports of
//! the core. Nothing points at it but the binary.

mod dependencies;
mod job;
mod measure;
mod observe;
mod order;
mod queue;
mod rescue;
mod room;
mod supervise;
mod supplies;
mod traffic;
mod turn;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use capstan_core::dependency::Breakers;
use capstan_core::ports::{Executor, LoadBalancer, ScriptSource};
use capstan_store::Store;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use dependencies::keep_dependencies;
pub use measure::describe_metrics;
pub use queue::NAME as QUEUE_NAME;

/// What the engine reaches the outside with.
#[derive(Clone)]
pub struct Ports {
    /// Load balancers by name.
    pub load_balancers: BTreeMap<String, Arc<dyn LoadBalancer>>,
    /// Looks at the servers themselves while their load balancer cannot be asked.
    pub health: Arc<dyn LoadBalancer>,
    /// Executors by name.
    pub executors: BTreeMap<String, Arc<dyn Executor>>,
    /// Scripts by kind of application.
    pub scripts: Arc<dyn ScriptSource>,
    /// The circuit breakers around all of them.
    pub breakers: Arc<dyn Breakers>,
}

/// How the engine runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Driver calls at the same time, for new stages and for looks each.
    pub slots: usize,
    /// Orders to hosts under way at the same time in this process; acts at balancers are bounded by slots. Further ones wait, and take no slot.
    pub under_way: usize,
    /// Where hosts reach Capstan's own package store, without a slash at the end.
    pub package_base_url: String,
    /// How long a stop waits for calls under way.
    pub stop_wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            slots: 384,
            under_way: 20_000,
            package_base_url: String::new(),
            stop_wait: Duration::from_secs(10),
        }
    }
}

/// A running engine.
pub struct Engine {
    stop: watch::Sender<bool>,
    supervisor: JoinHandle<()>,
    stop_wait: Duration,
}

impl Engine {
    /// Starts the engine: every deployment under way is looked at, and due work is taken.
    pub fn start(store: Store, ports: Ports, settings: Settings) -> Self {
        let (stop, stopped) = watch::channel(false);
        let stop_wait = settings.stop_wait;
        let context = Arc::new(job::Context::new(store, ports, settings, stopped.clone()));
        let supervisor = tokio::spawn(supervise::run(context, stopped));
        Self { stop, supervisor, stop_wait }
    }

    /// Stops taking work, waits for driver calls under way, and gives back what was claimed. What
    /// takes longer than `stop_wait` is left as it is after a kill: the next start finds it by key.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        match tokio::time::timeout(self.stop_wait, &mut self.supervisor).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the engine's supervisor ended badly"),
            Err(_) => {
                tracing::warn!(wait = ?self.stop_wait, "driver calls under way did not end in time");
                self.supervisor.abort();
            }
        }
    }
}
