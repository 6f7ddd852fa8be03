//! What a CMDB tells of its changes by way of a broker that repeats and reorders.

use fastrand::Rng;

/// Messages that are on their way at the same time. The more, the later the latest of them.
const ON_THEIR_WAY: usize = 256;
/// One change in so many is of the first group, however many there are.
const OF_THE_FIRST: usize = 20;

/// What happens next: a group, by its place, and its revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The group has this revision from here on.
    Made(usize, i64),
    /// A message says so, perhaps again, perhaps long after newer ones.
    Told(usize, i64),
}

/// Changes of groups and the messages about them, two for each, so half of them are repeats. They come in
/// random order, but none before its change was made. The same seed gives the same ones.
#[derive(Debug)]
pub struct Changes {
    random: Rng,
    /// Changes that are still to be made.
    left: usize,
    newest: Vec<i64>,
    newest_told: Vec<i64>,
    on_their_way: Vec<(usize, i64)>,
    late_count: usize,
}

impl Changes {
    /// So many changes of so many groups.
    pub fn new(groups: usize, changes: usize, seed: u64) -> Self {
        Self {
            random: Rng::with_seed(seed),
            left: changes,
            newest: vec![0; groups],
            newest_told: vec![0; groups],
            on_their_way: Vec::with_capacity(ON_THEIR_WAY),
            late_count: 0,
        }
    }

    /// Makes no more changes. What was made is still told.
    pub fn end(&mut self) {
        self.left = 0;
    }

    /// The newest revision of each group, by its place; 0: it was never changed.
    pub fn newest(&self) -> &[i64] {
        &self.newest
    }

    /// Messages so far that came after one about a newer revision of their group.
    pub const fn late_count(&self) -> usize {
        self.late_count
    }

    fn make(&mut self) -> Change {
        self.left -= 1;
        let is_of_first = self.random.usize(..OF_THE_FIRST) == 0;
        let group = if is_of_first { 0 } else { self.random.usize(..self.newest.len()) };
        self.newest[group] += 1;
        let revision = self.newest[group];
        self.on_their_way.extend([(group, revision); 2]);
        Change::Made(group, revision)
    }
}

impl Iterator for Changes {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        if self.left > 0 && self.on_their_way.len() < ON_THEIR_WAY {
            return Some(self.make());
        }
        if self.on_their_way.is_empty() {
            return None;
        }
        let place = self.random.usize(..self.on_their_way.len());
        let (group, revision) = self.on_their_way.swap_remove(place);
        let told = &mut self.newest_told[group];
        self.late_count += usize::from(revision < *told);
        *told = revision.max(*told);
        Some(Change::Told(group, revision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_twice_after_it_was_made_and_many_are_late() {
        let mut changes = Changes::new(8, 2_000, 7);
        let (mut made, mut told) = (vec![0; 8], vec![Vec::new(); 8]);
        for change in changes.by_ref() {
            match change {
                Change::Made(group, revision) => {
                    made[group] += 1;
                    assert_eq!(revision, made[group]);
                }
                Change::Told(group, revision) => {
                    assert!(revision <= made[group], "it is told before it was made");
                    told[group].push(revision);
                }
            }
        }
        assert_eq!(made, changes.newest());
        for (revisions, newest) in told.iter_mut().zip(&made) {
            revisions.sort_unstable();
            let twice: Vec<i64> = (1..=*newest).flat_map(|revision| [revision; 2]).collect();
            assert_eq!(*revisions, twice);
        }
        assert!(changes.late_count() > 1_000, "{} are late", changes.late_count());
    }
}
