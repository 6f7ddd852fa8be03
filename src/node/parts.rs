//! The tasks that a node is made of, and their end.

use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// Tasks that end when the node stops.
#[derive(Debug, Default)]
pub(super) struct Parts(Vec<(&'static str, JoinHandle<()>)>);

impl Parts {
    /// Runs one.
    pub(super) fn run(
        &mut self,
        name: &'static str,
        part: impl Future<Output = ()> + Send + 'static,
    ) {
        self.0.push((name, tokio::spawn(part)));
    }

    /// Waits until all have ended, for so long. What hangs in a broker, a CMDB or a client is abandoned then,
    /// as if the process had been killed: messages that were not acknowledged come again, and events are sent
    /// again by whoever reads the log next.
    pub(super) async fn end(self, wait: Duration) {
        let deadline = Instant::now() + wait;
        join_all(self.0.into_iter().map(|(part, task)| ended(part, task, deadline, wait))).await;
    }
}

async fn ended(part: &str, mut task: JoinHandle<()>, deadline: Instant, wait: Duration) {
    match timeout_at(deadline, &mut task).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(part, %error, "ended badly"),
        Err(_) => {
            tracing::warn!(part, ?wait, "did not end in time and is abandoned");
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_hangs_is_abandoned_and_the_others_are_waited_for() {
        let (mut parts, is_done) = (Parts::default(), Arc::new(AtomicBool::new(false)));
        parts.run("messages", std::future::pending());
        parts.run("sync", std::future::pending());
        let done = is_done.clone();
        parts.run("server", async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            done.store(true, Ordering::SeqCst);
        });
        let began = Instant::now();
        let wait = Duration::from_secs(1);
        parts.end(wait).await;
        let took = began.elapsed();
        assert!(took >= wait && took < 2 * wait, "together, and not one after the other: {took:?}");
        assert!(is_done.load(Ordering::SeqCst));
    }
}
