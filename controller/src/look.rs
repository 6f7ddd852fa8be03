//! One look at every server of a group before a plan is made of it (S13).

use std::time::Duration;

use capstan_core::input::Input;
use capstan_core::ports::{DriverError, Endpoint, LoadBalancer, Sight};
use capstan_core::record::Service;
use capstan_core::{GroupId, ServerId};
use futures::{StreamExt, stream};

use crate::app::App;
use crate::problem::Problem;

/// Servers that one call of a driver looks at.
const CHUNK: usize = 100;
/// How long a look may take in all before a deployment is created or started.
pub(crate) const PATIENT: Duration = Duration::from_secs(10);
/// How long before a rollback, which must not wait for what is broken.
pub(crate) const BRIEF: Duration = Duration::from_secs(2);

impl App {
    /// Looks at every server and records what is seen. What does not answer in time stays as the
    /// record has it: a plan is then made of older evidence, and the engine looks again.
    pub(crate) async fn look(&self, group: GroupId, limit: Duration) -> Result<(), Problem> {
        let Some((binding, endpoints)) = self.store.endpoints(group).await? else { return Ok(()) };
        let Some(balancer) = self.ports.load_balancers.get(&binding.load_balancer) else {
            tracing::warn!(
                group = binding.group,
                load_balancer = binding.load_balancer,
                "no driver has this name"
            );
            return Ok(());
        };
        let concurrency = self.settings.look_concurrency.max(1);
        let looked = observe(balancer.as_ref(), &endpoints, concurrency, limit).await;
        let seen = self.note_look(&binding.load_balancer, looked);
        if seen.is_empty() {
            return Ok(());
        }
        let can_drain = balancer.can_drain();
        let answering = Vec::new();
        self.submit(group, Input::Observed { deployment: None, seen, can_drain, answering })
            .await?;
        Ok(())
    }

    /// Says when a load balancer begins to fail, and when it has ended; it may be broken or cut off for long.
    fn note_look(&self, load_balancer: &str, looked: Looked) -> Vec<(ServerId, Sight)> {
        match &looked.error {
            Some(error) if self.outages.begins(load_balancer) => {
                tracing::warn!(load_balancer, %error, "servers cannot be looked at");
            }
            Some(error) => {
                tracing::debug!(load_balancer, %error, "servers still cannot be looked at");
            }
            None if !looked.seen.is_empty() && self.outages.ends(load_balancer) => {
                tracing::info!(load_balancer, "servers are looked at again");
            }
            None => {}
        }
        looked.seen
    }

    /// Looks at a group's servers when there is one that nobody has looked at yet, so that the
    /// first preview is made of facts.
    pub(crate) async fn look_at_new(&self, group: GroupId) -> Result<(), Problem> {
        let servers = self.store.servers(group).await?;
        let is_new = servers.iter().any(|it| !it.retired && it.service == Service::Unknown);
        if is_new { self.look(group, PATIENT).await } else { Ok(()) }
    }
}

/// What came of a look.
#[derive(Default)]
struct Looked {
    seen: Vec<(ServerId, Sight)>,
    /// Why some were not seen.
    error: Option<DriverError>,
}

/// Asks the driver chunk by chunk; keeps what came before `limit`.
async fn observe(
    balancer: &dyn LoadBalancer,
    endpoints: &[Endpoint],
    concurrency: usize,
    limit: Duration,
) -> Looked {
    let deadline = tokio::time::Instant::now() + limit;
    let calls: Vec<_> = endpoints.chunks(CHUNK).map(|chunk| balancer.observe(chunk)).collect();
    let mut answers = stream::iter(calls).buffer_unordered(concurrency);
    let mut looked = Looked::default();
    loop {
        match tokio::time::timeout_at(deadline, answers.next()).await {
            Ok(Some(Ok(chunk))) => {
                looked.seen.extend(chunk.iter().map(|one| (one.server, one.sight)));
            }
            Ok(Some(Err(error))) => looked.error = Some(error),
            Ok(None) => return looked,
            Err(_) => {
                let seen = looked.seen.len();
                tracing::warn!(seen, of = endpoints.len(), "a look took too long");
                return looked;
            }
        }
    }
}
