//! Messages out and in.
//!
//! Out: for the broker and for each webhook a reader goes through the log (`reader`), and a sink takes what
//! it reads (`broker`, `webhook`). One process at a time reads for each of them; a sink that is slow or
//! broken keeps nobody else waiting, and nothing in memory but one batch and which logs wait (`held`). In: `inbox` refreshes groups that
//! the CMDB tells of.

mod broker;
mod held;
mod inbox;
mod reader;
mod webhook;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;

pub(crate) use reader::Wait;

/// Counter of events that were sent, by consumer.
const SENT: &str = "capstan_messages_sent_total";
/// Counter of batches that were not sent whole, by consumer.
const FAILED: &str = "capstan_messages_failures_total";
/// Gauge: how long ago the oldest event happened that is on its way, by consumer; 0: none is.
const LAG: &str = "capstan_messages_lag_seconds";
/// Counter of webhooks that were switched off since they failed for too long.
const DISABLED: &str = "capstan_webhooks_disabled_total";

/// Says what the metrics of this module mean.
pub(crate) fn describe_metrics() {
    use metrics::{Unit, describe_counter, describe_gauge};
    describe_counter!(SENT, "Events that were sent out, by consumer");
    describe_counter!(FAILED, "Failures to send events, by consumer");
    describe_gauge!(LAG, Unit::Seconds, "Age of the oldest event that is not sent, by consumer");
    describe_counter!(DISABLED, "Webhooks that were switched off since they failed for too long");
    describe_counter!(
        "capstan_messages_unrouted_total",
        "Messages that no queue was bound for at the broker"
    );
    inbox::describe_metrics();
}

/// Runs everything until `shutdown`.
pub(crate) async fn run(app: Arc<App>, shutdown: CancellationToken) {
    let tasks = TaskTracker::new();
    if let Some(broker) = app.ports.broker.clone() {
        tasks.spawn(broker::run(app.clone(), broker, shutdown.clone()));
    }
    if let Some(inbox) = app.ports.inbox.clone() {
        tasks.spawn(inbox::run(app.clone(), inbox, shutdown.clone()));
    }
    tasks.spawn(webhooks::run(app, shutdown));
    tasks.close();
    tasks.wait().await;
}

/// Waits that double up to a limit, with some jitter so that processes do not come together.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// How long to wait now.
    pub(crate) fn step(&mut self) -> Duration {
        let wait = self.next.mul_f64(0.5 + 0.5 * fastrand::f64());
        self.next = (self.next * 2).min(self.most);
        wait
    }

    pub(crate) const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_begin_again() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for most in [1, 2, 4, 5, 5] {
            let (wait, most) = (backoff.step(), Duration::from_secs(most));
            assert!(wait <= most && wait >= most / 2, "{wait:?} is not about {most:?}");
        }
        backoff.reset();
        assert!(backoff.step() <= Duration::from_secs(1));
    }
}
