//! Turns windows into what is trained on: each shard's features before a window, and what the window then saw.

use placement::{ShardId, Zone};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::features::{FeatureReader, PairFeatures, ShardFeatures};
use crate::profile::{AccessProfile, WindowLength};
use crate::window::WindowCounts;

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
pub(crate) struct Sampling<'a> {
    pub(crate) zones: &'a [Zone],
    pub(crate) length: WindowLength,
    /// Windows at the beginning that only fill the histories.
    pub(crate) warm_up: usize,
    /// Windows between the last one known and the one forecast, at least 1.
    pub(crate) horizon: usize,
    /// One idle sample in this many is kept, at least 1.
    pub(crate) idle_keep: u32,
}

/// Replays the windows; samples come in order of time.
pub(crate) fn samples_of(
    windows: &[WindowCounts],
    sampling: &Sampling<'_>,
    rng: &mut ChaCha8Rng,
) -> Vec<Sample> {
    let mut profile = AccessProfile::new(sampling.zones, sampling.length);
    let mut samples = Vec::new();
    for at in 0..windows.len() {
        if at >= sampling.warm_up.max(sampling.horizon) {
            let shards: Vec<ShardId> = profile.shards().keys().copied().collect();
            let reader = FeatureReader::new(&profile, windows[at].window);
            let drawn = |shard| draw(&profile, &reader, shard, &windows[at], sampling, rng);
            samples.extend(shards.into_iter().filter_map(drawn));
        }
        if let Some(known) = (at + 1).checked_sub(sampling.horizon) {
            profile.observe(&windows[known]);
        }
    }
    samples
}

fn draw(
    profile: &AccessProfile,
    reader: &FeatureReader<'_>,
    shard: ShardId,
    window: &WindowCounts,
    sampling: &Sampling<'_>,
    rng: &mut ChaCha8Rng,
) -> Option<Sample> {
    let seen = window.shards.get(&shard);
    let idle = seen.is_none();
    if idle && !rng.random_ratio(1, sampling.idle_keep) {
        return None;
    }
    let accesses = |zone| {
        seen.and_then(|by_zone| by_zone.get(zone))
            .map_or(0.0, |count| count.accesses() as f32)
    };
    let counts = profile.zones().zones().iter().map(accesses).collect();
    let features = match idle {
        true => ShardFeatures {
            pairs: PairFeatures::default(),
            rate: reader.rate_features(shard)?,
        },
        false => reader.features(shard)?,
    };
    Some(Sample {
        features,
        counts,
        weight: if idle { sampling.idle_keep as f32 } else { 1.0 },
    })
}
