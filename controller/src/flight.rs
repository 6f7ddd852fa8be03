//! Single flight: who asks for what others ask for as well shares one piece of work with them.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::Shared;

/// One at a time for each key. Nothing is kept of a key that nobody waits for.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for the turn of a key; it ends when this is dropped.
    pub(crate) async fn of(&self, key: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(key.to_owned()).or_default())
        };
        turn.lock_owned().await
    }
}

/// Work under way, or about to be.
pub(crate) type Flight<T> = Shared<Pin<Box<dyn Future<Output = Option<T>> + Send>>>;

/// The flights of one key: one is under way at a time.
#[derive(Debug)]
struct Lane<T> {
    under_way: Flight<T>,
    /// Begins when the one under way has ended.
    next: Option<Flight<T>>,
}

/// Flights by key. A flight runs in a task of its own: a caller that goes away ends it for nobody.
#[derive(Debug)]
pub(crate) struct Flights<K, T>(Mutex<HashMap<K, Lane<T>>>);

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// Ends a flight, also when it panics: the next one is under way then.
struct Landing<K: Eq + Hash, T>(Arc<Flights<K, T>>, K);

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut lanes = self.0.lock();
        let Some(lane) = lanes.get_mut(&self.1) else { return };
        match lane.next.take() {
            Some(next) => lane.under_way = next,
            None => drop(lanes.remove(&self.1)),
        }
    }
}

impl<K, T> Flights<K, T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Lane<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, T> Flights<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Joins the flight with this key that is under way, or starts `work`. `None`: the work panicked.
    pub(crate) fn join<F>(self: &Arc<Self>, key: K, work: F) -> Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let under_way = self.lock().get(&key).map(|lane| lane.under_way.clone());
        under_way.unwrap_or_else(|| self.begin(key, work))
    }

    /// Joins a flight with this key that begins after this call, so that it sees what is so by now: one
    /// that waits for its turn, or one of its own. `None`: the work panicked.
    pub(crate) fn begin<F>(self: &Arc<Self>, key: K, work: F) -> Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut lanes = self.lock();
        if let Some(lane) = lanes.get_mut(&key) {
            let before = lane.under_way.clone();
            let launch = || self.launch(key, Some(before), work);
            return lane.next.get_or_insert_with(launch).clone();
        }
        let flight = self.launch(key.clone(), None, work);
        lanes.insert(key, Lane { under_way: flight.clone(), next: None });
        flight
    }

    /// Runs `work` when the flight before it has ended. The lanes are locked: it cannot land before it is in
    /// the list.
    fn launch<F>(self: &Arc<Self>, key: K, before: Option<Flight<T>>, work: F) -> Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let landing = Landing(self.clone(), key);
        let task = tokio::spawn(async move {
            let _landing = landing;
            if let Some(before) = before {
                before.await;
            }
            work.await
        });
        async move { task.await.ok() }.boxed().shared()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use futures::future::join_all;
    use tokio::sync::watch;

    use super::*;

    /// Work that says how many began before it, and ends when it may.
    struct Work {
        begun: Arc<AtomicU32>,
        may_end: watch::Sender<bool>,
    }

    impl Work {
        fn new() -> Self {
            Self { begun: Arc::default(), may_end: watch::Sender::new(false) }
        }

        fn one(&self) -> impl Future<Output = u32> + Send + 'static {
            let (begun, mut may_end) = (self.begun.clone(), self.may_end.subscribe());
            async move {
                let number = begun.fetch_add(1, Ordering::SeqCst);
                may_end.wait_for(|may| *may).await.expect("the test lives");
                number
            }
        }

        async fn until_begun(&self, count: u32) {
            let begun = tokio::time::timeout(Duration::from_secs(30), async {
                while self.begun.load(Ordering::SeqCst) < count {
                    tokio::task::yield_now().await;
                }
            });
            begun.await.expect("so many begin");
        }
    }

    #[tokio::test]
    async fn calls_with_one_key_join_and_later_ones_start_anew() {
        let (flights, work) = (Arc::<Flights<&str, u32>>::default(), Work::new());
        let both =
            async { futures::join!(flights.join("a", work.one()), flights.join("a", work.one())) };
        let end = async {
            work.until_begun(1).await;
            work.may_end.send_replace(true);
        };
        assert_eq!(futures::join!(both, end).0, (Some(0), Some(0)));
        assert_eq!(flights.join("a", work.one()).await, Some(1));
    }

    #[tokio::test]
    async fn who_comes_while_one_is_under_way_shares_the_one_after_it() {
        let (flights, work) = (Arc::<Flights<&str, u32>>::default(), Work::new());
        let first = tokio::spawn({
            let (flights, work) = (flights.clone(), work.one());
            async move { flights.begin("a", work).await }
        });
        work.until_begun(1).await;
        let others = join_all((0..200).map(|_| flights.begin("a", work.one())));
        let end = async {
            tokio::task::yield_now().await;
            assert_eq!(work.begun.load(Ordering::SeqCst), 1, "one at a time");
            work.may_end.send_replace(true);
        };
        let (others, ()) = futures::join!(others, end);
        assert_eq!(first.await.expect("it ends"), Some(0));
        assert_eq!(others, vec![Some(1); 200]);
        assert_eq!(work.begun.load(Ordering::SeqCst), 2);
        assert!(flights.lock().is_empty(), "nothing is left behind");
    }

    #[tokio::test]
    async fn a_flight_that_panics_leaves_the_list() {
        let flights: Arc<Flights<&str, u32>> = Arc::default();
        let bad = flights.begin("a", async { panic!("scripted") });
        let good = flights.begin("a", async { 7 });
        assert_eq!(futures::join!(bad, good), (None, Some(7)));
        assert_eq!(flights.begin("a", async { 8 }).await, Some(8));
    }
}
