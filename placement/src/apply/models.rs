//! Models come, are made active, and are rolled back.

use super::{Cause, Outcome, check_texts};
use crate::history::EventKind;
use crate::models::{KeptModel, ModelChange, ModelRecord};
use crate::response::{Accepted, Refusal};
use crate::state::{About, Placement, Stamp};

impl Placement {
    pub(super) fn change_model(&mut self, stamp: Stamp, change: ModelChange, cause: Cause) -> Outcome {
        check_texts([&cause.reason])?;
        match change {
            ModelChange::Keep { record, activate } => self.keep_model(stamp, *record, activate, cause),
            ModelChange::Activate { version } => self.activate_model(stamp, version, &cause),
            ModelChange::Rollback => {
                let left = self.models.active().map(|kept| kept.record.version.clone());
                let version = self.models.roll_back();
                let version =
                    version.ok_or_else(|| Refusal::Invalid("no model was active before".to_owned()))?;
                let left = left.unwrap_or_default();
                self.note_model(
                    stamp,
                    format!("{version} forecasts again, instead of {left}, {cause}"),
                );
                Ok(Accepted::Applied)
            }
        }
    }

    fn keep_model(&mut self, stamp: Stamp, record: ModelRecord, activate: bool, cause: Cause) -> Outcome {
        if let Some(fault) = record.fault() {
            return Err(Refusal::Invalid(fault));
        }
        let version = record.version.clone();
        if let Some(known) = self.models.kept().get(&version) {
            if known.record != record {
                let fault = format!("another model is kept as {version}");
                return Err(Refusal::Invalid(fault));
            }
        } else {
            let text = cause.to_string();
            self.models.keep(KeptModel {
                record,
                kept_ms: stamp.now_ms,
                origin: cause.origin,
                reason: cause.reason.clone(),
            });
            self.note_model(stamp, format!("{version} is kept, {text}"));
        }
        match activate {
            true => self.activate_model(stamp, version, &cause),
            false => Ok(Accepted::Applied),
        }
    }

    fn activate_model(&mut self, stamp: Stamp, version: String, cause: &Cause) -> Outcome {
        if !self.models.kept().contains_key(&version) {
            return Err(Refusal::UnknownModel(version));
        }
        if self
            .models
            .active()
            .is_some_and(|active| active.record.version == version)
        {
            return Ok(Accepted::Unchanged);
        }
        self.models.activate(version.clone());
        self.note_model(stamp, format!("{version} forecasts, {cause}"));
        Ok(Accepted::Applied)
    }

    fn note_model(&mut self, stamp: Stamp, detail: String) {
        self.record(stamp, EventKind::ModelChanged, About::default(), detail);
    }
}
