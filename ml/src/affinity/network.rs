//! The scorer as a burn module, for training only.
//!
//! Weights start from a seed that is handed in: burn's own initialisers draw from a generator of the process.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, TensorData, activation};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::features::{PAIR_FEATURES, RATE_FEATURES};

/// The network: a hidden layer beside a linear skip for shares, a linear head for the rate.
#[derive(Module, Debug)]
pub(crate) struct AffinityNetwork {
    hidden: Linear,
    output: Linear,
    skip: Linear,
    rate: Linear,
}

/// The trained arrays, row-major, inputs before outputs.
pub(crate) struct ExportedLayers {
    pub(crate) hidden_weight: Vec<f32>,
    pub(crate) hidden_bias: Vec<f32>,
    pub(crate) output_weight: Vec<f32>,
    pub(crate) skip_weight: Vec<f32>,
    pub(crate) rate_weight: Vec<f32>,
    pub(crate) rate_bias: f32,
}

impl AffinityNetwork {
    /// A network of `hidden` hidden units with weights drawn from `rng`.
    pub(crate) fn new(hidden: usize, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        Self {
            hidden: linear(PAIR_FEATURES, hidden, true, rng, device),
            output: linear(hidden, 1, false, rng, device),
            skip: linear(PAIR_FEATURES, 1, false, rng, device),
            rate: linear(RATE_FEATURES, 1, true, rng, device),
        }
    }

    /// Logits `[batch, origins]` of standardised pair features `[batch, origins, F]`.
    pub(crate) fn logits(&self, pairs: Tensor<3>) -> Tensor<2> {
        let [batch, origins, _] = pairs.dims();
        let hidden = activation::relu(self.hidden.forward(pairs.clone()));
        (self.output.forward(hidden) + self.skip.forward(pairs)).reshape([batch, origins])
    }

    /// Logarithms of rates `[batch]` of standardised rate features `[batch, G]`.
    pub(crate) fn log_rates(&self, rows: Tensor<2>) -> Tensor<1> {
        let [batch, _] = rows.dims();
        self.rate.forward(rows).reshape([batch])
    }

    /// Copies the weights out.
    pub(crate) fn export(&self) -> ExportedLayers {
        ExportedLayers {
            hidden_weight: weight_of(&self.hidden),
            hidden_bias: bias_of(&self.hidden),
            output_weight: weight_of(&self.output),
            skip_weight: weight_of(&self.skip),
            rate_weight: weight_of(&self.rate),
            rate_bias: bias_of(&self.rate).first().copied().unwrap_or(0.0),
        }
    }
}

/// A layer with weights uniform in +-1/sqrt(inputs) and a bias, if it has one, of zero.
fn linear(inputs: usize, outputs: usize, biased: bool, rng: &mut ChaCha8Rng, device: &Device) -> Linear {
    let bound = 1.0 / (inputs as f32).sqrt();
    let weights: Vec<f32> = (0..inputs * outputs)
        .map(|_| rng.random_range(-bound..bound))
        .collect();
    let bias = biased.then(|| Param::from_data(TensorData::new(vec![0f32; outputs], [outputs]), device));
    Linear {
        weight: Param::from_data(TensorData::new(weights, [inputs, outputs]), device),
        bias,
    }
}

fn weight_of(layer: &Linear) -> Vec<f32> {
    floats(layer.weight.val().into_data())
}

fn bias_of(layer: &Linear) -> Vec<f32> {
    layer
        .bias
        .as_ref()
        .map(|bias| floats(bias.val().into_data()))
        .unwrap_or_default()
}

/// The numbers of a tensor that this module made of `f32`.
pub(crate) fn floats(data: TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}
