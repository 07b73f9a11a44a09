//! Where to cut.
//!
//! Two cuts. [`equal_load`] gives every shard the same number of accesses. [`affinity_aware`] first cuts 32 times finer
//! and then merges, again and again, the adjacent pair that loses least majority share: the accesses that no longer
//! come from the origin with most of them, because two ranges with different majorities must share one home. No shard
//! exceeds twice the mean load unless a single micro-range does.
//!
//! Must hold: shards are contiguous ranges, never hashes; the same log gives the same cut.
//! Left out: keys that training never saw. They fall into the range that their bytes say.

use std::collections::BTreeSet;

use super::loads::{KeyLoad, add_counts};
use super::ranges::KeyRanges;

const MICRO_RANGES_PER_SHARD: usize = 32;
const LOAD_CAP: u64 = 2;

/// Cuts so that every shard has about the same load.
pub fn equal_load(loads: &KeyLoad, shards: usize) -> KeyRanges {
    KeyRanges::new(
        micro_ranges(loads, shards)
            .into_iter()
            .skip(1)
            .map(|range| range.first)
            .collect(),
    )
}

/// Cuts so that shards keep keys of one majority origin together; see the module.
pub fn affinity_aware(loads: &KeyLoad, shards: usize) -> KeyRanges {
    let ranges = micro_ranges(loads, shards * MICRO_RANGES_PER_SHARD);
    let merged = Merger::new(ranges, shards).run();
    KeyRanges::new(merged.into_iter().skip(1).map(|range| range.first).collect())
}

/// A run of adjacent keys.
#[derive(Clone, Debug)]
struct Range {
    first: Vec<u8>,
    by_origin: Vec<u64>,
}

impl Range {
    fn load(&self) -> u64 {
        self.by_origin.iter().sum()
    }

    fn majority(&self) -> u64 {
        self.by_origin.iter().copied().max().unwrap_or(0)
    }

    fn absorb(&mut self, other: &[u64]) {
        add_counts(&mut self.by_origin, other);
    }

    fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        union.absorb(&other.by_origin);
        union
    }
}

/// At most `count` runs of keys; a run ends once the load up to it reaches its part of the whole.
fn micro_ranges(loads: &KeyLoad, count: usize) -> Vec<Range> {
    let total: u64 = loads.values().flatten().sum();
    let mut ranges: Vec<Range> = Vec::new();
    let (mut before, mut full) = (0, true);
    for (key, by_origin) in loads {
        match ranges.last_mut() {
            Some(range) if !full => range.absorb(by_origin),
            _ => ranges.push(Range {
                first: key.clone(),
                by_origin: by_origin.clone(),
            }),
        }
        before += by_origin.iter().sum::<u64>();
        let part = ranges.len() as u128 * u128::from(total);
        full = u128::from(before) * count as u128 >= part && ranges.len() < count;
    }
    ranges
}

/// Merges adjacent ranges, cheapest loss first, kept as a list with holes and an ordered set of pairs.
struct Merger {
    ranges: Vec<Option<Range>>,
    pairs: BTreeSet<(u64, u64, usize)>,
    left: usize,
    wanted: usize,
    load_max: u64,
}

impl Merger {
    fn new(ranges: Vec<Range>, wanted: usize) -> Self {
        let total: u64 = ranges.iter().map(Range::load).sum();
        let left = ranges.len();
        let load_max = (LOAD_CAP * total).div_ceil(wanted.max(1) as u64);
        let mut merger = Self {
            ranges: ranges.into_iter().map(Some).collect(),
            pairs: BTreeSet::new(),
            left,
            wanted,
            load_max,
        };
        (0..left).for_each(|at| {
            merger.pairs.extend(merger.pair_at(at));
        });
        merger
    }

    fn run(mut self) -> Vec<Range> {
        while self.left > self.wanted {
            // Where the cap leaves no pair, the lightest pair is merged in spite of it: the number of shards was asked for.
            let within = self.pairs.iter().find(|pair| pair.1 <= self.load_max);
            let Some(&pair) = within.or_else(|| self.pairs.iter().min_by_key(|pair| pair.1)) else {
                break;
            };
            self.merge(pair.2);
        }
        self.ranges.into_iter().flatten().collect()
    }

    /// The pair of the range at `at` and its right neighbour: loss, load, place.
    fn pair_at(&self, at: usize) -> Option<(u64, u64, usize)> {
        let (range, next) = (
            self.ranges[at].as_ref()?,
            self.ranges[self.right_of(at)?].as_ref()?,
        );
        let union = range.union(next);
        Some((
            range.majority() + next.majority() - union.majority(),
            union.load(),
            at,
        ))
    }

    fn right_of(&self, at: usize) -> Option<usize> {
        (at + 1..self.ranges.len()).find(|&right| self.ranges[right].is_some())
    }

    fn left_of(&self, at: usize) -> Option<usize> {
        (0..at).rev().find(|&left| self.ranges[left].is_some())
    }

    fn merge(&mut self, at: usize) {
        let Some(right) = self.right_of(at) else { return };
        let stale = [self.left_of(at), Some(at), Some(right)];
        for place in stale.into_iter().flatten() {
            if let Some(pair) = self.pair_at(place) {
                self.pairs.remove(&pair);
            }
        }
        if let (Some(next), Some(range)) = (self.ranges[right].take(), self.ranges[at].as_mut()) {
            range.absorb(&next.by_origin);
        }
        self.left -= 1;
        let fresh = [self.left_of(at), Some(at)];
        fresh.into_iter().flatten().for_each(|place| {
            self.pairs.extend(self.pair_at(place));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(of: &[(&str, [u64; 2])]) -> KeyLoad {
        of.iter()
            .map(|(key, counts)| (key.as_bytes().to_vec(), counts.to_vec()))
            .collect()
    }

    #[test]
    fn equal_load_evens_the_load() {
        let keys: Vec<String> = (0..100).map(|i| format!("k{i:03}")).collect();
        let loads: KeyLoad = keys
            .iter()
            .map(|key| (key.clone().into_bytes(), vec![3, 1]))
            .collect();
        let ranges = equal_load(&loads, 10);
        assert_eq!(ranges.splits().len(), 9);
        let mut keys_of = [0; 10];
        keys.iter()
            .for_each(|key| keys_of[ranges.shard_of(key.as_bytes()).0 as usize - 1] += 1);
        assert_eq!(keys_of, [10; 10]);
    }

    #[test]
    fn affinity_aware_cuts_where_the_majority_changes() {
        let loads = loads(&[
            ("a", [9, 1]),
            ("b", [9, 1]),
            ("c", [9, 1]),
            ("d", [9, 1]),
            ("e", [1, 9]),
            ("f", [1, 9]),
        ]);
        assert_eq!(affinity_aware(&loads, 2).splits(), [b"e".to_vec()]);
        assert_eq!(equal_load(&loads, 2).splits(), [b"d".to_vec()]);
    }

    #[test]
    fn affinity_aware_keeps_the_load_cap() {
        let loads: KeyLoad = (0..64)
            .map(|i| (format!("k{i:02}").into_bytes(), vec![10, 0]))
            .collect();
        let ranges = affinity_aware(&loads, 8);
        assert_eq!(ranges.splits().len(), 7);
        let mut load_of = [0; 8];
        loads
            .keys()
            .for_each(|key| load_of[ranges.shard_of(key).0 as usize - 1] += 10);
        assert!(load_of.iter().all(|&load| load <= 160), "{load_of:?}");
    }

    #[test]
    fn fewer_keys_than_shards_give_a_shard_a_key() {
        let loads = loads(&[("a", [1, 0]), ("b", [1, 0])]);
        assert_eq!(equal_load(&loads, 64).splits(), [b"b".to_vec()]);
        assert_eq!(affinity_aware(&loads, 64).splits(), [b"b".to_vec()]);
    }
}
