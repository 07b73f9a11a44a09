//! The trained weights as flat arrays, and inference in plain loops.
//!
//! Must hold: every sum runs in index order in `f32`, so the same weights and features give the same bits.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::features::{PAIR_FEATURES, PairFeatures, RATE_FEATURES, ShardFeatures};
use super::standard::standardise;

/// The weights, in row-major order, inputs before outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScorerWeights {
    /// Units of the hidden layer, H.
    pub hidden: usize,
    /// Mean of each pair feature in training, F.
    pub pair_mean: Vec<f32>,
    /// One over the standard deviation of each, F.
    pub pair_scale: Vec<f32>,
    /// Features to hidden units, F x H.
    pub hidden_weight: Vec<f32>,
    /// H.
    pub hidden_bias: Vec<f32>,
    /// Hidden units to the logit, H.
    pub output_weight: Vec<f32>,
    /// Features to the logit beside the hidden layer, F.
    pub skip_weight: Vec<f32>,
    /// Mean of each rate feature in training, G.
    pub rate_mean: Vec<f32>,
    /// One over the standard deviation of each, G.
    pub rate_scale: Vec<f32>,
    /// Rate features to the logarithm of the rate, G.
    pub rate_weight: Vec<f32>,
    /// One number.
    pub rate_bias: f32,
    /// Divides the logits; above 1 makes the shares less sure.
    pub temperature: f32,
}

/// Why weights cannot be used.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum ScorerError {
    /// An array of the wrong length.
    #[error("{name} has {found} numbers, not {expected}")]
    Shape {
        /// Which.
        name: &'static str,
        /// Its length.
        found: usize,
        /// The length wanted.
        expected: usize,
    },
    /// A weight that is no number.
    #[error("{name} holds a number that is not finite")]
    NotFinite {
        /// Which array.
        name: &'static str,
    },
}

/// Checked weights, ready to score.
#[derive(Clone, Debug)]
pub struct Scorer {
    weights: ScorerWeights,
    /// The hidden layer's weights by unit: what each takes from the features.
    by_unit: Vec<[f32; PAIR_FEATURES]>,
    arch: pulp::Arch,
}

impl PartialEq for Scorer {
    fn eq(&self, other: &Self) -> bool {
        self.weights == other.weights
    }
}

impl Scorer {
    /// Checks the weights' lengths against the features that this build reads.
    pub fn new(weights: ScorerWeights) -> Result<Self, ScorerError> {
        for (name, array, expected) in arrays(&weights) {
            if array.len() != expected {
                return Err(ScorerError::Shape {
                    name,
                    found: array.len(),
                    expected,
                });
            }
            if array.iter().any(|weight| !weight.is_finite()) {
                return Err(ScorerError::NotFinite { name });
            }
        }
        if !weights.rate_bias.is_finite() || !weights.temperature.is_finite() || weights.temperature <= 0.0 {
            return Err(ScorerError::NotFinite {
                name: "rate_bias or temperature",
            });
        }
        let from_input = |unit, at| weights.hidden_weight[at * weights.hidden + unit];
        let by_unit = (0..weights.hidden).map(|unit| std::array::from_fn(|at| from_input(unit, at)));
        Ok(Self {
            by_unit: by_unit.collect(),
            arch: pulp::Arch::new(),
            weights,
        })
    }

    /// The weights.
    pub fn weights(&self) -> &ScorerWeights {
        &self.weights
    }

    /// The same scorer with another temperature, above zero.
    pub fn with_temperature(mut self, temperature: f32) -> Self {
        assert!(temperature > 0.0, "a temperature is above zero");
        self.weights.temperature = temperature;
        self
    }

    /// Logits by origin, not yet divided by the temperature.
    pub fn logits(&self, features: &ShardFeatures) -> Vec<f32> {
        let origins = features.pairs.origins();
        let mut logits = vec![0.0; origins];
        // With the widest instructions of this machine; they give the same bits.
        self.arch.dispatch(Scoring {
            scorer: self,
            pairs: &features.pairs,
            logits: &mut logits,
        });
        logits
    }

    /// Shares by origin, which sum to 1.
    pub fn shares(&self, features: &ShardFeatures) -> Vec<f32> {
        softmax(&self.logits(features), self.weights.temperature)
    }

    /// Expected accesses in the window.
    pub fn rate(&self, features: &ShardFeatures) -> f32 {
        let weights = &self.weights;
        let mut log_rate = weights.rate_bias;
        for at in 0..RATE_FEATURES {
            let value = standardise(features.rate[at], weights.rate_mean[at], weights.rate_scale[at]);
            log_rate += value * weights.rate_weight[at];
        }
        log_rate.clamp(-20.0, 20.0).exp()
    }

    /// The logits of [`LANES`] origins from `begin` on; beyond the last one, of features that are zero.
    #[inline(always)]
    fn lanes(&self, pairs: &PairFeatures, begin: usize) -> Lanes {
        let weights = &self.weights;
        let mut inputs = [[0.0; LANES]; PAIR_FEATURES];
        let mut logits = [0.0; LANES];
        for (at, lanes) in inputs.iter_mut().enumerate() {
            let (mean, scale) = (weights.pair_mean[at], weights.pair_scale[at]);
            for (lane, value) in lanes.iter_mut().zip(&pairs.column(at)[begin..]) {
                *lane = standardise(*value, mean, scale);
            }
            add_scaled(&mut logits, lanes, weights.skip_weight[at]);
        }
        for (unit, from_inputs) in self.by_unit.iter().enumerate() {
            let mut sums = [weights.hidden_bias[unit]; LANES];
            for (lanes, weight) in inputs.iter().zip(from_inputs) {
                add_scaled(&mut sums, lanes, *weight);
            }
            let active = sums.map(|sum| sum.max(0.0));
            add_scaled(&mut logits, &active, weights.output_weight[unit]);
        }
        logits
    }
}

/// The work of [`Scorer::logits`]. All of it is inlined into a function of the instructions that it may use.
struct Scoring<'a> {
    scorer: &'a Scorer,
    pairs: &'a PairFeatures,
    logits: &'a mut [f32],
}

impl pulp::NullaryFnOnce for Scoring<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (at, of_lanes) in self.logits.chunks_mut(LANES).enumerate() {
            let lanes = self.scorer.lanes(self.pairs, at * LANES);
            of_lanes.copy_from_slice(&lanes[..of_lanes.len()]);
        }
    }
}

/// How many origins are scored at once: a register of most processors.
const LANES: usize = 8;

type Lanes = [f32; LANES];

#[inline(always)]
fn add_scaled(sums: &mut Lanes, values: &Lanes, factor: f32) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value * factor;
    }
}

/// Every array with its name and the length it must have.
fn arrays(weights: &ScorerWeights) -> [(&'static str, &Vec<f32>, usize); 9] {
    let hidden = weights.hidden;
    [
        ("pair_mean", &weights.pair_mean, PAIR_FEATURES),
        ("pair_scale", &weights.pair_scale, PAIR_FEATURES),
        (
            "hidden_weight",
            &weights.hidden_weight,
            PAIR_FEATURES.saturating_mul(hidden),
        ),
        ("hidden_bias", &weights.hidden_bias, hidden),
        ("output_weight", &weights.output_weight, hidden),
        ("skip_weight", &weights.skip_weight, PAIR_FEATURES),
        ("rate_mean", &weights.rate_mean, RATE_FEATURES),
        ("rate_scale", &weights.rate_scale, RATE_FEATURES),
        ("rate_weight", &weights.rate_weight, RATE_FEATURES),
    ]
}

/// The softmax of logits divided by a temperature.
pub(crate) fn softmax(logits: &[f32], temperature: f32) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut shares: Vec<f32> = logits
        .iter()
        .map(|logit| ((logit - highest) / temperature).exp())
        .collect();
    let total: f32 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= total);
    shares
}

#[cfg(test)]
pub(crate) fn flat_weights(hidden: usize) -> ScorerWeights {
    ScorerWeights {
        hidden,
        pair_mean: vec![0.0; PAIR_FEATURES],
        pair_scale: vec![1.0; PAIR_FEATURES],
        hidden_weight: vec![0.0; PAIR_FEATURES * hidden],
        hidden_bias: vec![0.0; hidden],
        output_weight: vec![0.0; hidden],
        skip_weight: vec![1.0; PAIR_FEATURES],
        rate_mean: vec![0.0; RATE_FEATURES],
        rate_scale: vec![1.0; RATE_FEATURES],
        rate_weight: vec![0.0; RATE_FEATURES],
        rate_bias: 0.0,
        temperature: 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sum_to_one_and_follow_the_logits() {
        let scorer = Scorer::new(flat_weights(2)).unwrap();
        let mut rows = [[0.0; PAIR_FEATURES]; 2];
        rows[1][0] = 3f32.ln();
        let features = ShardFeatures {
            pairs: PairFeatures::from_rows(&rows),
            rate: [0.0; RATE_FEATURES],
        };
        let shares = scorer.shares(&features);
        assert!(
            (shares[0] - 0.25).abs() < 1e-6 && (shares[1] - 0.75).abs() < 1e-6,
            "{shares:?}"
        );
        assert_eq!(scorer.rate(&features), 1.0);
    }

    #[test]
    fn weights_of_another_shape_are_refused() {
        let mut weights = flat_weights(2);
        weights.skip_weight.pop();
        let expected = ScorerError::Shape {
            name: "skip_weight",
            found: PAIR_FEATURES - 1,
            expected: PAIR_FEATURES,
        };
        assert_eq!(Scorer::new(weights), Err(expected));
    }

    #[test]
    fn weights_that_are_no_numbers_are_refused() {
        let mut weights = flat_weights(2);
        weights.hidden_bias[1] = f32::NAN;
        assert_eq!(
            Scorer::new(weights),
            Err(ScorerError::NotFinite { name: "hidden_bias" })
        );
    }
}
