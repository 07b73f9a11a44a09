//! The models that may forecast: what each was trained on, how it did, its file, and which of them is active.
//!
//! A model is small, so its whole file is kept here: whoever controls the cluster has it at hand, on whichever host, and a
//! proposal that names a version names weights that can be looked at. What a file means is the forecaster's affair.
//!
//! Must hold: the active model is kept; so are those that a rollback would come to, as long as there is room.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::rules::Origin;

/// Models kept at most. The oldest that is neither active nor next to come back makes room.
pub const MODELS_MAX: usize = 8;
/// Largest file of a model, in bytes.
pub const MODEL_BYTES_MAX: usize = 256 * 1024;
/// Earlier models that a rollback can come back to.
pub const ROLLBACKS_MAX: usize = MODELS_MAX - 2;

/// A trained model, as it is handed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecord {
    /// Names exact weights, for example `burn-3f2a91`.
    pub version: String,
    /// Start of what it was trained on, in milliseconds of workload time.
    pub from_ms: u64,
    /// End of that.
    pub to_ms: u64,
    /// Length of a window.
    pub window_ms: u64,
    /// Negative log-likelihood an access on what was held back, in millionths of a nat.
    pub nll_micronats: u64,
    /// The same of a slow average.
    pub ewma_nll_micronats: u64,
    /// Expected calibration error, in parts per million.
    pub ece_ppm: u32,
    /// The file.
    pub file: String,
}

/// A model with how it came to be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptModel {
    /// The model.
    pub record: ModelRecord,
    /// Mechanism time.
    pub kept_ms: u64,
    /// Who handed it in.
    pub origin: Origin,
    /// Why.
    pub reason: String,
}

/// A change of the models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum ModelChange {
    /// Keeps a model, and lets it forecast from now on if `activate` is set.
    Keep {
        /// The model.
        record: Box<ModelRecord>,
        /// Whether it is active at once.
        activate: bool,
    },
    /// Lets a kept model forecast from now on.
    Activate {
        /// Its version.
        version: String,
    },
    /// Lets the model forecast that did before the active one.
    Rollback,
}

/// All models.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Models {
    kept: BTreeMap<String, KeptModel>,
    active: Option<String>,
    /// Those that were active before, the latest last.
    former: Vec<String>,
}

impl Models {
    /// The models by version.
    pub fn kept(&self) -> &BTreeMap<String, KeptModel> {
        &self.kept
    }

    /// The model that forecasts; `None`: the one that hosts are configured with, if any.
    pub fn active(&self) -> Option<&KeptModel> {
        self.kept.get(self.active.as_ref()?)
    }

    /// The version that a rollback would come to.
    pub fn next_rollback(&self) -> Option<&str> {
        self.former.last().map(String::as_str)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Keeps a model, in the place of the oldest where there is no room.
    pub(crate) fn keep(&mut self, model: KeptModel) {
        while self.kept.len() >= MODELS_MAX {
            let is_free =
                |version: &String| self.active.as_ref() != Some(version) && !self.former.contains(version);
            let free = self.kept.iter().filter(|(version, _)| is_free(version));
            let oldest = free
                .min_by_key(|(_, kept)| kept.kept_ms)
                .map(|(version, _)| version.clone());
            let oldest = oldest.or_else(|| (!self.former.is_empty()).then(|| self.former.remove(0)));
            let Some(oldest) = oldest else { break };
            self.kept.remove(&oldest);
        }
        self.kept.insert(model.record.version.clone(), model);
    }

    /// Makes a kept model the active one.
    pub(crate) fn activate(&mut self, version: String) {
        let before = self.active.replace(version);
        self.former.extend(before);
        let over = self.former.len().saturating_sub(ROLLBACKS_MAX);
        self.former.drain(..over);
    }

    /// Makes the one before the active again.
    pub(crate) fn roll_back(&mut self) -> Option<String> {
        let before = self.former.pop()?;
        self.active = Some(before.clone());
        Some(before)
    }
}

impl ModelRecord {
    /// What is wrong with it, if anything.
    pub(crate) fn fault(&self) -> Option<String> {
        let is_name = !self.version.is_empty() && self.version.len() <= 64 && self.version.is_ascii();
        if !is_name {
            return Some("a version is 1 to 64 ASCII characters".to_owned());
        }
        if self.file.len() > MODEL_BYTES_MAX {
            return Some(format!("a model is {MODEL_BYTES_MAX} bytes at most"));
        }
        (self.from_ms >= self.to_ms || self.window_ms == 0)
            .then(|| "a model was trained on some span".to_owned())
    }
}
