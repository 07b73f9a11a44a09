//! Choosing homes for all shards at once, under the hosts' capacities.
//!
//! Greedy by regret, then single moves and swaps until neither helps. A swap sends one shard away from a full host, at
//! a loss, so that another may come for a greater gain. Every step lowers the total cost, so the search ends; it stops
//! at a placement that no single move and no swap improves, so planning again from there changes nothing.
//!
//! Hosts above their maximum are relieved first, by the moves that lose least latency for the accesses they take away.

use super::cost::Gain;
use super::homes::Seat;
use super::loads::Loads;
use super::output::Constraint;
use super::topology::HostIx;

/// Passes over all shards at most. Each pass lowers the cost; the last ones matter little.
const PASSES_MAX: usize = 16;

/// Accesses above a host's maximum that are borne before homes are moved away: a twentieth.
const RELIEF_SLACK: u64 = 20;

/// The state of a search.
pub(super) struct Search<'s> {
    seats: &'s mut [Seat],
    loads: &'s mut Loads,
    seated: Vec<Vec<usize>>,
    relieved: Vec<bool>,
    moved: u32,
    moves_max: u32,
}

/// A swap that makes room.
struct Swap {
    partner: usize,
    option: usize,
    net: Gain,
}

impl<'s> Search<'s> {
    /// Starts from the present placement.
    pub(super) fn of(seats: &'s mut [Seat], loads: &'s mut Loads, hosts: usize, moves_max: u32) -> Self {
        let mut seated = vec![Vec::new(); hosts];
        for (number, seat) in seats.iter().enumerate() {
            seated[seat.at().host].push(number);
        }
        let relieved = vec![false; seats.len()];
        Self {
            seats,
            loads,
            seated,
            relieved,
            moved: 0,
            moves_max,
        }
    }

    /// Runs the search; the seats' `at` and the loads hold the outcome. True for each seat moved to relieve a host.
    pub(super) fn run(mut self) -> Vec<bool> {
        for host in 0..self.seated.len() {
            self.relieve(host);
        }
        let order = self.by_gain();
        for &number in &order {
            self.improve_alone(number);
        }
        for _ in 0..PASSES_MAX {
            let changes = order.iter().filter(|number| self.improve(**number)).count();
            if changes == 0 {
                break;
            }
        }
        self.relieved
    }

    /// Why a seat is not at its best option; `None` where it is.
    pub(super) fn obstacle(seat: &Seat, loads: &Loads) -> Option<(usize, Constraint)> {
        let wanted = (0..seat.options.len()).find(|option| seat.gain_to(*option) > 0)?;
        let option = &seat.options[wanted];
        let full = || !loads.may_serve(option.host, seat.weight_milli, 0);
        let open = if full() {
            Constraint::Accesses {
                max_milli: loads.accesses_max_milli(),
            }
        } else {
            Constraint::MovesLimit
        };
        Some((wanted, option.gate.clone().unwrap_or(open)))
    }

    /// Seats with something to gain, most first.
    fn by_gain(&self) -> Vec<usize> {
        let gain = |number: &usize| {
            self.wishes(*number)
                .map(|option| self.seats[*number].gain_to(option))
                .max()
        };
        let mut order: Vec<(Gain, usize)> = (0..self.seats.len())
            .filter_map(|number| Some((-gain(&number)?, number)))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, number)| number).collect()
    }

    /// The options that are open to a seat and better than the one it has, best first.
    fn wishes(&self, number: usize) -> impl Iterator<Item = usize> + use<'_, 's> {
        let seat = &self.seats[number];
        let free = !self.relieved[number];
        (0..seat.options.len())
            .filter(move |option| free && seat.is_open(*option) && seat.gain_to(*option) > 0)
    }

    fn improve(&mut self, number: usize) -> bool {
        self.improve_alone(number) || self.improve_by_swap(number)
    }

    fn improve_alone(&mut self, number: usize) -> bool {
        let fits = |option: &usize| self.fits(number, *option) && self.may_move(&[(number, *option)]);
        let wish = self.wishes(number).find(fits);
        wish.inspect(|option| self.take(number, *option)).is_some()
    }

    fn improve_by_swap(&mut self, number: usize) -> bool {
        let wishes: Vec<usize> = self.wishes(number).collect();
        for option in wishes {
            if let Some(swap) = self.best_swap(number, option) {
                self.take(swap.partner, swap.option);
                self.take(number, option);
                return true;
            }
        }
        false
    }

    /// The swap with the greatest net gain that lets `number` take `option`.
    fn best_swap(&self, number: usize, option: usize) -> Option<Swap> {
        let full = self.seats[number].options[option].host;
        let mut best: Option<Swap> = None;
        for &partner in &self.seated[full] {
            for swap in self.swaps(number, option, partner) {
                if best.as_ref().is_none_or(|known| swap.net > known.net) {
                    best = Some(swap);
                }
            }
        }
        best
    }

    /// The swaps with one partner that fit and gain.
    fn swaps(
        &self,
        number: usize,
        option: usize,
        partner: usize,
    ) -> impl Iterator<Item = Swap> + use<'_, 's> {
        let seat = &self.seats[partner];
        let gain = self.seats[number].gain_to(option);
        let options = (0..seat.options.len()).filter(move |away| partner != number && *away != seat.at);
        options.filter_map(move |away| {
            let net = gain + seat.gain_to(away);
            let good = net > 0
                && self.is_paid(number, option, partner, away)
                && self.fits_swapped(number, option, partner, away)
                && self.may_move(&[(number, option), (partner, away)]);
            good.then_some(Swap {
                partner,
                option: away,
                net,
            })
        })
    }

    /// Whether a partner may be sent away: it is free to go, or only its own regret is missing and the regret of the
    /// one that gains covers both bars.
    fn is_paid(&self, number: usize, option: usize, partner: usize, away: usize) -> bool {
        let seat = &self.seats[partner];
        if seat.is_open(away) {
            return true;
        }
        let (wish, loss) = (&self.seats[number].options[option], &seat.options[away]);
        let waits = matches!(loss.gate, Some(Constraint::Regret { .. }));
        waits && wish.regret_micros >= wish.bar_micros.saturating_add(loss.bar_micros)
    }

    fn fits(&self, number: usize, option: usize) -> bool {
        let seat = &self.seats[number];
        self.loads
            .may_serve(seat.options[option].host, seat.weight_milli, 0)
    }

    fn fits_swapped(&self, number: usize, option: usize, partner: usize, away: usize) -> bool {
        let (seat, other) = (&self.seats[number], &self.seats[partner]);
        let (from, to, exile) = (
            seat.at().host,
            seat.options[option].host,
            other.options[away].host,
        );
        let back = if exile == from { seat.weight_milli } else { 0 };
        self.loads.may_serve(to, seat.weight_milli, other.weight_milli)
            && self.loads.may_serve(exile, other.weight_milli, back)
    }

    /// Whether the plan's number of moves allows these changes.
    fn may_move(&self, changes: &[(usize, usize)]) -> bool {
        let moves = |number: usize, option: usize| i64::from(option != self.seats[number].start);
        let more: i64 = changes
            .iter()
            .map(|(n, option)| moves(*n, *option) - moves(*n, self.seats[*n].at))
            .sum();
        more <= 0 || i64::from(self.moved) + more <= i64::from(self.moves_max)
    }

    fn take(&mut self, number: usize, option: usize) {
        let seat = &mut self.seats[number];
        let (from, to) = (seat.at().host, seat.options[option].host);
        self.moved -= u32::from(seat.at != seat.start);
        self.moved += u32::from(option != seat.start);
        seat.at = option;
        self.loads.move_accesses(from, to, seat.weight_milli);
        self.seated[from].retain(|seated| *seated != number);
        self.seated[to].push(number);
    }

    /// Moves homes away from a host that serves too much, least loss for each access first.
    fn relieve(&mut self, host: HostIx) {
        let max = self.loads.accesses_max_milli();
        if self.loads.accesses_milli(host) <= max.saturating_add(max / RELIEF_SLACK) {
            return;
        }
        for (number, option) in self.ways_out(host) {
            if self.loads.accesses_milli(host) <= max {
                return;
            }
            let stays = self.seats[number].at().host == host;
            if stays && self.fits(number, option) && self.may_move(&[(number, option)]) {
                self.take(number, option);
                self.relieved[number] = true;
            }
        }
    }

    /// The moves away from a host that only regret may forbid, least loss for each access first.
    fn ways_out(&self, host: HostIx) -> Vec<(usize, usize)> {
        let mut ways = Vec::new();
        for &number in &self.seated[host] {
            let seat = &self.seats[number];
            let leaves = |option: &usize| *option != seat.at && seat.weight_milli > 0;
            for option in (0..seat.options.len()).filter(leaves) {
                if matches!(seat.options[option].gate, None | Some(Constraint::Regret { .. })) {
                    let loss = -seat.gain_to(option) / Gain::from(seat.weight_milli);
                    ways.push((loss, number, option));
                }
            }
        }
        ways.sort_unstable();
        ways.into_iter()
            .map(|(_, number, option)| (number, option))
            .collect()
    }
}
