//! The trained model as a forecaster.

use placement::planner::Forecast;
use placement::{ShardId, WindowId, Zone};

use super::features::{FeatureReader, seen_in};
use super::model_file::TrainedModel;
use super::recalibration::Recalibration;
use crate::forecaster::{Expectation, Forecaster, OriginNames};
use crate::profile::{AccessProfile, WindowLength};
use crate::window::WindowCounts;

/// Threads that score a forecast's shards.
const SCORING_THREADS: usize = 2;
/// Shards that are worth a thread.
const SHARDS_A_THREAD_MIN: usize = 256;

/// Host affinity scores by a trained model, over the profile of the windows seen.
#[derive(Clone, Debug)]
pub struct HostAffinityModel {
    name: String,
    model: TrainedModel,
    profile: AccessProfile,
    recalibration: Recalibration,
}

impl HostAffinityModel {
    /// A forecaster that has seen nothing yet: give it the windows before the first forecast.
    pub fn new(model: TrainedModel, zones: &[Zone]) -> Self {
        let length = WindowLength::from_ms(model.span().window_ms);
        Self {
            name: model.version(),
            model,
            profile: AccessProfile::new(zones, length),
            recalibration: Recalibration::default(),
        }
    }

    /// The model.
    pub fn model(&self) -> &TrainedModel {
        &self.model
    }

    /// Whether a window is one ahead, as the model forecasts, and after those that it was trained on.
    fn is_news(&self, window: WindowId) -> bool {
        let span = self.model.span();
        span.horizon_windows == 1 && self.profile.length().start_ms(window) >= span.to_ms
    }

    fn expectation(&self, reader: &FeatureReader<'_>, shard: ShardId) -> Option<Expectation> {
        let features = reader.features(shard)?;
        let scorer = self.model.scorer();
        Some(Expectation {
            shares: self.recalibration.shares(scorer, &features),
            accesses: scorer.rate(&features),
            read_share: self.profile.shards().get(&shard)?.read_share(),
            uncertainty: self.model.metrics().ece,
        })
    }
}

impl Forecaster for HostAffinityModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn observe(&mut self, counts: &WindowCounts) {
        if self.is_news(counts.window) {
            let seen = seen_in(&self.profile, counts);
            let seen = seen
                .iter()
                .map(|(features, counts)| (features, counts.as_slice()));
            self.recalibration.learn(self.model.scorer(), seen);
        }
        self.profile.observe(counts);
    }

    fn inherit(&mut self, from: ShardId, to: ShardId) {
        self.profile.inherit(from, to);
    }

    /// Shards are scored by two threads; none depends on another, so the forecast does not depend on who scores which.
    fn forecast(&self, window: WindowId) -> Forecast {
        let origins = OriginNames::new(self.profile.zones().zones());
        let reader = FeatureReader::new(&self.profile, window);
        let expected =
            |shard: ShardId| Some((shard, self.expectation(&reader, shard)?.to_forecast(&origins)?));
        let shards: Vec<ShardId> = self.profile.shards().keys().copied().collect();
        let score = |part: &[ShardId]| part.iter().copied().filter_map(expected).collect::<Vec<_>>();
        let parts = shards.chunks(shards.len().div_ceil(SCORING_THREADS).max(SHARDS_A_THREAD_MIN));
        let scored = std::thread::scope(|scope| {
            let threads: Vec<_> = parts.map(|part| scope.spawn(|| score(part))).collect();
            let joined = threads.into_iter().flat_map(|thread| match thread.join() {
                Ok(scored) => scored,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            joined.collect()
        });
        Forecast {
            window,
            model: self.name.clone(),
            shards: scored,
        }
    }
}
