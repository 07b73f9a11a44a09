//! Turns windows into what is trained on: each shard's features before a window, and what the window then saw.
//!
//! Must hold: of the windows themselves at most a horizon's worth is kept, and of the samples at most the most allowed.

use std::collections::VecDeque;

use placement::{ShardId, Zone};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::features::{FeatureReader, PairFeatures, ShardFeatures};
use super::thinned::Thinned;
use crate::profile::{AccessProfile, WindowLength};
use crate::window::WindowCounts;

/// Tells the numbers that thin samples out from those that thin out idle ones.
const THINNING_STREAM: u64 = 1;

/// One shard before one window.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// What was known before it; without the pairs where there were no accesses, for then there is no share to learn.
    pub(crate) features: ShardFeatures,
    /// Accesses in it by origin.
    pub(crate) counts: Vec<f32>,
    /// How many samples it stands for: idle ones are thinned out.
    pub(crate) weight: f32,
}

impl Sample {
    /// Accesses of all origins.
    pub(crate) fn accesses(&self) -> f32 {
        self.counts.iter().sum()
    }
}

/// What to sample, and how much of what is idle.
#[derive(Clone, Debug)]
pub(crate) struct Sampling {
    /// Windows at the beginning that only fill the histories.
    pub(crate) warm_up: usize,
    /// Windows between the last one known and the one forecast, at least 1.
    pub(crate) horizon: usize,
    /// One idle sample in this many is kept, at least 1.
    pub(crate) idle_keep: u32,
    /// Most samples that are kept, at least 1.
    pub(crate) samples_max: usize,
    /// Draws which of them.
    pub(crate) seed: u64,
}

/// Takes windows one by one.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    profile: AccessProfile,
    /// Windows that have ended and are not known yet: the horizon's.
    awaited: VecDeque<WindowCounts>,
    windows: usize,
    rng: ChaCha8Rng,
    kept: Thinned<Sample>,
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling, zones: &[Zone], length: WindowLength) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        let mut thinning = rng.clone();
        thinning.set_stream(THINNING_STREAM);
        Self {
            profile: AccessProfile::new(zones, length),
            awaited: VecDeque::new(),
            windows: 0,
            kept: Thinned::new(sampling.samples_max, thinning),
            rng,
            sampling,
        }
    }

    /// How many windows it has taken in.
    pub(crate) fn windows(&self) -> usize {
        self.windows
    }

    /// Takes in the next window.
    pub(crate) fn observe(&mut self, window: &WindowCounts) {
        if self.windows >= self.sampling.warm_up.max(self.sampling.horizon) {
            self.sample(window);
        }
        self.windows += 1;
        if self.sampling.horizon == 1 {
            self.profile.observe(window);
            return;
        }
        self.awaited.push_back(window.clone());
        if self.awaited.len() == self.sampling.horizon
            && let Some(known) = self.awaited.pop_front()
        {
            self.profile.observe(&known);
        }
    }

    fn sample(&mut self, window: &WindowCounts) {
        let reader = FeatureReader::new(&self.profile, window.window);
        for shard in self.profile.shards().keys() {
            let idle = !window.shards.contains_key(shard);
            if idle && !self.rng.random_ratio(1, self.sampling.idle_keep) {
                continue;
            }
            let weight = if idle { self.sampling.idle_keep as f32 } else { 1.0 };
            self.kept
                .offer(|| drawn(&self.profile, &reader, *shard, window, weight));
        }
    }

    /// The samples, in order of time.
    pub(crate) fn into_samples(self) -> Vec<Sample> {
        self.kept.into_items().collect()
    }
}

fn drawn(
    profile: &AccessProfile,
    reader: &FeatureReader<'_>,
    shard: ShardId,
    window: &WindowCounts,
    weight: f32,
) -> Option<Sample> {
    let seen = window.shards.get(&shard);
    let accesses = |zone| {
        seen.and_then(|by_zone| by_zone.get(zone))
            .map_or(0.0, |count| count.accesses() as f32)
    };
    let counts = profile.zones().zones().iter().map(accesses).collect();
    let features = match seen {
        None => ShardFeatures {
            pairs: PairFeatures::default(),
            rate: reader.rate_features(shard)?,
        },
        Some(_) => reader.features(shard)?,
    };
    Some(Sample {
        features,
        counts,
        weight,
    })
}
