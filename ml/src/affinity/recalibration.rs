//! Keeps shares honest while they are used: a model is calibrated once, and the world drifts.
//!
//! After each window, what was forecast for it is held against what it saw, and a factor of the temperature follows by
//! Newton steps on the likelihood, with a memory that fades. A temperature keeps the order of origins, so homes that are
//! chosen by the likeliest stay the same. A burst on one shard counts like a few accesses, or it alone would decide.
//!
//! Must hold: the correction of a window's forecast comes from windows before it.

use super::features::ShardFeatures;
use super::scorer::{Scorer, softmax};

/// Evidence fades by half in this many accesses.
const HALF_LIFE_ACCESSES: f64 = 5_000.0;
/// Most accesses that one shard's window counts as.
const ACCESSES_MAX: f32 = 8.0;
/// How much evidence it takes to move, as a curvature of the likelihood.
const INERTIA: f64 = 500.0;
/// The furthest that the factor goes, as a logarithm.
const CORRECTION_MAX: f64 = 1.0;

/// What has been learnt of a scorer's confidence.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Recalibration {
    /// The logarithm of what multiplies the temperature.
    factor: f64,
    /// The likelihood's curvature in it, fading.
    curvature: f64,
}

impl Recalibration {
    /// The scorer's shares, corrected; they sum to 1.
    pub(crate) fn shares(&self, scorer: &Scorer, features: &ShardFeatures) -> Vec<f32> {
        softmax(&scorer.logits(features), self.temperature(scorer))
    }

    /// Takes in a window that has ended: what was known before it, and its accesses by origin.
    pub(crate) fn learn<'a>(
        &mut self,
        scorer: &Scorer,
        seen: impl Iterator<Item = (&'a ShardFeatures, &'a [f32])>,
    ) {
        let (mut accesses, mut gradient, mut curvature) = (0.0, 0.0, 0.0);
        for (features, counts) in seen {
            let logits = scorer.logits(features);
            let evidence = Evidence::of(&logits, self.temperature(scorer), counts);
            accesses += evidence.accesses;
            gradient += evidence.gradient;
            curvature += evidence.curvature;
        }
        self.curvature = self.curvature * 0.5f64.powf(accesses / HALF_LIFE_ACCESSES) + curvature;
        self.factor -= gradient / (self.curvature + INERTIA);
        self.factor = self.factor.clamp(-CORRECTION_MAX, CORRECTION_MAX);
    }

    fn temperature(&self, scorer: &Scorer) -> f32 {
        scorer.weights().temperature * self.factor.exp() as f32
    }
}

/// One shard's window: derivatives of its negative log-likelihood by the logarithm of the temperature.
struct Evidence {
    accesses: f64,
    gradient: f64,
    curvature: f64,
}

impl Evidence {
    fn of(logits: &[f32], temperature: f32, counts: &[f32]) -> Self {
        let shares = softmax(logits, temperature);
        let total: f32 = counts.iter().sum();
        let weight = f64::from(total.min(ACCESSES_MAX));
        let scaled: Vec<f64> = logits
            .iter()
            .map(|logit| f64::from(logit / temperature))
            .collect();
        let mean_by = |weights: &[f32]| -> f64 {
            let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            let weighted = weights
                .iter()
                .zip(&scaled)
                .map(|(weight, scaled)| f64::from(*weight) * scaled);
            weighted.sum::<f64>() / sum.max(f64::MIN_POSITIVE)
        };
        let expected = mean_by(&shares);
        let spread = shares
            .iter()
            .zip(&scaled)
            .map(|(share, scaled)| f64::from(*share) * (scaled - expected).powi(2));
        Self {
            accesses: weight,
            gradient: weight * (mean_by(counts) - expected),
            curvature: weight * spread.sum::<f64>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::features::{PAIR_FEATURES, PairFeatures, RATE_FEATURES};
    use super::super::scorer::flat_weights;
    use super::*;

    /// The second origin's share after many windows in which it had `seen` of four accesses, for a model that is sure of
    /// it by `log_odds`.
    fn share_after(log_odds: f32, seen: f32) -> f32 {
        let scorer = Scorer::new(flat_weights(2)).unwrap();
        let mut rows = [[0.0; PAIR_FEATURES]; 2];
        rows[1][0] = log_odds;
        let features = ShardFeatures {
            pairs: PairFeatures::from_rows(&rows),
            rate: [0.0; RATE_FEATURES],
        };
        let counts = [4.0 - seen, seen];
        let mut recalibration = Recalibration::default();
        for _ in 0..3000 {
            recalibration.learn(&scorer, std::iter::once((&features, counts.as_slice())));
        }
        recalibration.shares(&scorer, &features)[1]
    }

    #[test]
    fn an_honest_model_is_left_alone() {
        let share = share_after(3f32.ln(), 3.0);
        assert!((share - 0.75).abs() < 1e-4, "{share}");
    }

    #[test]
    fn an_overconfident_model_is_tempered_and_a_timid_one_encouraged() {
        for log_odds in [7f32.ln(), 2f32.ln()] {
            let share = share_after(log_odds, 3.0);
            assert!((share - 0.75).abs() < 0.02, "{share}");
        }
    }
}
