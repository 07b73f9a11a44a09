//! A uniform sample of the keys accessed in a shard: where in its range the load lies.
//!
//! A histogram over the bytes of keys says little when keys share long prefixes; a sample is quantiles of
//! whatever keys there are, and its median is the key that splits the load in half.

use serde::{Deserialize, Serialize};
use storage::seed::SplitMix64;

use super::report::hex;

/// Keys kept of one shard and window.
pub const KEY_SAMPLE_MAX: usize = 32;

/// Bytes kept of a sampled key.
pub(super) const KEY_BYTES_MAX: usize = 128;

/// Fills with accesses; each of those seen is kept with the same probability (reservoir sampling).
#[derive(Debug)]
pub(super) struct Reservoir {
    chance: SplitMix64,
    seen: u64,
    keys: Vec<Vec<u8>>,
}

impl Reservoir {
    pub(super) fn new(seed: u64) -> Self {
        Reservoir {
            chance: SplitMix64::new(seed),
            seen: 0,
            keys: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, key: &[u8]) {
        let kept = &key[..key.len().min(KEY_BYTES_MAX)];
        self.seen += 1;
        if self.keys.len() < KEY_SAMPLE_MAX {
            self.keys.push(kept.to_vec());
            return;
        }
        let place = self.chance.below(self.seen) as usize;
        if let Some(key) = self.keys.get_mut(place) {
            key.clear();
            key.extend_from_slice(kept);
        }
    }

    pub(super) fn into_sample(mut self) -> KeySample {
        self.keys.sort();
        KeySample {
            seen: self.seen,
            keys: self.keys,
        }
    }
}

/// A sorted uniform sample of at most [`KEY_SAMPLE_MAX`] of the keys accessed, repeats included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySample {
    /// Accesses it was drawn from.
    pub seen: u64,
    /// The keys, sorted, each cut to 128 bytes.
    #[serde(with = "hex::list")]
    pub keys: Vec<Vec<u8>>,
}

impl KeySample {
    /// The key with about `permille` thousandths of the accesses before it; `None` without accesses.
    pub fn quantile(&self, permille: u32) -> Option<&[u8]> {
        let index = self.keys.len() * permille.min(1_000) as usize / 1_000;
        self.keys
            .get(index.min(self.keys.len().saturating_sub(1)))
            .map(Vec::as_slice)
    }

    /// Joins the samples of two hosts: each gives evenly spaced keys in proportion to what it has seen.
    pub(super) fn merge(&mut self, other: KeySample) {
        let seen = self.seen + other.seen;
        if self.keys.len() + other.keys.len() > KEY_SAMPLE_MAX {
            let share = KEY_SAMPLE_MAX as u64 * self.seen / seen.max(1);
            let ours = (share as usize).min(self.keys.len());
            let theirs = (KEY_SAMPLE_MAX - ours).min(other.keys.len());
            self.keys = spaced(&self.keys, ours);
            self.keys.extend(spaced(&other.keys, theirs));
        } else {
            self.keys.extend(other.keys);
        }
        self.seen = seen;
        self.keys.sort();
    }
}

fn spaced(keys: &[Vec<u8>], count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|i| keys[(2 * i + 1) * keys.len() / (2 * count)].clone())
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
        let mut reservoir = Reservoir::new(seed);
        keys.for_each(|key| reservoir.add(&key.to_be_bytes()));
        reservoir.into_sample()
    }

    fn number(key: &[u8]) -> u32 {
        u32::from_be_bytes(key.try_into().unwrap())
    }

    #[test]
    fn every_access_is_kept_with_the_same_probability() {
        let mut halves = [0_u32; 4];
        for seed in 0..400 {
            for key in sample(seed, 0..4_000).keys {
                halves[number(&key) as usize / 1_000] += 1;
            }
        }
        // 12,800 draws over four quarters: 3,200 each, standard deviation 49.
        assert!(
            halves.iter().all(|count| (3_000..3_400).contains(count)),
            "{halves:?}"
        );
    }

    #[test]
    fn the_median_halves_the_load_not_the_range() {
        let skewed = (0..9_000).map(|i| i % 10).chain(1_000..2_000);
        let sample = sample(7, skewed);
        assert!(number(sample.quantile(500).unwrap()) < 10);
        assert_eq!(KeySample::default().quantile(500), None);
        assert_eq!(sample.quantile(1_000), sample.keys.last().map(Vec::as_slice));
    }

    #[test]
    fn merging_weighs_by_accesses() {
        let mut merged = sample(1, (0..30_000).map(|_| 1));
        merged.merge(sample(2, (0..10_000).map(|_| 2)));
        let ones = merged.keys.iter().filter(|key| number(key) == 1).count();
        assert_eq!(
            (merged.seen, merged.keys.len(), ones),
            (40_000, KEY_SAMPLE_MAX, 24)
        );
        let mut few = sample(1, 0..3);
        few.merge(sample(2, 5..7));
        assert_eq!(
            few.keys.iter().map(|key| number(key)).collect::<Vec<_>>(),
            [0, 1, 2, 5, 6]
        );
    }

    #[test]
    fn long_keys_are_cut() {
        let mut reservoir = Reservoir::new(0);
        (0..100).for_each(|_| reservoir.add(&[9; 4_096]));
        assert!(
            reservoir
                .into_sample()
                .keys
                .iter()
                .all(|key| key.len() == KEY_BYTES_MAX)
        );
    }
}
