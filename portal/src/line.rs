//! The bars that show how many targets stand where.

use std::collections::BTreeMap;

use capstan_core::view::{BatchView, Tally};
use maud::{Markup, html};

/// The length of a bar in its own units.
const LENGTH: u64 = 10_000;
/// The gap between two batches in a bar.
const GAP: u64 = 24;
/// A bar with more batches than this has no gaps.
const MOST_GAPS: usize = 60;

/// Count, class and word of each part of a tally.
pub(crate) fn parts(tally: Tally) -> [(u32, &'static str, &'static str); 7] {
    let classes = ["good", "verified", "running", "bad", "idle", "void", "void"];
    let parts = tally.parts();
    std::array::from_fn(|place| (parts[place].0, classes[place], parts[place].1))
}

/// A bar of one piece.
pub(crate) fn of(tally: Tally) -> Markup {
    bar(&[piece(tally)], &tally.sentence())
}

fn piece(tally: Tally) -> [(u32, &'static str); 7] {
    parts(tally).map(|(count, class, _)| (count, class))
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
    let pieces: Vec<[(u32, &str); 7]> = tallies.into_iter().map(piece).collect();
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
    fn a_bar_fills_its_length_and_no_more() {
        let pieces = [vec![(1, "good")], vec![], vec![(2, "good"), (1, "bad")]];
        let text = bar(&pieces, "x").into_string();
        assert!(text.contains(r#"<rect class="good" x="0" y="0" width="2494""#), "{text}");
        assert!(text.contains(r#"<rect class="bad" x="7506" y="0" width="2494""#), "{text}");
        assert!(bar(&[vec![]], "nothing").into_string().contains("aria-label=\"nothing\""));
    }
}
