//! The limits of placement, between the protocol's words and the placement log's.

use std::collections::BTreeSet;

use client::proto::{ChangeLimitsRequest, PlacementLimits};
use placement::{Limits, LimitsChange, Origin, SnapshotRate};

/// The limits in force, as operators are told.
pub(super) fn of(limits: &Limits) -> PlacementLimits {
    PlacementLimits {
        paused: limits
            .paused
            .iter()
            .map(|origin| origin.as_str().to_owned())
            .collect(),
        moves_in_max: limits.moves_in_max,
        moves_out_max: limits.moves_out_max,
        homes_max: limits.homes_max,
        move_dwell_windows: limits.move_dwell_windows,
        home_dwell_windows: limits.home_dwell_windows,
        dead_after_ms: limits.dead_after_ms,
        snapshot_bytes_per_s: limits.snapshot_bytes_per_s,
        move_bytes_per_s: limits.move_bytes_per_s,
        shadow: limits
            .shadow
            .iter()
            .map(|origin| origin.as_str().to_owned())
            .collect(),
        trust_moves: limits.trust.moves,
        trust_share_ppm: limits.trust.share_ppm,
        trust_windows: limits.trust.windows,
        history_age_ms: limits.history.age_ms,
        history_events: limits.history.events,
    }
}

/// What an operator asks to change, or what is wrong with it.
pub(super) fn change(request: &ChangeLimitsRequest) -> Result<LimitsChange, String> {
    let snapshot_rate = rate(request.snapshot_bytes_per_s, request.snapshot_as_configured)?;
    let move_rate = rate(request.move_bytes_per_s, request.move_as_configured)?;
    Ok(LimitsChange {
        pause: origins(&request.pause)?,
        resume: origins(&request.resume)?,
        moves_in_max: request.moves_in_max,
        moves_out_max: request.moves_out_max,
        homes_max: request.homes_max,
        move_dwell_windows: request.move_dwell_windows,
        home_dwell_windows: request.home_dwell_windows,
        dead_after_ms: request.dead_after_ms,
        snapshot_rate,
        move_rate,
        shadow: origins(&request.shadow)?,
        unshadow: origins(&request.unshadow)?,
        trust_moves: request.trust_moves,
        trust_share_ppm: request.trust_share_ppm,
        trust_windows: request.trust_windows,
        history_age_ms: request.history_age_ms,
        history_events: request.history_events,
    })
}

fn rate(bytes_per_s: Option<u64>, as_configured: bool) -> Result<Option<SnapshotRate>, String> {
    match (bytes_per_s, as_configured) {
        (Some(_), true) => Err("a rate of snapshots is either a number or as configured".to_owned()),
        (Some(bytes), false) => Ok(Some(SnapshotRate::BytesPerS(bytes))),
        (None, true) => Ok(Some(SnapshotRate::AsConfigured)),
        (None, false) => Ok(None),
    }
}

fn origins(names: &[String]) -> Result<BTreeSet<Origin>, String> {
    let origin = |name: &String| Origin::named(name).ok_or_else(|| format!("no origin is called {name:?}"));
    names.iter().map(origin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_and_nonsense_is_named() {
        let request = ChangeLimitsRequest {
            pause: vec!["model".into(), "balance".into()],
            homes_max: Some(5),
            snapshot_as_configured: true,
            move_bytes_per_s: Some(3 << 20),
            ..ChangeLimitsRequest::default()
        };
        let limits = Limits {
            snapshot_bytes_per_s: Some(1 << 20),
            ..Limits::default()
        };
        let changed = of(&limits.changed(&change(&request).unwrap()));
        assert_eq!(changed.paused, ["balance", "model"]);
        assert_eq!((changed.homes_max, changed.snapshot_bytes_per_s), (5, None));
        assert_eq!(changed.move_bytes_per_s, Some(3 << 20));
        assert_eq!(changed.moves_in_max, limits.moves_in_max);

        let both = ChangeLimitsRequest {
            snapshot_bytes_per_s: Some(1),
            ..request
        };
        assert!(change(&both).unwrap_err().contains("either"));
        let unknown = ChangeLimitsRequest {
            resume: vec!["fortune".into()],
            ..ChangeLimitsRequest::default()
        };
        assert_eq!(change(&unknown).unwrap_err(), "no origin is called \"fortune\"");
    }
}
