//! The training loop: batches, the two losses, Adam's steps.
//!
//! Must hold: samples, configuration and generator decide the weights; nothing else is drawn or read.

use burn::grad_clipping::GradientClippingConfig;
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData, activation};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::features::{PAIR_FEATURES, RATE_FEATURES};
use super::network::AffinityNetwork;
use super::sample::Sample;
use super::scorer::{Scorer, ScorerWeights};
use super::standard::Standard;
use super::train::{TrainConfig, TrainError};

const GRADIENT_NORM_MAX: f32 = 1.0;
const RATE_LOSS_WEIGHT: f32 = 0.1;
const WEIGHT_PERCENTILE: f64 = 0.99;

/// Fits a scorer to samples.
pub(crate) struct Trainer<'a> {
    samples: &'a [Sample],
    origins: usize,
    config: &'a TrainConfig,
    device: Device,
    pair: Standard,
    rate: Standard,
    weight_max: f32,
}

impl<'a> Trainer<'a> {
    /// `device` computes without gradients; the trainer adds them.
    pub(crate) fn new(
        samples: &'a [Sample],
        origins: usize,
        config: &'a TrainConfig,
        device: Device,
    ) -> Self {
        let pair_rows = samples.iter().flat_map(|sample| sample.features.pairs.rows());
        let rate_rows = samples.iter().map(|sample| sample.features.rate);
        let mut pair = Standard::of(pair_rows);
        pair.hide(&config.without);
        Self {
            pair,
            rate: Standard::of(rate_rows),
            weight_max: percentile_of_active(samples),
            device: device.autodiff(),
            samples,
            origins,
            config,
        }
    }

    /// Draws the first weights and runs all epochs.
    pub(crate) fn run(&self, rng: &mut ChaCha8Rng) -> Result<Scorer, TrainError> {
        let mut network = AffinityNetwork::new(self.config.hidden, rng, &self.device);
        let clipping = GradientClippingConfig::Norm(GRADIENT_NORM_MAX);
        let mut optimizer = AdamConfig::new().with_grad_clipping(Some(clipping)).init();
        let mut order: Vec<usize> = (0..self.samples.len()).collect();
        for epoch in 0..self.config.epochs {
            order.shuffle(rng);
            network = self.epoch(network, &mut optimizer, &order, epoch);
        }
        let diverged = TrainError::Diverged {
            epoch: self.config.epochs - 1,
        };
        Scorer::new(self.weights_of(&network)).map_err(|_| diverged)
    }

    fn epoch(
        &self,
        mut network: AffinityNetwork,
        optimizer: &mut ModuleOptimizer,
        order: &[usize],
        epoch: usize,
    ) -> AffinityNetwork {
        let steps = order.len().div_ceil(self.config.batch);
        for (step, batch) in order.chunks(self.config.batch).enumerate() {
            let done = (epoch * steps + step) as f64 / (self.config.epochs * steps) as f64;
            let loss = self.loss(&network, batch);
            let gradients = GradientsParams::from_grads(loss.backward(), &network);
            network = optimizer.step(self.config.learning_rate * (1.0 - 0.9 * done), network, gradients);
        }
        network
    }

    fn loss(&self, network: &AffinityNetwork, batch: &[usize]) -> Tensor<1> {
        let samples: Vec<&Sample> = batch.iter().map(|at| &self.samples[*at]).collect();
        let rate_loss = self.rate_loss(network, &samples).mul_scalar(RATE_LOSS_WEIGHT);
        let active: Vec<&Sample> = samples
            .into_iter()
            .filter(|sample| sample.accesses() > 0.0)
            .collect();
        match active.is_empty() {
            true => rate_loss,
            false => self.share_loss(network, &active) + rate_loss,
        }
    }

    fn share_loss(&self, network: &AffinityNetwork, samples: &[&Sample]) -> Tensor<1> {
        let mut pairs = Vec::with_capacity(samples.len() * self.origins * PAIR_FEATURES);
        let mut targets = Vec::with_capacity(samples.len() * self.origins);
        let mut weight_sum = 0.0;
        for sample in samples {
            let rows = sample.features.pairs.rows();
            rows.for_each(|row| pairs.extend(self.pair.apply(&row)));
            let accesses = sample.accesses();
            let weight = accesses.min(self.weight_max);
            weight_sum += weight;
            targets.extend(
                sample
                    .counts
                    .iter()
                    .map(|count| weight * count / accesses.max(1.0)),
            );
        }
        let pairs = Tensor::<3>::from_data(
            TensorData::new(pairs, [samples.len(), self.origins, PAIR_FEATURES]),
            &self.device,
        );
        let targets = Tensor::<2>::from_data(
            TensorData::new(targets, [samples.len(), self.origins]),
            &self.device,
        );
        let log_shares = activation::log_softmax(network.logits(pairs), 1);
        (log_shares * targets)
            .sum()
            .mul_scalar(-1.0 / weight_sum.max(1.0))
    }

    /// Poisson: rate - count x log rate, the constant left out.
    fn rate_loss(&self, network: &AffinityNetwork, samples: &[&Sample]) -> Tensor<1> {
        let rows: Vec<f32> = samples
            .iter()
            .flat_map(|sample| self.rate.apply(&sample.features.rate))
            .collect();
        let counts: Vec<f32> = samples
            .iter()
            .map(|sample| sample.accesses().min(self.weight_max))
            .collect();
        let weights: Vec<f32> = samples.iter().map(|sample| sample.weight).collect();
        let weight_sum: f32 = weights.iter().sum();
        let rows = Tensor::<2>::from_data(
            TensorData::new(rows, [samples.len(), RATE_FEATURES]),
            &self.device,
        );
        let column =
            |values: Vec<f32>| Tensor::<1>::from_data(TensorData::new(values, [samples.len()]), &self.device);
        let log_rates = network.log_rates(rows).clamp(-10.0, 10.0);
        let losses = log_rates.clone().exp() - column(counts) * log_rates;
        (losses * column(weights))
            .sum()
            .mul_scalar(1.0 / weight_sum.max(1.0))
    }

    fn weights_of(&self, network: &AffinityNetwork) -> ScorerWeights {
        let layers = network.export();
        ScorerWeights {
            hidden: self.config.hidden,
            pair_mean: self.pair.mean.clone(),
            pair_scale: self.pair.scale.clone(),
            hidden_weight: layers.hidden_weight,
            hidden_bias: layers.hidden_bias,
            output_weight: layers.output_weight,
            skip_weight: layers.skip_weight,
            rate_mean: self.rate.mean.clone(),
            rate_scale: self.rate.scale.clone(),
            rate_weight: layers.rate_weight,
            rate_bias: layers.rate_bias,
            temperature: 1.0,
        }
    }
}

fn percentile_of_active(samples: &[Sample]) -> f32 {
    let mut accesses: Vec<f32> = samples
        .iter()
        .map(Sample::accesses)
        .filter(|count| *count > 0.0)
        .collect();
    accesses.sort_by(f32::total_cmp);
    let at = (accesses.len() as f64 * WEIGHT_PERCENTILE) as usize;
    accesses
        .get(at.min(accesses.len().saturating_sub(1)))
        .copied()
        .unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::super::features::{PAIR_FEATURE_NAMES, PairFeatures, ShardFeatures};
    use super::super::network::floats;
    use super::*;

    /// Samples where a random feature decides the origin.
    fn samples(seed: u64) -> Vec<Sample> {
        use rand::RngExt;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let sample = |_| {
            let rows: [[f32; PAIR_FEATURES]; 3] =
                std::array::from_fn(|_| std::array::from_fn(|_| rng.random_range(-2.0..1.0)));
            let rate = std::array::from_fn(|_| rng.random_range(-2.0..1.0));
            let best = (0..3).max_by(|a: &usize, b: &usize| rows[*a][0].total_cmp(&rows[*b][0]));
            let counts = (0..3)
                .map(|at| if Some(at) == best { 2.0 } else { 0.0 })
                .collect();
            Sample {
                features: ShardFeatures {
                    pairs: PairFeatures::from_rows(&rows),
                    rate,
                },
                counts,
                weight: 1.0,
            }
        };
        (0..600).map(sample).collect()
    }

    fn config() -> TrainConfig {
        TrainConfig {
            epochs: 12,
            batch: 64,
            hidden: 8,
            ..TrainConfig::default()
        }
    }

    #[test]
    fn the_exported_scorer_agrees_with_burn() {
        let samples = samples(3);
        let config = config();
        let trainer = Trainer::new(&samples, 3, &config, Device::flex());
        let network = AffinityNetwork::new(8, &mut ChaCha8Rng::seed_from_u64(5), &trainer.device);
        let scorer = Scorer::new(trainer.weights_of(&network)).unwrap();
        for sample in &samples[..50] {
            let row = |row: [f32; PAIR_FEATURES]| trainer.pair.apply(&row).collect::<Vec<f32>>();
            let pairs: Vec<f32> = sample.features.pairs.rows().flat_map(row).collect();
            let pairs =
                Tensor::<3>::from_data(TensorData::new(pairs, [1, 3, PAIR_FEATURES]), &trainer.device);
            let expected = floats(network.logits(pairs).into_data());
            let rates: Vec<f32> = trainer.rate.apply(&sample.features.rate).collect();
            let rates = Tensor::<2>::from_data(TensorData::new(rates, [1, RATE_FEATURES]), &trainer.device);
            let log_rate = floats(network.log_rates(rates).into_data())[0];
            for (ours, theirs) in scorer.logits(&sample.features).iter().zip(&expected) {
                assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
            }
            assert!((scorer.rate(&sample.features).ln() - log_rate).abs() < 1e-4);
        }
    }

    #[test]
    fn training_finds_the_feature_that_decides() {
        let (fit, held) = (samples(1), samples(2));
        let config = config();
        let scorer = Trainer::new(&fit, 3, &config, Device::flex())
            .run(&mut ChaCha8Rng::seed_from_u64(config.seed))
            .unwrap();
        let right = |sample: &&Sample| {
            let shares = scorer.shares(&sample.features);
            (0..3).max_by(|a, b| shares[*a].total_cmp(&shares[*b]))
                == (0..3).max_by(|a, b| sample.counts[*a].total_cmp(&sample.counts[*b]))
        };
        let share = held.iter().filter(right).count() as f32 / held.len() as f32;
        assert!(share > 0.85, "{share}");
        let rate = held
            .iter()
            .map(|sample| scorer.rate(&sample.features))
            .sum::<f32>()
            / held.len() as f32;
        assert!((1.6..2.4).contains(&rate), "{rate}");
    }

    #[test]
    fn the_same_seed_gives_the_same_weights() {
        let (samples, config) = (
            samples(1),
            TrainConfig {
                epochs: 2,
                ..config()
            },
        );
        let run = |seed| {
            Trainer::new(&samples, 3, &config, Device::flex())
                .run(&mut ChaCha8Rng::seed_from_u64(seed))
                .unwrap()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn a_hidden_feature_changes_nothing() {
        let (samples, name) = (samples(1), PAIR_FEATURE_NAMES[0].to_owned());
        let config = TrainConfig {
            epochs: 1,
            without: vec![name],
            ..config()
        };
        let scorer = Trainer::new(&samples, 3, &config, Device::flex())
            .run(&mut ChaCha8Rng::seed_from_u64(1))
            .unwrap();
        let mut changed = samples[0].features.clone();
        let mut rows: Vec<_> = changed.pairs.rows().collect();
        rows[0][0] += 100.0;
        changed.pairs = PairFeatures::from_rows(&rows);
        assert_eq!(scorer.logits(&changed), scorer.logits(&samples[0].features));
    }
}
