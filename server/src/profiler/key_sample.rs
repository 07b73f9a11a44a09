//! A uniform sample of the accesses of a shard: where in its range the load lies, and where each part of it comes from.
//!
//! A histogram over the bytes of keys says little when keys share long prefixes; a sample is quantiles of
//! whatever keys there are, and a cut at one of them parts the load as it parts the sample.

use placement::Zone;
use serde::{Deserialize, Serialize};
use storage::seed::SplitMix64;

use super::OriginId;
use super::origins::Origins;
use super::report::hex;

/// Accesses kept of one shard and window by a host.
pub const KEY_SAMPLE_MAX: usize = 64;
/// Accesses kept of one shard over all hosts and windows.
pub const MERGED_SAMPLE_MAX: usize = 256;

/// Bytes kept of a sampled key.
pub(super) const KEY_BYTES_MAX: usize = 128;

/// Fills with accesses; each of those seen is kept with the same probability (reservoir sampling).
#[derive(Debug)]
pub(super) struct Reservoir {
    chance: SplitMix64,
    seen: u64,
    kept: Vec<(Vec<u8>, OriginId)>,
}

impl Reservoir {
    pub(super) fn new(seed: u64) -> Self {
        Reservoir {
            chance: SplitMix64::new(seed),
            seen: 0,
            kept: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, key: &[u8], origin: OriginId) {
        let key = &key[..key.len().min(KEY_BYTES_MAX)];
        self.seen += 1;
        if self.kept.len() < KEY_SAMPLE_MAX {
            self.kept.push((key.to_vec(), origin));
            return;
        }
        let place = self.chance.below(self.seen) as usize;
        if let Some((kept, from)) = self.kept.get_mut(place) {
            kept.clear();
            kept.extend_from_slice(key);
            *from = origin;
        }
    }

    pub(super) fn into_sample(self, names: &Origins) -> KeySample {
        let kept = self.kept.into_iter();
        let mut accesses: Vec<SampledAccess> = kept
            .map(|(key, origin)| SampledAccess {
                key,
                origin: names.name(origin),
            })
            .collect();
        accesses.sort();
        KeySample {
            seen: self.seen,
            accesses,
        }
    }
}

/// One access of a sample.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SampledAccess {
    /// The key, cut to 128 bytes.
    #[serde(with = "hex")]
    pub key: Vec<u8>,
    /// Where it was accessed from.
    pub origin: Zone,
}

/// A sorted uniform sample of accesses, repeats included: at most [`KEY_SAMPLE_MAX`] of a host, at most
/// [`MERGED_SAMPLE_MAX`] once merged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySample {
    /// Accesses it was drawn from.
    pub seen: u64,
    /// By key, then origin.
    pub accesses: Vec<SampledAccess>,
}

impl KeySample {
    /// Joins the samples of two hosts or windows. Each gives evenly spaced accesses, as many as its part of what was seen
    /// allows, so that the whole is one sample of all: a host that saw twice as much must not be outweighed because both
    /// samples are of one size.
    pub(crate) fn merge(&mut self, other: KeySample) {
        let (ours, theirs) = parts(self, &other);
        self.accesses = spaced(&self.accesses, ours);
        self.accesses.extend(spaced(&other.accesses, theirs));
        self.seen += other.seen;
        self.accesses.sort();
    }

    /// Makes what was seen weigh half: older windows say less than the next one will.
    pub(crate) fn fade(&mut self) {
        self.seen /= 2;
    }
}

/// How many accesses of each sample the joint one has: as many as possible, in the ratio of what both have seen.
fn parts(one: &KeySample, other: &KeySample) -> (usize, usize) {
    let seen = (one.seen + other.seen).max(1) as f64;
    let share = one.seen as f64 / seen;
    let limits = [
        one.accesses.len() as f64 / share,
        other.accesses.len() as f64 / (1.0 - share),
        MERGED_SAMPLE_MAX as f64,
    ];
    let whole = limits
        .into_iter()
        .filter(|limit| limit.is_finite())
        .fold(MERGED_SAMPLE_MAX as f64, f64::min);
    let ours = (whole * share).round() as usize;
    let theirs = (whole * (1.0 - share)).round() as usize;
    (ours.min(one.accesses.len()), theirs.min(other.accesses.len()))
}

fn spaced(accesses: &[SampledAccess], count: usize) -> Vec<SampledAccess> {
    (0..count)
        .map(|i| accesses[(2 * i + 1) * accesses.len() / (2 * count)].clone())
        .collect()
}

/// Scatters a number over 64 bits; neighbours end far apart.
pub(super) fn mix(number: u64) -> u64 {
    SplitMix64::new(number).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seed: u64, keys: impl Iterator<Item = u32>) -> KeySample {
        let origins = Origins::new();
        let east = origins.number("east");
        let mut reservoir = Reservoir::new(seed);
        keys.for_each(|key| reservoir.add(&key.to_be_bytes(), east));
        reservoir.into_sample(&origins)
    }

    fn numbers(sample: &KeySample) -> Vec<u32> {
        let keys = sample.accesses.iter().map(|access| access.key.as_slice());
        keys.map(|key| u32::from_be_bytes(key.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn every_access_is_kept_with_the_same_probability() {
        let mut quarters = [0_u32; 4];
        for seed in 0..400 {
            for key in numbers(&sample(seed, 0..4_000)) {
                quarters[key as usize / 1_000] += 1;
            }
        }
        // 25,600 draws over four quarters: 6,400 each, standard deviation 69.
        assert!(
            quarters.iter().all(|count| (6_100..6_700).contains(count)),
            "{quarters:?}"
        );
    }

    #[test]
    fn merging_weighs_by_accesses() {
        let mut merged = sample(1, (0..30_000).map(|_| 1));
        merged.merge(sample(2, (0..10_000).map(|_| 2)));
        let ones = numbers(&merged).iter().filter(|number| **number == 1).count();
        // Three of four are from the first, and all of its sample is in it.
        assert_eq!((merged.seen, ones, merged.accesses.len()), (40_000, 64, 85));
        let mut few = sample(1, 0..3);
        few.merge(sample(2, 5..7));
        assert_eq!(numbers(&few), [0, 1, 2, 5, 6]);
        few.merge(KeySample::default());
        assert_eq!(numbers(&few), [0, 1, 2, 5, 6]);
        let mut none = KeySample::default();
        none.merge(few.clone());
        assert_eq!(none, few);
    }

    #[test]
    fn a_merged_sample_is_bounded_and_forgets_slowly() {
        let mut merged = KeySample::default();
        for window in 0..40_u32 {
            merged.fade();
            merged.merge(sample(window.into(), (0..10_000).map(|_| window)));
        }
        assert!(merged.accesses.len() <= MERGED_SAMPLE_MAX);
        let newest = numbers(&merged).iter().filter(|number| **number == 39).count();
        let part = newest as f64 / merged.accesses.len() as f64;
        assert!((0.45..0.55).contains(&part), "{part}");
    }

    #[test]
    fn long_keys_are_cut() {
        let origins = Origins::new();
        let mut reservoir = Reservoir::new(0);
        (0..100).for_each(|_| reservoir.add(&[9; 4_096], origins.number("east")));
        let sample = reservoir.into_sample(&origins);
        assert!(
            sample
                .accesses
                .iter()
                .all(|access| access.key.len() == KEY_BYTES_MAX)
        );
    }
}
