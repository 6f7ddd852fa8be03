//! One reading of everything at a time: who asks meanwhile waits for the same one, and it goes on when
//! nobody waits any more. Its outcome is then kept for the next one who asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use capstan_core::ports::DriverError;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::cmdb_records::Records;

/// How long an outcome that nobody waited for is good.
const GOOD: Duration = Duration::from_mins(1);

type Outcome = (Instant, Result<(), DriverError>);

/// The reading under way, or the last one.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    last: Mutex<Option<Reading>>,
    /// Holds one permit when a reading ended that somebody had given up on.
    ended: Arc<Notify>,
}

#[derive(Debug)]
struct Reading {
    outcome: watch::Receiver<Option<Outcome>>,
    /// Whether somebody stopped waiting for it.
    is_left: Arc<Mutex<bool>>,
    _task: AbortOnDropHandle<()>,
}

impl Listing {
    /// Waits for a reading that is under way, or begins one; at most `patience`.
    pub(crate) async fn read<F>(
        &self,
        patience: Duration,
        begin: impl FnOnce() -> F,
    ) -> Result<(), DriverError>
    where
        F: Future<Output = Result<(), DriverError>> + Send + 'static,
    {
        let (mut outcome, is_left) = self.join(begin);
        let ended = outcome.wait_for(Option::is_some);
        match tokio::time::timeout(patience, ended).await {
            Ok(Ok(outcome)) => outcome.clone().map_or(Ok(()), |(_, result)| result),
            Ok(Err(_)) => Err(DriverError::Busy("reading the CMDB ended badly".to_owned())),
            Err(_) => {
                *locked(&is_left) = true;
                let text =
                    format!("the CMDB takes longer than {} s and is read on", patience.as_secs());
                Err(DriverError::Busy(text))
            }
        }
    }

    /// Returns when a reading ended that somebody had given up on, or when the CMDB, which is asked every
    /// `poll`, has changed. For one caller at a time: a change is told once.
    pub(crate) async fn changed<F>(&self, poll: Duration, has_changed: impl Fn() -> F)
    where
        F: Future<Output = bool>,
    {
        loop {
            tokio::select! {
                () = self.ended.notified() => return,
                () = tokio::time::sleep(poll) => {}
            }
            if has_changed().await {
                return;
            }
        }
    }

    fn join<F>(
        &self,
        begin: impl FnOnce() -> F,
    ) -> (watch::Receiver<Option<Outcome>>, Arc<Mutex<bool>>)
    where
        F: Future<Output = Result<(), DriverError>> + Send + 'static,
    {
        let mut last = locked(&self.last);
        if let Some(reading) = &*last {
            let was_left = std::mem::take(&mut *locked(&reading.is_left));
            let is_good = match &*reading.outcome.borrow() {
                None => true,
                Some((ended_at, _)) => was_left && ended_at.elapsed() < GOOD,
            };
            // One whose task is gone without an outcome would never end.
            if is_good && (reading.outcome.has_changed().is_ok() || was_left) {
                return (reading.outcome.clone(), Arc::clone(&reading.is_left));
            }
        }
        let (sender, outcome) = watch::channel(None);
        let is_left = Arc::new(Mutex::new(false));
        let (work, left, ended) = (begin(), Arc::clone(&is_left), Arc::clone(&self.ended));
        let task = tokio::spawn(async move {
            let result = work.await;
            sender.send_replace(Some((Instant::now(), result)));
            if *locked(&left) {
                ended.notify_one();
            }
        });
        let task = AbortOnDropHandle::new(task);
        *last =
            Some(Reading { outcome: outcome.clone(), is_left: Arc::clone(&is_left), _task: task });
        (outcome, is_left)
    }
}

/// What is wrong with the list, and with single groups that were asked for since, by id.
pub(crate) fn all_faults(
    records: &Records,
    singles: &BTreeMap<String, Vec<String>>,
) -> Vec<String> {
    records.faults.iter().chain(singles.values().flatten()).cloned().collect()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Who gives up on a slow reading does not end it: its end is told, and its outcome is for the next.
    #[tokio::test]
    async fn nobody_waits_for_a_slow_list_and_it_is_not_lost() {
        let listing = Listing::default();
        let (end, ends) = oneshot::channel::<()>();
        let slow = || async move { ends.await.map_err(|_| DriverError::Busy("gone".into())) };
        let given_up = listing.read(Duration::ZERO, slow).await.expect_err("it takes longer");
        assert!(given_up.to_string().contains("is read on"), "{given_up}");
        end.send(()).expect("it is read on");
        let told = listing.changed(LONG * 2, || std::future::ready(false));
        tokio::time::timeout(LONG, told).await.expect("its end is told");
        let again = || async { Err(DriverError::Busy("it is read again".into())) };
        assert_eq!(listing.read(LONG, again).await, Ok(()));
        // Its outcome is told once; the next one reads again.
        assert!(listing.read(LONG, again).await.is_err());
    }
}
