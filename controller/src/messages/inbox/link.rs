//! The inbox as it stands: whether messages come, and what is still owed an answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use capstan_core::message::{Inbox, Verdict};
use capstan_core::ports::DriverError;

use super::{TAKEN, WAITS};
use crate::messages::Backoff;

/// An inbox whose connection comes and goes.
pub(super) struct Link {
    pub(super) inbox: Arc<dyn Inbox>,
    /// Counts connections that were lost.
    lost: AtomicU64,
    state: Mutex<State>,
}

struct State {
    /// From the first failure until something is settled again: a connection that only brings messages may
    /// fail at each answer.
    is_broken: bool,
    backoff: Backoff,
}

impl Link {
    pub(super) fn new(inbox: Arc<dyn Inbox>) -> Self {
        let state = State { is_broken: false, backoff: Backoff::new(WAITS.0, WAITS.1) };
        Self { inbox, lost: AtomicU64::new(0), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which connection messages come by now.
    pub(super) fn connection(&self) -> u64 {
        self.lost.load(Ordering::Acquire)
    }

    /// The connection is lost: what it brought comes again. Gives how long to wait before the next one.
    pub(super) fn lost(&self, error: &DriverError) -> Duration {
        self.lost.fetch_add(1, Ordering::AcqRel);
        self.broken(error);
        self.state().backoff.step()
    }

    /// Said when it begins, and not each time as long as it lasts.
    fn broken(&self, error: &DriverError) {
        if std::mem::replace(&mut self.state().is_broken, true) {
            tracing::debug!(%error, "still no messages of the CMDB");
        } else {
            tracing::warn!(%error, "no messages of the CMDB; connecting again");
        }
    }

    /// Says what became of a message. After a failure the connection is given up, so that the message comes
    /// again; `false` then.
    pub(super) async fn settle(&self, tag: u64, verdict: Verdict, outcome: &'static str) -> bool {
        match self.inbox.settle(tag, verdict).await {
            Ok(()) => {
                metrics::counter!(TAKEN, "outcome" => outcome).increment(1);
                let mut state = self.state();
                state.backoff.reset();
                if std::mem::replace(&mut state.is_broken, false) {
                    tracing::info!("messages of the CMDB come again");
                }
                true
            }
            Err(error) => {
                self.broken(&error);
                self.close().await;
                false
            }
        }
    }

    /// Gives the connection up: what is not settled goes to another process at once, or comes again.
    pub(super) async fn close(&self) {
        if let Err(error) = self.inbox.close().await {
            tracing::debug!(%error, "the inbox was not closed");
        }
    }
}
