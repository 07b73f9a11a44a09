//! One plan: replica sets first, then homes of the shards that no replica move takes.

use super::cost::{gain_micros, micros};
use super::explain::{Line, host_scores};
use super::forecast::ShardForecast;
use super::homes::{Seat, seats, totals};
use super::input::{Mode, PlanInput};
use super::loads::Loads;
use super::memory::{PlanMemory, Regret};
use super::output::{Blocked, MoveCause, MoveKind, Plan, PlannedMove, RunnerUp};
use super::replicas::{Replacement, Replacements, replacements};
use super::search::Search;
use super::topology::{HostIx, Problem};

/// Plans one window. Pure: the same input and memory give the same plan.
///
/// The memory returned goes into the next call, whether or not the moves were made: it follows what it sees. Planning
/// the same window again with the returned memory adds no regret, and once the moves are made it proposes none.
pub fn plan(input: &PlanInput, previous: &PlanMemory) -> Plan {
    let window = input.forecast.window;
    let regret = previous.regret_in(window, input.options.hysteresis);
    let mut memory = previous.observed(input.placement, window);
    let problem = Problem::of(*input);
    let mut loads = Loads::of(&problem);
    let slow = match input.options.mode {
        Mode::Homes => Replacements::default(),
        Mode::HomesAndReplicas => replacements(&problem, &mut loads, &mut memory, regret),
    };
    let mut plan = Plan {
        window,
        memory,
        ..Plan::default()
    };
    let mut taken = vec![false; problem.shards.len()];
    slow.made
        .iter()
        .for_each(|replacement| taken[replacement.shard] = true);
    let homes = home_level(&problem, &mut plan, &mut loads, &taken, regret);
    add_replacements(&problem, &mut plan, &slow.made);
    plan.proposals.extend(homes);
    plan.proposals.sort_by_key(|planned| {
        (
            planned.cause,
            std::cmp::Reverse(planned.gain_micros),
            planned.shard,
        )
    });
    keep_one_each(&mut plan, slow.blocked);
    plan
}

/// Chooses homes; adds up costs and what was blocked, and returns the moves.
fn home_level(
    problem: &Problem,
    plan: &mut Plan,
    loads: &mut Loads,
    taken: &[bool],
    regret: Regret,
) -> Vec<PlannedMove> {
    let mut seats = seats(problem, &mut plan.memory, taken, regret);
    let moves_max = problem.input.options.home_moves_max;
    let relieved = Search::of(&mut seats, loads, problem.topology.hosts.len(), moves_max).run();
    (plan.expected_cost_before_micros, plan.expected_cost_after_micros) = totals(&seats);
    plan.blocked
        .extend(seats.iter().filter_map(|seat| blocked(problem, loads, seat)));
    let moved = seats
        .iter()
        .zip(relieved)
        .filter(|(seat, _)| seat.at != seat.start);
    moved
        .map(|(seat, relieves)| home_move(problem, seat, cause(seat, relieves)))
        .collect()
}

fn cause(seat: &Seat, relieves: bool) -> MoveCause {
    match seat.at().gain {
        _ if seat.drains => MoveCause::Drain,
        gain if relieves || gain <= 0 => MoveCause::Capacity,
        _ => MoveCause::Latency,
    }
}

fn blocked(problem: &Problem, loads: &Loads, seat: &Seat) -> Option<Blocked> {
    let (wanted, constraint) = Search::obstacle(seat, loads)?;
    let option = &seat.options[wanted];
    let to = Some(problem.topology.hosts[option.host].0);
    let gain_micros = gain_micros(option.gain - seat.at().gain);
    Some(Blocked {
        shard: problem.shards[seat.shard].id,
        to,
        gain_micros,
        constraint,
    })
}

fn home_move(problem: &Problem, seat: &Seat, cause: MoveCause) -> PlannedMove {
    let shard = &problem.shards[seat.shard];
    let hosts = &problem.topology.hosts;
    let others = seat
        .options
        .iter()
        .enumerate()
        .filter(|(option, _)| *option != seat.at && *option != seat.start);
    let second = others
        .map(|(_, option)| option)
        .max_by_key(|option| (option.gain, std::cmp::Reverse(option.host)));
    let voter = shard.voters.iter().find(|(_, host)| *host == seat.at().host);
    let to = voter.map(|(id, _)| *id).expect("every option is a voter");
    Move {
        shard: seat.shard,
        kind: MoveKind::Home { to },
        cause,
        from: seat.start().host,
        to: seat.at().host,
        gain_micros: gain_micros(seat.at().gain),
        cost_micros: problem.input.costs.home_move_micros,
        runner_up: second.map(|option| RunnerUp {
            host: hosts[option.host].0,
            gain_micros: gain_micros(option.gain),
        }),
        slow: false,
    }
    .planned(problem)
}

/// Adds replica moves; their gain counts as if they were made at the window's start.
fn add_replacements(problem: &Problem, plan: &mut Plan, made: &[Replacement]) {
    for replacement in made {
        let (before, after) = replaced_cost(problem, replacement);
        plan.expected_cost_before_micros = plan.expected_cost_before_micros.saturating_add(before);
        plan.expected_cost_after_micros = plan.expected_cost_after_micros.saturating_add(after);
        plan.proposals.push(replica_move(problem, replacement));
    }
}

/// The window's cost of a shard before and after the first step of its replacement, in microseconds. The home moves
/// only with the step: to the new voter, or off the old one.
fn replaced_cost(problem: &Problem, replacement: &Replacement) -> (u64, u64) {
    let shard = &problem.shards[replacement.shard];
    let step = &replacement.alternative;
    let before = shard.voter_hosts();
    let mut after = before.clone();
    after[step.removed] = step.to;
    let cost = |home: HostIx, hosts: &[HostIx]| shard.demand.cost(&problem.topology, home, hosts);
    let led = match (step.take_home, after.contains(&shard.home)) {
        (true, _) => cost(step.to, &after),
        (false, true) => cost(shard.home, &after),
        (false, false) => after.iter().map(|home| cost(*home, &after)).min().unwrap_or(0),
    };
    (micros(cost(shard.home, &before)), micros(led))
}

fn replica_move(problem: &Problem, replacement: &Replacement) -> PlannedMove {
    let shard = &problem.shards[replacement.shard];
    let step = &replacement.alternative;
    let (replica, from) = shard.voters[step.removed];
    let runner_up = replacement.runner_up.map(|(host, gain)| RunnerUp {
        host: problem.topology.hosts[host].0,
        gain_micros: gain_micros(gain),
    });
    Move {
        shard: replacement.shard,
        kind: MoveKind::Replica {
            from: replica,
            take_home: step.take_home,
        },
        cause: replacement.cause,
        from,
        to: step.to,
        gain_micros: gain_micros(step.gain),
        cost_micros: step.cost_micros,
        runner_up,
        slow: true,
    }
    .planned(problem)
}

/// A move in numbers of the problem.
struct Move {
    shard: usize,
    kind: MoveKind,
    cause: MoveCause,
    from: HostIx,
    to: HostIx,
    gain_micros: i64,
    cost_micros: u64,
    runner_up: Option<RunnerUp>,
    slow: bool,
}

impl Move {
    fn planned(self, problem: &Problem) -> PlannedMove {
        let shard = &problem.shards[self.shard];
        let input = &problem.input;
        let source = input
            .replica_forecast
            .filter(|_| self.slow)
            .unwrap_or(input.forecast);
        let forecast: Option<&ShardForecast> = source.shards.get(&shard.id);
        let (from, to) = (
            problem.topology.hosts[self.from].0,
            problem.topology.hosts[self.to].0,
        );
        let Move {
            kind,
            cause,
            gain_micros,
            cost_micros,
            runner_up,
            ..
        } = self;
        let line = Line {
            input,
            forecast,
            kind,
            cause,
            from,
            to,
            gain_micros,
            cost_micros,
        };
        PlannedMove {
            shard: shard.id,
            basis: shard.view.epoch,
            kind,
            cause,
            from,
            to,
            gain_micros,
            cost_micros,
            runner_up,
            model: source.model.clone(),
            scores: forecast
                .map(|forecast| host_scores(&problem.topology, forecast))
                .unwrap_or_default(),
            text: line.text(),
        }
    }
}

/// Keeps one obstacle a shard, the most wanted one, of the shards that do not move.
fn keep_one_each(plan: &mut Plan, slow: Vec<Blocked>) {
    plan.blocked.extend(slow);
    plan.blocked
        .sort_by_key(|blocked| (blocked.shard, std::cmp::Reverse(blocked.gain_micros)));
    plan.blocked.dedup_by_key(|blocked| blocked.shard);
    let moving: std::collections::BTreeSet<_> = plan.proposals.iter().map(|planned| planned.shard).collect();
    plan.blocked.retain(|blocked| !moving.contains(&blocked.shard));
}
