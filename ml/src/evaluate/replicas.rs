//! Replica sets: the slow level, which follows what shards' demand is over days.
//!
//! A fading mean of each shard's accesses says which voters would serve it best. The set that is best by it is a
//! candidate; it is adopted at a review once what it would have saved in the windows since it became one exceeds what
//! its copies cost, and what chance explains. So a candidate is judged by windows that it was not chosen by, and without
//! signal nothing is copied.
//!
//! Must hold: voters of a shard are at different places. Sets depend on windows that have ended, and serve the window
//! after the next.

use super::capacity::Fitting;
use super::ground::Cell;
use super::ledger::Ledger;
use super::prices::{PASSES, Prices};
use super::sets::Sets;
use super::terms::{Bounds, Terms};

/// Standard deviations by which a candidate must be better: each shard asks once a review.
const DEVIATIONS: f64 = 3.0;
/// A candidate gives way to one whose expected cost is below this part of its own.
const BETTER_PART: f32 = 0.95;

/// What a set of voters is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetFor {
    /// Reads at the home: half by the best home that never moves, half by homes that always are at the nearest voter.
    Homes,
    /// Reads at the nearest voter.
    NearReads,
}

/// A set that may take another's place.
#[derive(Clone, Debug)]
struct Candidate {
    set: Vec<usize>,
    gain: f64,
    variance: f64,
}

/// The voters of all shards.
pub(crate) struct Replicas {
    wanted: SetFor,
    origins: usize,
    fade: f32,
    /// Accesses a window, by shard and origin.
    demand: Vec<f32>,
    /// What is expected of shards before anything is seen, by shard; empty where nothing is.
    expected: Vec<Vec<f32>>,
    now: Vec<Vec<usize>>,
    next: Vec<Vec<usize>>,
    candidates: Vec<Option<Candidate>>,
    /// All sets that there are.
    sets: Sets,
    /// By shard and origin, the voter that serves reads nearby in the next window, and in the one after it.
    routes: Vec<usize>,
    next_routes: Vec<usize>,
    prices: Prices,
    windows: usize,
    /// Replicas copied.
    pub copies: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Replicas {
    pub(crate) fn new(wanted: SetFor, shards: usize, origins: usize, bounds: &Bounds) -> Self {
        let first: Vec<usize> = (0..bounds.voters.min(origins)).collect();
        Self {
            wanted,
            origins,
            fade: 0.5f32.powf(1.0 / bounds.half_life_windows.max(1.0)),
            demand: vec![0.0; shards * origins],
            expected: bounds.expected.clone(),
            now: vec![first.clone(); shards],
            next: vec![first; shards],
            candidates: vec![None; shards],
            sets: Sets::new(origins, bounds.voters),
            routes: Vec::new(),
            next_routes: Vec::new(),
            prices: Prices::new(origins, bounds.fair_share_max),
            windows: 0,
            copies: 0,
            bytes: 0,
        }
    }

    /// A shard's accesses a window, by origin.
    pub(crate) fn demand(&self, shard: usize) -> &[f32] {
        &self.demand[shard * self.origins..(shard + 1) * self.origins]
    }

    /// The variance of an estimated demand as a part of it, if accesses come by chance.
    pub(crate) fn variance_part(&self) -> f32 {
        (1.0 - self.fade) / (1.0 + self.fade)
    }

    /// The voters that serve the window after the next.
    pub(crate) fn next(&self, shard: usize) -> &[usize] {
        &self.next[shard]
    }

    /// The voters that serve the next window.
    pub(crate) fn now(&self, shard: usize) -> &[usize] {
        &self.now[shard]
    }

    /// Chooses all sets afresh, as at the beginning of a cluster, and with them what room costs: nothing is copied.
    pub(crate) fn begin(&mut self, terms: &Terms) {
        self.expect_unseen();
        self.prices.reset();
        for pass in 0..PASSES {
            (0..self.next.len()).for_each(|shard| self.choose(shard, terms, pass));
        }
        self.now.clone_from(&self.next);
        self.candidates.fill(None);
        (self.copies, self.bytes) = (0, 0);
        self.route(terms);
        self.routes.clone_from(&self.next_routes);
    }

    /// Chooses a shard's set as if at the beginning, which raises the prices of those that will serve.
    fn choose(&mut self, shard: usize, terms: &Terms, pass: usize) {
        self.next[shard] = self.best(shard, terms);
        let total: f32 = self.demand.iter().sum();
        match self.wanted {
            SetFor::Homes => {
                let (home, load) = (self.best_home(shard, terms), self.demand(shard).iter().sum());
                self.prices.charge(home, load, total, pass);
            }
            SetFor::NearReads => {
                for at in shard * self.origins..(shard + 1) * self.origins {
                    let (voter, load) = (self.nearest(at, terms), self.demand[at]);
                    self.prices.charge(voter, load, total, pass);
                }
            }
        }
    }

    /// What an access costs at each host for want of room.
    pub(crate) fn prices(&self) -> &Prices {
        &self.prices
    }

    /// The voter at which a shard's home costs least, room included.
    pub(crate) fn best_home(&self, shard: usize, terms: &Terms) -> usize {
        let voters = self.next[shard].iter().copied();
        let cost = |home: usize| self.home_cost(self.demand(shard), home, terms);
        voters.min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(0)
    }

    /// Raises the price of hosts that would be given more than their limit, and lowers that of others.
    fn adjust_prices(&mut self, terms: &Terms) {
        let mut held = vec![0.0; self.origins];
        match self.wanted {
            SetFor::Homes => {
                for shard in 0..self.next.len() {
                    held[self.best_home(shard, terms)] += self.demand(shard).iter().sum::<f32>();
                }
            }
            SetFor::NearReads => {
                let demand = self.demand.iter().enumerate();
                for (at, demand) in demand.filter(|(_, demand)| **demand > 0.0) {
                    held[self.nearest(at, terms)] += demand;
                }
            }
        }
        self.prices.adjust(&held, PASSES);
    }

    /// The voter at which accesses cost least, room included; without any, as for what is expected.
    pub(crate) fn cheapest_home(&self, shard: usize, accesses: &[u64], terms: &Terms) -> usize {
        if accesses.iter().all(|count| *count == 0) {
            return self.best_home(shard, terms);
        }
        let demand: Vec<f32> = accesses.iter().map(|count| *count as f32).collect();
        let cost = |home: usize| self.home_cost(&demand, home, terms);
        let voters = self.next[shard].iter().copied();
        voters.min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(0)
    }

    fn home_cost(&self, demand: &[f32], home: usize, terms: &Terms) -> f32 {
        terms.expected_cost(demand, home) + self.prices.by_host()[home] * demand.iter().sum::<f32>()
    }

    /// The voter that serves a shard's origin at the least loss, room included; `at` numbers pairs of the two.
    fn nearest(&self, at: usize, terms: &Terms) -> usize {
        let loss = &terms.loss[at % self.origins];
        let cost = |voter: usize| loss[voter] + self.prices.by_host()[voter];
        let voters = self.next[at / self.origins].iter().copied();
        voters.min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(0)
    }

    /// A shard that less was seen of than is expected counts with what is expected.
    fn expect_unseen(&mut self) {
        let rows = self.demand.chunks_exact_mut(self.origins);
        for (row, expected) in rows.zip(&self.expected) {
            if row.iter().sum::<f32>() < expected.iter().sum() {
                row.copy_from_slice(expected);
            }
        }
    }

    /// Takes in a window that has ended.
    pub(crate) fn observe(&mut self, cells: &[Cell], terms: &Terms) {
        if cells.is_empty() {
            // Nothing was logged at all, which says nothing of where accesses come from when there are some.
            return;
        }
        self.demand.iter_mut().for_each(|demand| *demand *= self.fade);
        for cell in cells {
            self.weigh_candidate(cell, terms);
            let row = &mut self.demand[cell.shard * self.origins..(cell.shard + 1) * self.origins];
            row.iter_mut()
                .zip(&cell.accesses)
                .for_each(|(demand, count)| *demand += (1.0 - self.fade) * *count as f32);
        }
        self.windows += 1;
    }

    /// Lets what was decided happen, and reviews the sets if it is time.
    pub(crate) fn decide(&mut self, terms: &Terms, bounds: &Bounds, bytes: &[u64]) {
        self.now.clone_from(&self.next);
        self.routes.clone_from(&self.next_routes);
        if !self.windows.is_multiple_of(bounds.review_windows.max(1)) {
            return;
        }
        self.adjust_prices(terms);
        for shard in 0..self.now.len() {
            self.review(
                shard,
                terms,
                bounds.copy_cost,
                bytes.get(shard).copied().unwrap_or(0),
            );
        }
        self.route(terms);
    }

    /// Serves a shard's accesses at the voters nearby.
    pub(crate) fn serve_near(&self, cell: &Cell, ledger: &mut Ledger) {
        for (origin, count) in cell.accesses.iter().enumerate().filter(|(_, count)| **count > 0) {
            ledger.serve_from(
                origin,
                u64::from(*count),
                self.routes[cell.shard * self.origins + origin],
            );
        }
    }

    fn weigh_candidate(&mut self, cell: &Cell, terms: &Terms) {
        let Some(mut candidate) = self.candidates[cell.shard].take() else {
            return;
        };
        let counts: Vec<f32> = cell.accesses.iter().map(|count| *count as f32).collect();
        let saved = f64::from(
            self.cost(&counts, &self.next[cell.shard], terms) - self.cost(&counts, &candidate.set, terms),
        );
        candidate.gain += saved;
        candidate.variance += saved * saved;
        self.candidates[cell.shard] = Some(candidate);
    }

    fn review(&mut self, shard: usize, terms: &Terms, copy_cost: f32, bytes: u64) {
        let best = self.best(shard, terms);
        let Some(candidate) = &self.candidates[shard] else {
            if best != self.next[shard] {
                self.candidates[shard] = Some(Candidate::new(best));
            }
            return;
        };
        let copies = candidate
            .set
            .iter()
            .filter(|place| !self.next[shard].contains(place))
            .count();
        let bar = (f64::from(copy_cost) * copies as f64).max(DEVIATIONS * candidate.variance.sqrt());
        if candidate.gain > bar {
            self.next[shard].clone_from(&candidate.set);
            self.candidates[shard] = None;
            self.copies += copies as u64;
            self.bytes += copies as u64 * bytes;
            return;
        }
        let cost = |set: &[usize]| self.cost(self.demand(shard), set, terms);
        if cost(&best) < BETTER_PART * cost(&candidate.set) || candidate.gain < 0.0 {
            self.candidates[shard] = (best != self.next[shard]).then(|| Candidate::new(best));
        }
    }

    /// The set of the least expected cost; of equals the first.
    fn best(&self, shard: usize, terms: &Terms) -> Vec<usize> {
        let demand = self.demand(shard);
        self.sets
            .cheapest(|set| self.cost(demand, set, terms), f32::total_cmp)
    }

    fn cost(&self, demand: &[f32], set: &[usize], terms: &Terms) -> f32 {
        let prices = self.prices.by_host();
        let mut near = 0.0;
        for (demand, loss) in demand
            .iter()
            .zip(&terms.loss)
            .filter(|(demand, _)| **demand > 0.0)
        {
            let each = set.iter().map(|voter| loss[*voter] + prices[*voter]);
            near += demand * each.fold(f32::INFINITY, f32::min);
        }
        if self.wanted == SetFor::NearReads {
            return near;
        }
        let homes = set.iter().map(|home| self.home_cost(demand, *home, terms));
        (near + homes.fold(f32::INFINITY, f32::min)) / 2.0
    }

    /// Each origin's reads go to the nearest voter, room included; where a host is expected to serve too many all the
    /// same, those go to another one that lose least.
    fn route(&mut self, terms: &Terms) {
        if self.wanted == SetFor::Homes {
            return;
        }
        let mut routes: Vec<usize> = (0..self.demand.len()).map(|at| self.nearest(at, terms)).collect();
        let (origins, next) = (self.origins, &self.next);
        if let Some(limit) = self.prices.limit(self.demand.iter().sum()) {
            let fitting = Fitting {
                loads: &self.demand,
                limits: &vec![limit; origins],
                variance_part: 0.0,
            };
            fitting.fit(&mut routes, |at, host| {
                let serves = next[at / origins].contains(&host);
                serves.then(|| self.demand[at] * terms.loss[at % origins][host])
            });
        }
        self.next_routes = routes;
    }
}

impl Candidate {
    fn new(set: Vec<usize>) -> Self {
        Self {
            set,
            gain: 0.0,
            variance: 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        let rtt = vec![
            vec![1, 21, 41, 61],
            vec![21, 1, 21, 41],
            vec![41, 21, 1, 21],
            vec![61, 41, 21, 1],
        ];
        Terms::system(
            &rtt,
            Bounds {
                voters: 2,
                fair_share_max: None,
                half_life_windows: 4.0,
                review_windows: 2,
                copy_cost: 1.0,
                expected: vec![vec![1.0, 0.0, 0.0, 0.5]],
            },
        )
    }

    fn cell(accesses: [u32; 4]) -> Cell {
        Cell {
            shard: 0,
            accesses: accesses.to_vec(),
        }
    }

    fn after(windows: &[[u32; 4]]) -> Replicas {
        let terms = terms();
        let bounds = terms.bounds.as_ref().unwrap();
        let mut replicas = Replicas::new(SetFor::NearReads, 1, 4, bounds);
        replicas.begin(&terms);
        for accesses in windows {
            replicas.observe(&[cell(*accesses)], &terms);
            replicas.decide(&terms, bounds, &[7]);
        }
        replicas
    }

    #[test]
    fn voters_begin_where_accesses_are_expected() {
        let replicas = after(&[]);
        assert_eq!(replicas.now(0), [0, 3]);
        let mut ledger = Ledger::new(4);
        replicas.serve_near(&cell([1, 0, 2, 0]), &mut ledger);
        assert_eq!((ledger.accesses(), ledger.local()), (3, 1));
    }

    #[test]
    fn voters_follow_once_the_windows_since_have_paid_for_the_copies() {
        let moved = after(&[[0, 9, 9, 0]; 40]);
        assert_eq!(
            (moved.now(0), moved.copies, moved.bytes),
            ([1, 2].as_slice(), 2, 14)
        );
        let soon = after(&[[0, 9, 9, 0]; 3]);
        assert_eq!((soon.now(0), soon.copies), ([0, 3].as_slice(), 0));
    }
}
