//! The inbox as it stands: whether messages come, and what is still owed an answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
    /// From the first failure until something is settled again, or nothing was lost for long: a connection that
    /// only brings messages may fail at each answer.
    is_broken: bool,
    failed_at: Instant,
    backoff: Backoff,
}

/// A broker that answers and has lost nothing for so long works again, though nothing came to be settled.
const STEADY: Duration = Duration::from_mins(1);

impl Link {
    pub(super) fn new(inbox: Arc<dyn Inbox>) -> Self {
        let backoff = Backoff::new(WAITS.0, WAITS.1);
        let state = State { is_broken: false, failed_at: Instant::now(), backoff };
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
        let was_broken = {
            let mut state = self.state();
            state.failed_at = Instant::now();
            std::mem::replace(&mut state.is_broken, true)
        };
        if was_broken {
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
                self.works();
                true
            }
            Err(error) => {
                self.broken(&error);
                self.close().await;
                false
            }
        }
    }

    fn works(&self) {
        let mut state = self.state();
        state.backoff.reset();
        if std::mem::replace(&mut state.is_broken, false) {
            tracing::info!("messages of the CMDB come again");
        }
    }

    /// The broker has answered `now`, on another connection.
    pub(super) fn answers(&self, now: Instant) {
        let is_steady = {
            let state = self.state();
            state.is_broken && now.saturating_duration_since(state.failed_at) >= STEADY
        };
        if is_steady {
            self.works();
        }
    }

    /// Gives the connection up: what is not settled goes to another process at once, or comes again.
    pub(super) async fn close(&self) {
        if let Err(error) = self.inbox.close().await {
            tracing::debug!(%error, "the inbox was not closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use capstan_core::message::{Incoming, Replayed, Waiting};
    use capstan_core::ports::Call;

    use super::*;

    /// Nothing comes, and nothing is taken.
    struct Silent;

    impl Inbox for Silent {
        fn next(&self) -> Call<'_, Incoming> {
            Box::pin(std::future::pending())
        }

        fn settle(&self, _: u64, _: Verdict) -> Call<'_, ()> {
            Box::pin(async { Err(DriverError::Busy("scripted".to_owned())) })
        }

        fn close(&self) -> Call<'_, ()> {
            Box::pin(async { Ok(()) })
        }

        fn waiting(&self) -> Call<'_, Waiting> {
            Box::pin(async { Ok(Waiting::default()) })
        }

        fn replay(&self, _: u32) -> Call<'_, Replayed> {
            Box::pin(async { Ok(Replayed::default()) })
        }
    }

    #[tokio::test]
    async fn a_connection_works_again_when_nothing_is_lost_for_long() {
        let link = Link::new(Arc::new(Silent));
        let lost = DriverError::Unknown("scripted".to_owned());
        for _ in 0..9 {
            link.lost(&lost);
        }
        assert!(!link.settle(1, Verdict::Done, "known").await);
        link.answers(Instant::now());
        assert!(link.state().is_broken, "it only answers elsewhere");
        link.answers(Instant::now() + STEADY);
        assert!(!link.state().is_broken);
        assert!(link.lost(&lost) <= WAITS.0, "waits begin anew");
        assert!(link.state().is_broken, "that is news again");
    }
}
