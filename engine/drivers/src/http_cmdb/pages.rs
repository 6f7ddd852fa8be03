//! All pages of the list of groups. A list that repeats itself, does not end or is too large is not
//! used.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use capstan_core::ports::DriverError;
use reqwest::Url;
use reqwest::header::HeaderValue;
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};
use tokio::time::Instant;

use super::client::Answer;
use super::read::{self, Page};
use super::{Inner, apart, unasked};

/// How many pages a list may have.
const PAGES: usize = 10_000;
/// How much all pages of a list may hold, in answers of the largest size.
const LARGEST_LIST: usize = 4;

/// Pages that have an `ETag`, by address.
pub(super) type Known = HashMap<Url, (HeaderValue, Arc<Page>)>;

/// A list that was read.
#[derive(Default)]
pub(super) struct Pages {
    pub(super) all: Vec<Arc<Page>>,
    pub(super) known: Known,
    /// A time shortly before the first page was answered, by the clock of the other side.
    pub(super) listed_at: Option<String>,
}

/// Reads the page at `first` and every one after it. Pages of `known` are asked for with their `ETag`.
pub(super) async fn read(
    inner: &Inner,
    first: Url,
    known: Known,
    until: Instant,
) -> Result<Pages, DriverError> {
    let refused = |reason: &str| DriverError::Refused(format!("{first}: {reason}"));
    let mut list = Pages::default();
    let mut cursors = HashSet::new();
    let mut url = first.clone();
    let mut left = inner.largest.saturating_mul(LARGEST_LIST);
    while list.all.len() < PAGES {
        let size = list.page(inner, &known, url, until).await?;
        left = left.checked_sub(size).ok_or_else(|| refused("the pages together are too large"))?;
        let next = list.all.last().and_then(|page| page.next.clone());
        let Some(cursor) = next else { return Ok(list) };
        url = first.clone();
        url.query_pairs_mut().append_pair("cursor", &cursor);
        if !cursors.insert(cursor) {
            return Err(refused(&format!("the list does not end: {url} is its next page twice")));
        }
    }
    Err(refused(&format!("the list has more than {PAGES} pages")))
}

impl Pages {
    /// Adds the page at `url`; answers how many bytes came.
    async fn page(
        &mut self,
        inner: &Inner,
        known: &Known,
        url: Url,
        until: Instant,
    ) -> Result<usize, DriverError> {
        let before = known.get(&url);
        let answer = inner.client.get(&url, before.map(|(etag, _)| etag), until).await?;
        let (bytes, etag, date) = match (answer, before) {
            (Answer::Body { bytes, etag, date }, _) => (bytes, etag, date),
            (Answer::Unchanged { date }, Some((etag, page))) => {
                self.note(date.as_ref());
                self.known.insert(url, (etag.clone(), Arc::clone(page)));
                self.all.push(Arc::clone(page));
                return Ok(0);
            }
            (Answer::Unchanged { .. }, None) => return Err(unasked(&url)),
            (Answer::Absent, _) => {
                return Err(DriverError::Refused(format!("{url}: it answers 404 Not Found")));
            }
        };
        self.note(date.as_ref());
        let (size, number, names) = (bytes.len(), self.all.len(), Arc::clone(&inner.names));
        let page = apart(move || read::page(&bytes, number, &names)).await?;
        let page = Arc::new(page.map_err(|reason| DriverError::Busy(format!("{url}: {reason}")))?);
        if let Some(etag) = etag {
            self.known.insert(url, (etag, Arc::clone(&page)));
        }
        self.all.push(page);
        Ok(size)
    }

    fn note(&mut self, date: Option<&HeaderValue>) {
        if self.all.is_empty() {
            self.listed_at = date.and_then(shortly_before);
        }
    }
}

/// A minute before a time of HTTP, as RFC 3339: what changed while the list was read is told again.
fn shortly_before(date: &HeaderValue) -> Option<String> {
    let date = OffsetDateTime::parse(date.to_str().ok()?, &Rfc2822).ok()?;
    date.checked_sub(time::Duration::MINUTE)?.format(&Rfc3339).ok()
}

/// A time of HTTP, as RFC 3339.
pub(crate) fn time_of(date: &HeaderValue) -> Option<String> {
    OffsetDateTime::parse(date.to_str().ok()?, &Rfc2822).ok()?.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_http_becomes_one_a_minute_before() {
        let date = HeaderValue::from_static("Fri, 27 Nov 2026 00:00:30 GMT");
        assert_eq!(shortly_before(&date).as_deref(), Some("2026-11-26T23:59:30Z"));
        assert_eq!(time_of(&date).as_deref(), Some("2026-11-27T00:00:30Z"));
        assert_eq!(shortly_before(&HeaderValue::from_static("yesterday")), None);
    }
}
