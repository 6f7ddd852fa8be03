//! How many targets stand where, in the words of people.

use std::collections::BTreeMap;

use crate::target_status::TargetStatus;

/// Targets, counted by how far they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// In traffic with the package.
    pub serving: u32,
    /// Verified and not in traffic yet: where a bastion rests until somebody bakes it.
    pub verified: u32,
    /// Under way: a stage runs, or the next one is due.
    pub running: u32,
    /// Failed in a stage, or relapsed.
    pub failed: u32,
    /// Not begun.
    pub pending: u32,
    /// Ended with their deployment.
    pub revoked: u32,
    /// Their server is gone or pulled out.
    pub set_aside: u32,
}

impl Tally {
    /// From the counts of a deployment or a batch: how many targets have each status.
    pub fn of(counts: &BTreeMap<String, u32>) -> Self {
        let mut tally = Self::default();
        for (word, count) in counts {
            *match TargetStatus::from_word(word) {
                Some(TargetStatus::Success) => &mut tally.serving,
                Some(TargetStatus::VerifySuccess) => &mut tally.verified,
                Some(TargetStatus::SetAside) => &mut tally.set_aside,
                Some(TargetStatus::Revoked) => &mut tally.revoked,
                Some(TargetStatus::Pending) | None => &mut tally.pending,
                Some(status) if status.is_failure() => &mut tally.failed,
                Some(_) => &mut tally.running,
            } += count;
        }
        tally
    }

    /// All targets.
    pub fn all(self) -> u32 {
        self.parts().iter().map(|(count, _)| count).sum()
    }

    /// All targets but those set aside, which count for nothing.
    pub fn of_interest(self) -> u32 {
        self.all() - self.set_aside
    }

    /// Count and word of each part.
    pub fn parts(self) -> [(u32, &'static str); 7] {
        [
            (self.serving, "serving"),
            (self.verified, "verified"),
            (self.running, "under way"),
            (self.failed, "failed"),
            (self.pending, "pending"),
            (self.revoked, "revoked"),
            (self.set_aside, "set aside"),
        ]
    }

    /// The counts as a sentence; what is zero is left out.
    pub fn sentence(self) -> String {
        let parts = self.parts();
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let words: Vec<String> = parts.map(|(count, word)| format!("{count} {word}")).collect();
        if words.is_empty() { "no targets".to_owned() } else { words.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_counted_by_how_far_they_are() {
        let counts = TargetStatus::ALL.map(|status| (status.word().to_owned(), 1));
        let tally = Tally::of(&BTreeMap::from(counts));
        assert_eq!((tally.serving, tally.pending, tally.set_aside, tally.revoked), (1, 1, 1, 1));
        assert_eq!((tally.running, tally.verified, tally.failed, tally.all()), (9, 1, 5, 19));
        assert_eq!(tally.of_interest(), 18);
    }

    #[test]
    fn what_is_zero_is_not_told() {
        let tally = Tally { serving: 2, failed: 1, ..Tally::default() };
        assert_eq!(tally.sentence(), "2 serving, 1 failed");
        assert_eq!(Tally::default().sentence(), "no targets");
    }
}
