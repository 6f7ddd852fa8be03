//! Which requests this process is answering, and those whose marks it could not take away.
//!
//! A request is marked as under way in the database, and the mark is replaced when it is answered. When
//! the database does not answer at either moment, the mark may stand there while nobody works on the
//! request, and whoever repeats it would be told that it is under way for as long as this process
//! lives. So marks of requests that it no longer answers are taken away once the database answers again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::inner::Inner;
use crate::{RequestKey, chain, idempotency};

/// Wait before marks are looked at, and before that is tried again.
const AFTER: Duration = Duration::from_secs(1);
/// They are looked at once more after this long: a change whose answer was lost may take place late.
const LATE: Duration = Duration::from_secs(30);

/// The requests that this process is answering.
#[derive(Debug, Default)]
pub(crate) struct Answering {
    /// How many there are of each.
    under_way: Mutex<BTreeMap<RequestKey, usize>>,
    /// How many may have left a mark behind since all was known; while it is not 0, somebody looks.
    unsettled: AtomicU64,
}

impl Answering {
    /// Whether somebody here is answering it.
    pub(crate) fn has(&self, request: &RequestKey) -> bool {
        self.under_way().contains_key(request)
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeMap<RequestKey, usize>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, request: &RequestKey) {
        *self.under_way().entry(request.clone()).or_default() += 1;
    }

    fn remove(&self, request: &RequestKey) {
        let mut under_way = self.under_way();
        if let Some(count) = under_way.get_mut(request) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(request);
            }
        }
    }
}

/// What is known of a request's mark.
#[derive(Debug, Clone, Copy)]
enum Mark {
    /// Nothing: the database has not answered.
    Unknown,
    /// It is there, and its request is under way.
    Needed,
    /// None of this process is there.
    Gone,
}

/// A request whose mark is being written or taken away. Unless it is said what became of the mark, it is
/// looked at later.
#[derive(Debug)]
pub(crate) struct Marking<'a> {
    inner: &'a Arc<Inner>,
    request: RequestKey,
    mark: Mark,
}

impl<'a> Marking<'a> {
    /// It begins: its mark counts from here, in the turn in which it is written.
    pub(crate) fn begin(inner: &'a Arc<Inner>, request: RequestKey) -> Self {
        inner.answering.add(&request);
        Self::end(inner, request)
    }

    /// It has been answered.
    pub(crate) const fn end(inner: &'a Arc<Inner>, request: RequestKey) -> Self {
        Self { inner, request, mark: Mark::Unknown }
    }

    /// Its mark is there, and stays until it is answered.
    pub(crate) fn stays(mut self) {
        self.mark = Mark::Needed;
    }

    /// It has no mark, or that of somebody else.
    pub(crate) fn removed(mut self) {
        self.mark = Mark::Gone;
    }
}

impl Drop for Marking<'_> {
    fn drop(&mut self) {
        let answering = &self.inner.answering;
        match self.mark {
            Mark::Needed => {}
            Mark::Gone => answering.remove(&self.request),
            Mark::Unknown => {
                answering.remove(&self.request);
                settle_later(self.inner);
            }
        }
    }
}

/// Sees to it that marks of requests that nobody answers are taken away.
fn settle_later(inner: &Arc<Inner>) {
    // Without a runtime the process ends, and others forget its requests.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if inner.answering.unsettled.fetch_add(1, Ordering::SeqCst) == 0 {
        runtime.spawn(settle(Arc::downgrade(inner)));
    }
}

async fn settle(weak: Weak<Inner>) {
    loop {
        let Some(inner) = weak.upgrade() else { return };
        let seen = inner.answering.unsettled.load(Ordering::SeqCst);
        drop(inner);
        tokio::time::sleep(AFTER).await;
        if !forget(&weak).await {
            return;
        }
        // Whoever comes meanwhile does not wait for those that may come late.
        let late = Instant::now() + LATE;
        while Instant::now() < late {
            tokio::time::sleep(AFTER).await;
            match weak.upgrade() {
                None => return,
                Some(inner) if inner.answering.unsettled.load(Ordering::SeqCst) != seen => break,
                Some(_) => {}
            }
        }
        if !forget(&weak).await {
            return;
        }
        let Some(inner) = weak.upgrade() else { return };
        let unsettled = &inner.answering.unsettled;
        if unsettled.compare_exchange(seen, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return;
        }
    }
}

/// Tries until it is done; `false`: the store is gone.
async fn forget(weak: &Weak<Inner>) -> bool {
    loop {
        let Some(inner) = weak.upgrade() else { return false };
        match idempotency::forget_unanswered(&inner).await {
            Ok(0) => return true,
            Ok(forgotten) => {
                tracing::warn!(forgotten, "forgot requests that nobody answers any more");
                return true;
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "requests that nobody answers stay marked");
            }
        }
        drop(inner);
        tokio::time::sleep(AFTER).await;
    }
}
