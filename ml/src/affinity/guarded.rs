//! A trained model that steps back by itself once a simple rule would have served better.
//!
//! Before a window is observed, both say where they would have had each shard's home; who had more accesses at home is
//! summed up, fading. The model is set aside once it is behind by more than chance explains, and serves again once it is
//! no longer behind.
//!
//! Must hold: who forecasts depends on windows that have ended.

use placement::planner::{Forecast, ShardForecast};
use placement::{ShardId, WindowId, Zone};

use crate::forecaster::Forecaster;
use crate::window::WindowCounts;

/// What the account of a window weighs less than that of the next one.
const FADE: f64 = 0.98;
/// Standard deviations by which the model must be behind: it is asked after every window.
const DEVIATIONS: f64 = 4.0;

/// A model with a rule to fall back on.
pub struct GuardedModel {
    model: Box<dyn Forecaster + Send + Sync>,
    rule: Box<dyn Forecaster + Send + Sync>,
    /// Accesses that the model had at home beyond those of the rule.
    lead: f64,
    variance: f64,
    set_aside: bool,
    last: Option<WindowId>,
}

impl GuardedModel {
    /// Both have seen nothing yet.
    pub fn new(model: Box<dyn Forecaster + Send + Sync>, rule: Box<dyn Forecaster + Send + Sync>) -> Self {
        Self {
            model,
            rule,
            lead: 0.0,
            variance: 0.0,
            set_aside: false,
            last: None,
        }
    }

    fn serving(&self) -> &dyn Forecaster {
        match self.set_aside {
            true => self.rule.as_ref(),
            false => self.model.as_ref(),
        }
    }

    fn compare(&mut self, counts: &WindowCounts) {
        let (model, rule) = (
            self.model.forecast(counts.window),
            self.rule.forecast(counts.window),
        );
        (self.lead, self.variance) = (self.lead * FADE, self.variance * FADE);
        for (shard, by_zone) in &counts.shards {
            let at_home = |forecast: &Forecast| {
                let home = forecast.shards.get(shard).and_then(likeliest);
                home.and_then(|home| by_zone.get(home))
                    .map_or(0, |count| count.accesses()) as f64
            };
            let lead = at_home(&model) - at_home(&rule);
            self.lead += lead;
            self.variance += lead * lead;
        }
        match self.set_aside {
            false => self.set_aside = self.lead < -DEVIATIONS * self.variance.sqrt(),
            true => self.set_aside = self.lead < 0.0,
        }
    }
}

/// The zone with the largest share; of equals the first.
fn likeliest(forecast: &ShardForecast) -> Option<&Zone> {
    let shares = forecast.shares.iter();
    shares
        .max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(a.0)))
        .map(|(zone, _)| zone)
}

impl Forecaster for GuardedModel {
    fn name(&self) -> &str {
        self.serving().name()
    }

    fn observe(&mut self, counts: &WindowCounts) {
        // The first window is nobody's to forecast.
        if self.last.is_some() {
            self.compare(counts);
        }
        self.last = Some(counts.window);
        self.model.observe(counts);
        self.rule.observe(counts);
    }

    fn inherit(&mut self, from: ShardId, to: ShardId) {
        self.model.inherit(from, to);
        self.rule.inherit(from, to);
    }

    fn forecast(&self, window: WindowId) -> Forecast {
        self.serving().forecast(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baselines::{LastWindow, RuleForecaster, StaticMajority};

    fn zones() -> Vec<Zone> {
        ["a", "b"].map(Zone::from).to_vec()
    }

    /// "Model": where the last window was. Rule: where most of the first four were.
    fn guarded() -> GuardedModel {
        let zones = zones();
        GuardedModel::new(
            Box::new(RuleForecaster::new("model", &zones, LastWindow::default())),
            Box::new(RuleForecaster::new(
                "rule",
                &zones,
                StaticMajority::new(WindowId(4)),
            )),
        )
    }

    fn shown(guarded: &mut GuardedModel, from: u64, origins: impl Iterator<Item = usize>) {
        for (window, origin) in (from..).zip(origins) {
            let mut counts = WindowCounts::empty(WindowId(window));
            counts.count(ShardId(1), &zones()[origin], 3, 0);
            guarded.observe(&counts);
        }
    }

    #[test]
    fn a_model_that_falls_behind_is_set_aside_and_comes_back() {
        let mut guarded = guarded();
        shown(&mut guarded, 0, [0, 0, 0, 0].into_iter());
        assert_eq!(guarded.name(), "model");
        // To and fro: the last window is always wrong, the majority every second time.
        shown(&mut guarded, 4, (0..80).map(|at| 1 - at % 2));
        assert_eq!(guarded.name(), "rule");
        assert_eq!(guarded.forecast(WindowId(84)).model, "rule");
        shown(&mut guarded, 84, (0..120).map(|_| 1));
        assert_eq!(guarded.name(), "model");
    }

    #[test]
    fn chance_does_not_set_a_model_aside() {
        let mut guarded = guarded();
        // Draws of no pattern: both are right half of the time.
        let mut state = 7u64;
        let draws = std::iter::repeat_with(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 60 & 1) as usize
        });
        shown(&mut guarded, 0, draws.take(400));
        assert_eq!(guarded.name(), "model");
    }
}
