//! How many targets stand where, and the bar that shows it.

use std::collections::BTreeMap;

use capstan_core::target_status::TargetStatus;
use capstan_core::view::BatchView;
use maud::{Markup, html};

/// The length of a bar in its own units.
const LENGTH: u64 = 10_000;
/// The gap between two batches in a bar.
const GAP: u64 = 24;
/// A bar with more batches than this has no gaps.
const MOST_GAPS: usize = 60;

/// Targets, counted by how far they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) serving: u32,
    /// Verified and not in traffic yet: where a bastion rests until somebody bakes it.
    pub(crate) verified: u32,
    pub(crate) running: u32,
    pub(crate) failed: u32,
    pub(crate) pending: u32,
    pub(crate) set_aside: u32,
    pub(crate) revoked: u32,
}

impl Tally {
    pub(crate) fn of(counts: &BTreeMap<String, u32>) -> Self {
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
    pub(crate) fn all(self) -> u32 {
        self.of_interest() + self.set_aside
    }

    /// All targets but those set aside, which count for nothing.
    pub(crate) fn of_interest(self) -> u32 {
        self.parts().iter().map(|(count, ..)| count).sum::<u32>() - self.set_aside
    }

    /// Count, class and word of each part.
    pub(crate) fn parts(self) -> [(u32, &'static str, &'static str); 7] {
        [
            (self.serving, "good", "serving"),
            (self.verified, "verified", "verified"),
            (self.running, "running", "under way"),
            (self.failed, "bad", "failed"),
            (self.pending, "idle", "pending"),
            (self.revoked, "void", "revoked"),
            (self.set_aside, "void", "set aside"),
        ]
    }

    /// A bar of one piece.
    pub(crate) fn bar(self) -> Markup {
        bar(&[self.piece()], &self.sentence())
    }

    fn piece(self) -> [(u32, &'static str); 7] {
        self.parts().map(|(count, class, _)| (count, class))
    }

    /// The counts as a sentence; what is zero is left out.
    pub(crate) fn sentence(self) -> String {
        let text: Vec<String> = self
            .parts()
            .iter()
            .filter(|(count, ..)| *count > 0)
            .map(|(count, _, word)| format!("{count} {word}"))
            .collect();
        if text.is_empty() { "no targets".to_owned() } else { text.join(", ") }
    }
}

/// The whole release as one line: a piece for each batch, each filled with where its targets stand.
pub(crate) fn release(batches: &[BatchView]) -> Markup {
    let tallies: Vec<Tally> = batches.iter().map(|batch| Tally::of(&batch.counts)).collect();
    let total: BTreeMap<String, u32> = batches.iter().fold(BTreeMap::new(), |mut sum, batch| {
        for (word, count) in &batch.counts {
            *sum.entry(word.clone()).or_default() += count;
        }
        sum
    });
    let pieces: Vec<[(u32, &str); 7]> = tallies.into_iter().map(Tally::piece).collect();
    bar(&pieces, &Tally::of(&total).sentence())
}

/// A bar with several pieces, each made of parts with a class. `label` says what it shows.
pub(crate) fn bar<'a, P: AsRef<[(u32, &'a str)]>>(pieces: &[P], label: &str) -> Markup {
    let sum = |parts: &[(u32, &str)]| parts.iter().map(|(count, _)| u64::from(*count)).sum::<u64>();
    let all: u64 = pieces.iter().map(|piece| sum(piece.as_ref())).sum::<u64>().max(1);
    let filled = pieces.iter().filter(|piece| sum(piece.as_ref()) > 0).count();
    let gap = if filled <= MOST_GAPS { GAP } else { 0 };
    let length = LENGTH - gap * (filled.max(1) as u64 - 1);
    let mut before = 0;
    let mut place = 0;
    let mut rectangles = Vec::new();
    for piece in pieces {
        let count = sum(piece.as_ref());
        for (part, class) in piece.as_ref().iter().filter(|(part, _)| *part > 0) {
            let (start, end) = (before * length / all, (before + u64::from(*part)) * length / all);
            rectangles.push((start + place * gap, end - start, *class));
            before += u64::from(*part);
        }
        place += u64::from(count > 0);
    }
    html! {
        svg.line viewBox={ "0 0 " (LENGTH) " 10" } preserveAspectRatio="none" role="img"
            aria-label=(label) {
            @for (x, width, class) in rectangles {
                rect.(class) x=(x) y="0" width=(width) height="10" {}
            }
        }
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
    }

    #[test]
    fn a_bar_fills_its_length_and_no_more() {
        let pieces = [vec![(1, "good")], vec![], vec![(2, "good"), (1, "bad")]];
        let text = bar(&pieces, "x").into_string();
        assert!(text.contains(r#"<rect class="good" x="0" y="0" width="2494""#), "{text}");
        assert!(text.contains(r#"<rect class="bad" x="7506" y="0" width="2494""#), "{text}");
        assert!(bar(&[vec![]], "nothing").into_string().contains("aria-label=\"nothing\""));
    }
}
