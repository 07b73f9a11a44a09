//! `godwit model list`, `keep`, `activate` and `rollback`: the models of a cluster.

use std::io::Write;
use std::path::Path;

use client::AdminClient;
use client::proto::change_model_request::Change;
use client::proto::{ChangeModelRequest, KeptModel, ModelsReply, NewModel};
use serde_json::{Value, json};

use super::connect::{self, failed};
use super::outcome::{Exit, VerbError};
use super::text::{self, escaped, numbers, utc, words};
use crate::cli::{ClusterModelVerb, ConnectArgs, ModelListArgs};

const LOOK: &str = "godwit model list";
const MINUTE_MS: u64 = 60_000;

/// Runs a verb that asks a cluster, and lists the models afterwards.
///
/// # Errors
/// When no host answers, a file cannot be read, or the change is refused.
pub async fn models(
    connect: &ConnectArgs,
    verb: &ClusterModelVerb<'_>,
    out: &mut dyn Write,
) -> Result<Exit, VerbError> {
    let calls = connect::operator(connect)?;
    let listing = match verb {
        ClusterModelVerb::List(args) => *args,
        ClusterModelVerb::Keep(args) => {
            let file = read(&args.model)?;
            let keep = Change::Keep(NewModel {
                file: file.into(),
                activate: args.activate,
            });
            change(&calls, connect, keep, &args.reason).await?;
            &ModelListArgs { json: args.json }
        }
        ClusterModelVerb::Activate(args) => {
            change(
                &calls,
                connect,
                Change::Activate(args.model.clone()),
                &args.reason,
            )
            .await?;
            &ModelListArgs { json: args.json }
        }
        ClusterModelVerb::Rollback(args) => {
            change(&calls, connect, Change::Rollback(true), &args.reason).await?;
            &ModelListArgs { json: args.json }
        }
    };
    let told = calls.models("").await.map_err(failed(connect, LOOK))?;
    match listing.json {
        true => writeln!(out, "{:#}", document(&told))?,
        false => writeln!(out, "{}", listed(&told))?,
    }
    Ok(Exit::Ok)
}

async fn change(
    calls: &AdminClient,
    connect: &ConnectArgs,
    change: Change,
    reason: &str,
) -> Result<(), VerbError> {
    let request = ChangeModelRequest {
        change: Some(change),
        reason: reason.to_owned(),
    };
    let reply = calls.change_model(request).await.map_err(failed(connect, LOOK))?;
    match reply.refused.is_empty() {
        true => Ok(()),
        false => Err(VerbError::Refused {
            message: reply.refused,
        }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, VerbError> {
    std::fs::read(path).map_err(|e| VerbError::Refused {
        message: format!("{} cannot be read: {e}", path.display()),
    })
}

fn listed(told: &ModelsReply) -> String {
    if told.models.is_empty() {
        return "the cluster keeps no model".to_owned();
    }
    let columns = [
        words("model"),
        words("state"),
        words("trained on"),
        numbers("window min"),
        numbers("NLL"),
        numbers("EWMA's"),
        numbers("ECE"),
        words("kept"),
        words("by"),
        words("reason"),
    ];
    text::table(columns, told.models.iter().map(|model| row(told, model)))
}

fn row(told: &ModelsReply, model: &KeptModel) -> [String; 10] {
    let millionths = |value: u64| format!("{:.4}", value as f64 / 1e6);
    [
        model.version.clone(),
        state(told, model).to_owned(),
        format!("{} to {}", utc(model.from_ms), utc(model.to_ms)),
        format!("{:.1}", model.window_ms as f64 / MINUTE_MS as f64),
        millionths(model.nll_micronats),
        millionths(model.ewma_nll_micronats),
        millionths(model.ece_ppm.into()),
        utc(model.kept_ms),
        model.origin.clone(),
        escaped(model.reason.as_bytes()),
    ]
}

fn state(told: &ModelsReply, model: &KeptModel) -> &'static str {
    match &model.version {
        version if *version == told.active => "active",
        version if *version == told.next_rollback => "rollback",
        _ => "kept",
    }
}

fn document(told: &ModelsReply) -> Value {
    let model = |model: &KeptModel| {
        json!({
            "version": model.version,
            "state": state(told, model),
            "from_ms": model.from_ms,
            "to_ms": model.to_ms,
            "window_ms": model.window_ms,
            "nll": model.nll_micronats as f64 / 1e6,
            "ewma_nll": model.ewma_nll_micronats as f64 / 1e6,
            "ece_ppm": model.ece_ppm,
            "kept_ms": model.kept_ms,
            "origin": model.origin,
            "reason": model.reason,
        })
    };
    Value::from(told.models.iter().map(model).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_listed_with_what_they_are_for() {
        let model = |version: &str| KeptModel {
            version: version.to_owned(),
            window_ms: 300_000,
            nll_micronats: 912_300,
            origin: "model".into(),
            ..KeptModel::default()
        };
        let told = ModelsReply {
            models: vec![model("burn-1"), model("burn-2"), model("burn-3")],
            active: "burn-2".into(),
            next_rollback: "burn-1".into(),
        };
        let shown = listed(&told);
        for part in ["burn-2", "active", "rollback", "kept", "0.9123", "5.0"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert_eq!(document(&told)[1]["state"], "active");
        assert_eq!(listed(&ModelsReply::default()), "the cluster keeps no model");
    }
}
