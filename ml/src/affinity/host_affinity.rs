//! The trained model as a forecaster.

use placement::planner::Forecast;
use placement::{ShardId, WindowId, Zone};

use super::features::features_of;
use super::model_file::TrainedModel;
use crate::forecaster::{Expectation, Forecaster};
use crate::profile::{AccessProfile, WindowLength};
use crate::window::WindowCounts;

/// Host affinity scores by a trained model, over the profile of the windows seen.
#[derive(Clone, Debug)]
pub struct HostAffinityModel {
    name: String,
    model: TrainedModel,
    profile: AccessProfile,
}

impl HostAffinityModel {
    /// A forecaster that has seen nothing yet: give it the windows before the first forecast.
    pub fn new(model: TrainedModel, zones: &[Zone]) -> Self {
        let length = WindowLength::from_ms(model.span().window_ms);
        Self {
            name: model.version(),
            model,
            profile: AccessProfile::new(zones, length),
        }
    }

    /// The model.
    pub fn model(&self) -> &TrainedModel {
        &self.model
    }

    fn expectation(&self, shard: ShardId, window: WindowId) -> Option<Expectation> {
        let features = features_of(&self.profile, shard, window)?;
        let scorer = self.model.scorer();
        Some(Expectation {
            shares: scorer.shares(&features),
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
        self.profile.observe(counts);
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
