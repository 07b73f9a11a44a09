//! `godwit admin trust`, `shadow` and `unshadow`: what came of moves, and whose proposals are carried out.

use client::proto::{ChangeLimitsRequest, MoveTrial, RestoreTrustRequest, TrackRecord, TrustReply};
use serde_json::{Value, json};

use super::VerbError;
use super::admin::Operator;
use super::documents::each;
use super::listing::Listing;
use super::text::{self, escaped, id, nonzero, numbers, utc, words};
use crate::cli::{BetArg, ShadowArgs, TrustArgs};

impl Operator<'_> {
    /// Shows what came of moves, once an origin has its right back if that is asked for.
    pub(super) async fn trust(&self, args: TrustArgs) -> Result<Listing, VerbError> {
        if let Some(origin) = args.restore {
            let request = RestoreTrustRequest {
                origin: origin.name().to_owned(),
                reason: args.reason,
            };
            let reply = self.calls.restore_trust(request).await.map_err(self.failed())?;
            if !reply.refused.is_empty() {
                return Err(VerbError::Refused {
                    message: reply.refused,
                });
            }
        }
        let reply = self.calls.trust(args.limit).await.map_err(self.failed())?;
        Ok(Listing::Trust(reply))
    }

    pub(super) async fn shadow(&self, args: ShadowArgs) -> Result<Listing, VerbError> {
        self.change_limits(ChangeLimitsRequest {
            shadow: names(&args.origins),
            reason: args.reason,
            ..ChangeLimitsRequest::default()
        })
        .await
    }

    pub(super) async fn unshadow(&self, args: ShadowArgs) -> Result<Listing, VerbError> {
        self.change_limits(ChangeLimitsRequest {
            unshadow: names(&args.origins),
            reason: args.reason,
            ..ChangeLimitsRequest::default()
        })
        .await
    }
}

fn names(origins: &[BetArg]) -> Vec<String> {
    origins.iter().map(|origin| origin.name().to_owned()).collect()
}

pub(super) fn trust_text(told: &TrustReply) -> String {
    let records = match told.records.is_empty() {
        true => "no move was judged yet".to_owned(),
        false => records_text(&told.records),
    };
    let mut parts = vec![records];
    for (head, trials) in [
        ("on trial", &told.trials),
        ("judged, newest first", &told.verdicts),
    ] {
        if !trials.is_empty() {
            parts.push(format!("{head}\n{}", trials_text(trials)));
        }
    }
    parts.join("\n\n")
}

fn records_text(records: &[TrackRecord]) -> String {
    let columns = [
        words("origin"),
        words("policy"),
        words("proposals"),
        numbers("moves"),
        numbers("in shadow"),
        numbers("predicted"),
        numbers("saved"),
        numbers("judged next"),
        numbers("of them saved"),
    ];
    let row = |record: &TrackRecord| {
        let carried = match record.distrusted_since_ms {
            0 => "carried out".to_owned(),
            since_ms => format!("in shadow since {}", utc(since_ms)),
        };
        [
            escaped(record.origin.as_bytes()),
            escaped(record.policy.as_bytes()),
            carried,
            record.moves.to_string(),
            record.shadows.to_string(),
            millis(record.predicted_micros),
            millis(record.measured_micros),
            record.recent.to_string(),
            part(record.recent_measured_micros, record.recent_predicted_micros),
        ]
    };
    text::table(columns, records.iter().map(row))
}

pub(super) fn trials_text(trials: &[MoveTrial]) -> String {
    let columns = [
        numbers("shard"),
        numbers("migration"),
        words("origin"),
        words("policy"),
        numbers("from"),
        numbers("to"),
        numbers("windows"),
        numbers("predicted"),
        numbers("saved"),
        words("local"),
        words("ended"),
    ];
    let row = |trial: &MoveTrial| {
        let percent = |accesses: u64| (accesses * 100).checked_div(trial.accesses).unwrap_or(0);
        let migration = match trial.migration_id {
            0 => "shadow".to_owned(),
            migration => id(migration),
        };
        let local = format!(
            "{}% -> {}%",
            percent(trial.local_before),
            percent(trial.local_after)
        );
        [
            trial.shard_id.to_string(),
            migration,
            escaped(trial.origin.as_bytes()),
            escaped(trial.policy.as_bytes()),
            trial.from_home.to_string(),
            trial.to_home.to_string(),
            trial.windows.to_string(),
            millis(trial.predicted_micros),
            millis(trial.measured_micros),
            if trial.accesses == 0 { String::new() } else { local },
            if trial.ended_ms == 0 {
                String::new()
            } else {
                utc(trial.ended_ms)
            },
        ]
    };
    text::table(columns, trials.iter().map(row))
}

/// Latency summed over accesses.
fn millis(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let micros = micros.unsigned_abs();
    format!("{sign}{}.{:03} ms", micros / 1_000, micros % 1_000)
}

fn part(measured: i64, predicted: i64) -> String {
    match (i128::from(measured) * 100).checked_div(i128::from(predicted)) {
        Some(percent) => format!("{percent}%"),
        None => String::new(),
    }
}

pub(super) fn trust_document(told: &TrustReply) -> Value {
    json!({
        "records": each(&told.records, record),
        "trials": each(&told.trials, trial),
        "verdicts": each(&told.verdicts, trial),
    })
}

fn record(record: &TrackRecord) -> Value {
    json!({
        "origin": record.origin,
        "policy": record.policy,
        "distrusted_since_ms": nonzero(record.distrusted_since_ms),
        "moves": record.moves,
        "shadows": record.shadows,
        "predicted_micros": record.predicted_micros,
        "measured_micros": record.measured_micros,
        "recent": record.recent,
        "recent_predicted_micros": record.recent_predicted_micros,
        "recent_measured_micros": record.recent_measured_micros,
    })
}

pub(super) fn trial(trial: &MoveTrial) -> Value {
    json!({
        "shard_id": trial.shard_id,
        "migration_id": nonzero(trial.migration_id),
        "origin": trial.origin,
        "policy": trial.policy,
        "model": trial.model,
        "from_home": trial.from_home,
        "to_home": trial.to_home,
        "windows": trial.windows,
        "predicted_micros": trial.predicted_micros,
        "measured_micros": trial.measured_micros,
        "accesses": trial.accesses,
        "local_before": trial.local_before,
        "local_after": trial.local_after,
        "ended_ms": nonzero(trial.ended_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_trials_are_told_with_what_they_came_to() {
        let told = TrustReply {
            records: vec![TrackRecord {
                origin: "model".into(),
                policy: "burn-model".into(),
                distrusted_since_ms: 86_400_000,
                moves: 3,
                predicted_micros: 4_000,
                measured_micros: -1_500,
                recent: 2,
                recent_predicted_micros: 1_000,
                recent_measured_micros: 250,
                ..TrackRecord::default()
            }],
            trials: vec![MoveTrial {
                shard_id: 7,
                accesses: 10,
                local_after: 9,
                ..MoveTrial::default()
            }],
            verdicts: Vec::new(),
        };
        let shown = trust_text(&told);
        for part in [
            "in shadow since 1970-01-02",
            "-1.500 ms",
            "25%",
            "shadow",
            "0% -> 90%",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let document = trust_document(&told);
        assert_eq!(document["records"][0]["measured_micros"], -1_500);
        assert_eq!(document["trials"][0]["migration_id"], Value::Null);
        assert_eq!(trust_text(&TrustReply::default()), "no move was judged yet");
    }
}
