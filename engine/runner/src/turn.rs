//! Whose turn it is to act on a server at its load balancer.
//!
//! No load balancer refuses an act that comes too late. So acts on one server are done one after the
//! other in this process, in the order in which they were begun, and whoever's turn it is asks once more
//! whether its act is still wanted.
//!
//! What is not covered: an act that another process has on its way, or a call that was given up on while
//! the balancer still worked on it. A drain that lands so late is seen by the next look, and put right (S13).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use capstan_core::ServerId;
use tokio::sync::OwnedMutexGuard;

/// One lock for each server that somebody acts on or waits for.
#[derive(Default)]
pub(crate) struct Turns {
    locks: Arc<Mutex<Locks>>,
}

type Locks = HashMap<ServerId, Arc<tokio::sync::Mutex<()>>>;

/// Nobody else of this process acts on the server as long as this lives.
pub(crate) struct Turn {
    server: ServerId,
    locks: Arc<Mutex<Locks>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits until those who came before have acted.
    pub(crate) async fn take(&self, server: ServerId) -> Turn {
        // Made before the wait, so that whoever gives up waiting leaves nothing behind either.
        let mut turn = Turn { server, locks: Arc::clone(&self.locks), guard: None };
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(server).or_default())
        };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.guard.take());
        // Who waits holds the lock as well: then the last of them forgets it.
        if locks.get(&self.server).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.server);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_follow_each_other_and_leave_nothing_behind() {
        let turns = Arc::new(Turns::default());
        let server = serde_json::from_str("\"018f0000-0000-7000-8000-000000000001\"");
        let server: ServerId = server.expect("an id");
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = turns.take(server).await;
        let waiting: Vec<_> = (0..3)
            .map(|number| {
                let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
                tokio::spawn(async move {
                    let _turn = turns.take(server).await;
                    order.lock().unwrap_or_else(PoisonError::into_inner).push(number);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let gives_up = tokio::time::timeout(std::time::Duration::ZERO, turns.take(server)).await;
        assert!(gives_up.is_err());
        assert!(order.lock().unwrap_or_else(PoisonError::into_inner).is_empty());
        drop(first);
        for task in waiting {
            task.await.expect("it had its turn");
        }
        assert_eq!(*order.lock().unwrap_or_else(PoisonError::into_inner), [0, 1, 2]);
        assert!(turns.locks.lock().unwrap_or_else(PoisonError::into_inner).is_empty());
    }
}
