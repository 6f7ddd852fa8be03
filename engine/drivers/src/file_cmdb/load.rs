//! From the text of the file to the records that count: what is good is taken, and what is broken
//! leaves the last good record in place.

use std::collections::{BTreeMap, HashSet};

use capstan_core::ports::CmdbGroup;

use super::Names;
use super::check::{Placed, Together, alone};
use super::tree::{Fault, Node, parse};

/// What the driver answers from.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Records {
    /// Groups that count, by id.
    pub(super) groups: BTreeMap<String, CmdbGroup>,
    /// Groups that are broken and were never good: their ids with the reason.
    pub(super) never_good: BTreeMap<String, String>,
    /// What is wrong now.
    pub(super) faults: Vec<String>,
    /// Whether the file was ever good as a whole.
    pub(super) is_loaded: bool,
}

/// One entry of the list `groups`.
struct Entry {
    line: u64,
    id: Option<String>,
    record: Result<Placed, Vec<Fault>>,
}

impl Records {
    /// The same records with the reason why the file as a whole cannot be used.
    pub(super) fn with_broken_file(&self, reason: String) -> Self {
        Self { faults: vec![reason], ..self.clone() }
    }

    /// The records after reading `text`. `stamp` is the revision for what changed and has none.
    pub(super) fn after(&self, file: &str, text: &str, names: &Names, stamp: i64) -> Self {
        match read(text, names) {
            Ok(read) => self.merged(file, read, stamp),
            Err(fault) => {
                self.with_broken_file(sentence(file, None, &fault, "nothing of it is used"))
            }
        }
    }

    fn merged(&self, file: &str, read: Read, stamp: i64) -> Self {
        let mut next = Self { is_loaded: true, ..Self::default() };
        let mut together = Together::default();
        let has_unnamed = read.entries.iter().any(|entry| entry.id.is_none());
        for (id, fault) in &read.doubles {
            next.faults.push(sentence(file, Some(id), fault, "the first one counts"));
        }
        let mut good = Vec::new();
        for entry in read.entries {
            match self.judged(entry, stamp) {
                Ok(placed) => good.push(placed),
                Err(broken) => next.keep_last_good(self, file, &broken, Some(&mut together)),
            }
        }
        for placed in good {
            let clashes = together.clashes(&placed);
            if clashes.is_empty() {
                together.add(&placed.group);
                next.groups.insert(placed.group.id.clone(), placed.group);
            } else {
                let Placed { group, line, .. } = placed;
                let broken = Broken { line, id: Some(group.id), faults: clashes };
                next.keep_last_good(self, file, &broken, None);
            }
        }
        if has_unnamed {
            // The broken one may be any of those that are missing.
            for (id, group) in &self.groups {
                next.groups.entry(id.clone()).or_insert_with(|| group.clone());
            }
        }
        next
    }

    /// The record of an entry with its revision, or what is wrong with it.
    fn judged(&self, entry: Entry, stamp: i64) -> Result<Placed, Broken> {
        let Entry { line, id, record } = entry;
        let broken = |faults| Broken { line, id: id.clone(), faults };
        let mut placed = record.map_err(broken)?;
        let before = self.groups.get(&placed.group.id);
        let revised = revise(before, &placed, stamp).map_err(|fault| broken(vec![fault]))?;
        placed.group.revision = revised;
        Ok(placed)
    }

    fn keep_last_good(
        &mut self,
        before: &Self,
        file: &str,
        broken: &Broken,
        together: Option<&mut Together>,
    ) {
        let last_good = broken.id.as_ref().and_then(|id| before.groups.get(id));
        let result = match last_good {
            Some(_) => "its last good record stays in force",
            None => "it is left out",
        };
        let sentences: Vec<_> = broken
            .faults
            .iter()
            .map(|fault| {
                let fault = fault.clone().or_at(broken.line);
                sentence(file, broken.id.as_deref(), &fault, result)
            })
            .collect();
        match (last_good, &broken.id) {
            (Some(group), _) if !self.groups.contains_key(&group.id) => {
                if let Some(together) = together {
                    together.add(group);
                }
                self.groups.insert(group.id.clone(), group.clone());
            }
            (None, Some(id)) => {
                self.never_good.insert(id.clone(), sentences.join("; "));
            }
            _ => {}
        }
        self.faults.extend(sentences);
    }
}

struct Broken {
    line: u64,
    id: Option<String>,
    faults: Vec<Fault>,
}

fn sentence(file: &str, group: Option<&str>, fault: &Fault, result: &str) -> String {
    let line = fault.line.map(|line| format!(", line {line}")).unwrap_or_default();
    let group = group.map(|group| format!(", group {group}")).unwrap_or_default();
    format!("{file}{line}{group}: {} ({result})", fault.reason)
}

/// The revision of a record that was read.
fn revise(before: Option<&CmdbGroup>, read: &Placed, stamp: i64) -> Result<i64, Fault> {
    let given = read.group.revision;
    let Some(before) = before else {
        return Ok(if given == 0 { stamp } else { given });
    };
    let is_same = CmdbGroup { revision: before.revision, ..read.group.clone() } == *before;
    match (is_same, given) {
        (true, _) => Ok(given.max(before.revision)),
        (false, 0) => Ok(stamp.max(before.revision + 1)),
        (false, _) if given > before.revision => Ok(given),
        (false, _) => Err(Fault::new(
            read.line,
            format!(
                "the record changed, but its revision {given} is not above the one before, {}",
                before.revision
            ),
        )),
    }
}

/// The entries of a file, without those whose id was there before.
struct Read {
    entries: Vec<Entry>,
    doubles: Vec<(String, Fault)>,
}

fn read(text: &str, names: &Names) -> Result<Read, Fault> {
    let file = parse(text)?;
    let shape = "the file must be a map with the one entry `groups`, a list";
    let top = file.entries().ok_or_else(|| Fault::new(file.line, shape))?;
    for (line, name, _) in top {
        if name != "groups" {
            return Err(Fault::new(line, format!("unknown field `{name}`; {shape}")));
        }
    }
    let groups = file.get("groups").ok_or_else(|| Fault::new(file.line, shape))?;
    let items = groups.items().ok_or_else(|| Fault::new(groups.line, shape))?;
    let mut ids = HashSet::new();
    let mut read = Read { entries: Vec::with_capacity(items.len()), doubles: Vec::new() };
    for item in items {
        let entry = entry(item, text, names);
        match &entry.id {
            Some(id) if !ids.insert(id.clone()) => {
                let fault = Fault::new(entry.line, "the group is in the file twice");
                read.doubles.push((id.clone(), fault));
            }
            Some(_) | None => read.entries.push(entry),
        }
    }
    Ok(read)
}

fn entry(item: &Node, text: &str, names: &Names) -> Entry {
    let id = item.get("id").and_then(|id| id.read::<String>(text).ok());
    let id = id.filter(|id| !id.is_empty());
    let record = item.read::<CmdbGroup>(text).map_err(|fault| vec![fault]).and_then(|group| {
        let servers = item.get("servers").and_then(Node::items).unwrap_or_default();
        let server_lines = servers.iter().map(|server| server.line).collect();
        let placed = Placed { group, line: item.line, server_lines };
        let faults = alone(&placed, names);
        if faults.is_empty() { Ok(placed) } else { Err(faults) }
    });
    Entry { line: item.line, id, record }
}
