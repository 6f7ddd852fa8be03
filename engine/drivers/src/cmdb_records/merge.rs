//! From the entries of a source to the records that count: what is good is taken, and what is
//! broken leaves the last good record in place.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use capstan_core::ports::CmdbGroup;

use super::check::{Placed, Together};
use super::{Fault, Place};

/// What became of a broken group.
const LAST_GOOD: &str = "its last good record stays in force";
const LEFT_OUT: &str = "it is left out";

/// What a driver answers from.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Records {
    /// The last good record of each group that the source names, by id.
    groups: BTreeMap<String, CmdbGroup>,
    /// Groups that are broken now, or may be: their ids with the reason.
    broken: BTreeMap<String, String>,
    /// Those of them that say what another one, which counts, says already.
    clashing: BTreeSet<String>,
    /// What is wrong now.
    pub(crate) faults: Vec<String>,
    /// Whether the source could be used when it was last read.
    pub(crate) is_whole: bool,
}

/// One entry of a source.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    pub(crate) id: Option<String>,
    pub(crate) record: Result<Placed, Vec<Fault>>,
}

/// The entries of a source, each id once.
#[derive(Debug, Default)]
pub(crate) struct Read {
    entries: Vec<Entry>,
    doubles: Vec<(String, Fault)>,
    ids: HashSet<String>,
}

impl Read {
    /// Adds an entry; the first with an id counts.
    pub(crate) fn add(&mut self, entry: Entry) {
        match &entry.id {
            Some(id) if !self.ids.insert(id.clone()) => {
                let fault = Fault::new(entry.place, "the group is there twice");
                self.doubles.push((id.clone(), fault));
            }
            Some(_) | None => self.entries.push(entry),
        }
    }
}

/// What becomes of a record whose revision is below the one that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Older {
    /// If it differs, somebody forgot to raise it: that is told.
    Told,
    /// Another node of the CMDB lags behind: nothing is wrong.
    Ignored,
}

/// Where entries come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    /// Its name in sentences.
    pub(crate) name: &'a str,
    pub(crate) older: Older,
}

impl Source<'_> {
    /// What is wrong, with place and result.
    pub(crate) fn sentence(&self, group: Option<&str>, fault: &Fault, result: &str) -> String {
        let place = fault.place.map(|place| format!(", {place}")).unwrap_or_default();
        let group = group.map(|group| format!(", group {group}")).unwrap_or_default();
        format!("{}{place}{group}: {} ({result})", self.name, fault.reason)
    }
}

impl Records {
    /// The same records with the reason why the source as a whole cannot be used.
    pub(crate) fn with_broken_source(&self, reason: String) -> Self {
        Self { faults: vec![reason], is_whole: false, ..self.clone() }
    }

    /// How many groups have a record, good now or before.
    pub(crate) fn count(&self) -> usize {
        self.groups.len()
    }

    /// Whether a group has one.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.groups.contains_key(id)
    }

    /// Groups whose records are good. What is broken is left out, for nobody knows whether its last good record is
    /// still right.
    pub(crate) fn good(&self) -> Vec<CmdbGroup> {
        let good = self.groups.iter().filter(|(id, _)| !self.broken.contains_key(*id));
        good.map(|(_, group)| group.clone()).collect()
    }

    /// One of them, or the reason why it is none.
    pub(crate) fn one(&self, id: &str) -> Result<Option<CmdbGroup>, String> {
        match self.broken.get(id) {
            Some(reason) => Err(reason.clone()),
            None => Ok(self.groups.get(id).cloned()),
        }
    }

    /// The records after reading the whole source.
    pub(crate) fn merged(&self, source: &Source<'_>, read: Read) -> Self {
        let mut next = Self { is_whole: true, ..Self::default() };
        let mut together = Together::default();
        let unnamed = read.entries.iter().find(|entry| entry.id.is_none()).map(|entry| entry.place);
        for (id, fault) in &read.doubles {
            next.faults.push(source.sentence(Some(id), fault, "the first one counts"));
        }
        let (mut good, mut missing) = (Vec::new(), Vec::new());
        for entry in read.entries {
            match self.judged(entry, source) {
                Ok(placed) => good.push(placed),
                Err(broken) => next.keep_last_good(self, source, &broken, Some(&mut together)),
            }
        }
        for placed in good {
            let clashes = together.clashes(&placed);
            if clashes.is_empty() {
                together.add(&placed.group);
                next.groups.insert(placed.group.id.clone(), placed.group);
            } else {
                let Placed { group, place, .. } = placed;
                next.clashing.insert(group.id.clone());
                let broken = Broken { place, id: Some(group.id), faults: clashes };
                next.keep_last_good(self, source, &broken, None);
            }
        }
        if let Some(place) = unnamed {
            // The broken one may be any of those that are missing.
            let fault = Fault::new(place, "a group without a good id may be this one");
            for (id, group) in self.groups.iter().filter(|(id, _)| !next.groups.contains_key(*id)) {
                let reason = source.sentence(Some(id), &fault, LAST_GOOD);
                missing.push((id.clone(), group.clone(), reason));
            }
        }
        for (id, group, reason) in missing {
            next.broken.insert(id.clone(), reason);
            next.groups.insert(id, group);
        }
        next
    }

    /// The record of a group that was read by itself, or the sentences that say what is wrong with it.
    /// It counts from now on.
    pub(crate) fn take_one(
        &mut self,
        source: &Source<'_>,
        id: &str,
        entry: Entry,
    ) -> Result<CmdbGroup, Vec<String>> {
        let judged = self.judged(entry, source).and_then(|placed| {
            let mut together = Together::default();
            // What is left of one that clashes keeps no good one out.
            let is_other = |id: &str| id != placed.group.id && !self.clashing.contains(id);
            let others = self.groups.values().filter(|other| is_other(&other.id));
            others.for_each(|other| together.add(other));
            let faults = together.clashes(&placed);
            let Placed { group, place, .. } = placed;
            if faults.is_empty() {
                Ok(group)
            } else {
                Err(Broken { place, id: Some(group.id), faults })
            }
        });
        match judged {
            Ok(group) => {
                self.broken.remove(&group.id);
                self.clashing.remove(&group.id);
                self.groups.insert(group.id.clone(), group.clone());
                Ok(group)
            }
            Err(mut broken) => {
                broken.id.get_or_insert_with(|| id.to_owned());
                let result = if self.groups.contains_key(id) { LAST_GOOD } else { LEFT_OUT };
                Err(broken.sentences(source, result))
            }
        }
    }

    /// The group and the revision of an entry that is newer than what counts, or is about a group of
    /// which nothing counts.
    pub(crate) fn lacks(&self, entry: &Entry) -> Option<(String, i64)> {
        let (id, Ok(placed)) = (entry.id.as_ref()?, &entry.record) else { return None };
        let given = placed.group.revision;
        let is_newer = match self.groups.get(id) {
            None => true,
            Some(known) if given == 0 => {
                CmdbGroup { revision: known.revision, ..placed.group.clone() } != *known
            }
            Some(known) => given > known.revision,
        };
        is_newer.then(|| (id.clone(), given))
    }

    /// The record of an entry, or what is wrong with it.
    fn judged(&self, entry: Entry, source: &Source<'_>) -> Result<Placed, Broken> {
        let Entry { place, id, record } = entry;
        let broken = |faults| Broken { place, id: id.clone(), faults };
        let placed = record.map_err(broken)?;
        let before = self.groups.get(&placed.group.id);
        newest(before, placed, source).map_err(|fault| broken(vec![fault]))
    }

    fn keep_last_good(
        &mut self,
        before: &Self,
        source: &Source<'_>,
        broken: &Broken,
        together: Option<&mut Together>,
    ) {
        let last_good = broken.id.as_ref().and_then(|id| before.groups.get(id));
        let result = match last_good {
            Some(_) => LAST_GOOD,
            None => LEFT_OUT,
        };
        let sentences = broken.sentences(source, result);
        if let Some(group) = last_good.filter(|group| !self.groups.contains_key(&group.id)) {
            if let Some(together) = together {
                together.add(group);
            }
            self.groups.insert(group.id.clone(), group.clone());
        }
        if let Some(id) = &broken.id {
            self.broken.insert(id.clone(), sentences.join("; "));
        }
        self.faults.extend(sentences);
    }
}

struct Broken {
    place: Place,
    id: Option<String>,
    faults: Vec<Fault>,
}

impl Broken {
    fn sentences(&self, source: &Source<'_>, result: &str) -> Vec<String> {
        let faults = self.faults.iter().map(|fault| fault.clone().or_at(self.place));
        faults.map(|fault| source.sentence(self.id.as_deref(), &fault, result)).collect()
    }
}

/// A record that was read, or the newer one that is known.
fn newest(
    before: Option<&CmdbGroup>,
    mut read: Placed,
    source: &Source<'_>,
) -> Result<Placed, Fault> {
    let given = read.group.revision;
    let Some(before) = before.filter(|before| given > 0 && given <= before.revision) else {
        return Ok(read);
    };
    let is_same = CmdbGroup { revision: before.revision, ..read.group.clone() } == *before;
    if is_same || given < before.revision && source.older == Older::Ignored {
        read.group = before.clone();
        return Ok(read);
    }
    Err(Fault::new(
        read.place,
        format!(
            "the record changed, but its revision {given} is not above the one before, {}",
            before.revision
        ),
    ))
}
