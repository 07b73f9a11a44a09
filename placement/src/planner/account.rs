//! What each place is worth for one shard, and what forbids it: the figures that a plan is made of, before it chooses.
//!
//! They come from the same seats and surveys as a plan's moves, under the loads of the present placement. What a plan
//! makes of all shards together, when places run short, only the plan itself can say.

use serde::{Deserialize, Serialize};

use crate::ids::{HostId, ShardId, WindowId};
use crate::model::HostAffinityScores;

use super::alternatives::{Alternative, Room, Survey};
use super::cost::{VOTERS_MAX, gain_micros, micros};
use super::explain::host_scores;
use super::homes::{SeatOption, seat};
use super::input::PlanInput;
use super::loads::Loads;
use super::memory::{PlanMemory, Regret, ShardMemory};
use super::output::Constraint;
use super::replicas::gate;
use super::topology::{DenseShard, HostIx, Problem};

/// What a window asks of a shard, and what its places are worth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The shard.
    pub shard: ShardId,
    /// The window.
    pub window: WindowId,
    /// The forecast's name and version.
    pub model: String,
    /// The host affinity scores it forecasts; empty where it expects no accesses.
    pub scores: HostAffinityScores,
    /// Accesses expected, in thousandths.
    pub accesses_milli: u64,
    /// The host that leads.
    pub home: HostId,
    /// Expected latency of the window's accesses as placed now, summed, in microseconds.
    pub cost_micros: u64,
    /// The other voters as homes, best first.
    pub homes: Vec<Place>,
    /// Hosts that a replica could go to, best first, and those that may take none. Of hosts of one zone that differ in
    /// nothing but how full they are, the emptiest.
    pub replicas: Vec<Place>,
}

/// A place that a shard's home or one of its replicas could go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The host.
    pub host: HostId,
    /// The host whose replica would go; `None` where leadership alone moves, or nothing may.
    pub replaces: Option<HostId>,
    /// Latency saved, in microseconds summed over the accesses of one window; negative where it is farther.
    pub gain_micros: i64,
    /// What going there costs, in the same unit.
    pub cost_micros: u64,
    /// Latency lost so far by not being there, in microseconds.
    pub regret_micros: u64,
    /// What that must reach before a move.
    pub bar_micros: u64,
    /// What stands in the way, if anything.
    pub constraint: Option<Constraint>,
}

/// The account of a shard in a plan's input; `None` where there is no such shard, or its home is not known. Pure, and
/// nothing is remembered: neither regret nor memory grows.
pub fn account(input: &PlanInput, previous: &PlanMemory, shard: ShardId) -> Option<Account> {
    let window = input.forecast.window;
    let mut memory = previous.observed(input.placement, window);
    let problem = Problem::of(*input);
    let loads = Loads::of(&problem);
    let number = problem.shards.iter().position(|known| known.id == shard)?;
    let dense = &problem.shards[number];
    let seat = seat(&problem, number, memory.shard(shard), Regret::Stays);
    let hosts = &problem.topology.hosts;
    let others = seat.options.iter().filter(|option| option.host != dense.home);
    let homes = others.map(|option| home(&problem, &loads, dense, option));
    Some(Account {
        shard,
        window,
        model: input.forecast.model.clone(),
        scores: input
            .forecast
            .shards
            .get(&shard)
            .map(|forecast| host_scores(&problem.topology, forecast))
            .unwrap_or_default(),
        accesses_milli: dense.demand.accesses_milli,
        home: hosts[dense.home].0,
        cost_micros: micros(seat.start().cost),
        homes: homes.collect(),
        replicas: replicas(&problem, &loads, dense, memory.shard(shard)),
    })
}

fn home(problem: &Problem, loads: &Loads, shard: &DenseShard, option: &SeatOption) -> Place {
    let full = !loads.may_serve(option.host, shard.demand.accesses_milli, 0);
    let full = full.then(|| Constraint::Accesses {
        max_milli: loads.accesses_max_milli(),
    });
    Place {
        host: problem.topology.hosts[option.host].0,
        replaces: None,
        gain_micros: gain_micros(option.gain),
        cost_micros: problem.input.costs.home_move_micros,
        regret_micros: option.regret_micros,
        bar_micros: option.bar_micros,
        constraint: option.gate.clone().or(full),
    }
}

fn replicas(problem: &Problem, loads: &Loads, shard: &DenseShard, memory: &ShardMemory) -> Vec<Place> {
    if shard.voters.len() > VOTERS_MAX {
        return Vec::new();
    }
    let survey = Survey::of(problem, loads, shard, Room::Needed);
    let looked_at: Vec<HostIx> = survey.candidates().to_vec();
    let (_, by_zone) = survey.best();
    let mut found: Vec<Alternative> = by_zone.into_iter().flatten().collect();
    found.sort_by_key(|alternative| (-alternative.value, alternative.to));
    let worth = found
        .iter()
        .map(|alternative| replica(problem, shard, memory, alternative));
    let free = (0..problem.topology.hosts.len()).filter(|host| !shard.occupied.contains(host));
    let excluded = free.filter_map(|host| {
        let constraint = match exclusion(problem, loads, shard, host) {
            Some(constraint) => constraint,
            // Every way there would crowd a fault domain, if any access is expected at all.
            None if looked_at.contains(&host)
                && shard.demand.accesses_milli > 0
                && found.iter().all(|alternative| alternative.to != host) =>
            {
                Constraint::Crowded
            }
            None => return None,
        };
        Some(forbidden(problem, host, constraint))
    });
    worth.chain(excluded).collect()
}

fn replica(problem: &Problem, shard: &DenseShard, memory: &ShardMemory, found: &Alternative) -> Place {
    let topology = &problem.topology;
    let zone = topology.zones[topology.zone_of(found.to)];
    let (rule, window) = (problem.input.options.hysteresis, problem.input.forecast.window);
    let unpaid = (found.gain <= 0 || found.value <= 0).then_some(Constraint::Unpaid);
    Place {
        host: topology.hosts[found.to].0,
        replaces: Some(topology.hosts[shard.voters[found.removed].1].0),
        gain_micros: gain_micros(found.gain),
        cost_micros: found.cost_micros,
        regret_micros: memory.replicas.regret(zone),
        bar_micros: memory.replicas.bar(rule, zone, found.cost_micros, window),
        constraint: unpaid.or_else(|| gate(problem, shard, memory, found)),
    }
}

/// What keeps a host from being looked at for a replica.
fn exclusion(problem: &Problem, loads: &Loads, shard: &DenseShard, host: HostIx) -> Option<Constraint> {
    let topology = &problem.topology;
    if !topology.hosts[host].1.accepts() {
        return Some(Constraint::NotAccepting);
    }
    (!loads.may_store(host, shard.view.bytes)).then(|| Constraint::Bytes {
        zone: topology.zones[topology.zone_of(host)].clone(),
    })
}

fn forbidden(problem: &Problem, host: HostIx, constraint: Constraint) -> Place {
    Place {
        host: problem.topology.hosts[host].0,
        replaces: None,
        gain_micros: 0,
        cost_micros: 0,
        regret_micros: 0,
        bar_micros: 0,
        constraint: Some(constraint),
    }
}
