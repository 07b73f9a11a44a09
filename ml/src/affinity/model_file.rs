//! A trained model on disk: one header line, then its JSON.
//!
//! The header is `godwit-model FORMAT CHECKSUM LENGTH`: the format's number, the FNV-1a checksum of the body in
//! hexadecimal and its length in bytes. The checksum is also the model's version, so a proposal that names a version
//! names exact weights. A file is written beside its place and renamed, so a reader finds the old one or the new one.
//!
//! Must hold: a file that is cut, changed or of a newer format is an error and never a model.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::scorer::{Scorer, ScorerError, ScorerWeights};
use super::train::TrainConfig;
use crate::profile::WindowLength;
use crate::window::digest;

const MAGIC: &str = "godwit-model";
const FORMAT: u32 = 1;

/// What a model was trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingSpan {
    /// Start of the first window, in milliseconds of workload time.
    pub from_ms: u64,
    /// End of the last.
    pub to_ms: u64,
    /// Length of a window.
    pub window_ms: u64,
    /// Windows between the last one known and the one forecast.
    pub horizon_windows: u64,
    /// The seed.
    pub seed: u64,
}

impl TrainingSpan {
    /// Of no window yet.
    pub(crate) fn before_any(length: WindowLength, config: &TrainConfig) -> Self {
        Self {
            from_ms: 0,
            to_ms: length.as_ms(),
            window_ms: length.as_ms(),
            horizon_windows: config.horizon_windows as u64,
            seed: config.seed,
        }
    }
}

/// How a model did on the latest tenth, which it was not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingMetrics {
    /// Samples trained on.
    pub samples: u64,
    /// Samples held back.
    pub held_samples: u64,
    /// Negative log-likelihood an access, in nats.
    pub nll: f32,
    /// The same of the slow exponentially weighted mean.
    pub ewma_nll: f32,
    /// Expected calibration error, 0 to 1.
    pub ece: f32,
}

/// Weights with where they come from.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainedModel {
    scorer: Scorer,
    span: TrainingSpan,
    metrics: TrainingMetrics,
}

/// Why a model cannot be read or written.
#[derive(Debug, Error)]
pub enum ModelFileError {
    /// There is no file.
    #[error("there is no model at {path}")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The system refused.
    #[error("the model at {path} cannot be read or written")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no model, or not the one that was written.
    #[error("the model at {path} is corrupt: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is of a format that this build does not know.
    #[error("the model at {path} has format {found}; this build reads up to {supported}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest known.
        supported: u32,
    },
    /// The weights do not fit the features that this build reads.
    #[error("the model at {path} does not fit this build")]
    Misfit {
        /// The file.
        path: PathBuf,
        /// How.
        source: ScorerError,
    },
}

#[derive(Serialize, Deserialize)]
struct Body {
    span: TrainingSpan,
    metrics: TrainingMetrics,
    weights: ScorerWeights,
}

impl TrainedModel {
    pub(crate) fn new(scorer: Scorer, span: TrainingSpan, metrics: TrainingMetrics) -> Self {
        Self {
            scorer,
            span,
            metrics,
        }
    }

    /// The scorer.
    pub fn scorer(&self) -> &Scorer {
        &self.scorer
    }

    /// What it was trained on.
    pub fn span(&self) -> &TrainingSpan {
        &self.span
    }

    /// How it did on what it was not trained on.
    pub fn metrics(&self) -> &TrainingMetrics {
        &self.metrics
    }

    /// The name that forecasts and proposals carry, for example `burn-3f2a91`.
    pub fn version(&self) -> String {
        format!("burn-{:06x}", digest(&self.body()) >> 40)
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = self.body();
        let mut bytes = format!("{MAGIC} {FORMAT} {:016x} {}\n", digest(&body), body.len()).into_bytes();
        bytes.extend(body);
        bytes
    }

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, ModelFileError> {
        let bytes = std::fs::read(path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => ModelFileError::Missing {
                path: path.to_path_buf(),
            },
            _ => ModelFileError::Io {
                path: path.to_path_buf(),
                source,
            },
        })?;
        Self::from_bytes(&bytes, path)
    }

    /// Writes the file, replacing one that is there.
    pub fn save(&self, path: &Path) -> Result<(), ModelFileError> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let failed = |source| ModelFileError::Io {
            path: path.to_path_buf(),
            source,
        };
        write_synced(Path::new(&beside), &self.to_bytes()).map_err(failed)?;
        std::fs::rename(&beside, path).map_err(failed)
    }

    /// Reads a file's bytes; `path` is for the messages.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, ModelFileError> {
        let corrupt = |reason: &str| ModelFileError::Corrupt {
            path: path.to_path_buf(),
            reason: reason.to_owned(),
        };
        let end = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(|| corrupt("it has no header"))?;
        let (header, body) = (String::from_utf8_lossy(&bytes[..end]), &bytes[end + 1..]);
        let words: Vec<&str> = header.split(' ').collect();
        let (&MAGIC, Some(found)) = (
            words.first().unwrap_or(&""),
            words.get(1).and_then(|word| word.parse().ok()),
        ) else {
            return Err(corrupt("its header is not a model's"));
        };
        if found == 0 {
            return Err(corrupt("there is no format 0"));
        }
        if found > FORMAT {
            return Err(ModelFileError::Newer {
                path: path.to_path_buf(),
                found,
                supported: FORMAT,
            });
        }
        let expected = [format!("{:016x}", digest(body)), body.len().to_string()];
        if words[2..] != expected {
            return Err(corrupt("its checksum or its length is not that of its header"));
        }
        let body: Body = serde_json::from_slice(body).map_err(|error| corrupt(&error.to_string()))?;
        let misfit = |source| ModelFileError::Misfit {
            path: path.to_path_buf(),
            source,
        };
        let scorer = Scorer::new(body.weights).map_err(misfit)?;
        Ok(Self {
            scorer,
            span: body.span,
            metrics: body.metrics,
        })
    }

    fn body(&self) -> Vec<u8> {
        let body = Body {
            span: self.span.clone(),
            metrics: self.metrics,
            weights: self.scorer.weights().clone(),
        };
        serde_json::to_vec(&body).expect("numbers and field names always become JSON")
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::scorer::flat_weights;
    use super::*;

    fn model() -> TrainedModel {
        let mut weights = flat_weights(3);
        weights
            .hidden_weight
            .iter_mut()
            .enumerate()
            .for_each(|(at, w)| *w = (at as f32 * 0.37).sin() / 3.0);
        let span = TrainingSpan {
            from_ms: 1,
            to_ms: 2,
            window_ms: 3,
            horizon_windows: 1,
            seed: 4,
        };
        let metrics = TrainingMetrics {
            samples: 5,
            held_samples: 1,
            nll: 0.7,
            ewma_nll: 0.9,
            ece: 0.01,
        };
        TrainedModel::new(Scorer::new(weights).unwrap(), span, metrics)
    }

    fn read(bytes: &[u8]) -> Result<TrainedModel, ModelFileError> {
        TrainedModel::from_bytes(bytes, Path::new("m"))
    }

    #[test]
    fn a_saved_model_loads_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        model().save(&path).unwrap();
        let loaded = TrainedModel::load(&path).unwrap();
        assert_eq!((&loaded, loaded.version()), (&model(), model().version()));
        let bits = |model: &TrainedModel| -> Vec<u32> {
            model
                .scorer
                .weights()
                .hidden_weight
                .iter()
                .map(|weight| weight.to_bits())
                .collect()
        };
        assert_eq!(bits(&loaded), bits(&model()));
    }

    #[test]
    fn a_missing_model_is_named() {
        let error = TrainedModel::load(Path::new("/nowhere/model")).unwrap_err();
        assert_eq!(error.to_string(), "there is no model at /nowhere/model");
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = model().to_bytes();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x01;
            assert!(read(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_cut_file_is_corrupt() {
        let bytes = model().to_bytes();
        for length in [0, 5, bytes.len() / 2, bytes.len() - 1] {
            assert!(
                matches!(read(&bytes[..length]), Err(ModelFileError::Corrupt { .. })),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn a_newer_format_is_told_from_a_corrupt_one() {
        let text =
            String::from_utf8(model().to_bytes())
                .unwrap()
                .replacen("godwit-model 1", "godwit-model 2", 1);
        assert!(matches!(
            read(text.as_bytes()),
            Err(ModelFileError::Newer {
                found: 2,
                supported: 1,
                ..
            })
        ));
    }
}
