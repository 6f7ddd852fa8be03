//! CMDB driver `netbox`: groups made of the devices and virtual machines of a NetBox. A custom field
//! names the group of each; what NetBox does not know of a group comes from the [`Mapping`].
//!
//! NetBox gives its lists page by page, and a page is a place in a list that may change meanwhile. So a
//! list counts only if each object came once and as many came as NetBox says that there are; else it is
//! read again. A server that is missing would be retired.

mod map;
mod read;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use capstan_core::ports::{Call, Cmdb, CmdbGroup, DriverError};
use reqwest::Url;
use tokio::time::Instant;

use crate::cmdb_records::{Names, Older, Read, Records, Source};
use crate::http_cmdb::{
    Answer, Asking, Client, Error, Listing, PATIENCE, READING, all_faults, apart, below,
};
pub use map::Mapping;
use read::Object;

/// Objects per page; NetBox gives no more than 1000 unless it is told otherwise.
const PAGE: &str = "500";
/// How often a list that changed while it was read is read.
const READINGS: u32 = 3;

/// What the driver needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where NetBox is; `/api/…` is added.
    pub url: Url,
    /// How it is asked.
    pub asking: Asking,
    /// How often it is asked for changes.
    pub poll: Duration,
    /// What its objects mean.
    pub mapping: Mapping,
}

/// The header `Authorization` for a token of either kind: one of version 2 begins with `nbt_`.
pub fn authorization(token: &str) -> String {
    let scheme = if token.starts_with("nbt_") { "Bearer" } else { "Token" };
    format!("{scheme} {token}")
}

/// A NetBox as CMDB.
pub struct NetboxCmdb {
    inner: Arc<Inner>,
    listing: Listing,
    poll: Duration,
}

struct Inner {
    client: Client,
    url: Url,
    names: Names,
    mapping: Mapping,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: Records,
    /// What is wrong with single groups that were read by themselves.
    single_faults: BTreeMap<String, Vec<String>>,
    /// When the last list was begun, by the clock of NetBox.
    listed_at: Option<String>,
}

/// What is asked for.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    All,
    Group(&'a str),
}

/// The kinds of objects that become servers, and where they are.
const KINDS: [(&str, &[&str]); 2] = [
    ("device", &["api", "dcim", "devices", ""]),
    ("virtual machine", &["api", "virtualization", "virtual-machines", ""]),
];

impl NetboxCmdb {
    /// A driver. Nothing is asked yet.
    pub fn new(settings: &Settings, names: Names) -> Result<Self, Error> {
        let inner = Arc::new(Inner {
            client: Client::new(&settings.asking)?,
            url: settings.url.clone(),
            names,
            mapping: settings.mapping.clone(),
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
        Source { name: self.url.as_str(), older: Older::Ignored }
    }

    /// Reads all groups. What cannot be read whole changes nothing.
    async fn read_all(self: Arc<Self>) -> Result<(), DriverError> {
        match self.objects(Wanted::All, Instant::now() + READING).await {
            Ok((objects, listed_at)) => apart(move || self.take(objects, listed_at)).await,
            Err(error) => {
                let mut state = self.state();
                let reason = format!("{error} (nothing of it is used)");
                state.records = state.records.with_broken_source(reason);
                Err(error)
            }
        }
    }

    fn take(&self, objects: Vec<Object>, listed_at: Option<String>) {
        let (entries, faults) = map::groups(objects, &self.mapping, &self.names);
        let mut read = Read::default();
        for entry in entries {
            read.add(entry);
        }
        let source = self.source();
        let mut state = self.state();
        let mut after = state.records.merged(&source, read);
        let told = faults.iter().map(|fault| source.sentence(None, fault, "it is left out"));
        after.faults.extend(told);
        if after != state.records {
            let (groups, faults) = (after.count(), after.faults.len());
            tracing::info!(url = %self.url, groups, faults, "NetBox read");
        }
        state.single_faults.clear();
        state.records = after;
        state.listed_at = listed_at;
    }

    async fn group(&self, id: &str) -> Result<Option<CmdbGroup>, DriverError> {
        let (objects, _) = self.objects(Wanted::Group(id), Instant::now() + PATIENCE).await?;
        // A text field of NetBox is searched loosely, so others may have come along.
        let (entries, _) = map::groups(objects, &self.mapping, &self.names);
        let wanted = entries.into_iter().find(|entry| entry.id.as_deref() == Some(id));
        let Some(entry) = wanted else { return Ok(None) };
        let mut state = self.state();
        match state.records.take_one(&self.source(), id, entry) {
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

    /// Devices and virtual machines, each list whole, and the time at which the first was begun.
    async fn objects(
        &self,
        wanted: Wanted<'_>,
        until: Instant,
    ) -> Result<(Vec<Object>, Option<String>), DriverError> {
        let (mut objects, mut begun_at) = (Vec::new(), None);
        for (kind, path) in KINDS {
            let mut url = below(&self.url, path);
            url.query_pairs_mut()
                .append_pair("limit", PAGE)
                .append_pair("ordering", "id")
                .append_pair("exclude", "config_context");
            if !self.mapping.tag.is_empty() {
                url.query_pairs_mut().append_pair("tag", &self.mapping.tag);
            }
            if let Wanted::Group(id) = wanted {
                let name = format!("cf_{}", self.mapping.group_field);
                url.query_pairs_mut().append_pair(&name, id);
            }
            let (list, at) = self.list(kind, &url, until).await?;
            objects.extend(list);
            begun_at = begun_at.or(at);
        }
        Ok((objects, begun_at))
    }

    /// A whole list: read again if it changed meanwhile.
    async fn list(
        &self,
        kind: &'static str,
        url: &Url,
        until: Instant,
    ) -> Result<(Vec<Object>, Option<String>), DriverError> {
        let mut reading = 1;
        loop {
            match self.list_once(kind, url, until).await {
                Err(DriverError::Busy(reason)) if reading < READINGS && Instant::now() < until => {
                    tracing::debug!(reason, "reading a list of NetBox again");
                    reading += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn list_once(
        &self,
        kind: &'static str,
        first: &Url,
        until: Instant,
    ) -> Result<(Vec<Object>, Option<String>), DriverError> {
        let busy = |reason: String| DriverError::Busy(format!("{first}: {reason}"));
        let changed = || busy("the list changed while it was read".to_owned());
        let mut objects: BTreeMap<i64, Object> = BTreeMap::new();
        let mut last = None;
        let (mut url, mut count, mut begun_at) = (first.clone(), None, None);
        loop {
            let Answer::Body { bytes, date, .. } = self.client.get(&url, None, until).await? else {
                return Err(DriverError::Refused(format!("{url}: it answers 404 Not Found")));
            };
            let page = apart(move || read::page(&bytes, kind)).await?.map_err(busy)?;
            if count.is_none() {
                begun_at = date.as_ref().and_then(crate::http_cmdb::time_of);
            }
            if *count.get_or_insert(page.count) != page.count {
                return Err(changed());
            }
            let mut found = page.objects.into_iter();
            // Each page begins with the last object of the one before. If an object before it is gone,
            // it does not, even if as many others came and the count is the same.
            if last.is_some() && found.next().map(|object| object.id) != last {
                return Err(changed());
            }
            let before = objects.len();
            for object in found {
                last = Some(object.id);
                if objects.insert(object.id, object).is_some() {
                    return Err(changed());
                }
            }
            let is_empty = objects.len() == before;
            match page.next {
                // NetBox makes this address of what it was asked with, or of what it takes itself for.
                // The token goes to the configured one alone, so only the query counts.
                Some(next) if !is_empty => {
                    url.set_query(Some(&next));
                    place(&mut url, objects.len() - 1);
                }
                None if objects.len() == page.count => {
                    return Ok((objects.into_values().collect(), begun_at));
                }
                Some(_) | None => return Err(changed()),
            }
        }
    }

    /// Whether an object changed since the last list was begun. One that is gone, or that left its group,
    /// is not told; the next sync sees it.
    async fn has_changed(&self) -> bool {
        let Some(since) = self.state().listed_at.clone() else { return false };
        for (kind, path) in KINDS {
            let mut url = below(&self.url, path);
            url.query_pairs_mut()
                .append_pair("limit", "1")
                .append_pair("exclude", "config_context")
                .append_pair("last_updated__gte", &since);
            if !self.mapping.tag.is_empty() {
                url.query_pairs_mut().append_pair("tag", &self.mapping.tag);
            }
            let page = match self.client.get(&url, None, Instant::now() + PATIENCE).await {
                Ok(Answer::Body { bytes, .. }) => read::page(&bytes, kind),
                Ok(Answer::Unchanged { .. } | Answer::Absent) => Err("no list".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            match page {
                Ok(page) if page.count > 0 => return true,
                Ok(_) => {}
                Err(reason) => tracing::debug!(%url, reason, "NetBox did not tell what changed"),
            }
        }
        false
    }
}

impl Cmdb for NetboxCmdb {
    fn group<'a>(&'a self, external_id: &'a str) -> Call<'a, Option<CmdbGroup>> {
        Box::pin(self.inner.group(external_id))
    }

    fn groups(&self) -> Call<'_, Vec<CmdbGroup>> {
        Box::pin(async {
            let inner = Arc::clone(&self.inner);
            self.listing.read(PATIENCE, || inner.read_all()).await?;
            Ok(self.inner.state().records.good())
        })
    }

    fn faults(&self) -> Vec<String> {
        let state = self.inner.state();
        all_faults(&state.records, &state.single_faults)
    }

    /// For one caller at a time: a change is told once it is seen, and again until it is read.
    fn changed(&self) -> Call<'_, ()> {
        Box::pin(async {
            self.listing.changed(self.poll, || self.inner.has_changed()).await;
            Ok(())
        })
    }
}

/// Asks for the list from another place on.
fn place(url: &mut Url, offset: usize) {
    let pairs = url.query_pairs().filter(|(name, _)| name != "offset");
    let kept: Vec<(String, String)> =
        pairs.map(|(a, b)| (a.into_owned(), b.into_owned())).collect();
    let mut query = url.query_pairs_mut();
    query.clear().extend_pairs(kept).append_pair("offset", &offset.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_either_kind_is_shown_as_netbox_wants_it() {
        assert_eq!(authorization("0123abcd"), "Token 0123abcd");
        assert_eq!(
            authorization("nbt_4F9DAouzURLb.zjebxBPzICiPbWz0"),
            "Bearer nbt_4F9DAouzURLb.zjebxBPzICiPbWz0"
        );
    }
}
