//! Where burn computes while it trains: this machine's processor, or an accelerator.
//!
//! The model is the same on either: weights and the order of samples are drawn on the processor from the seed. The sums
//! of a step run in another order on an accelerator, so its weights differ in the last digits, and after thousands of
//! steps by more; a model is therefore named by its weights and never by how it was made.
//! Left out: serving. [`super::Scorer`] needs neither burn nor a card.

use std::fmt;

use burn::tensor::Device;

use super::train::TrainError;

/// Where to train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrainDevice {
    /// The processor: burn's `flex` backend, always there.
    #[default]
    Cpu,
    /// The best graphics card that wgpu finds (Vulkan, Metal, DirectX 12); in builds with the feature `gpu`. Where
    /// there is none, burn panics at the first step.
    Gpu,
}

impl TrainDevice {
    /// Burn's device; an error where this build has none of the kind.
    pub(crate) fn open(self) -> Result<Device, TrainError> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            #[cfg(feature = "gpu")]
            Self::Gpu => Ok(Device::wgpu(Default::default())),
            #[cfg(not(feature = "gpu"))]
            Self::Gpu => Err(TrainError::NoDevice {
                device: self,
                feature: "gpu",
            }),
        }
    }
}

impl fmt::Display for TrainDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => write!(f, "the processor"),
            Self::Gpu => write!(f, "the graphics card"),
        }
    }
}

#[cfg(all(test, not(feature = "gpu")))]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_the_feature_names_it() {
        let error = TrainDevice::Gpu.open().err().map(|error| error.to_string());
        let expected =
            "this build of godwit has no support for the graphics card; build it with the feature \"gpu\"";
        assert_eq!(error.as_deref(), Some(expected));
    }
}
