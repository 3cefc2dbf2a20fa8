//! Sets of byte ranges, and bytes that lie at ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of bytes of a file, as ranges that neither touch nor overlap.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(start, end)| *start..*end)
    }

    /// How many bytes.
    pub(super) fn total(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        let touched: Vec<u64> = self.0.range(..=end).rev().take_while(|(_, other)| **other >= start).map(|(at, _)| *at).collect();
        for at in touched {
            let other = self.0.remove(&at).expect("the key was just found");
            start = start.min(at);
            end = end.max(other);
        }
        self.0.insert(start, end);
    }

    pub(super) fn remove(&mut self, range: Range<u64>) {
        for part in self.within(&range) {
            let (start, end) = self.holding(part.start).expect("a part lies in a range of the set");
            self.0.remove(&start);
            if start < part.start {
                self.0.insert(start, part.start);
            }
            if part.end < end {
                self.0.insert(part.end, end);
            }
        }
    }

    /// The parts of a range that are in the set.
    pub(super) fn within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut parts: Vec<Range<u64>> = self
            .0
            .range(..range.end)
            .rev()
            .take_while(|(_, end)| **end > range.start)
            .map(|(start, end)| (*start).max(range.start)..(*end).min(range.end))
            .filter(|part| !part.is_empty())
            .collect();
        parts.reverse();
        parts
    }

    fn holding(&self, byte: u64) -> Option<(u64, u64)> {
        let (start, end) = self.0.range(..=byte).next_back()?;
        (byte < *end).then_some((*start, *end))
    }
}

/// Bytes that were put aside, each at the offset where it belongs. Pieces never overlap.
#[derive(Debug, Default)]
pub(super) struct Saved(BTreeMap<u64, Vec<u8>>);

impl Saved {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.0.iter().map(|(at, bytes)| (*at, bytes.as_slice()))
    }

    /// The parts of a range of which nothing was put aside yet.
    pub(super) fn gaps(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        if range.is_empty() {
            return gaps;
        }
        let mut at = range.start;
        let first = self.0.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        for (start, bytes) in self.0.range(first..range.end) {
            if *start > at {
                gaps.push(at..*start);
            }
            at = at.max(start + bytes.len() as u64);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// Puts bytes aside that belong to a gap.
    pub(super) fn put(&mut self, at: u64, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.0.insert(at, bytes);
        }
    }

    /// Forgets everything outside of these ranges.
    pub(super) fn retain(&mut self, ranges: &Ranges) {
        if ranges.is_empty() {
            self.0.clear();
            return;
        }
        let mut kept = BTreeMap::new();
        for (start, bytes) in std::mem::take(&mut self.0) {
            for part in ranges.within(&(start..start + bytes.len() as u64)) {
                kept.insert(part.start, slice(&bytes, start, &part).to_vec());
            }
        }
        self.0 = kept;
    }
}

/// The part of `bytes`, which begin at the offset `start`, that lies in `part`.
fn slice<'a>(bytes: &'a [u8], start: u64, part: &Range<u64>) -> &'a [u8] {
    let index = |offset: u64| usize::try_from(offset - start).expect("pieces are shorter than memory");
    &bytes[index(part.start)..index(part.end)]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn some_range(rng: &mut StdRng) -> Range<u64> {
        let start = rng.random_range(0..60);
        start..start + rng.random_range(0..12)
    }

    #[test]
    fn ranges_are_sets_of_bytes() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
        for _ in 0..5000 {
            let range = some_range(&mut rng);
            if rng.random() {
                ranges.insert(range.clone());
                model.extend(range);
            } else {
                ranges.remove(range.clone());
                model.retain(|byte| !range.contains(byte));
            }
            assert_eq!(ranges.iter().flatten().collect::<BTreeSet<u64>>(), model);
            assert_eq!(ranges.total(), model.len() as u64);
            let asked = some_range(&mut rng);
            let within: Vec<u64> = ranges.within(&asked).into_iter().flatten().collect();
            assert_eq!(within, asked.filter(|byte| model.contains(byte)).collect::<Vec<u64>>());
            let ends: Vec<Range<u64>> = ranges.iter().collect();
            assert!(ends.windows(2).all(|pair| pair[0].end < pair[1].start), "{ends:?} touch");
        }
    }

    #[test]
    fn what_is_saved_first_stays() {
        let mut rng = StdRng::seed_from_u64(2);
        for _ in 0..300 {
            let (mut saved, mut model) = (Saved::default(), BTreeMap::new());
            for round in 0..20u8 {
                let range = some_range(&mut rng);
                for gap in saved.gaps(&range) {
                    assert!(gap.clone().all(|byte| !model.contains_key(&byte)), "{gap:?} is no gap");
                    saved.put(gap.start, gap.clone().map(|_| round).collect());
                }
                for byte in range {
                    model.entry(byte).or_insert(round);
                }
                if round == 10 {
                    let mut kept = Ranges::default();
                    kept.insert(some_range(&mut rng));
                    kept.insert(some_range(&mut rng));
                    saved.retain(&kept);
                    model.retain(|byte, _| kept.holding(*byte).is_some());
                }
                let flat: BTreeMap<u64, u8> = saved
                    .iter()
                    .flat_map(|(at, bytes)| bytes.iter().enumerate().map(move |(nth, byte)| (at + nth as u64, *byte)))
                    .collect();
                assert_eq!(flat, model);
            }
        }
    }
}
