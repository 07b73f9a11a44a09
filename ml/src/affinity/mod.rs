//! The host affinity model: a small scorer, trained with burn, served without it.
//!
//! For each pair of a shard and an origin, [`ShardFeatures`] reads what every simple rule would say (as log-shares) and
//! what the keys at rest promise. A shared scorer, one hidden layer beside a linear skip, turns each pair's features
//! into a logit; a softmax over the origins gives the shares. Sharing makes it indifferent to the order and number of
//! origins, and the skip lets it be a mixture of the rules from its first step on. A linear head gives the rate.
//!
//! Training ([`train`]) is the only part that names burn. [`Scorer`] holds the exported weights and computes with
//! plain loops in a fixed order, so that the same weights give the same bits wherever the same maths library is used.
//!
//! Left out: which forecast is acted on. That is the balancer's choice, and the planner's.

mod calibration;
mod features;
mod guarded;
mod host_affinity;
mod model_file;
mod network;
mod recalibration;
mod sample;
mod scorer;
mod standard;
mod thinned;
mod train;
mod train_device;
mod trainer;

pub(crate) use features::{FeatureReader, seen_in};
pub use features::{PAIR_FEATURE_NAMES, PairFeatures, RATE_FEATURE_NAMES, ShardFeatures};
pub use guarded::GuardedModel;
pub use host_affinity::HostAffinityModel;
pub use model_file::{ModelFileError, TrainedModel, TrainingMetrics, TrainingSpan};
pub(crate) use recalibration::Recalibration;
pub use scorer::{Scorer, ScorerError, ScorerWeights};
pub use train::{TrainConfig, TrainError, TrainingSampler, TrainingSet, train};
pub use train_device::TrainDevice;
