//! The trained model as a forecaster.

use placement::planner::Forecast;
use placement::{ShardId, WindowId, Zone};

use super::features::{features_of, seen_in};
use super::model_file::TrainedModel;
use super::recalibration::Recalibration;
use crate::forecaster::{Expectation, Forecaster};
use crate::profile::{AccessProfile, WindowLength};
use crate::window::WindowCounts;

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

    fn expectation(&self, shard: ShardId, window: WindowId) -> Option<Expectation> {
        let features = features_of(&self.profile, shard, window)?;
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

    fn forecast(&self, window: WindowId) -> Forecast {
        let zones = self.profile.zones().zones();
        let expected =
            |shard: &ShardId| Some((*shard, self.expectation(*shard, window)?.to_forecast(zones)?));
        let shards = self.profile.shards().keys().filter_map(expected).collect();
        Forecast {
            window,
            model: self.name.clone(),
            shards,
        }
    }
}
