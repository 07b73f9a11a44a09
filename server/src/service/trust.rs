//! What came of moves, between the placement log's words and the protocol's.

use client::proto::{MoveTrial, TrackRecord, TrustReply};
use placement::{Origin, Placement, ShardId, Trial, Verdict};

/// Verdicts told where the asker names no number.
const VERDICTS_DEFAULT: u32 = 20;
/// Verdicts of a shard that explain it.
const VERDICTS_OF_SHARD: usize = 3;

/// The records, the trials, and the last verdicts.
pub(super) fn told(state: &Placement, limit: u32) -> TrustReply {
    let limit = match limit {
        0 => VERDICTS_DEFAULT,
        limit => limit,
    };
    let trust = state.trust();
    let record = |(origin, policy, record): (Origin, &str, &placement::TrackRecord)| {
        let (predicted, measured) = record.recent_sums();
        let micros = |sum: i128| i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX });
        let distrusted = state.is_distrusted(origin, policy);
        TrackRecord {
            origin: origin.as_str().to_owned(),
            policy: policy.to_owned(),
            distrusted_since_ms: record.distrusted_since_ms.filter(|_| distrusted).unwrap_or(0),
            moves: record.totals.moves,
            shadows: record.totals.shadows,
            predicted_micros: record.totals.predicted_micros,
            measured_micros: record.totals.measured_micros,
            recent: u32::try_from(record.recent.len()).unwrap_or(u32::MAX),
            recent_predicted_micros: micros(predicted),
            recent_measured_micros: micros(measured),
        }
    };
    let verdicts = trust.verdicts().rev();
    TrustReply {
        records: trust.records().map(record).collect(),
        trials: trust.trials().values().map(on_trial).collect(),
        verdicts: verdicts
            .take(usize::try_from(limit).unwrap_or(usize::MAX))
            .map(ended)
            .collect(),
    }
}

/// A shard's trials, and the verdicts on its last moves.
pub(super) fn of_shard(state: &Placement, shard: ShardId) -> (Vec<MoveTrial>, Vec<MoveTrial>) {
    let trust = state.trust();
    let trials = trust.trials().values().filter(|trial| trial.shard == shard);
    let verdicts = trust.verdicts().rev();
    let verdicts = verdicts.filter(|verdict| verdict.trial.shard == shard);
    (
        trials.map(on_trial).collect(),
        verdicts.take(VERDICTS_OF_SHARD).map(ended).collect(),
    )
}

/// The speculative origins whose proposals are not carried out, under a policy.
pub(super) fn shadowed(state: &Placement, policy: &str) -> Vec<String> {
    let speculative = Origin::ALL.into_iter().filter(|origin| origin.is_speculative());
    let shadowed = speculative.filter(|origin| state.is_shadowed(*origin, policy));
    shadowed.map(|origin| origin.as_str().to_owned()).collect()
}

fn on_trial(trial: &Trial) -> MoveTrial {
    MoveTrial {
        shard_id: trial.shard.0,
        migration_id: trial.migration.map_or(0, |migration| migration.0),
        origin: trial.origin.as_str().to_owned(),
        policy: trial.policy.clone(),
        model: trial.model.clone(),
        from_home: trial.before.home.0,
        to_home: trial.after.home.0,
        windows: trial.windows,
        predicted_micros: trial
            .predicted_micros
            .saturating_mul(i64::from(trial.windows.max(1))),
        measured_micros: trial.measured.gain_micros,
        accesses: trial.measured.accesses,
        local_before: trial.measured.local_before,
        local_after: trial.measured.local_after,
        ended_ms: 0,
    }
}

fn ended(verdict: &Verdict) -> MoveTrial {
    MoveTrial {
        ended_ms: verdict.at_ms,
        ..on_trial(&verdict.trial)
    }
}
