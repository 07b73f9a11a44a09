//! The slow level: which hosts hold each shard.
//!
//! Draining hosts and spread rules come first and wait for no regret. Then the alternatives of all shards, greatest
//! value first, are taken while hosts have room and slots; an alternative that lost its room is looked for again
//! among what is left. A shard under a replication factor that is not met is left to the repairs.

use crate::ids::WindowId;
use crate::rules::{Limits, Origin};

use super::alternatives::{Alternative, Room, Survey, is_crowded};
use super::cost::{Gain, VOTERS_MAX, gain_micros};
use super::loads::Loads;
use super::memory::{PlanMemory, Regret, ShardMemory};
use super::output::{Blocked, Constraint, MoveCause};
use super::topology::{DenseShard, HostIx, Problem, ZoneIx};

/// A replica move that was decided.
pub(super) struct Replacement {
    /// Number of the shard in the problem.
    pub(super) shard: usize,
    /// What it is for.
    pub(super) cause: MoveCause,
    /// What moves, and what it is worth.
    pub(super) alternative: Alternative,
    /// The second-best host and its gain.
    pub(super) runner_up: Option<(HostIx, Gain)>,
}

/// The slow level's outcome.
#[derive(Default)]
pub(super) struct Replacements {
    /// The moves, most urgent first.
    pub(super) made: Vec<Replacement>,
    /// The wanted moves that were not made.
    pub(super) blocked: Vec<Blocked>,
}

/// Decides the replica moves of a plan and counts them in `loads`.
pub(super) fn replacements(
    problem: &Problem,
    loads: &mut Loads,
    memory: &mut PlanMemory,
    regret: Regret,
) -> Replacements {
    let mut wanted = Vec::new();
    let mut outcome = Replacements::default();
    for number in 0..problem.shards.len() {
        match wish(
            problem,
            loads,
            memory.shard(problem.shards[number].id),
            number,
            regret,
        ) {
            Some(Ok(replacement)) => wanted.push(replacement),
            Some(Err(blocked)) => outcome.blocked.push(blocked),
            None => {}
        }
    }
    wanted.sort_by_key(|wish| (wish.cause, -wish.alternative.value, wish.shard));
    let mut slots = Slots::of(problem);
    for replacement in wanted {
        match slots.admit(problem, loads, replacement) {
            Ok(replacement) => outcome.made.push(replacement),
            Err(blocked) => outcome.blocked.push(blocked),
        }
    }
    outcome
}

/// What a shard wants, or why it may not have it.
fn wish(
    problem: &Problem,
    loads: &Loads,
    memory: &mut ShardMemory,
    number: usize,
    regret: Regret,
) -> Option<Result<Replacement, Blocked>> {
    let shard = &problem.shards[number];
    if shard.voters.len() < problem.input.rules.replication_factor as usize || shard.voters.len() > VOTERS_MAX
    {
        return None;
    }
    if let Some(forced) = forced(problem, loads, number) {
        return Some(forced);
    }
    let (best, by_zone) = Survey::of(problem, loads, shard, Room::Needed).best();
    if regret == Regret::Grows {
        remember(problem, memory, best, &by_zone);
    }
    let Some(alternative) = best else {
        return full(problem, loads, shard).map(Err);
    };
    if let Some(constraint) = gate(problem, shard, memory, &alternative) {
        return Some(Err(blocked(problem, shard, &alternative, constraint)));
    }
    let runner_up = runner_up(problem, &alternative, &by_zone);
    Some(Ok(Replacement {
        shard: number,
        cause: MoveCause::Latency,
        alternative,
        runner_up,
    }))
}

/// What a draining host or the spread rule asks of a shard.
fn forced(problem: &Problem, loads: &Loads, number: usize) -> Option<Result<Replacement, Blocked>> {
    let shard = &problem.shards[number];
    let drains = |host: HostIx| problem.topology.hosts[host].1.drains();
    let survey = || Survey::of(problem, loads, shard, Room::Needed);
    let (cause, found) = if shard.voters.iter().any(|(_, host)| drains(*host)) {
        (MoveCause::Drain, survey().forced(drains))
    } else if is_crowded(&problem.topology, &shard.voter_hosts()) {
        (MoveCause::Rule, Some(survey().spread_out()?))
    } else {
        return None;
    };
    let decided = match (standing(problem, shard, cause), found) {
        (Some(constraint), _) => Err(constraint),
        (None, None) => Err(Constraint::NoHost),
        (None, Some(alternative)) => Ok(Replacement {
            shard: number,
            cause,
            alternative,
            runner_up: None,
        }),
    };
    Some(decided.map_err(|constraint| Blocked {
        shard: shard.id,
        to: None,
        gain_micros: 0,
        constraint,
    }))
}

/// What stands in the way of an alternative that is worth its cost.
pub(super) fn gate(
    problem: &Problem,
    shard: &DenseShard,
    memory: &ShardMemory,
    wish: &Alternative,
) -> Option<Constraint> {
    standing(problem, shard, MoveCause::Latency).or_else(|| waiting(problem, memory, wish))
}

/// What forbids any replica move of the shard.
fn standing(problem: &Problem, shard: &DenseShard, cause: MoveCause) -> Option<Constraint> {
    if shard.view.busy {
        return Some(Constraint::Busy);
    }
    let moved = shard
        .view
        .moved_window
        .filter(|_| cause.origin().is_speculative())?;
    let until = moved.0.saturating_add(problem.input.limits.move_dwell_windows);
    (problem.input.forecast.window.0 < until).then_some(Constraint::Dwell {
        until: WindowId(until),
    })
}

/// What regret is still missing.
fn waiting(problem: &Problem, memory: &ShardMemory, wish: &Alternative) -> Option<Constraint> {
    let zone = problem.topology.zones[problem.topology.zone_of(wish.to)];
    let (rule, window) = (problem.input.options.hysteresis, problem.input.forecast.window);
    let bar_micros = memory.replicas.bar(rule, zone, wish.cost_micros, window);
    let regret_micros = memory.replicas.regret(zone);
    (regret_micros < bar_micros).then_some(Constraint::Regret {
        regret_micros,
        bar_micros,
    })
}

/// Adds the window's gains of the best alternative and of every one that is regretted already.
fn remember(
    problem: &Problem,
    memory: &mut ShardMemory,
    best: Option<Alternative>,
    by_zone: &[Option<Alternative>],
) {
    let topology = &problem.topology;
    let known = memory.replicas.places().filter_map(|zone| topology.zone(zone));
    let mut zones: Vec<ZoneIx> = known.chain(best.map(|best| topology.zone_of(best.to))).collect();
    zones.sort_unstable();
    zones.dedup();
    for zone in zones {
        if let Some(found) = by_zone[zone] {
            let place = topology.zones[zone].clone();
            let (rule, window) = (problem.input.options.hysteresis, problem.input.forecast.window);
            let bar_micros = memory.replicas.bar(rule, &place, found.cost_micros, window);
            memory.replicas.add(
                place,
                gain_micros(found.gain),
                bar_micros.saturating_mul(2).max(1),
            );
        }
    }
}

/// The alternative that only the fullness of its hosts forbids, if there is one.
fn full(problem: &Problem, loads: &Loads, shard: &DenseShard) -> Option<Blocked> {
    let hosts = 0..problem.topology.hosts.len();
    if hosts
        .into_iter()
        .all(|host| loads.may_store(host, shard.view.bytes))
    {
        return None;
    }
    let wished = Survey::of(problem, loads, shard, Room::Ignored).best().0?;
    let zone = problem.topology.zones[problem.topology.zone_of(wished.to)].clone();
    Some(blocked(problem, shard, &wished, Constraint::Bytes { zone }))
}

fn blocked(problem: &Problem, shard: &DenseShard, wish: &Alternative, constraint: Constraint) -> Blocked {
    let to = Some(problem.topology.hosts[wish.to].0);
    Blocked {
        shard: shard.id,
        to,
        gain_micros: gain_micros(wish.gain),
        constraint,
    }
}

/// The best alternative that begins in another zone.
fn runner_up(
    problem: &Problem,
    best: &Alternative,
    by_zone: &[Option<Alternative>],
) -> Option<(HostIx, Gain)> {
    let zone = problem.topology.zone_of(best.to);
    let others = by_zone
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != zone)
        .filter_map(|(_, found)| *found);
    others
        .max_by_key(|found| (found.value, std::cmp::Reverse(found.to)))
        .map(|found| (found.to, found.gain))
}

/// The slots for replica moves that are left, by host.
struct Slots {
    moves_in: Vec<u32>,
    moves_out: Vec<u32>,
    left: u32,
}

impl Slots {
    fn of(problem: &Problem) -> Self {
        let hosts = || problem.topology.hosts.iter().map(|(_, host)| *host);
        Self {
            moves_in: hosts().map(|host| host.moves_in).collect(),
            moves_out: hosts().map(|host| host.moves_out).collect(),
            left: problem.input.options.replica_moves_max,
        }
    }

    /// Takes a wish if its hosts have slots and room; where the room went to another, looks again.
    fn admit(
        &mut self,
        problem: &Problem,
        loads: &mut Loads,
        mut wish: Replacement,
    ) -> Result<Replacement, Blocked> {
        let shard = &problem.shards[wish.shard];
        if !loads.may_store(wish.alternative.to, shard.view.bytes) {
            wish = self.again(problem, loads, wish)?;
        }
        let (from, to) = (shard.voters[wish.alternative.removed].1, wish.alternative.to);
        if self.left == 0 || !self.has_slot(problem.input.limits, wish.cause.origin(), from, to) {
            return Err(blocked(problem, shard, &wish.alternative, Constraint::MovesLimit));
        }
        self.left -= 1;
        self.moves_in[to] += 1;
        self.moves_out[from] += 1;
        loads.add_bytes(to, shard.view.bytes);
        Ok(wish)
    }

    fn again(&self, problem: &Problem, loads: &Loads, wish: Replacement) -> Result<Replacement, Blocked> {
        let shard = &problem.shards[wish.shard];
        let survey = Survey::of(problem, loads, shard, Room::Needed);
        let found = match wish.cause {
            MoveCause::Drain => survey.forced(|host| problem.topology.hosts[host].1.drains()),
            MoveCause::Rule => survey.spread_out(),
            MoveCause::Capacity | MoveCause::Latency => survey
                .best()
                .0
                .filter(|found| found.cost <= wish.alternative.cost),
        };
        let zone = problem.topology.zones[problem.topology.zone_of(wish.alternative.to)].clone();
        let full = || blocked(problem, shard, &wish.alternative, Constraint::Bytes { zone });
        found
            .map(|alternative| Replacement { alternative, ..wish })
            .ok_or_else(full)
    }

    fn has_slot(&self, limits: &Limits, origin: Origin, from: HostIx, to: HostIx) -> bool {
        self.moves_in[to] < Limits::slots_for(origin, limits.moves_in_max)
            && self.moves_out[from] < Limits::slots_for(origin, limits.moves_out_max)
    }
}
