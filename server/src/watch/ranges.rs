//! Who asked for a key: ranges by the keys that they hold.
//!
//! Most watches are of one key or of a prefix, and those are found by looking the key and its prefixes up; only ranges of
//! other forms are gone through one by one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use client::KeyRange;

/// A set of ranges, each with a number.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    keys: BTreeMap<Bytes, BTreeSet<u64>>,
    prefixes: BTreeMap<Bytes, BTreeSet<u64>>,
    /// How many prefixes there are of each length.
    prefix_lens: BTreeMap<usize, usize>,
    others: BTreeMap<u64, KeyRange>,
}

/// How a range is found.
enum Form {
    Key,
    Prefix,
    Other,
}

impl Form {
    fn of(range: &KeyRange) -> Self {
        let (start, end) = (&range.start[..], &range.end[..]);
        if end.strip_prefix(start) == Some(&[0]) {
            Self::Key
        } else if KeyRange::prefix(range.start.clone()) == *range {
            Self::Prefix
        } else {
            Self::Other
        }
    }
}

impl Ranges {
    pub(super) fn insert(&mut self, number: u64, range: &KeyRange) {
        match Form::of(range) {
            Form::Key => drop(self.keys.entry(range.start.clone()).or_default().insert(number)),
            Form::Prefix => {
                let numbers = self.prefixes.entry(range.start.clone()).or_default();
                if numbers.is_empty() {
                    *self.prefix_lens.entry(range.start.len()).or_default() += 1;
                }
                numbers.insert(number);
            }
            Form::Other => drop(self.others.insert(number, range.clone())),
        }
    }

    pub(super) fn remove(&mut self, number: u64, range: &KeyRange) {
        match Form::of(range) {
            Form::Key => drop(take(&mut self.keys, &range.start, number)),
            Form::Prefix => {
                let len = range.start.len();
                let Some(count) = self.prefix_lens.get_mut(&len) else {
                    return;
                };
                if take(&mut self.prefixes, &range.start, number) {
                    *count -= 1;
                    if *count == 0 {
                        self.prefix_lens.remove(&len);
                    }
                }
            }
            Form::Other => drop(self.others.remove(&number)),
        }
    }

    /// The numbers of the ranges that hold a key.
    pub(super) fn holding<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = u64> + 'a {
        let lens = self.prefix_lens.range(..=key.len()).map(|(len, _)| *len);
        let prefixes = lens.filter_map(|len| self.prefixes.get(&key[..len]));
        let others = self.others.iter().filter(|(_, range)| range.contains(key));
        let named = self.keys.get(key).into_iter().chain(prefixes).flatten();
        named.copied().chain(others.map(|(number, _)| *number))
    }
}

/// Takes a number from those of a key; true if it was the last of them.
fn take(map: &mut BTreeMap<Bytes, BTreeSet<u64>>, key: &Bytes, number: u64) -> bool {
    let Some(numbers) = map.get_mut(key) else {
        return false;
    };
    let was_here = numbers.remove(&number);
    if numbers.is_empty() {
        map.remove(key);
        return was_here;
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = KeyRange> {
        let name = "[ab\u{ff}]{0,3}";
        prop_oneof![
            name.prop_map(KeyRange::prefix),
            name.prop_map(|key| KeyRange::of(key.clone()..=key)),
            (name, name).prop_map(|(start, end)| KeyRange::of(start..end)),
            name.prop_map(|start| KeyRange::of(start..)),
        ]
    }

    proptest! {
        /// Whatever the form of a range, it is found for just the keys that it holds, until it is removed.
        #[test]
        fn a_range_is_found_for_its_keys(
            all in prop::collection::vec((range(), any::<bool>()), 0..12),
            keys in prop::collection::vec("[ab\u{ff}]{0,4}", 1..12),
        ) {
            let mut ranges = Ranges::default();
            for (number, (range, _)) in all.iter().enumerate() {
                ranges.insert(number as u64, range);
            }
            for (number, (range, is_removed)) in all.iter().enumerate() {
                if *is_removed {
                    ranges.remove(number as u64, range);
                    ranges.remove(number as u64, range);
                }
            }
            for key in keys {
                let mut found: Vec<u64> = ranges.holding(key.as_bytes()).collect();
                found.sort_unstable();
                let left = all.iter().enumerate().filter(|(_, (_, is_removed))| !is_removed);
                let holding = left.filter(|(_, (range, _))| range.contains(key.as_bytes()));
                prop_assert_eq!(found, holding.map(|(number, _)| number as u64).collect::<Vec<_>>());
            }
            for (number, (range, _)) in all.iter().enumerate() {
                ranges.remove(number as u64, range);
            }
            prop_assert!(ranges.keys.is_empty() && ranges.prefixes.is_empty() && ranges.prefix_lens.is_empty());
        }
    }
}
