//! Single flight: who asks for what is already under way waits for its result.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::Shared;

type Flight<T> = Shared<Pin<Box<dyn Future<Output = Option<T>> + Send>>>;

/// The flights under way, by key. A flight runs in a task of its own: a caller that goes away
/// ends it for nobody.
#[derive(Debug)]
pub(crate) struct Flights<K, T>(Mutex<HashMap<K, Flight<T>>>);

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// Takes a flight from the list, also when it panics.
struct Landing<K: Eq + Hash, T>(Arc<Flights<K, T>>, K);

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl<K, T> Flights<K, T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Flight<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, T> Flights<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Joins the flight with this key, or starts `work`. `None`: the work panicked.
    pub(crate) async fn run<F>(self: &Arc<Self>, key: K, work: F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let flight = {
            let mut flights = self.lock();
            let flight = flights.get(&key).cloned();
            flight.unwrap_or_else(|| {
                let landing = Landing(self.clone(), key.clone());
                let task = tokio::spawn(async move {
                    let result = work.await;
                    drop(landing);
                    result
                });
                let flight = async move { task.await.ok() }.boxed().shared();
                flights.insert(key, flight.clone());
                flight
            })
        };
        flight.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn calls_with_one_key_are_merged_and_later_ones_start_anew() {
        let flights: Arc<Flights<&str, u32>> = Arc::default();
        let runs = Arc::new(AtomicU32::new(0));
        let work = || {
            let runs = runs.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                runs.fetch_add(1, Ordering::SeqCst)
            }
        };
        let both = futures::join!(flights.run("a", work()), flights.run("a", work()));
        assert_eq!(both, (Some(0), Some(0)));
        assert_eq!(flights.run("a", work()).await, Some(1));
    }

    #[tokio::test]
    async fn a_flight_that_panics_leaves_the_list() {
        let flights: Arc<Flights<&str, u32>> = Arc::default();
        assert_eq!(flights.run("a", async { panic!("scripted") }).await, None);
        assert_eq!(flights.run("a", async { 7 }).await, Some(7));
    }
}
