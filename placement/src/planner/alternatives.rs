//! Other replica sets for one shard, and what they are worth.
//!
//! A set's cost counts its best home, so voters and home are chosen together. Looked at are all sets that differ from
//! the present one by one voter, and all that differ by two of which one becomes the home and the other its near
//! quorum: a home near its origin without a near quorum helps little, so the first of such two moves may show no gain
//! by itself. With three voters spread over zones nothing better lies farther off: the third voter adds nothing to a
//! majority, and what it adds to the reach of homes that follow their accesses is found one voter at a time. Hosts of a zone are equally far from everything: only the emptiest is looked at (the two
//! emptiest where voters need not be in distinct zones).
//!
//! A shard moves one replica at a time: an alternative names its first step.

use crate::rules::Spread;

use super::cost::{Demand, Gain, Nanos, VOTERS_MAX, gain_for};
use super::loads::Loads;
use super::topology::{DenseShard, HostIx, Problem, Topology};

/// Another replica set.
#[derive(Clone, Copy)]
pub(super) struct Alternative {
    /// Position of the voter that the first step gives up.
    pub(super) removed: usize,
    /// The host that the first step goes to.
    pub(super) to: HostIx,
    /// Whether the new voter is the best home after the first step.
    pub(super) take_home: bool,
    /// Latency of the window's accesses once all steps are made.
    pub(super) cost: Nanos,
    /// What it saves a window.
    pub(super) gain: Gain,
    /// What all its steps cost, in microseconds.
    pub(super) cost_micros: u64,
    /// What it saves over the horizon, less what its steps cost.
    pub(super) value: Gain,
}

/// The alternatives of one shard.
pub(super) struct Survey<'s> {
    problem: &'s Problem<'s>,
    loads: &'s Loads,
    shard: &'s DenseShard<'s>,
    demand: &'s Demand,
    candidates: Vec<HostIx>,
    voters: Vec<HostIx>,
    crowding: usize,
    /// Latency of the window's accesses from the best of the present voters.
    now: Nanos,
    now_home: HostIx,
    best: Option<Alternative>,
    by_zone: Vec<Option<Alternative>>,
}

/// Whether full hosts are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Only hosts with room for the replica.
    Needed,
    /// Full ones too, to see what fullness forbids.
    Ignored,
}

/// A replica set under examination.
struct Set {
    hosts: [HostIx; VOTERS_MAX],
    len: usize,
}

impl Set {
    fn of(voters: &[HostIx]) -> Self {
        let mut hosts = [0; VOTERS_MAX];
        hosts[..voters.len()].copy_from_slice(voters);
        Self {
            hosts,
            len: voters.len(),
        }
    }

    fn with(&self, position: usize, host: HostIx) -> Self {
        let mut hosts = self.hosts;
        hosts[position] = host;
        Self { hosts, len: self.len }
    }

    fn hosts(&self) -> &[HostIx] {
        &self.hosts[..self.len]
    }
}

impl<'s> Survey<'s> {
    /// Prepares the alternatives of a shard with at most [`VOTERS_MAX`] voters, under the present loads.
    pub(super) fn of(
        problem: &'s Problem<'s>,
        loads: &'s Loads,
        shard: &'s DenseShard<'s>,
        room: Room,
    ) -> Self {
        let voters = shard.voter_hosts();
        let zones = problem.topology.zones.len();
        let mut survey = Self {
            problem,
            loads,
            shard,
            demand: shard.replica_demand(),
            candidates: candidates(problem, loads, shard, room),
            crowding: 0,
            now: 0,
            now_home: shard.home,
            voters,
            best: None,
            by_zone: vec![None; zones],
        };
        let present = Set::of(&survey.voters);
        survey.crowding = survey.crowding_of(&present);
        (survey.now, survey.now_home) = survey.settled(&present).unwrap_or((0, shard.home));
        survey
    }

    /// The hosts that a replica could go to.
    pub(super) fn candidates(&self) -> &[HostIx] {
        &self.candidates
    }

    /// The alternative of the greatest value, if any is worth its cost; and the best of each zone that the first step
    /// can go to.
    pub(super) fn best(mut self) -> (Option<Alternative>, Vec<Option<Alternative>>) {
        if self.demand.accesses_milli > 0 {
            self.try_ones();
            self.try_twos();
        }
        let worth = |found: &Alternative| found.gain > 0 && found.value > 0;
        (self.best.filter(worth), self.by_zone)
    }

    /// The cheapest way to replace one of the `leaving` voters, whatever it costs; least crowded first.
    pub(super) fn forced(self, leaving: impl Fn(HostIx) -> bool) -> Option<Alternative> {
        self.least_crowded(leaving).map(|(_, found)| found)
    }

    /// The cheapest way to a set that is less crowded, if the present one is more crowded than it need be.
    pub(super) fn spread_out(self) -> Option<Alternative> {
        let better = self
            .least_crowded(|_| true)
            .filter(|(crowding, _)| *crowding < self.crowding);
        better.map(|(_, found)| found)
    }

    fn least_crowded(&self, leaving: impl Fn(HostIx) -> bool) -> Option<(usize, Alternative)> {
        let positions = (0..self.voters.len()).filter(|position| leaving(self.voters[*position]));
        let ways = positions.flat_map(|position| self.candidates.iter().map(move |host| (position, *host)));
        let judged = ways.filter_map(|(position, host)| {
            let set = Set::of(&self.voters).with(position, host);
            let (cost, home) = self.judged(&set)?;
            let found = self.alternative(position, host, (cost, home), home == host, 1);
            Some((self.crowding_of(&set), found))
        });
        judged.min_by_key(|(crowding, found)| (*crowding, found.cost, found.to))
    }

    fn try_ones(&mut self) {
        for position in 0..self.voters.len() {
            for number in 0..self.candidates.len() {
                let host = self.candidates[number];
                let set = Set::of(&self.voters).with(position, host);
                if let Some((cost, home)) = self.judged(&set) {
                    self.note(self.alternative(position, host, (cost, home), home == host, 1));
                }
            }
        }
    }

    fn try_twos(&mut self) {
        for number in 0..self.candidates.len() {
            let home = self.candidates[number];
            if !self.may_lead(home) {
                continue;
            }
            for helper in 0..self.candidates.len() {
                let near = self.candidates[helper];
                if near != home && self.promises(home, near) {
                    self.try_pair(home, near);
                }
            }
        }
    }

    /// Whether `home` with its quorum at `near` could be cheaper than all that was found so far.
    fn promises(&self, home: HostIx, near: HostIx) -> bool {
        let topology = &self.problem.topology;
        let (zone, near_zone) = (topology.zone_of(home), topology.zone_of(near));
        let least = self.demand.near(zone) + self.demand.rounds(topology.rtt(zone, near_zone));
        self.demand.least_of_set(least) < self.best.map_or(self.now, |best| best.cost.min(self.now))
    }

    fn try_pair(&mut self, home: HostIx, near: HostIx) {
        for first in 0..self.voters.len() {
            for second in 0..self.voters.len() {
                let set = Set::of(&self.voters).with(first, home);
                let Some((cost, leads)) = (first != second)
                    .then(|| self.judged(&set.with(second, near)))
                    .flatten()
                else {
                    continue;
                };
                if let Some(step) = self.first_step([(first, home), (second, near)]) {
                    let (position, host, takes_home) = step;
                    self.note(self.alternative(position, host, (cost, leads), takes_home, 2));
                }
            }
        }
    }

    /// The cheaper of two steps to make first, and whether its host should lead after it.
    fn first_step(&self, steps: [(usize, HostIx); 2]) -> Option<(usize, HostIx, bool)> {
        let judged = steps.into_iter().filter_map(|(position, host)| {
            let (cost, home) = self.judged(&Set::of(&self.voters).with(position, host))?;
            Some((cost, (position, host, home == host)))
        });
        judged.min_by_key(|(cost, _)| *cost).map(|(_, step)| step)
    }

    fn alternative(
        &self,
        removed: usize,
        to: HostIx,
        (cost, home): (Nanos, HostIx),
        take_home: bool,
        steps: u64,
    ) -> Alternative {
        let costs = self.problem.input.costs;
        let home_micros = if home == self.shard.home {
            0
        } else {
            costs.home_move_micros
        };
        let step_micros = costs.replica_micros(self.shard.view.bytes);
        let cost_micros = step_micros.saturating_mul(steps).saturating_add(home_micros);
        let gain = self.demand.trusted(self.now - cost);
        let horizon = Gain::from(self.problem.input.options.horizon_windows.max(1));
        let value = gain.saturating_mul(horizon) - gain_for(cost_micros);
        Alternative {
            removed,
            to,
            take_home,
            cost,
            gain,
            cost_micros,
            value,
        }
    }

    fn note(&mut self, found: Alternative) {
        let better = |known: &Option<Alternative>| known.is_none_or(|known| found.value > known.value);
        let zone = &mut self.by_zone[self.problem.topology.zone_of(found.to)];
        if better(zone) {
            *zone = Some(found);
        }
        if better(&self.best) {
            self.best = Some(found);
        }
    }

    /// The cost and the home of a set that is spread no worse than the present one.
    fn judged(&self, set: &Set) -> Option<(Nanos, HostIx)> {
        (self.crowding_of(set) <= self.crowding)
            .then(|| self.settled(set))
            .flatten()
    }

    /// What a set costs, and its best home.
    fn settled(&self, set: &Set) -> Option<(Nanos, HostIx)> {
        let (cost, home) = self.best_home(set)?;
        Some((
            self.demand.cost_of_set(&self.problem.topology, cost, set.hosts()),
            home,
        ))
    }

    /// The cost of a set from its best home; of equal ones the present home, then the first.
    fn best_home(&self, set: &Set) -> Option<(Nanos, HostIx)> {
        let homes = set.hosts().iter().filter(|host| self.may_lead(**host));
        let costs = homes.map(|host| {
            (
                self.demand.cost(&self.problem.topology, *host, set.hosts()),
                *host,
            )
        });
        costs.min_by_key(|(cost, host)| (*cost, *host != self.shard.home, *host))
    }

    fn may_lead(&self, host: HostIx) -> bool {
        let accepts = self.problem.topology.hosts[host].1.accepts();
        let weight_milli = self.shard.demand.accesses_milli;
        host == self.shard.home || (accepts && self.loads.may_serve(host, weight_milli, 0))
    }

    fn crowding_of(&self, set: &Set) -> usize {
        pairs_together(set.hosts(), |host| self.problem.topology.domain_of(host))
    }
}

/// Whether one failing domain would take two of the voters.
pub(super) fn is_crowded(topology: &Topology, voters: &[HostIx]) -> bool {
    pairs_together(voters, |host| topology.domain_of(host)) > 0
}

/// Pairs of voters that one failing domain would take together.
fn pairs_together(hosts: &[HostIx], domain: impl Fn(HostIx) -> usize) -> usize {
    let later = |position: usize| hosts[position + 1..].iter().map(|host| domain(*host));
    let with = |position: usize| {
        later(position)
            .filter(|other| *other == domain(hosts[position]))
            .count()
    };
    (0..hosts.len()).map(with).sum()
}

/// The hosts that a replica of the shard could go to: the emptiest of each zone.
fn candidates(problem: &Problem, loads: &Loads, shard: &DenseShard, room: Room) -> Vec<HostIx> {
    let topology = &problem.topology;
    let fits = |host: &HostIx| room == Room::Ignored || loads.may_store(*host, shard.view.bytes);
    let free = |host: &HostIx| topology.hosts[*host].1.accepts() && !shard.occupied.contains(host);
    let mut hosts: Vec<HostIx> = (0..topology.hosts.len()).filter(free).filter(fits).collect();
    hosts.sort_by_cached_key(|host| (topology.zone_of(*host), loads.fullness_ppm(*host), *host));
    let each = if problem.input.rules.spread == Spread::Host {
        2
    } else {
        1
    };
    let mut kept: Vec<HostIx> = Vec::new();
    for host in hosts {
        let zone = topology.zone_of(host);
        if kept
            .iter()
            .rev()
            .take_while(|known| topology.zone_of(**known) == zone)
            .count()
            < each
        {
            kept.push(host);
        }
    }
    kept
}
