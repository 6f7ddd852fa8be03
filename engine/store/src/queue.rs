//! The queue `database`: the table, a wake-up in memory, and where there is a way to other processes,
//! word of what is due (`listen`).

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use capstan_core::ports::Queue;
use capstan_core::{GroupId, Timestamp};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// How often a process that is told of others' work looks for it all the same.
const TOLD_LOOKS_EVERY: Duration = Duration::from_secs(1);
/// What was heard holds for so long: two probes may be late.
const HEARD_FOR: Duration = Duration::from_millis(2_500);

/// Wakes this process. A wake-up that nobody waits for is kept for whoever waits next.
#[derive(Debug, Default)]
pub(crate) struct OwnQueue {
    wakes: Notify,
    /// Where other processes are told; one word that waits to be sent is as good as many.
    tells: OnceLock<mpsc::Sender<()>>,
    /// Whether the next word is of due work, and not only to be heard by this process itself.
    is_due: AtomicBool,
    heard_at: Mutex<Option<Instant>>,
}

impl OwnQueue {
    /// From now on other processes are told by whoever receives. Only the first one is.
    pub(crate) fn tell_by(&self) -> Option<mpsc::Receiver<()>> {
        let (tells, told) = mpsc::channel(1);
        self.tells.set(tells).is_ok().then_some(told)
    }

    /// Whether the word that is sent now is of due work.
    pub(crate) fn takes_due(&self) -> bool {
        self.is_due.swap(false, Ordering::SeqCst)
    }

    /// Sends a word.
    pub(crate) fn tell(&self) {
        if let Some(tells) = self.tells.get() {
            // Full: a word is on its way already. Closed: the store is, too.
            let _full_or_closed = tells.try_send(());
        }
    }

    /// Something was heard, if only an echo.
    pub(crate) fn hears(&self) {
        *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether what others tell is heard.
    pub(crate) fn has_heard(&self) -> bool {
        let heard_at = *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner);
        heard_at.is_some_and(|at| at.elapsed() < HEARD_FOR)
    }
}

impl Queue for OwnQueue {
    fn wake(&self) {
        self.wakes.notify_one();
    }

    fn woken(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.wakes.notified())
    }

    fn nudge(&self, _group: Option<GroupId>, _at: Timestamp) {
        self.is_due.store(true, Ordering::SeqCst);
        self.tell();
    }

    fn look_every(&self) -> Option<Duration> {
        self.has_heard().then_some(TOLD_LOOKS_EVERY)
    }
}
