//! The fast level: which voter of each shard leads in the coming window.
//!
//! Each shard becomes a [`Seat`] with one option a voter; an option's gate says why it may not be taken, if it may
//! not. The gates come from the placement (busy, dwell, a host that does not accept) and from regret (see `memory`);
//! choosing among the open options under the hosts' capacities is left to `search`.

use super::cost::{Gain, Nanos, gain_micros, micros};
use super::input::HostView;
use super::memory::{PlanMemory, Regret, ShardMemory};
use super::output::Constraint;
use super::topology::{DenseShard, HostIx, Problem};

/// Above any latency: what a home on a draining host counts as losing.
const DRAIN_URGENCY: Gain = 1 << 122;

/// A shard with the homes it could have.
pub(super) struct Seat {
    /// Number of the shard in the problem.
    pub(super) shard: usize,
    /// One option a voter, cheapest first.
    pub(super) options: Vec<SeatOption>,
    /// The option it has now.
    pub(super) start: usize,
    /// The option chosen so far.
    pub(super) at: usize,
    /// Expected accesses, in thousandths.
    pub(super) weight_milli: u64,
    /// Whether its home must leave the host it is on.
    pub(super) drains: bool,
}

/// A home that a shard could have.
pub(super) struct SeatOption {
    /// The host.
    pub(super) host: HostIx,
    /// Latency of the window's accesses from there.
    pub(super) cost: Nanos,
    /// What it saves against the present home.
    pub(super) gain: Gain,
    /// Why it may not be taken.
    pub(super) gate: Option<Constraint>,
    /// Regret of not being there, in microseconds.
    pub(super) regret_micros: u64,
    /// The regret that moving there needs.
    pub(super) bar_micros: u64,
}

impl Seat {
    /// The option it has now.
    pub(super) fn start(&self) -> &SeatOption {
        &self.options[self.start]
    }

    /// The option chosen so far.
    pub(super) fn at(&self) -> &SeatOption {
        &self.options[self.at]
    }

    /// What going from the option chosen so far to another would save; leaving a draining host comes before all.
    pub(super) fn gain_to(&self, option: usize) -> Gain {
        let urgency = |chosen: usize| {
            if self.drains && chosen == self.start {
                DRAIN_URGENCY
            } else {
                0
            }
        };
        self.options[option].gain - self.at().gain + urgency(self.at) - urgency(option)
    }

    /// Whether an option may be taken as far as its gate goes; going back to where it is now is always free.
    pub(super) fn is_open(&self, option: usize) -> bool {
        option == self.start || self.options[option].gate.is_none()
    }
}

/// One seat for each shard that the forecast or a drain gives a reason to look at. Seats of `taken` shards are left out.
pub(super) fn seats(problem: &Problem, memory: &mut PlanMemory, taken: &[bool], regret: Regret) -> Vec<Seat> {
    let mut seats = Vec::new();
    for (number, shard) in problem.shards.iter().enumerate() {
        let seat = seat(problem, number, memory.shard(shard.id), regret);
        if !taken[number] {
            seats.push(seat);
        }
    }
    seats
}

/// The seat of one shard.
pub(super) fn seat(problem: &Problem, number: usize, memory: &mut ShardMemory, regret: Regret) -> Seat {
    let shard = &problem.shards[number];
    let drains = problem.topology.hosts[shard.home].1.drains() && !shard.view.busy;
    let hosts = shard.voter_hosts();
    let now = shard.demand.cost(&problem.topology, shard.home, &hosts);
    let mut options: Vec<SeatOption> = hosts
        .iter()
        .map(|&host| {
            let cost = shard.demand.cost(&problem.topology, host, &hosts);
            let gain = shard.demand.trusted(now - cost);
            option(
                problem,
                shard,
                memory,
                Candidate {
                    host,
                    cost,
                    gain,
                    regret,
                    drains,
                },
            )
        })
        .collect();
    options.sort_by_key(|option| (-option.gain, option.cost, option.host));
    let start = options
        .iter()
        .position(|option| option.host == shard.home)
        .unwrap_or(0);
    Seat {
        shard: number,
        options,
        start,
        at: start,
        weight_milli: shard.demand.accesses_milli,
        drains,
    }
}

struct Candidate {
    host: HostIx,
    cost: Nanos,
    gain: Gain,
    regret: Regret,
    drains: bool,
}

fn option(
    problem: &Problem,
    shard: &DenseShard,
    memory: &mut ShardMemory,
    candidate: Candidate,
) -> SeatOption {
    let Candidate {
        host,
        cost,
        gain,
        regret,
        drains,
    } = candidate;
    let (id, view) = problem.topology.hosts[host];
    let (window, rule) = (problem.input.forecast.window, problem.input.options.hysteresis);
    let bar_micros = memory
        .homes
        .bar(rule, &id, problem.input.costs.home_move_micros, window);
    if regret == Regret::Grows && host != shard.home {
        memory
            .homes
            .add(id, gain_micros(gain), bar_micros.saturating_mul(2).max(1));
    }
    let regret_micros = memory.homes.regret(&id);
    let waits = Constraint::Regret {
        regret_micros,
        bar_micros,
    };
    let gate = standing(problem, shard, view, drains)
        .or_else(|| (!drains && regret_micros < bar_micros).then_some(waits));
    SeatOption {
        host,
        cost,
        gain,
        gate,
        regret_micros,
        bar_micros,
    }
}

/// What forbids a home on `host` whatever it would gain.
fn standing(problem: &Problem, shard: &DenseShard, host: &HostView, drains: bool) -> Option<Constraint> {
    if shard.view.busy {
        return Some(Constraint::Busy);
    }
    if !host.accepts() {
        return Some(Constraint::NotAccepting);
    }
    let moved = shard.view.home_window.filter(|_| !drains)?;
    let until = moved.0.saturating_add(problem.input.limits.home_dwell_windows);
    (problem.input.forecast.window.0 < until).then_some(Constraint::Dwell {
        until: crate::ids::WindowId(until),
    })
}

/// The cost of all seats as they are now and as chosen, in microseconds.
pub(super) fn totals(seats: &[Seat]) -> (u64, u64) {
    let sum = |cost: fn(&Seat) -> Nanos| micros(seats.iter().map(cost).sum());
    (sum(|seat| seat.start().cost), sum(|seat| seat.at().cost))
}
