//! Models, between the placement log's words and the protocol's.

use std::path::Path;

use client::proto::change_model_request::Change;
use client::proto::{ChangeModelRequest, KeptModel, ModelsReply, ModelsRequest, NewModel};
use ml::TrainedModel;
use placement::{ModelChange, Placement};

use crate::controller::record_of;

/// The models, and which is active.
pub(super) fn told(state: &Placement, request: &ModelsRequest) -> ModelsReply {
    let models = state.models();
    let kept = models.kept().values().map(|kept| {
        let record = &kept.record;
        let is_wanted = record.version == request.with_file;
        KeptModel {
            version: record.version.clone(),
            from_ms: record.from_ms,
            to_ms: record.to_ms,
            window_ms: record.window_ms,
            nll_micronats: record.nll_micronats,
            ewma_nll_micronats: record.ewma_nll_micronats,
            ece_ppm: record.ece_ppm,
            kept_ms: kept.kept_ms,
            origin: kept.origin.as_str().to_owned(),
            reason: kept.reason.clone(),
            file: if is_wanted {
                record.file.clone().into()
            } else {
                Default::default()
            },
        }
    });
    let active = models.active().map(|active| active.record.version.clone());
    ModelsReply {
        models: kept.collect(),
        active: active.unwrap_or_default(),
        next_rollback: models.next_rollback().unwrap_or_default().to_owned(),
    }
}

/// What an operator asks to change, with the version that it is about, or what is wrong with it.
pub(super) fn change(request: &ChangeModelRequest) -> Result<(ModelChange, String), String> {
    match &request.change {
        Some(Change::Keep(NewModel { file, activate })) => {
            let text = String::from_utf8(file.to_vec()).map_err(|_| "a model is a text file")?;
            let model = TrainedModel::from_bytes(text.as_bytes(), Path::new("the model that was sent"));
            let model = model.map_err(|e| e.to_string())?;
            let change = ModelChange::Keep {
                record: Box::new(record_of(&model, text)),
                activate: *activate,
            };
            Ok((change, model.version()))
        }
        Some(Change::Activate(version)) => Ok((
            ModelChange::Activate {
                version: version.clone(),
            },
            version.clone(),
        )),
        Some(Change::Rollback(true)) => Ok((ModelChange::Rollback, String::new())),
        Some(Change::Rollback(false)) | None => Err("no change was named".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_model_is_refused() {
        let asked = |change| ChangeModelRequest {
            change,
            reason: String::new(),
        };
        let keep = |file: &[u8]| {
            let file = file.to_vec().into();
            Some(Change::Keep(NewModel { file, activate: true }))
        };
        for nonsense in [
            None,
            Some(Change::Rollback(false)),
            keep(b"weights"),
            keep(&[0xff]),
        ] {
            assert!(change(&asked(nonsense)).is_err());
        }
        let activate = change(&asked(Some(Change::Activate("burn-1".into()))));
        assert_eq!(activate.map(|(_, version)| version), Ok("burn-1".to_owned()));
        assert_eq!(
            change(&asked(Some(Change::Rollback(true)))).map(|(change, _)| change),
            Ok(ModelChange::Rollback)
        );
    }
}
