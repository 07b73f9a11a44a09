//! `godwit admin pause`, `resume`, `limits` and `cancel`: what placement may do, and what it is to leave alone.

use client::proto::{CancelRequest, ChangeLimitsRequest, PlacementLimits};
use serde_json::{Value, json};

use super::VerbError;
use super::admin::Operator;
use super::listing::Listing;
use super::text::{self, escaped};
use crate::cli::{CancelArgs, LimitsArgs, PauseArgs, RateArg};

impl Operator<'_> {
    pub(super) async fn pause(&self, args: PauseArgs) -> Result<Listing, VerbError> {
        self.change_limits(ChangeLimitsRequest {
            pause: names(&args),
            reason: args.reason,
            ..ChangeLimitsRequest::default()
        })
        .await
    }

    pub(super) async fn resume(&self, args: PauseArgs) -> Result<Listing, VerbError> {
        self.change_limits(ChangeLimitsRequest {
            resume: names(&args),
            reason: args.reason,
            ..ChangeLimitsRequest::default()
        })
        .await
    }

    /// Shows the limits, or changes those that are named.
    pub(super) async fn limits(&self, args: LimitsArgs) -> Result<Listing, VerbError> {
        let request = change(args);
        let nothing = ChangeLimitsRequest {
            reason: request.reason.clone(),
            ..ChangeLimitsRequest::default()
        };
        if request != nothing {
            return self.change_limits(request).await;
        }
        let reply = self.calls.limits().await.map_err(self.failed())?;
        Ok(Listing::Limits(reply.limits.unwrap_or_default()))
    }

    pub(super) async fn change_limits(&self, request: ChangeLimitsRequest) -> Result<Listing, VerbError> {
        let reply = self.calls.change_limits(request).await.map_err(self.failed())?;
        match reply.refused.is_empty() {
            true => Ok(Listing::Limits(reply.limits.unwrap_or_default())),
            false => Err(VerbError::Refused {
                message: reply.refused,
            }),
        }
    }

    pub(super) async fn cancel(&self, args: CancelArgs) -> Result<Listing, VerbError> {
        let request = CancelRequest {
            migration_id: args.migration,
        };
        let reply = self.calls.cancel(request).await.map_err(self.failed())?;
        match reply.refused.is_empty() {
            true => Ok(Listing::Cancelled {
                migration: args.migration,
                state: reply.state,
            }),
            false => Err(VerbError::Refused {
                message: reply.refused,
            }),
        }
    }
}

fn names(args: &PauseArgs) -> Vec<String> {
    let names = args.origins.iter().flat_map(|origin| origin.names());
    names.map(|name| (*name).to_owned()).collect()
}

fn change(args: LimitsArgs) -> ChangeLimitsRequest {
    let rate = |rate| match rate {
        Some(RateArg::BytesPerS(bytes)) => (Some(bytes), false),
        Some(RateArg::Configured) => (None, true),
        None => (None, false),
    };
    let (snapshot_bytes_per_s, snapshot_as_configured) = rate(args.snapshot_rate);
    let (move_bytes_per_s, move_as_configured) = rate(args.move_rate);
    ChangeLimitsRequest {
        moves_in_max: args.moves_in,
        moves_out_max: args.moves_out,
        homes_max: args.homes,
        move_dwell_windows: args.move_dwell,
        home_dwell_windows: args.home_dwell,
        dead_after_ms: args.dead_after,
        snapshot_bytes_per_s,
        snapshot_as_configured,
        move_bytes_per_s,
        move_as_configured,
        reason: args.reason,
        trust_moves: args.trust_moves,
        trust_share_ppm: args.trust_share,
        trust_windows: args.trust_windows,
        history_age_ms: args.history_age,
        history_events: args.history_events,
        ..ChangeLimitsRequest::default()
    }
}

/// Whose proposals are not carried out, in words.
pub(super) fn shadow_text(limits: &PlacementLimits) -> String {
    match limits.shadow.is_empty() {
        true => "nothing".to_owned(),
        false => escaped(limits.shadow.join(", ").as_bytes()),
    }
}

/// By which rule policies keep their right to propose.
fn trust_text(limits: &PlacementLimits) -> String {
    match limits.trust_moves {
        0 => "whatever came of its moves".to_owned(),
        moves => format!(
            "while its last {moves} moves saved {} of what was predicted, over {} windows each",
            text::percent(limits.trust_share_ppm),
            limits.trust_windows
        ),
    }
}

/// How much of the past is kept.
fn history_text(limits: &PlacementLimits) -> String {
    let age = match limits.history_age_ms {
        0 => "of any age".to_owned(),
        age_ms => format!(
            "up to {} old",
            text::length(std::time::Duration::from_millis(age_ms))
        ),
    };
    format!("{} events, {age}", limits.history_events)
}

/// Whose proposals are paused, in words.
pub(super) fn paused_text(limits: &PlacementLimits) -> String {
    match limits.paused.is_empty() {
        true => "nothing".to_owned(),
        false => escaped(limits.paused.join(", ").as_bytes()),
    }
}

pub(super) fn limits_text(limits: &PlacementLimits) -> String {
    let rate = |bytes_per_s| match bytes_per_s {
        None => "as each host is configured".to_owned(),
        Some(0) => "as many as go".to_owned(),
        Some(bytes) => format!("{}/s from each host", text::bytes(bytes)),
    };
    text::facts([
        ("paused", paused_text(limits)),
        ("in shadow", shadow_text(limits)),
        ("a policy may propose", trust_text(limits)),
        (
            "replicas on their way to one host",
            limits.moves_in_max.to_string(),
        ),
        (
            "replicas on their way from one host",
            limits.moves_out_max.to_string(),
        ),
        ("home moves in the cluster", limits.homes_max.to_string()),
        (
            "windows between replica moves of a shard",
            limits.move_dwell_windows.to_string(),
        ),
        (
            "windows between home moves of a shard",
            limits.home_dwell_windows.to_string(),
        ),
        (
            "a host is dead after",
            text::length(std::time::Duration::from_millis(limits.dead_after_ms)),
        ),
        ("snapshots", rate(limits.snapshot_bytes_per_s)),
        ("those of moves", rate(limits.move_bytes_per_s)),
        ("history", history_text(limits)),
    ])
}

/// Field names are the protocol's; a rate of null is each host's own.
pub(super) fn limits_document(limits: &PlacementLimits) -> Value {
    json!({
        "paused": limits.paused,
        "moves_in_max": limits.moves_in_max,
        "moves_out_max": limits.moves_out_max,
        "homes_max": limits.homes_max,
        "move_dwell_windows": limits.move_dwell_windows,
        "home_dwell_windows": limits.home_dwell_windows,
        "dead_after_ms": limits.dead_after_ms,
        "snapshot_bytes_per_s": limits.snapshot_bytes_per_s,
        "move_bytes_per_s": limits.move_bytes_per_s,
        "shadow": limits.shadow,
        "trust_moves": limits.trust_moves,
        "trust_share_ppm": limits.trust_share_ppm,
        "trust_windows": limits.trust_windows,
        "history_age_ms": limits.history_age_ms,
        "history_events": limits.history_events,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::OriginArg;

    #[test]
    fn only_what_is_named_is_changed() {
        let args = LimitsArgs {
            homes: Some(3),
            snapshot_rate: Some(RateArg::Configured),
            move_rate: Some(RateArg::BytesPerS(1 << 20)),
            ..LimitsArgs::default()
        };
        let request = change(args);
        let expected = ChangeLimitsRequest {
            homes_max: Some(3),
            snapshot_as_configured: true,
            move_bytes_per_s: Some(1 << 20),
            ..ChangeLimitsRequest::default()
        };
        assert_eq!(request, expected);
        assert_eq!(change(LimitsArgs::default()), ChangeLimitsRequest::default());
        let all = PauseArgs {
            origins: vec![OriginArg::All],
            reason: String::new(),
        };
        assert_eq!(names(&all), ["model", "balance", "rule", "drain", "repair"]);
    }

    #[test]
    fn limits_are_a_fact_a_line() {
        let limits = PlacementLimits {
            paused: vec!["balance".into(), "model".into()],
            moves_in_max: 2,
            moves_out_max: 2,
            homes_max: 64,
            move_dwell_windows: 4,
            home_dwell_windows: 1,
            dead_after_ms: 300_000,
            snapshot_bytes_per_s: Some(8_000_000),
            move_bytes_per_s: Some(0),
            trust_moves: 32,
            trust_share_ppm: 250_000,
            trust_windows: 3,
            ..PlacementLimits::default()
        };
        let shown = limits_text(&limits);
        for fact in [
            "balance, model",
            "64",
            "5 min 0 s",
            "8.0 MB/s from each host",
            "as many as go",
            "32 moves saved 25",
        ] {
            assert!(shown.contains(fact), "{fact}: {shown}");
        }
        assert_eq!(limits_document(&limits)["paused"], json!(["balance", "model"]));
        let free = PlacementLimits::default();
        assert!(limits_text(&free).contains("as each host is configured"));
        assert_eq!(limits_document(&free)["snapshot_bytes_per_s"], Value::Null);
    }
}
