//! Which contender a mixture follows, for each class of shards.
//!
//! What every contender would have cost is known, window by window, because each is carried on beside the others. For
//! each class the mixture follows the one with the least fading cost until now. It leaves it for a better one only once
//! the difference exceeds what it costs to move the homes that the two have elsewhere: the ski rental, which bounds
//! what changing one's mind can cost (Blum and Burch, "On-line learning and the metrical task system problem", 1997).
//! A class with few accesses borrows from all classes together. The first expert is the one to fall back on, as a rule
//! the one that never moves: another is followed only where it is better by more than chance explains, for of many that
//! follow noise one always looks good.
//!
//! Must hold: costs come from windows that have ended.

use super::ground::Ground;
use super::tournament::Mixture;

/// Bounds of the classes by accesses a window, and by the share of the origin with most of them.
const RATES: [f64; 3] = [0.1, 0.5, 2.0];
const SHARES: [f64; 2] = [0.5, 0.8];
/// Standard deviations by which an expert must be better than the first to be followed: many are, and they are asked
/// after every window.
const DEVIATIONS: f64 = 4.0;
const CLASSES: usize = (RATES.len() + 1) * (SHARES.len() + 1) + 1;

/// Which class a shard belongs to: by what the history says of it, and one for shards that it does not know.
pub(crate) struct ShardClasses(Vec<usize>);

impl ShardClasses {
    /// Classes by the windows before place `until`.
    pub(crate) fn of(ground: &Ground<'_>, until: usize) -> Self {
        let mut sums = vec![vec![0u64; ground.zones.len()]; ground.shards().len()];
        for cell in (0..until).flat_map(|at| ground.cells(at)) {
            sums[cell.shard]
                .iter_mut()
                .zip(&cell.accesses)
                .for_each(|(sum, count)| *sum += u64::from(*count));
        }
        Self(sums.iter().map(|sum| class_of(sum, until)).collect())
    }

    /// All shards in one class: where they compete for room, homes of several experts do not fit together.
    pub(crate) fn one(shards: usize) -> Self {
        Self(vec![0; shards])
    }

    pub(crate) fn of_shard(&self, shard: usize) -> usize {
        self.0[shard]
    }
}

fn class_of(by_origin: &[u64], windows: usize) -> usize {
    let total: u64 = by_origin.iter().sum();
    if total == 0 {
        return CLASSES - 1;
    }
    let rate = total as f64 / windows.max(1) as f64;
    let share = by_origin.iter().copied().max().unwrap_or(0) as f64 / total as f64;
    let above = |bounds: &[f64], value: f64| bounds.iter().filter(|bound| value >= **bound).count();
    above(&RATES, rate) * (SHARES.len() + 1) + above(&SHARES, share)
}

/// A mixture's accounts.
pub(crate) struct Experts {
    mixture: Mixture,
    /// Fading costs by class and expert.
    costs: Vec<Vec<f64>>,
    /// The same of the squared difference from the first expert, by shard and window.
    variances: Vec<Vec<f64>>,
    /// Fading accesses by class.
    accesses: Vec<f64>,
    /// By class, the place of the expert followed.
    chosen: Vec<usize>,
    /// The shards of each class.
    shards: Vec<Vec<usize>>,
}

impl Experts {
    pub(crate) fn new(mixture: Mixture, classes: &ShardClasses) -> Self {
        let of_class = |class| {
            (0..classes.0.len())
                .filter(move |shard| classes.0[*shard] == class)
                .collect()
        };
        Self {
            costs: vec![vec![0.0; mixture.experts.len()]; CLASSES],
            variances: vec![vec![0.0; mixture.experts.len()]; CLASSES],
            accesses: vec![0.0; CLASSES],
            chosen: vec![0; CLASSES],
            shards: (0..CLASSES).map(of_class).collect(),
            mixture,
        }
    }

    /// Takes in accesses of one shard, and what they cost each contender.
    pub(crate) fn served(&mut self, class: usize, accesses: u64, cost: impl Fn(usize) -> f64) {
        let fade = 0.5f64.powf(accesses as f64 / self.mixture.half_life_accesses);
        self.accesses[class] = self.accesses[class] * fade + accesses as f64;
        let fallback = self.mixture.experts.first().map_or(0.0, |first| cost(*first));
        for (place, contender) in self.mixture.experts.iter().enumerate() {
            let incurred = cost(*contender);
            let (sum, variance) = (&mut self.costs[class][place], &mut self.variances[class][place]);
            *sum = *sum * fade + incurred;
            *variance = *variance * fade + (incurred - fallback).powi(2);
        }
    }

    /// Takes in that a contender moved a home.
    pub(crate) fn moved(&mut self, class: usize, contender: usize) {
        let places = self.mixture.experts.iter().enumerate();
        for (place, _) in places.filter(|(_, expert)| **expert == contender) {
            self.costs[class][place] += f64::from(self.mixture.move_cost);
        }
    }

    /// Follows the best of each class, whatever that moves.
    pub(crate) fn choose_afresh(&mut self) {
        self.chosen = (0..CLASSES).map(|class| least(&self.scores(class))).collect();
    }

    /// Follows a better one where it is better by more than the moves cost; `homes` are a contender's.
    pub(crate) fn follow<'h>(&mut self, homes: impl Fn(usize) -> &'h [usize]) {
        for class in 0..CLASSES {
            let scores = self.scores(class);
            let (best, chosen) = (least(&scores), self.chosen[class]);
            let gain = scores[chosen].cost - scores[best].cost;
            if best == chosen || gain <= 0.0 {
                continue;
            }
            let (old, new) = (
                homes(self.mixture.experts[chosen]),
                homes(self.mixture.experts[best]),
            );
            let differing = self.shards[class]
                .iter()
                .filter(|shard| old[**shard] != new[**shard]);
            if gain > f64::from(self.mixture.move_cost) * differing.count() as f64 {
                self.chosen[class] = best;
            }
        }
    }

    /// The contender that a class follows.
    pub(crate) fn of_class(&self, class: usize) -> usize {
        self.mixture.experts[self.chosen[class]]
    }

    /// The class's costs, and those of all classes, itself included, in the measure that the mixture says.
    fn scores(&self, class: usize) -> Vec<Score> {
        let accesses: f64 = self.accesses.iter().sum();
        let borrowed = (self.mixture.borrowed_accesses / accesses.max(1.0)).min(1.0);
        let weight = |of: usize| borrowed + if of == class { 1.0 } else { 0.0 };
        let cost = |place: usize| -> f64 { (0..CLASSES).map(|of| weight(of) * self.costs[of][place]).sum() };
        let variance = |place: usize| -> f64 {
            (0..CLASSES)
                .map(|of| weight(of).powi(2) * self.variances[of][place])
                .sum()
        };
        let fallback = cost(0);
        let score = |place: usize| Score {
            cost: cost(place),
            proven: place == 0 || fallback - cost(place) > DEVIATIONS * variance(place).sqrt(),
        };
        (0..self.mixture.experts.len()).map(score).collect()
    }
}

/// What an expert would have cost, and whether it is better than the first one by more than chance explains.
struct Score {
    cost: f64,
    proven: bool,
}

/// The first of the cheapest among those that are proven, which the first expert always is.
fn least(scores: &[Score]) -> usize {
    let better = |best: usize, at: usize| scores[at].proven && scores[at].cost < scores[best].cost;
    (0..scores.len()).fold(0, |best, at| if better(best, at) { at } else { best })
}
