//! The best that homes could have done, knowing all windows: dynamic programming over each shard's accesses.
//!
//! Shards do not compete here, so each is its own problem: the cheapest walk over homes where every remote access
//! costs 1 and every move `move_cost`. A move may come before any window, and none has to wait.

use super::ground::{Cell, Ground};
use super::ledger::Ledger;

/// The optimum's ledger, from the same first homes as every policy.
pub fn optimum(ground: &Ground<'_>, homes: &[usize], move_cost: f64, bytes: &[u64]) -> Ledger {
    let mut by_shard: Vec<Vec<&Cell>> = vec![Vec::new(); ground.shards().len()];
    for at in ground.from..ground.windows.len() {
        ground
            .cells(at)
            .iter()
            .for_each(|cell| by_shard[cell.shard].push(cell));
    }
    let mut ledger = Ledger::new(ground.zones.len());
    for (shard, cells) in by_shard.iter().enumerate() {
        let walk = Walk::cheapest(cells, homes[shard], move_cost, ground.zones.len());
        let mut home = homes[shard];
        for (cell, next) in cells.iter().zip(walk) {
            if next != home {
                ledger.moved(bytes.get(shard).copied().unwrap_or(0));
            }
            home = next;
            ledger.serve(&cell.accesses, home);
        }
    }
    ledger
}

/// Costs of being at each origin, and how one got there.
struct Walk {
    costs: Vec<f64>,
    /// By step and origin: the origin of the step before.
    before: Vec<Vec<usize>>,
}

impl Walk {
    /// The home in each cell.
    fn cheapest(cells: &[&Cell], first: usize, move_cost: f64, origins: usize) -> Vec<usize> {
        let mut walk = Self {
            costs: vec![f64::INFINITY; origins],
            before: Vec::with_capacity(cells.len()),
        };
        walk.costs[first] = 0.0;
        cells.iter().for_each(|cell| walk.step(cell, move_cost));
        walk.back()
    }

    fn step(&mut self, cell: &Cell, move_cost: f64) {
        let total = cell.total() as f64;
        let (cheapest, least) = cheapest_of(&self.costs);
        let came = |home: usize| match self.costs[home] <= least + move_cost {
            true => (home, self.costs[home]),
            false => (cheapest, least + move_cost),
        };
        let steps: Vec<(usize, f64)> = (0..self.costs.len()).map(came).collect();
        let remote = |home: usize| total - f64::from(cell.accesses[home]);
        self.costs = steps
            .iter()
            .enumerate()
            .map(|(home, (_, cost))| cost + remote(home))
            .collect();
        self.before.push(steps.iter().map(|(from, _)| *from).collect());
    }

    fn back(&self) -> Vec<usize> {
        let mut home = cheapest_of(&self.costs).0;
        let mut homes = Vec::with_capacity(self.before.len());
        for before in self.before.iter().rev() {
            homes.push(home);
            home = before[home];
        }
        homes.reverse();
        homes
    }
}

/// The first of the least costs.
fn cheapest_of(costs: &[f64]) -> (usize, f64) {
    let better =
        |best: (usize, f64), (at, cost): (usize, &f64)| if *cost < best.1 { (at, *cost) } else { best };
    costs.iter().enumerate().fold((0, f64::INFINITY), better)
}

#[cfg(test)]
mod tests {
    use placement::Zone;

    use super::super::ground::tests::windows_from;
    use super::*;
    use crate::profile::WindowLength;

    fn best(zones: &[&str], move_cost: f64) -> (u64, u64) {
        let windows = windows_from(zones);
        let (names, rtt) = ([Zone::from("a"), Zone::from("b")], vec![vec![1, 9], vec![9, 1]]);
        let ground = Ground::new(&windows, &names, &rtt, WindowLength::HOUR, 1);
        let ledger = optimum(&ground, &ground.majority_homes(1), move_cost, &[7]);
        assert_eq!(ledger.bytes, 7 * ledger.moves);
        (ledger.accesses() - ledger.local(), ledger.moves)
    }

    #[test]
    fn a_move_is_made_where_it_pays() {
        let log = ["a", "b", "b", "b", "a", "b", "b", "b"];
        assert_eq!(best(&log, 0.1), (0, 3));
        assert_eq!(best(&log, 0.9), (1, 1));
        assert_eq!(best(&log, 10.0), (6, 0));
    }

    /// Against every walk there is.
    #[test]
    fn no_other_walk_costs_less() {
        let log = ["a", "b", "a", "b", "b", "a", "a", "b", "a"];
        let origins: Vec<usize> = log[1..].iter().map(|zone| usize::from(*zone == "b")).collect();
        for move_cost in [0.2, 0.7, 1.3, 2.5] {
            let cost = |walk: u32| {
                let homes: Vec<usize> = (0..origins.len()).map(|at| (walk >> at & 1) as usize).collect();
                let remote = homes.iter().zip(&origins).filter(|(home, origin)| home != origin);
                let before = std::iter::once(&0).chain(&homes);
                let moves = homes.iter().zip(before).filter(|(home, before)| home != before);
                remote.count() as f64 + move_cost * moves.count() as f64
            };
            let least = (0..1 << origins.len()).map(cost).fold(f64::INFINITY, f64::min);
            let (remote, moves) = best(&log, move_cost);
            let ours = remote as f64 + move_cost * moves as f64;
            assert!((ours - least).abs() < 1e-9, "{move_cost}: {ours} {least}");
        }
    }
}
