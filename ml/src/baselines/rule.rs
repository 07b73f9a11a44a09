//! What all simple rules share.

use std::collections::BTreeMap;

use placement::planner::Forecast;
use placement::{ShardId, WindowId, Zone};

use crate::forecaster::{Expectation, Forecaster, OriginNames};
use crate::profile::{Counts, ZoneIndex, inherit, numbered};
use crate::window::WindowCounts;

/// How a simple rule expects accesses of a shard.
pub trait Rule {
    /// Takes in a shard's accesses of a window that has ended, and the origin of the last of them.
    fn observe(&mut self, shard: ShardId, window: WindowId, counts: &Counts, last_origin: Option<usize>);

    /// Lets a shard that is not known begin with what is known of another.
    fn inherit(&mut self, from: ShardId, to: ShardId);

    /// Accesses expected by origin; `None` if nothing is known of the shard.
    fn expect(&self, shard: ShardId, window: WindowId, origins: usize) -> Option<Counts>;
}

/// Accesses of a shard since the beginning, all and the reads.
#[derive(Clone, Copy, Debug, Default)]
struct Mix {
    accesses: f32,
    reads: f32,
}

/// A simple rule as a forecaster.
#[derive(Clone, Debug)]
pub struct RuleForecaster<R> {
    name: String,
    zones: ZoneIndex,
    rule: R,
    mix: BTreeMap<ShardId, Mix>,
}

impl<R: Rule> RuleForecaster<R> {
    /// A forecaster of this name; zones get their numbers in the order given.
    pub fn new(name: impl Into<String>, zones: &[Zone], rule: R) -> Self {
        Self {
            name: name.into(),
            zones: ZoneIndex::new(zones),
            rule,
            mix: BTreeMap::new(),
        }
    }

    fn expectation(&self, shard: ShardId, mix: Mix, window: WindowId) -> Option<Expectation> {
        let expected = self.rule.expect(shard, window, self.zones.len())?;
        Some(Expectation {
            shares: (0..self.zones.len()).map(|origin| expected.at(origin)).collect(),
            accesses: expected.total(),
            read_share: mix.reads / mix.accesses.max(1.0),
            uncertainty: 1.0 / (1.0 + mix.accesses),
        })
    }
}

impl<R: Rule> Forecaster for RuleForecaster<R> {
    fn name(&self) -> &str {
        &self.name
    }

    fn observe(&mut self, window: &WindowCounts) {
        let mut last_origins: BTreeMap<ShardId, usize> = BTreeMap::new();
        for touch in &window.trail {
            last_origins.insert(touch.shard, self.zones.intern(&touch.origin));
        }
        for (shard, by_zone) in &window.shards {
            let counts = numbered(by_zone, &mut self.zones);
            let mix = self.mix.entry(*shard).or_default();
            mix.accesses += counts.total();
            mix.reads += by_zone.values().map(|count| count.reads as f32).sum::<f32>();
            self.rule
                .observe(*shard, window.window, &counts, last_origins.get(shard).copied());
        }
    }

    fn inherit(&mut self, from: ShardId, to: ShardId) {
        inherit(&mut self.mix, from, to);
        self.rule.inherit(from, to);
    }

    fn forecast(&self, window: WindowId) -> Forecast {
        let origins = OriginNames::new(self.zones.zones());
        let expected = |(shard, mix): (&ShardId, &Mix)| {
            let expectation = self.expectation(*shard, *mix, window)?;
            Some((*shard, expectation.to_forecast(&origins)?))
        };
        Forecast {
            window,
            model: self.name.clone(),
            shards: self.mix.iter().filter_map(expected).collect(),
        }
    }
}
