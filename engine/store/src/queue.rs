//! The queue of a process that has its database alone: the table, and a wake-up in memory.

use std::future::Future;
use std::pin::Pin;

use capstan_core::ports::Queue;
use tokio::sync::Notify;

/// Wakes this process. A wake-up that nobody waits for is kept for whoever waits next.
#[derive(Debug, Default)]
pub(crate) struct OwnQueue(Notify);

impl Queue for OwnQueue {
    fn wake(&self) {
        self.0.notify_one();
    }

    fn woken(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.0.notified())
    }
}
