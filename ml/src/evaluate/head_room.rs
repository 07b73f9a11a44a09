//! How well each forecaster says where the next window's accesses come from, when acting on it is free and instant.
//!
//! Before each window every forecaster has observed all windows before it; each shard's home is the origin with the
//! largest share. The per-window oracle knows the window itself. What moves cost, and that they take time, is the
//! tournament's subject.

use placement::WindowId;

use super::ground::{Cell, Ground};
use super::ledger::Ledger;
use super::outlook::{ModelSource, Outlook, RuleSource};
use crate::affinity::Scorer;
use crate::baselines::Rule;

const BINS: usize = 10;

/// A forecaster's result.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadRoomScore {
    /// Accesses served with the likeliest origin as home.
    pub likeliest: Ledger,
    /// The same with the home of the least expected round trip.
    pub nearest: Ledger,
    /// How far shares forecast are from shares seen; for models.
    pub calibration: Option<CalibrationScore>,
}

/// Whether shares mean what they say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CalibrationScore {
    /// Expected calibration error, 0 to 1: ten equal bins over all (shard, origin) pairs, weighted by accesses.
    pub ece: f64,
    /// Negative log-likelihood an access, in nats.
    pub nll: f64,
}

/// All results, in the order given.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadRoom {
    /// Of the rules.
    pub rules: Vec<HeadRoomScore>,
    /// Of the models.
    pub models: Vec<HeadRoomScore>,
    /// Homes spread by shard number.
    pub spread: Ledger,
    /// The best home of each cell, known beforehand.
    pub oracle: Ledger,
}

/// Scores rules that have seen nothing and models trained on the history, for windows one ahead.
pub fn head_room(rules: Vec<Box<dyn Rule>>, models: Vec<Scorer>, ground: &Ground<'_>) -> HeadRoom {
    let mut scoring = Scoring::new(rules, models, ground);
    for at in 0..ground.windows.len() {
        if at >= ground.from {
            let window = ground.windows[at].window;
            ground
                .cells(at)
                .iter()
                .for_each(|cell| scoring.score(cell, window));
        }
        scoring.observe(at);
    }
    scoring.finish()
}

struct Scoring<'a> {
    ground: &'a Ground<'a>,
    first_homes: Vec<usize>,
    rules: Vec<(RuleSource, Tally)>,
    models: ModelSource,
    model_tallies: Vec<Tally>,
    spread: Ledger,
    oracle: Ledger,
    outlook: Outlook,
}

impl<'a> Scoring<'a> {
    fn new(rules: Vec<Box<dyn Rule>>, models: Vec<Scorer>, ground: &'a Ground<'a>) -> Self {
        let origins = ground.zones.len();
        let source = |rule| (RuleSource::new(rule, ground.zones), Tally::new(origins));
        Self {
            first_homes: ground.majority_homes(ground.from),
            rules: rules.into_iter().map(source).collect(),
            model_tallies: models.iter().map(|_| Tally::new(origins)).collect(),
            models: ModelSource::new(models, ground.zones, ground.length),
            spread: Ledger::new(origins),
            oracle: Ledger::new(origins),
            outlook: Outlook::empty(1, origins),
            ground,
        }
    }

    fn observe(&mut self, at: usize) {
        self.rules
            .iter_mut()
            .for_each(|(rule, _)| rule.observe(self.ground, at));
        if at >= self.ground.trial() {
            self.models.recalibrate(&self.ground.windows[at]);
        }
        self.models.observe(&self.ground.windows[at]);
    }

    fn score(&mut self, cell: &Cell, window: WindowId) {
        let (shard, home, rtt) = (
            self.ground.shards()[cell.shard],
            self.first_homes[cell.shard],
            self.ground.rtt_micros,
        );
        for (rule, tally) in &mut self.rules {
            let shares = rule
                .expect(shard, window, &mut self.outlook)
                .then(|| self.outlook.next());
            tally.serve(cell, shares, home, rtt);
        }
        let shares = self.models.shares(shard, window);
        for (at, tally) in self.model_tallies.iter_mut().enumerate() {
            let shares = shares.as_ref().map(|shares| shares[at].as_slice());
            tally.serve(cell, shares, home, rtt);
            tally.calibrate(cell, shares);
        }
        self.spread
            .serve(&cell.accesses, cell.shard % self.ground.zones.len());
        let best = (0..cell.accesses.len()).fold(0, |best, at| {
            if cell.accesses[at] > cell.accesses[best] {
                at
            } else {
                best
            }
        });
        self.oracle.serve(&cell.accesses, best);
    }

    fn finish(self) -> HeadRoom {
        HeadRoom {
            rules: self
                .rules
                .into_iter()
                .map(|(_, tally)| tally.finish(false))
                .collect(),
            models: self
                .model_tallies
                .into_iter()
                .map(|tally| tally.finish(true))
                .collect(),
            spread: self.spread,
            oracle: self.oracle,
        }
    }
}

/// One forecaster's sums.
struct Tally {
    likeliest: Ledger,
    nearest: Ledger,
    forecast: [f64; BINS],
    seen: [f64; BINS],
    likelihood: f64,
    accesses: f64,
}

impl Tally {
    fn new(origins: usize) -> Self {
        Self {
            likeliest: Ledger::new(origins),
            nearest: Ledger::new(origins),
            forecast: [0.0; BINS],
            seen: [0.0; BINS],
            likelihood: 0.0,
            accesses: 0.0,
        }
    }

    /// Serves a cell by shares of any scale; without them, from `home`.
    fn serve(&mut self, cell: &Cell, shares: Option<&[f32]>, home: usize, rtt: &[Vec<u64>]) {
        let Some(shares) = shares else {
            self.likeliest.serve(&cell.accesses, home);
            self.nearest.serve(&cell.accesses, home);
            return;
        };
        let places = 0..shares.len();
        let likeliest = places
            .clone()
            .fold(home, |best, at| if shares[at] > shares[best] { at } else { best });
        let travelling = |at: usize| -> f32 {
            shares
                .iter()
                .zip(rtt)
                .map(|(share, row)| share * row[at] as f32)
                .sum()
        };
        let trips: Vec<f32> = places.clone().map(travelling).collect();
        let nearest = places.fold(home, |best, at| if trips[at] < trips[best] { at } else { best });
        self.likeliest.serve(&cell.accesses, likeliest);
        self.nearest.serve(&cell.accesses, nearest);
    }

    /// Notes shares that sum to one beside what was seen.
    fn calibrate(&mut self, cell: &Cell, shares: Option<&[f32]>) {
        let Some(shares) = shares else { return };
        let total = cell.total() as f64;
        self.accesses += total;
        for (share, count) in shares.iter().zip(&cell.accesses) {
            let bin = ((share * BINS as f32) as usize).min(BINS - 1);
            self.forecast[bin] += f64::from(*share) * total;
            self.seen[bin] += f64::from(*count);
            self.likelihood -= f64::from(*count) * f64::from(share.max(1e-9)).ln();
        }
    }

    fn finish(self, calibrated: bool) -> HeadRoomScore {
        let distance: f64 = self
            .forecast
            .iter()
            .zip(&self.seen)
            .map(|(forecast, seen)| (forecast - seen).abs())
            .sum();
        let accesses = self.accesses.max(1.0);
        let calibration = CalibrationScore {
            ece: distance / accesses,
            nll: self.likelihood / accesses,
        };
        HeadRoomScore {
            likeliest: self.likeliest,
            nearest: self.nearest,
            calibration: calibrated.then_some(calibration),
        }
    }
}
