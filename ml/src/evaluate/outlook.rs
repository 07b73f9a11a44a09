//! What a forecaster expects of a shard over the coming windows and in the long run, for policies to weigh.
//!
//! Must hold: an outlook is a function of the windows observed and of nothing else.

use std::collections::BTreeMap;

use placement::{ShardId, WindowId, Zone};

use super::ground::Ground;
use super::mover::ORIGINS_MAX;
use super::terms::Terms;
use crate::affinity::{FeatureReader, Recalibration, Scorer, seen_in};
use crate::baselines::Rule;
use crate::profile::{AccessProfile, Counts, EWMA_ALPHAS, WindowLength};
use crate::window::WindowCounts;

/// Windows ahead that a model's outlook tells apart; beyond them is the long run.
pub(crate) const HORIZON_WINDOWS: usize = 4;
/// Less than any home can be worth, and small enough to be added up.
const FORBIDDEN: f32 = -1e9;

/// Expected accesses by origin: of one or more coming windows, and then of a window in the long run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outlook {
    origins: usize,
    demand: Vec<f32>,
    /// Accesses of each row, where rows say what homes are worth instead; empty where they do not.
    accesses: Vec<f32>,
}

impl Outlook {
    /// Expects nothing, of `windows` coming windows.
    pub(crate) fn empty(windows: usize, origins: usize) -> Self {
        Self {
            origins,
            demand: vec![0.0; (windows + 1) * origins],
            accesses: Vec::new(),
        }
    }

    /// Rows of one number an origin: the coming windows, then the long run.
    #[cfg(test)]
    pub(crate) fn of(rows: &[&[f32]]) -> Self {
        Self {
            origins: rows[0].len(),
            demand: rows.concat(),
            accesses: Vec::new(),
        }
    }

    /// How many origins there are.
    pub(crate) fn origins(&self) -> usize {
        self.origins
    }

    /// The coming windows, the next first.
    pub(crate) fn windows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.demand[..self.demand.len() - self.origins].chunks_exact(self.origins)
    }

    /// The next window.
    pub(crate) fn next(&self) -> &[f32] {
        &self.demand[..self.origins]
    }

    /// Accesses of the next window.
    pub(crate) fn next_accesses(&self) -> f32 {
        match self.accesses.first() {
            Some(accesses) => *accesses,
            None => self.next().iter().sum(),
        }
    }

    /// Turns accesses by origin into what homes are worth: accesses, less what they cost from there. Where homes are
    /// bound to voters, a home that is none is worth nothing that any other could be.
    pub(crate) fn weigh(&mut self, terms: &Terms, voters: Option<&[usize]>) {
        self.accesses.clear();
        let mut worth = [0.0; ORIGINS_MAX];
        let worth = &mut worth[..self.origins];
        for row in self.demand.chunks_exact_mut(self.origins) {
            let accesses: f32 = row.iter().sum();
            self.accesses.push(accesses);
            for (home, worth) in worth.iter_mut().enumerate() {
                *worth = match voters {
                    Some(voters) if !voters.contains(&home) => FORBIDDEN,
                    _ => accesses - terms.expected_cost(row, home),
                };
            }
            row.copy_from_slice(worth);
        }
    }

    /// Becomes another one, of what homes are worth once each access there has paid for its room.
    pub(crate) fn become_priced(&mut self, of: &Self, prices: &[f32]) {
        self.clone_from(of);
        let rows = self.demand.chunks_exact_mut(self.origins);
        for (row, accesses) in rows.zip(&self.accesses) {
            row.iter_mut()
                .zip(prices)
                .for_each(|(worth, price)| *worth -= accesses * price);
        }
    }

    /// A window in the long run.
    pub(crate) fn long_run(&self) -> &[f32] {
        &self.demand[self.demand.len() - self.origins..]
    }

    fn row(&mut self, at: usize) -> &mut [f32] {
        &mut self.demand[at * self.origins..(at + 1) * self.origins]
    }
}

/// A simple rule as a source of outlooks: all windows are as the next.
pub(crate) struct RuleSource {
    rule: Box<dyn Rule>,
    zones: Vec<Zone>,
}

impl RuleSource {
    pub(crate) fn new(rule: Box<dyn Rule>, zones: &[Zone]) -> Self {
        Self {
            rule,
            zones: zones.to_vec(),
        }
    }

    /// Takes in the window at a place.
    pub(crate) fn observe(&mut self, ground: &Ground<'_>, at: usize) {
        let window = &ground.windows[at];
        let last_origins = last_origins(window, &self.zones);
        for cell in ground.cells(at) {
            let mut counts = Counts::default();
            let seen = cell.accesses.iter().enumerate().filter(|(_, count)| **count > 0);
            seen.for_each(|(origin, count)| counts.add(origin, *count as f32));
            let shard = ground.shards()[cell.shard];
            self.rule
                .observe(shard, window.window, &counts, last_origins.get(&shard).copied());
        }
    }

    /// Writes what is expected from `first` on; false if nothing is known of the shard.
    pub(crate) fn expect(&self, shard: ShardId, first: WindowId, outlook: &mut Outlook) -> bool {
        let Some(expected) = self.rule.expect(shard, first, outlook.origins) else {
            return false;
        };
        for row in outlook.demand.chunks_exact_mut(outlook.origins) {
            row.iter_mut()
                .enumerate()
                .for_each(|(origin, demand)| *demand = expected.at(origin));
        }
        true
    }
}

fn last_origins(window: &WindowCounts, zones: &[Zone]) -> BTreeMap<ShardId, usize> {
    let numbered = window
        .trail
        .iter()
        .filter_map(|touch| Some((touch.shard, zones.iter().position(|zone| *zone == touch.origin)?)));
    numbered.collect()
}

/// One or more trained models over one profile, so that the features are read once for all of them.
pub(crate) struct ModelSource {
    profile: AccessProfile,
    scorers: Vec<Scorer>,
    recalibrations: Vec<Recalibration>,
}

impl ModelSource {
    pub(crate) fn new(scorers: Vec<Scorer>, zones: &[Zone], length: WindowLength) -> Self {
        Self {
            profile: AccessProfile::new(zones, length),
            recalibrations: vec![Recalibration::default(); scorers.len()],
            scorers,
        }
    }

    pub(crate) fn observe(&mut self, window: &WindowCounts) {
        self.profile.observe(window);
    }

    /// Holds what each model forecasts of a window that has ended against it; to be called before it is observed, and
    /// only of models that forecast one window ahead.
    pub(crate) fn recalibrate(&mut self, window: &WindowCounts) {
        let seen = seen_in(&self.profile, window);
        for (scorer, recalibration) in self.scorers.iter().zip(&mut self.recalibrations) {
            let seen = seen
                .iter()
                .map(|(features, counts)| (features, counts.as_slice()));
            recalibration.learn(scorer, seen);
        }
    }

    /// Writes what each model expects from `first` on; false if nothing is known of the shard.
    pub(crate) fn expect(&self, shard: ShardId, first: WindowId, outlooks: &mut [Outlook]) -> bool {
        let Some(history) = self.profile.shards().get(&shard) else {
            return false;
        };
        let ahead = outlooks.first().map_or(0, |outlook| outlook.windows().len());
        for step in 0..ahead {
            let reader = FeatureReader::new(&self.profile, WindowId(first.0 + step as u64));
            let Some(features) = reader.features(shard) else {
                return false;
            };
            for (scorer, outlook) in self.scorers.iter().zip(outlooks.iter_mut()) {
                let rate = scorer.rate(&features);
                let shares = scorer.shares(&features);
                let row = outlook.row(step);
                row.iter_mut()
                    .zip(shares)
                    .for_each(|(demand, share)| *demand = rate * share);
            }
        }
        let slow = &history.ewma[EWMA_ALPHAS.len() - 1];
        let fade = slow.fade_to(first.0);
        for outlook in outlooks {
            let row = outlook.row(ahead);
            row.iter_mut()
                .enumerate()
                .for_each(|(origin, demand)| *demand = fade * slow.counts().at(origin));
        }
        true
    }

    /// Each model's shares of a shard in one window.
    pub(crate) fn shares(&self, shard: ShardId, window: WindowId) -> Option<Vec<Vec<f32>>> {
        let features = FeatureReader::new(&self.profile, window).features(shard)?;
        let corrected = self.scorers.iter().zip(&self.recalibrations);
        Some(
            corrected
                .map(|(scorer, recalibration)| recalibration.shares(scorer, &features))
                .collect(),
        )
    }
}
