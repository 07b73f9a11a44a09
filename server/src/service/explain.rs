//! What the planner said, in the protocol's words.

use client::proto::{BlockedMove, DryRunReply, ExplainReply, HostAffinity, Place, PlannedMove as ToldMove};
use placement::planner::{Account, Blocked, MoveKind, Plan, PlannedMove};
use placement::{HostId, Limits, Placement};

use super::trust;
use crate::controller::Outlook;

pub(super) fn dry_run(outlook: &Outlook<Plan>, limits: &Limits) -> DryRunReply {
    let plan = &outlook.judged;
    DryRunReply {
        window: plan.window.0,
        policy: policy(outlook),
        model: outlook.model.clone(),
        cost_before_micros: plan.expected_cost_before_micros,
        cost_after_micros: plan.expected_cost_after_micros,
        moves: plan.proposals.iter().map(told).collect(),
        blocked: plan.blocked.iter().map(blocked).collect(),
        paused: paused(limits),
    }
}

/// The account of a shard, and what the plan makes of it.
pub(super) fn explained(
    outlook: &Outlook<Option<(Account, Plan)>>,
    state: &Placement,
) -> Option<ExplainReply> {
    let (account, plan) = outlook.judged.as_ref()?;
    let (trials, verdicts) = trust::of_shard(state, account.shard);
    let moves = plan
        .proposals
        .iter()
        .filter(|planned| planned.shard == account.shard);
    let stuck = plan
        .blocked
        .iter()
        .filter(|blocked| blocked.shard == account.shard);
    let scores = account.scores.0.iter();
    Some(ExplainReply {
        shard_id: account.shard.0,
        window: account.window.0,
        policy: policy(outlook),
        model: account.model.clone(),
        accesses_milli: account.accesses_milli,
        home: account.home.0,
        cost_micros: account.cost_micros,
        homes: account.homes.iter().map(place).collect(),
        replicas: account.replicas.iter().map(place).collect(),
        affinities: scores
            .map(|(host, score_ppm)| HostAffinity {
                host_id: host.0,
                score_ppm: *score_ppm,
            })
            .collect(),
        moves: moves.map(told).collect(),
        blocked: stuck.map(blocked).collect(),
        paused: paused(state.limits()),
        trials,
        verdicts,
        shadowed: trust::shadowed(state, &policy(outlook)),
    })
}

fn policy<T>(outlook: &Outlook<T>) -> String {
    let policy = outlook.policy.map(|policy| policy.as_str().to_owned());
    policy.unwrap_or_default()
}

fn paused(limits: &Limits) -> Vec<String> {
    limits
        .paused
        .iter()
        .map(|origin| origin.as_str().to_owned())
        .collect()
}

fn place(place: &placement::planner::Place) -> Place {
    let constraint = place.constraint.as_ref().map(ToString::to_string);
    Place {
        host_id: place.host.0,
        replaces: place.replaces.map_or(0, |host| host.0),
        gain_micros: place.gain_micros,
        cost_micros: place.cost_micros,
        regret_micros: place.regret_micros,
        bar_micros: place.bar_micros,
        constraint: constraint.unwrap_or_default(),
    }
}

fn told(planned: &PlannedMove) -> ToldMove {
    let kind = match planned.kind {
        MoveKind::Home { .. } => "home",
        MoveKind::Replica { .. } => "move",
    };
    ToldMove {
        shard_id: planned.shard.0,
        kind: kind.to_owned(),
        origin: planned.cause.origin().as_str().to_owned(),
        from_host: planned.from.0,
        to_host: planned.to.0,
        gain_micros: planned.gain_micros,
        cost_micros: planned.cost_micros,
        runner_up: planned.runner_up.map_or(0, |second| second.host.0),
        reason: planned.text.clone(),
    }
}

fn blocked(blocked: &Blocked) -> BlockedMove {
    BlockedMove {
        shard_id: blocked.shard.0,
        to_host: blocked.to.map_or(0, |HostId(host)| host),
        gain_micros: blocked.gain_micros,
        constraint: blocked.constraint.to_string(),
    }
}
