//! Whether shares mean what they say: likelihood, calibration error, and the temperature that mends it.
//!
//! Guo et al., "On calibration of modern neural networks", ICML 2017: one temperature, fitted on data not trained on.

use super::sample::Sample;
use super::scorer::{Scorer, softmax};

const BINS: usize = 10;
const TEMPERATURES: (f32, f32) = (0.4, 2.5);
const SEARCH_STEPS: usize = 24;

/// How a scorer does on samples that it was not trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Calibration {
    /// The temperature fitted.
    pub(crate) temperature: f32,
    /// Negative log-likelihood an access at it, in nats.
    pub(crate) nll: f32,
    /// Expected calibration error at it, 0 to 1.
    pub(crate) ece: f32,
}

/// Fits the temperature by golden-section search: the likelihood has one peak in it.
pub(crate) fn calibrate(scorer: &Scorer, samples: &[Sample]) -> Calibration {
    // An idle sample has no pairs and so no logits; it has no accesses to be likely either.
    let logits: Vec<Vec<f32>> = samples
        .iter()
        .map(|sample| scorer.logits(&sample.features))
        .collect();
    let shares_at = |temperature: f32| -> Vec<Vec<f32>> {
        logits.iter().map(|logits| softmax(logits, temperature)).collect()
    };
    let nll_at = |temperature: f32| negative_log_likelihood(&shares_at(temperature), samples);
    let temperature = minimise(TEMPERATURES, &nll_at);
    let shares = shares_at(temperature);
    Calibration {
        temperature,
        nll: negative_log_likelihood(&shares, samples),
        ece: expected_calibration_error(&shares, samples),
    }
}

fn minimise((mut low, mut high): (f32, f32), cost: &dyn Fn(f32) -> f32) -> f32 {
    let ratio = (5f32.sqrt() - 1.0) / 2.0;
    for _ in 0..SEARCH_STEPS {
        let (left, right) = (high - ratio * (high - low), low + ratio * (high - low));
        if cost(left) <= cost(right) {
            high = right
        } else {
            low = left
        }
    }
    (low + high) / 2.0
}

/// The mean over accesses of minus the logarithm of the share given to their origin.
pub(crate) fn negative_log_likelihood(shares: &[Vec<f32>], samples: &[Sample]) -> f32 {
    let (mut sum, mut accesses) = (0.0f64, 0.0f64);
    for (shares, sample) in shares.iter().zip(samples) {
        for (share, count) in shares.iter().zip(&sample.counts) {
            sum -= f64::from(*count) * f64::from(share.max(1e-9)).ln();
            accesses += f64::from(*count);
        }
    }
    (sum / accesses.max(1.0)) as f32
}

/// The mean distance between the share forecast and the share seen, over ten equal bins of the forecast share of every
/// (shard, origin) pair, weighted by accesses.
pub(crate) fn expected_calibration_error(shares: &[Vec<f32>], samples: &[Sample]) -> f32 {
    let (mut forecast, mut seen, mut weight) = ([0.0f64; BINS], [0.0f64; BINS], 0.0f64);
    for (shares, sample) in shares.iter().zip(samples) {
        let accesses: f64 = sample.counts.iter().map(|count| f64::from(*count)).sum();
        weight += accesses;
        for (share, count) in shares.iter().zip(&sample.counts) {
            let bin = ((share * BINS as f32) as usize).min(BINS - 1);
            forecast[bin] += f64::from(*share) * accesses;
            seen[bin] += f64::from(*count);
        }
    }
    let distance: f64 = forecast
        .iter()
        .zip(&seen)
        .map(|(forecast, seen)| (forecast - seen).abs())
        .sum();
    (distance / weight.max(1.0)) as f32
}

#[cfg(test)]
mod tests {
    use super::super::features::{PAIR_FEATURES, PairFeatures, RATE_FEATURES, ShardFeatures};
    use super::super::scorer::flat_weights;
    use super::*;

    /// Samples whose first feature is the log-odds `sureness * ln 3`, while the truth is always 1 to 3.
    fn samples(sureness: f32) -> Vec<Sample> {
        let mut rows = [[0.0; PAIR_FEATURES]; 2];
        rows[1][0] = sureness * 3f32.ln();
        let features = ShardFeatures {
            pairs: PairFeatures::from_rows(&rows),
            rate: [0.0; RATE_FEATURES],
        };
        let sample = |counts: [f32; 2]| Sample {
            features: features.clone(),
            counts: counts.to_vec(),
            weight: 1.0,
        };
        vec![
            sample([1.0, 0.0]),
            sample([0.0, 1.0]),
            sample([0.0, 1.0]),
            sample([0.0, 1.0]),
        ]
    }

    #[test]
    fn an_honest_forecast_is_calibrated() {
        let shares = vec![vec![0.25, 0.75]; 4];
        assert!(expected_calibration_error(&shares, &samples(1.0)) < 1e-6);
    }

    #[test]
    fn an_overconfident_forecast_is_not() {
        let shares = vec![vec![0.05, 0.95]; 4];
        let error = expected_calibration_error(&shares, &samples(1.0));
        assert!((error - 0.4).abs() < 1e-5, "{error}");
    }

    #[test]
    fn the_temperature_mends_overconfidence() {
        let scorer = Scorer::new(flat_weights(2)).unwrap();
        let calibration = calibrate(&scorer, &samples(2.0));
        assert!((calibration.temperature - 2.0).abs() < 0.02, "{calibration:?}");
        assert!(calibration.ece < 0.01, "{calibration:?}");
    }
}
