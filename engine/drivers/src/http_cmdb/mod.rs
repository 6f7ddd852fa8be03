//! CMDB driver `http`: `GET {url}/groups` for all groups, page by page, and `GET {url}/groups/{id}` for
//! one. A group is the tree of [`CmdbGroup`] in JSON; a page is `{"groups": […], "next_cursor": …}`, and
//! the next one is asked for with `cursor`. What the other side must keep to is in `docs/cmdb.md`.
//!
//! An answer that has an `ETag` is asked for with it the next time. What is broken never takes good
//! records away: a list that cannot be read whole changes nothing and is an error, and a broken group is
//! left out. [`Cmdb::faults`] says what is wrong, with place and reason.

mod client;
mod listing;
mod pages;
mod read;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use capstan_core::ports::{Call, Cmdb, CmdbGroup, DriverError};
use reqwest::Url;
use reqwest::header::HeaderValue;
use tokio::time::Instant;

pub use client::{Asking, Error};

use crate::cmdb_records::{Entry, Names, Older, Read, Records, Source};
pub(crate) use client::{Answer, Client};
pub(crate) use listing::{Listing, all_faults};
pub(crate) use pages::time_of;
use pages::{Known, Pages};

/// How long a call takes at most: less than the guard gives it, so that the error names the cause.
pub(crate) const PATIENCE: Duration = Duration::from_secs(9);
/// How long reading everything may take.
pub(crate) const READING: Duration = Duration::from_mins(2);

/// What the driver needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the CMDB is; `/groups` is added.
    pub url: Url,
    /// How it is asked.
    pub asking: Asking,
    /// How often it is asked for changes.
    pub poll: Duration,
}

/// A CMDB that is asked over HTTP.
pub struct HttpCmdb {
    inner: Arc<Inner>,
    listing: Listing,
    poll: Duration,
}

struct Inner {
    client: Client,
    groups_url: Url,
    names: Arc<Names>,
    largest: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: Records,
    /// What is wrong with answers about single groups.
    single_faults: BTreeMap<String, Vec<String>>,
    /// The last answers about single groups that have an `ETag`, by id.
    singles: HashMap<String, (HeaderValue, Entry)>,
    pages: Known,
    /// Pages of the last answer about changes that have an `ETag`.
    polled: Known,
    /// What it told of that is not known as it is: groups with their revisions.
    told: BTreeSet<(String, i64)>,
    /// When the last list was answered, by the clock of the other side.
    listed_at: Option<String>,
}

impl HttpCmdb {
    /// A driver. Nothing is asked yet.
    pub fn new(settings: &Settings, names: Names) -> Result<Self, Error> {
        let inner = Arc::new(Inner {
            client: Client::new(&settings.asking)?,
            groups_url: below(&settings.url, &["groups"]),
            names: Arc::new(names),
            largest: settings.asking.largest,
            state: Mutex::default(),
        });
        Ok(Self { inner, listing: Listing::default(), poll: settings.poll })
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn source(&self) -> Source<'_> {
        Source { name: self.groups_url.as_str(), older: Older::Ignored }
    }

    /// Reads all groups. What cannot be read whole changes nothing.
    async fn read_all(self: Arc<Self>) -> Result<(), DriverError> {
        let known = self.state().pages.clone();
        let until = Instant::now() + READING;
        match pages::read(&self, self.groups_url.clone(), known, until).await {
            Ok(pages) => apart(move || self.take(pages)).await,
            Err(error) => {
                let mut state = self.state();
                let reason = format!("{error} (nothing of it is used)");
                state.records = state.records.with_broken_source(reason);
                Err(error)
            }
        }
    }

    fn take(&self, pages: Pages) {
        let Pages { all, known, listed_at } = pages;
        let mut read = Read::default();
        all.iter().flat_map(|page| &page.entries).for_each(|entry| read.add(entry.clone()));
        let mut state = self.state();
        let after = state.records.merged(&self.source(), read);
        if after != state.records {
            let (groups, faults) = (after.count(), after.faults.len());
            tracing::info!(url = %self.groups_url, groups, faults, "CMDB read");
        }
        state.singles.retain(|id, _| after.has(id));
        state.single_faults.clear();
        state.records = after;
        state.pages = known;
        state.listed_at = listed_at;
    }

    async fn group(&self, id: &str) -> Result<Option<CmdbGroup>, DriverError> {
        let url = below(&self.groups_url, &[id]);
        let known = self.state().singles.get(id).cloned();
        let etag = known.as_ref().map(|(etag, _)| etag);
        let answer = self.client.get(&url, etag, Instant::now() + PATIENCE).await?;
        let (entry, etag) = match (answer, known) {
            (Answer::Absent, _) => return Ok(None),
            (Answer::Unchanged { .. }, Some((etag, entry))) => (entry, Some(etag)),
            (Answer::Unchanged { .. }, None) => return Err(unasked(&url)),
            (Answer::Body { bytes, etag, .. }, _) => {
                let entry = read::group(&bytes, &self.names);
                (entry.map_err(|reason| DriverError::Refused(format!("{url}: {reason}")))?, etag)
            }
        };
        if let Some(other) = entry.id.as_ref().filter(|other| *other != id) {
            let text = format!("{url}: it answers the group {other:?}");
            return Err(DriverError::Refused(text));
        }
        let source = Source { name: url.as_str(), ..self.source() };
        self.take_one(id, &source, entry, etag)
    }

    /// A broken answer is an error; whoever has an earlier record goes on with that and says so.
    fn take_one(
        &self,
        id: &str,
        source: &Source<'_>,
        entry: Entry,
        etag: Option<HeaderValue>,
    ) -> Result<Option<CmdbGroup>, DriverError> {
        let mut state = self.state();
        match etag {
            Some(etag) => state.singles.insert(id.to_owned(), (etag, entry.clone())),
            None => state.singles.remove(id),
        };
        match state.records.take_one(source, id, entry) {
            Ok(group) => {
                state.single_faults.remove(id);
                Ok(Some(group))
            }
            Err(faults) => {
                let reason = faults.join("; ");
                state.single_faults.insert(id.to_owned(), faults);
                Err(DriverError::Refused(reason))
            }
        }
    }

    /// Whether the CMDB tells of a group that is not known as it is, and was not told before. It is asked for what changed since
    /// the last list, with a minute to spare.
    async fn has_changed(&self) -> bool {
        let (since, known) = {
            let state = self.state();
            (state.listed_at.clone(), state.polled.clone())
        };
        let mut url = self.groups_url.clone();
        if let Some(since) = since {
            url.query_pairs_mut().append_pair("updated_after", &since);
        }
        let changed = pages::read(self, url, known, Instant::now() + READING).await;
        match changed {
            Ok(Pages { all, known, .. }) => {
                let mut state = self.state();
                state.polled = known;
                let entries = all.iter().flat_map(|page| &page.entries);
                let lacking: BTreeSet<_> =
                    entries.filter_map(|entry| state.records.lacks(entry)).collect();
                // What is not taken although it was told would be told for ever.
                let is_new = !lacking.is_subset(&state.told);
                state.told = lacking;
                is_new
            }
            Err(error) => {
                tracing::debug!(%error, "the CMDB did not tell what changed");
                false
            }
        }
    }
}

impl Cmdb for HttpCmdb {
    fn group<'a>(&'a self, external_id: &'a str) -> Call<'a, Option<CmdbGroup>> {
        Box::pin(self.inner.group(external_id))
    }

    fn groups(&self) -> Call<'_, Vec<CmdbGroup>> {
        Box::pin(async {
            let inner = Arc::clone(&self.inner);
            self.listing.read(PATIENCE, || async move { inner.read_all().await }).await?;
            Ok(self.inner.state().records.good())
        })
    }

    fn faults(&self) -> Vec<String> {
        let state = self.inner.state();
        all_faults(&state.records, &state.single_faults)
    }

    /// For one caller at a time: a change is told once.
    fn changed(&self) -> Call<'_, ()> {
        Box::pin(async {
            self.listing.changed(self.poll, || self.inner.has_changed()).await;
            Ok(())
        })
    }
}

/// Does what takes long in a large fleet where it holds up nobody.
pub(crate) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, DriverError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| DriverError::Busy(format!("reading the CMDB ended badly: {error}")))
}

/// The address of something below another one.
pub(crate) fn below(url: &Url, parts: &[&str]) -> Url {
    let mut below = url.clone();
    if let Ok(mut path) = below.path_segments_mut() {
        path.pop_if_empty().extend(parts);
    }
    below
}

/// An answer that nobody can give who was not asked with an `ETag`.
fn unasked(url: &Url) -> DriverError {
    DriverError::Busy(format!("{url}: it answers 304 Not Modified to a question without an ETag"))
}
