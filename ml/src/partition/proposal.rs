//! A cut with its reasons, for an operator to judge and for `init` to take.
//!
//! Split keys are as short as they can be: the shortest beginning of a range's first key that is greater than the key
//! before it. So ranges end where prefixes do, and keys to come fall in with those they share a prefix with.
//!
//! New keys have no history. With [`Births`], each origin gets a range for keys that it creates, named by a locality
//! component at the key's beginning.
//!
//! Must hold: split keys rise, and each can be a line of a file: none is empty, holds a line feed or ends with a
//! carriage return. Entropies are in bits, shares in 0 to 1.

use serde::Serialize;

use super::cut::{affinity_aware, equal_load};
use super::loads::{KeyLoad, KeyLoads, add_counts};
use super::ranges::KeyRanges;

/// Ends the origin in the name of a new key.
pub const ORIGIN_END: u8 = b'/';

/// Ranges for keys to come: a new key that begins with `prefix`, its origin and [`ORIGIN_END`] is born in the origin's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Births {
    /// What such keys begin with.
    pub prefix: Vec<u8>,
}

/// One range of the cut.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProposedRange {
    /// The first key; empty for the first range.
    pub first: Vec<u8>,
    /// Accesses of its keys.
    pub accesses: u64,
    /// Of all accesses.
    pub load_share: f64,
    /// The origin with most of them; none without accesses.
    pub dominant: Option<String>,
    /// Its share of the range's accesses.
    pub dominant_share: f64,
    /// How mixed the range's origins are, in bits.
    pub entropy_bits: f64,
    /// How far its origins are from those of the range before: the Jensen-Shannon divergence, in bits.
    pub divergence_bits: f64,
    /// Whose new keys are born here.
    pub birth_of: Option<String>,
}

/// How good a cut is on the log that it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CutScore {
    /// Ranges with accesses.
    pub ranges: usize,
    /// Accesses from the dominant origin of their range.
    pub dominant_share: f64,
    /// Entropy of an access's origin when its range is known, in bits.
    pub entropy_bits: f64,
    /// The heaviest range's load over the mean one's.
    pub load_max_over_mean: f64,
}

/// A cut with its reasons.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Proposal {
    /// In key order.
    pub ranges: Vec<ProposedRange>,
    /// The key space in one piece.
    pub whole: CutScore,
    /// Ranges of equal load, as many as asked for.
    pub equal_load: CutScore,
    /// This cut.
    pub proposed: CutScore,
}

impl Proposal {
    /// Cuts where affinity changes, into at most this many shards and those for births.
    pub fn new(loads: &KeyLoads, shards: usize, births: Option<&Births>) -> Self {
        let by_key = loads.by_key();
        let mut splits = separators(by_key, &affinity_aware(by_key, shards), loads.joined());
        splits.extend(births.map(|births| births.splits(loads)).unwrap_or_default());
        splits.retain(|split| is_line(split));
        let ranges = KeyRanges::new(splits);
        let mixes = mixes(by_key, &ranges);
        let total = loads.accesses();
        Self {
            whole: CutScore::of(&self::mixes(by_key, &KeyRanges::default())),
            equal_load: CutScore::of(&self::mixes(by_key, &equal_load(by_key, shards))),
            proposed: CutScore::of(&mixes),
            ranges: (0..mixes.len())
                .map(|at| proposed_range(loads, births, &ranges, &mixes, at, total))
                .collect(),
        }
    }

    /// The keys to split at, in order: the first of every range but the first.
    pub fn splits(&self) -> impl Iterator<Item = &[u8]> {
        self.ranges.iter().skip(1).map(|range| range.first.as_slice())
    }
}

impl Births {
    /// A range an origin, and the end of the last one where known keys follow it.
    fn splits(&self, loads: &KeyLoads) -> Vec<Vec<u8>> {
        let mut splits: Vec<Vec<u8>> = loads
            .origins()
            .iter()
            .map(|origin| self.first_of(origin))
            .collect();
        splits.sort();
        let end = splits.last().map(|last| {
            let mut end = last.clone();
            *end.last_mut().expect("it ends with the origin's end") += 1;
            end
        });
        let follows = |end: &Vec<u8>| loads.by_key().range(end.clone()..).next().is_some();
        splits.extend(end.filter(follows));
        splits
    }

    fn first_of(&self, origin: &str) -> Vec<u8> {
        [&self.prefix, origin.as_bytes(), &[ORIGIN_END]].concat()
    }

    fn origin_at(&self, loads: &KeyLoads, first: &[u8]) -> Option<String> {
        let named = |origin: &&String| self.first_of(origin) == first;
        loads.origins().iter().find(named).cloned()
    }
}

/// Shortens split keys as far as the key before allows; after a join, the key before is not known.
fn separators(by_key: &KeyLoad, ranges: &KeyRanges, joined: bool) -> Vec<Vec<u8>> {
    let shortest = |split: &Vec<u8>| match by_key.range(..split.clone()).next_back() {
        Some((before, _)) if !joined => separator(before, split).to_vec(),
        _ => split.clone(),
    };
    ranges.splits().iter().map(shortest).collect()
}

/// The shortest beginning of `key` that is greater than `before`, which is less than `key`.
fn separator<'k>(before: &[u8], key: &'k [u8]) -> &'k [u8] {
    let shared = before
        .iter()
        .zip(key)
        .take_while(|(one, other)| one == other)
        .count();
    &key[..(shared + 1).min(key.len())]
}

fn is_line(split: &[u8]) -> bool {
    !split.is_empty() && !split.contains(&b'\n') && !split.ends_with(b"\r")
}

/// Accesses by origin of each range, in order.
fn mixes(by_key: &KeyLoad, ranges: &KeyRanges) -> Vec<Vec<u64>> {
    let mut mixes = vec![Vec::new(); ranges.splits().len() + 1];
    for (key, counts) in by_key {
        add_counts(&mut mixes[ranges.shard_of(key).0 as usize - 1], counts);
    }
    mixes
}

fn proposed_range(
    loads: &KeyLoads,
    births: Option<&Births>,
    ranges: &KeyRanges,
    mixes: &[Vec<u64>],
    at: usize,
    total: u64,
) -> ProposedRange {
    let (mix, accesses) = (&mixes[at], mixes[at].iter().sum::<u64>());
    let first = match at {
        0 => Vec::new(),
        at => ranges.splits()[at - 1].clone(),
    };
    let most = mix.iter().copied().max().unwrap_or(0);
    let dominant = mix.iter().position(|count| *count == most && most > 0);
    ProposedRange {
        accesses,
        load_share: part(accesses, total),
        dominant: dominant.map(|origin| loads.origins()[origin].clone()),
        dominant_share: part(most, accesses),
        entropy_bits: entropy_bits(mix),
        divergence_bits: match at {
            0 => 0.0,
            at => divergence_bits(&mixes[at - 1], mix),
        },
        birth_of: births.and_then(|births| births.origin_at(loads, &first)),
        first,
    }
}

impl CutScore {
    fn of(mixes: &[Vec<u64>]) -> Self {
        let load = |mix: &Vec<u64>| mix.iter().sum::<u64>();
        let total: u64 = mixes.iter().map(load).sum();
        let ranges = mixes.iter().filter(|mix| load(mix) > 0).count();
        let most: u64 = mixes.iter().filter_map(|mix| mix.iter().max()).sum();
        let entropy: f64 = mixes.iter().map(|mix| load(mix) as f64 * entropy_bits(mix)).sum();
        let heaviest = mixes.iter().map(load).max().unwrap_or(0);
        Self {
            ranges,
            dominant_share: part(most, total),
            entropy_bits: entropy / total.max(1) as f64,
            load_max_over_mean: part(heaviest, total) * ranges as f64,
        }
    }
}

fn part(of: u64, whole: u64) -> f64 {
    of as f64 / whole.max(1) as f64
}

fn entropy_bits(counts: &[u64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let shares = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| part(*count, total));
    // Plus zero, and never minus zero, which a report would print; the larger of the two may be either.
    shares.map(|share| -share * share.log2()).sum::<f64>() + 0.0
}

/// Zero where either has no accesses.
fn divergence_bits(one: &[u64], other: &[u64]) -> f64 {
    let (of_one, of_other) = (one.iter().sum::<u64>(), other.iter().sum::<u64>());
    if of_one == 0 || of_other == 0 {
        return 0.0;
    }
    let share = |counts: &[u64], at: usize, total: u64| part(counts.get(at).copied().unwrap_or(0), total);
    let middle = (0..one.len().max(other.len())).map(|at| {
        let share = (share(one, at, of_one) + share(other, at, of_other)) / 2.0;
        if share > 0.0 { -share * share.log2() } else { 0.0 }
    });
    (middle.sum::<f64>() - (entropy_bits(one) + entropy_bits(other)) / 2.0).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of two origins in turns of four, ten accesses each, nine of them from the key's origin.
    fn loads() -> KeyLoads {
        let mut loads = KeyLoads::new(1000);
        for at in 0..32 {
            let (key, owner) = (format!("app/{at:03}"), at / 4 % 2);
            loads.add(key.as_bytes(), ["x", "y"][owner], 9).unwrap();
            loads.add(key.as_bytes(), ["x", "y"][1 - owner], 1).unwrap();
        }
        loads
    }

    #[test]
    fn the_cut_is_where_the_origin_changes_and_says_what_it_gains() {
        let proposal = Proposal::new(&loads(), 8, None);
        let splits: Vec<&[u8]> = proposal.splits().collect();
        let expected: [&[u8]; 7] = [
            b"app/004", b"app/008", b"app/012", b"app/016", b"app/02", b"app/024", b"app/028",
        ];
        assert_eq!(splits, expected);
        let range = &proposal.ranges[1];
        assert_eq!((range.accesses, range.dominant.as_deref()), (40, Some("y")));
        assert!((range.dominant_share - 0.9).abs() < 1e-9 && (range.load_share - 0.125).abs() < 1e-9);
        assert!((proposal.whole.entropy_bits - 1.0).abs() < 1e-9);
        assert!((proposal.proposed.entropy_bits - 0.469).abs() < 1e-3);
        assert!((range.divergence_bits - (1.0 - 0.469)).abs() < 1e-3);
        assert!((proposal.proposed.load_max_over_mean - 1.0).abs() < 1e-9);
    }

    #[test]
    fn ranges_of_equal_load_that_mix_origins_are_told_as_worse() {
        let mut loads = KeyLoads::new(1000);
        for (at, (origin, accesses)) in [("x", 30), ("x", 30), ("x", 30), ("y", 10), ("y", 10), ("y", 10)]
            .into_iter()
            .enumerate()
        {
            loads.add(format!("{at}").as_bytes(), origin, accesses).unwrap();
        }
        let proposal = Proposal::new(&loads, 2, None);
        assert!(proposal.equal_load.entropy_bits > proposal.proposed.entropy_bits);
        assert_eq!(proposal.proposed.entropy_bits, 0.0);
        assert_eq!(proposal.splits().collect::<Vec<_>>(), [b"3"]);
    }

    #[test]
    fn new_keys_have_a_range_by_origin() {
        let births = Births {
            prefix: b"app/+".to_vec(),
        };
        let proposal = Proposal::new(&loads(), 1, Some(&births));
        let expected: [&[u8]; 3] = [b"app/+x/", b"app/+y/", b"app/+y0"];
        assert_eq!(proposal.splits().collect::<Vec<_>>(), expected);
        let born: Vec<Option<&str>> = proposal
            .ranges
            .iter()
            .map(|range| range.birth_of.as_deref())
            .collect();
        assert_eq!(born, [None, Some("x"), Some("y"), None]);
        let last = Births {
            prefix: b"zz/".to_vec(),
        };
        let proposal = Proposal::new(&loads(), 1, Some(&last));
        assert_eq!(proposal.splits().count(), 2, "nothing follows the last origin's");
    }

    #[test]
    fn split_keys_fit_the_lines_of_a_file() {
        let mut loads = KeyLoads::new(1000);
        for (key, origin) in [
            ("a\r", "x"),
            ("a\rb", "y"),
            ("b\n1", "x"),
            ("b\n2", "y"),
            ("c", "x"),
        ] {
            loads.add(key.as_bytes(), origin, 5).unwrap();
        }
        let proposal = Proposal::new(&loads, 5, None);
        assert_eq!(
            proposal.splits().collect::<Vec<_>>(),
            [b"a\rb".as_slice(), b"b", b"c"]
        );
        assert_eq!(
            proposal.ranges.iter().map(|range| range.accesses).sum::<u64>(),
            25
        );
    }

    #[test]
    fn a_separator_is_the_shortest() {
        assert_eq!(separator(b"abc", b"abd/e"), b"abd");
        assert_eq!(separator(b"ab", b"abc/d"), b"abc");
        assert_eq!(separator(b"", b"x/y"), b"x");
    }
}
