//! What is known not to work, so that it is said when it begins and when it ends, and not each time in between.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What does not work just now, by name.
#[derive(Debug, Default)]
pub struct Outages(Mutex<BTreeSet<String>>);

impl Outages {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something does not work. Whether that is news.
    pub fn begins(&self, what: &str) -> bool {
        let mut all = self.lock();
        !all.contains(what) && all.insert(what.to_owned())
    }

    /// Notes that something works. Whether that is news.
    pub fn ends(&self, what: &str) -> bool {
        self.lock().remove(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_news_when_it_begins_and_when_it_ends() {
        let outages = Outages::default();
        assert!(!outages.ends("edge"), "nothing was wrong");
        assert_eq!([outages.begins("edge"), outages.begins("edge")], [true, false]);
        assert!(outages.begins("hosts"));
        assert_eq!([outages.ends("edge"), outages.ends("edge")], [true, false]);
        assert!(outages.begins("edge"), "again");
    }
}
