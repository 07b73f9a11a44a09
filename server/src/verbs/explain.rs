//! `godwit admin explain` and `plan`: the planner's figures, as tables for people or as documents.

use client::proto::{BlockedMove, DryRunReply, ExplainReply, HostAffinity, Place, PlannedMove};
use serde_json::{Value, json};

use super::VerbError;
use super::admin::Operator;
use super::documents::each;
use super::listing::{Listing, scores};
use super::text::{self, escaped, id, nonzero, numbers, words};
use super::trust::{trial, trials_text};
use crate::cli::{ExplainArgs, PlanArgs};

impl Operator<'_> {
    pub(super) async fn explain(&self, args: ExplainArgs) -> Result<Listing, VerbError> {
        let reply = self.calls.explain(args.shard).await;
        Ok(Listing::Explained(reply.map_err(self.failed())?))
    }

    pub(super) async fn plan(&self, args: PlanArgs) -> Result<Listing, VerbError> {
        let reply = self.calls.dry_run(args.replicas).await;
        Ok(Listing::Planned(reply.map_err(self.failed())?))
    }
}

pub(super) fn explained_text(told: &ExplainReply) -> String {
    let facts = text::facts([
        ("shard", told.shard_id.to_string()),
        ("window", told.window.to_string()),
        ("forecast", forecast(&told.policy, &told.model)),
        ("accesses expected", milli(told.accesses_milli)),
        ("home", told.home.to_string()),
        ("latency as placed", micros(told.cost_micros)),
        ("affinity (host: score)", affinities(&told.affinities)),
        ("would be proposed", proposed(told)),
    ]);
    let mut parts = vec![facts];
    for (head, places) in [("as home", &told.homes), ("for a replica", &told.replicas)] {
        if !places.is_empty() {
            parts.push(format!("{head}\n{}", places_text(places)));
        }
    }
    for (head, moves) in [
        ("moves on trial", &told.trials),
        ("what the last moves came to", &told.verdicts),
    ] {
        if !moves.is_empty() {
            parts.push(format!("{head}\n{}", trials_text(moves)));
        }
    }
    parts.join("\n\n")
}

fn forecast(policy: &str, model: &str) -> String {
    match policy.is_empty() {
        true => "none: no policy forecasts".to_owned(),
        false => format!("{} ({})", escaped(policy.as_bytes()), escaped(model.as_bytes())),
    }
}

fn affinities(scored: &[HostAffinity]) -> String {
    scores(scored.iter().map(|score| (score.host_id, score.score_ppm)))
}

/// What would be proposed, or why nothing is.
fn proposed(told: &ExplainReply) -> String {
    let planned = told.moves.first().map(|planned| {
        let held = match told.paused.contains(&planned.origin) {
            true => format!(" (but {} is paused)", planned.origin),
            false if told.shadowed.contains(&planned.origin) => " (in shadow, not carried out)".to_owned(),
            false => String::new(),
        };
        format!("{}{held}", escaped(planned.reason.as_bytes()))
    });
    let stuck = told.blocked.first().map(|blocked| {
        let constraint = escaped(blocked.constraint.as_bytes());
        format!("nothing: {constraint}{}", to_host(blocked))
    });
    planned
        .or(stuck)
        .unwrap_or_else(|| "nothing: no place is better".to_owned())
}

fn to_host(blocked: &BlockedMove) -> String {
    match blocked.to_host {
        0 => String::new(),
        host => format!(
            " (to host {host}, {} saved a window)",
            signed(blocked.gain_micros)
        ),
    }
}

fn places_text(places: &[Place]) -> String {
    let columns = [
        numbers("host"),
        numbers("replaces"),
        numbers("saves a window"),
        numbers("costs"),
        numbers("regret"),
        numbers("needs"),
        words("forbidden by"),
    ];
    let row = |place: &Place| {
        [
            place.host_id.to_string(),
            id(place.replaces),
            signed(place.gain_micros),
            micros(place.cost_micros),
            micros(place.regret_micros),
            micros(place.bar_micros),
            escaped(place.constraint.as_bytes()),
        ]
    };
    text::table(columns, places.iter().map(row))
}

pub(super) fn planned_text(plan: &DryRunReply) -> String {
    let paused = match plan.paused.is_empty() {
        true => "nothing".to_owned(),
        false => escaped(plan.paused.join(", ").as_bytes()),
    };
    let facts = text::facts([
        ("window", plan.window.to_string()),
        ("forecast", forecast(&plan.policy, &plan.model)),
        ("latency as placed", micros(plan.cost_before_micros)),
        ("latency as planned", micros(plan.cost_after_micros)),
        ("paused", paused),
    ]);
    let moves = match plan.moves.is_empty() {
        true => "nothing would be proposed".to_owned(),
        false => moves_text(&plan.moves),
    };
    match plan.blocked.is_empty() {
        true => format!("{facts}\n\n{moves}"),
        false => format!(
            "{facts}\n\n{moves}\n\nwanted, and forbidden\n{}",
            blocked_text(&plan.blocked)
        ),
    }
}

fn moves_text(moves: &[PlannedMove]) -> String {
    let columns = [
        numbers("shard"),
        words("kind"),
        words("origin"),
        numbers("from"),
        numbers("to"),
        numbers("saves a window"),
        numbers("costs"),
        numbers("second"),
        words("reason"),
    ];
    let row = |planned: &PlannedMove| {
        [
            planned.shard_id.to_string(),
            escaped(planned.kind.as_bytes()),
            escaped(planned.origin.as_bytes()),
            planned.from_host.to_string(),
            planned.to_host.to_string(),
            signed(planned.gain_micros),
            micros(planned.cost_micros),
            id(planned.runner_up),
            escaped(planned.reason.as_bytes()),
        ]
    };
    text::table(columns, moves.iter().map(row))
}

fn blocked_text(blocked: &[BlockedMove]) -> String {
    let columns = [
        numbers("shard"),
        numbers("to"),
        numbers("would save a window"),
        words("forbidden by"),
    ];
    let row = |blocked: &BlockedMove| {
        [
            blocked.shard_id.to_string(),
            id(blocked.to_host),
            signed(blocked.gain_micros),
            escaped(blocked.constraint.as_bytes()),
        ]
    };
    text::table(columns, blocked.iter().map(row))
}

/// Latency summed over a window's accesses.
fn micros(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1_000, micros % 1_000)
}

fn signed(gain_micros: i64) -> String {
    let sign = if gain_micros < 0 { "-" } else { "" };
    format!("{sign}{}", micros(gain_micros.unsigned_abs()))
}

fn milli(milli: u64) -> String {
    format!("{}.{:03}", milli / 1_000, milli % 1_000)
}

pub(super) fn explained_document(told: &ExplainReply) -> Value {
    let affinity = |score: &HostAffinity| json!({ "host_id": score.host_id, "score_ppm": score.score_ppm });
    json!({
        "shard_id": told.shard_id,
        "window": told.window,
        "policy": policy(&told.policy),
        "model": told.model,
        "accesses_milli": told.accesses_milli,
        "home": told.home,
        "cost_micros": told.cost_micros,
        "homes": each(&told.homes, place),
        "replicas": each(&told.replicas, place),
        "affinities": each(&told.affinities, affinity),
        "move": told.moves.first().map(planned),
        "blocked": told.blocked.first().map(blocked),
        "paused": told.paused,
        "shadowed": told.shadowed,
        "trials": each(&told.trials, trial),
        "verdicts": each(&told.verdicts, trial),
    })
}

pub(super) fn planned_document(plan: &DryRunReply) -> Value {
    json!({
        "window": plan.window,
        "policy": policy(&plan.policy),
        "model": plan.model,
        "cost_before_micros": plan.cost_before_micros,
        "cost_after_micros": plan.cost_after_micros,
        "moves": each(&plan.moves, planned),
        "blocked": each(&plan.blocked, blocked),
        "paused": plan.paused,
    })
}

/// Null where none forecasts.
fn policy(name: &str) -> Option<&str> {
    (!name.is_empty()).then_some(name)
}

fn place(place: &Place) -> Value {
    json!({
        "host_id": place.host_id,
        "replaces": nonzero(place.replaces),
        "gain_micros": place.gain_micros,
        "cost_micros": place.cost_micros,
        "regret_micros": place.regret_micros,
        "bar_micros": place.bar_micros,
        "constraint": (!place.constraint.is_empty()).then_some(&place.constraint),
    })
}

fn planned(planned: &PlannedMove) -> Value {
    json!({
        "shard_id": planned.shard_id,
        "kind": planned.kind,
        "origin": planned.origin,
        "from_host": planned.from_host,
        "to_host": planned.to_host,
        "gain_micros": planned.gain_micros,
        "cost_micros": planned.cost_micros,
        "runner_up": nonzero(planned.runner_up),
        "reason": planned.reason,
    })
}

fn blocked(blocked: &BlockedMove) -> Value {
    json!({
        "shard_id": blocked.shard_id,
        "to_host": nonzero(blocked.to_host),
        "gain_micros": blocked.gain_micros,
        "constraint": blocked.constraint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained() -> ExplainReply {
        ExplainReply {
            shard_id: 7,
            window: 12,
            policy: "burn-model".into(),
            model: "burn-3f2a".into(),
            accesses_milli: 100_500,
            home: 1,
            cost_micros: 1_234_567,
            homes: vec![Place {
                host_id: 2,
                gain_micros: -1_500,
                cost_micros: 2_000,
                constraint: "the host is down, cordoned or draining".into(),
                ..Place::default()
            }],
            blocked: vec![BlockedMove {
                shard_id: 7,
                to_host: 2,
                gain_micros: 900,
                constraint: "the host is down, cordoned or draining".into(),
            }],
            ..ExplainReply::default()
        }
    }

    #[test]
    fn an_explanation_names_figures_and_obstacles() {
        let shown = explained_text(&explained());
        for part in [
            "burn-model (burn-3f2a)",
            "100.500",
            "1234.567 ms",
            "-1.500 ms",
            "cordoned",
            "0.900 ms saved",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let document = explained_document(&explained());
        assert_eq!(document["homes"][0]["replaces"], Value::Null);
        assert_eq!(document["homes"][0]["gain_micros"], -1_500);
        assert_eq!(document["blocked"]["to_host"], 2);
        assert_eq!(document["move"], Value::Null);
    }

    #[test]
    fn a_move_of_a_paused_origin_says_so() {
        let told = ExplainReply {
            moves: vec![PlannedMove {
                origin: "model".into(),
                reason: "home 1 -> 2".into(),
                ..PlannedMove::default()
            }],
            paused: vec!["model".into()],
            ..explained()
        };
        assert!(explained_text(&told).contains("home 1 -> 2 (but model is paused)"));
    }

    #[test]
    fn without_a_policy_nothing_is_planned() {
        let shown = planned_text(&DryRunReply::default());
        assert!(
            shown.contains("no policy forecasts") && shown.contains("nothing would be proposed"),
            "{shown}"
        );
        assert_eq!(planned_document(&DryRunReply::default())["policy"], Value::Null);
    }
}
