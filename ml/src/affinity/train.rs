//! Trains the model with burn: Adam, gradient clipping, seeded shuffling.
//!
//! The loss is the cross-entropy between the shares forecast and the shares seen, each (shard, window) weighted by its
//! accesses up to the 99th percentile, so that one burst is not the whole lesson; and, for the rate, the negative
//! log-likelihood of a Poisson count. The latest tenth of the windows is not trained on: it fits the temperature and
//! gives the metrics.
//!
//! Must hold: the same windows, configuration and seed give the same weights.

use placement::Zone;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use thiserror::Error;

use super::calibration::{Calibration, calibrate, negative_log_likelihood};
use super::features::PAIR_FEATURE_NAMES;
use super::model_file::{TrainedModel, TrainingMetrics, TrainingSpan};
use super::sample::{Sample, Sampler, Sampling};
use super::train_device::TrainDevice;
use super::trainer::Trainer;
use crate::profile::WindowLength;
use crate::window::WindowCounts;

const CALIBRATION_PART: usize = 10;
/// Samples that a model is trained on unless its configuration says otherwise.
const SAMPLES_MAX: usize = 400_000;

/// How to train.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainConfig {
    /// Draws the first weights, the order of samples and which idle ones are kept.
    pub seed: u64,
    /// Passes over the samples.
    pub epochs: usize,
    /// Samples a step.
    pub batch: usize,
    /// Adam's step size at the beginning; it falls linearly to a tenth.
    pub learning_rate: f64,
    /// Units of the hidden layer.
    pub hidden: usize,
    /// Windows at the beginning that only fill the histories.
    pub warm_up_windows: usize,
    /// Windows between the last one known and the one forecast, at least 1; 2 leaves a window's time to move homes.
    pub horizon_windows: usize,
    /// Names of pair features that the model must do without, for ablations; see [`crate::PAIR_FEATURE_NAMES`].
    pub without: Vec<String>,
    /// One idle (shard, window) in this many is kept for the rate, at least 1.
    pub idle_keep: u32,
    /// Most samples to train on, at least 1: of more an even part is drawn. Each takes about sixty bytes an origin.
    pub samples_max: usize,
    /// Where burn computes.
    pub device: TrainDevice,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            epochs: 6,
            batch: 1024,
            learning_rate: 0.01,
            hidden: 24,
            warm_up_windows: 24 * 14,
            horizon_windows: 1,
            without: Vec::new(),
            idle_keep: 4,
            samples_max: SAMPLES_MAX,
            device: TrainDevice::Cpu,
        }
    }
}

/// Why a model cannot be trained.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum TrainError {
    /// There is too little to learn from.
    #[error(
        "{samples} active (shard, window) pairs after the warm-up are too few to train on; {wanted} are needed"
    )]
    TooFew {
        /// How many there are.
        samples: usize,
        /// How many it takes.
        wanted: usize,
    },
    /// A count in the configuration that must not be zero.
    #[error("the training configuration's {field} must not be zero")]
    Zero {
        /// Which.
        field: &'static str,
    },
    /// The model must do without a feature that there is not.
    #[error("there is no feature {name:?} to do without")]
    UnknownFeature {
        /// Its name.
        name: String,
    },
    /// This build cannot train on the device.
    #[error("this build of godwit has no support for {device}; build it with the feature {feature:?}")]
    NoDevice {
        /// The device wanted.
        device: TrainDevice,
        /// The cargo feature that it takes.
        feature: &'static str,
    },
    /// The loss left the range of numbers.
    #[error("the loss is no longer finite in epoch {epoch}; a smaller learning rate may help")]
    Diverged {
        /// When, counted from 0.
        epoch: usize,
    },
}

const ACTIVE_SAMPLES_MIN: usize = 200;

/// Trains on consecutive windows.
pub fn train(
    windows: &[WindowCounts],
    zones: &[Zone],
    length: WindowLength,
    config: &TrainConfig,
) -> Result<TrainedModel, TrainError> {
    TrainingSet::new(windows, zones, length, config)?.train(config)
}

/// What models are trained on: read off the windows once, for any number of seeds.
#[derive(Clone, Debug)]
pub struct TrainingSet {
    samples: Vec<Sample>,
    origins: usize,
    span: TrainingSpan,
}

impl TrainingSet {
    /// Reads consecutive windows; see [`TrainingSampler`].
    pub fn new(
        windows: &[WindowCounts],
        zones: &[Zone],
        length: WindowLength,
        config: &TrainConfig,
    ) -> Result<Self, TrainError> {
        let mut sampler = TrainingSampler::new(zones, length, config)?;
        windows.iter().for_each(|window| sampler.observe(window));
        sampler.finish()
    }

    /// Trains one model. The configuration's warm-up, horizon and numbers of samples are those of the set.
    pub fn train(&self, config: &TrainConfig) -> Result<TrainedModel, TrainError> {
        check(config)?;
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        let (fit, held) = self
            .samples
            .split_at(self.samples.len() - self.samples.len() / CALIBRATION_PART);
        let device = config.device.open()?;
        let scorer = Trainer::new(fit, self.origins, config, device).run(&mut rng)?;
        let calibration = calibrate(&scorer, held);
        let span = TrainingSpan {
            seed: config.seed,
            ..self.span.clone()
        };
        Ok(TrainedModel::new(
            scorer.with_temperature(calibration.temperature),
            span,
            metrics_of(held, calibration, fit.len()),
        ))
    }
}

/// Reads a training set off consecutive windows, one by one: a log of any length, in memory that is bounded by
/// [`TrainConfig::samples_max`].
#[derive(Clone, Debug)]
pub struct TrainingSampler {
    sampler: Sampler,
    origins: usize,
    length: WindowLength,
    span: TrainingSpan,
}

impl TrainingSampler {
    /// Of the configuration it takes the warm-up, the horizon, how many samples stay, and the seed that draws them.
    pub fn new(zones: &[Zone], length: WindowLength, config: &TrainConfig) -> Result<Self, TrainError> {
        check(config)?;
        let sampling = Sampling {
            warm_up: config.warm_up_windows,
            horizon: config.horizon_windows,
            idle_keep: config.idle_keep,
            samples_max: config.samples_max,
            seed: config.seed,
        };
        Ok(Self {
            sampler: Sampler::new(sampling, zones, length),
            origins: zones.len(),
            length,
            span: TrainingSpan::before_any(length, config),
        })
    }

    /// Takes in the next window.
    pub fn observe(&mut self, window: &WindowCounts) {
        let start_ms = self.length.start_ms(window.window);
        if self.sampler.windows() == 0 {
            self.span.from_ms = start_ms;
        }
        self.span.to_ms = start_ms + self.length.as_ms();
        self.sampler.observe(window);
    }

    /// The set.
    ///
    /// # Errors
    /// When there is too little to learn from.
    pub fn finish(self) -> Result<TrainingSet, TrainError> {
        let samples = self.sampler.into_samples();
        let active = samples.iter().filter(|sample| sample.accesses() > 0.0).count();
        if active < ACTIVE_SAMPLES_MIN {
            return Err(TrainError::TooFew {
                samples: active,
                wanted: ACTIVE_SAMPLES_MIN,
            });
        }
        Ok(TrainingSet {
            samples,
            origins: self.origins,
            span: self.span,
        })
    }
}

fn check(config: &TrainConfig) -> Result<(), TrainError> {
    let counts = [
        ("epochs", config.epochs),
        ("batch", config.batch),
        ("hidden", config.hidden),
        ("horizon_windows", config.horizon_windows),
        ("idle_keep", config.idle_keep as usize),
        ("samples_max", config.samples_max),
    ];
    if let Some((field, _)) = counts.iter().find(|(_, count)| *count == 0) {
        return Err(TrainError::Zero { field });
    }
    match config
        .without
        .iter()
        .find(|name| !PAIR_FEATURE_NAMES.contains(&name.as_str()))
    {
        Some(name) => Err(TrainError::UnknownFeature { name: name.clone() }),
        None => Ok(()),
    }
}

fn metrics_of(held: &[Sample], calibration: Calibration, trained_on: usize) -> TrainingMetrics {
    let slow_ewma = |sample: &Sample| -> Vec<f32> {
        let at = PAIR_FEATURE_NAMES
            .iter()
            .position(|name| *name == "ewma-0.02")
            .unwrap_or(0);
        let pairs = &sample.features.pairs;
        pairs.column(at).iter().map(|log| log.exp()).collect()
    };
    let ewma: Vec<Vec<f32>> = held.iter().map(slow_ewma).collect();
    TrainingMetrics {
        samples: trained_on as u64,
        held_samples: held.len() as u64,
        nll: calibration.nll,
        ewma_nll: negative_log_likelihood(&ewma, held),
        ece: calibration.ece,
    }
}

#[cfg(test)]
mod tests {
    use placement::{ShardId, WindowId};

    use super::*;

    #[test]
    fn a_long_log_is_trained_on_in_part_and_the_part_is_spread_over_all_of_it() {
        let zones = [Zone::from("a"), Zone::from("b")];
        let window = |at: u64| {
            let mut counts = WindowCounts::empty(WindowId(at));
            for shard in 1..=4 {
                counts.count(ShardId(shard), &zones[((at + shard) % 2) as usize], 1, 0);
            }
            counts
        };
        let windows: Vec<WindowCounts> = (0..1000).map(window).collect();
        let samples = |samples_max| {
            let config = TrainConfig {
                epochs: 1,
                warm_up_windows: 10,
                samples_max,
                ..TrainConfig::default()
            };
            let model = train(&windows, &zones, WindowLength::HOUR, &config).unwrap();
            let metrics = *model.metrics();
            (metrics.samples + metrics.held_samples, model.span().to_ms)
        };
        let hour_ms = WindowLength::HOUR.as_ms();
        assert_eq!(samples(4_000), (3_960, 1000 * hour_ms));
        let (thinned, to_ms) = samples(600);
        assert!((200..=600).contains(&thinned), "{thinned}");
        assert_eq!(to_ms, 1000 * hour_ms);
    }

    #[test]
    fn a_configuration_with_a_zero_is_refused() {
        let config = TrainConfig {
            batch: 0,
            ..TrainConfig::default()
        };
        assert_eq!(
            train(&[], &[], WindowLength::HOUR, &config),
            Err(TrainError::Zero { field: "batch" })
        );
    }

    #[test]
    fn a_feature_that_is_not_cannot_be_hidden() {
        let config = TrainConfig {
            without: vec!["moon".into()],
            ..TrainConfig::default()
        };
        let outcome = train(&[], &[], WindowLength::HOUR, &config);
        assert_eq!(outcome, Err(TrainError::UnknownFeature { name: "moon".into() }));
    }

    #[test]
    fn too_little_to_learn_from_is_an_error() {
        let outcome = train(
            &[],
            &[Zone::from("a")],
            WindowLength::HOUR,
            &TrainConfig::default(),
        );
        assert_eq!(
            outcome,
            Err(TrainError::TooFew {
                samples: 0,
                wanted: ACTIVE_SAMPLES_MIN
            })
        );
    }
}
