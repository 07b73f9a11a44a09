//! What policies are scored on: the accesses of consecutive windows as numbers, and where they divide.
//!
//! Shards and origins are numbered densely. Windows before [`Ground::from`] are history: forecasters observe them, and
//! models are trained on them. The latest of the history, from [`Ground::trial`] on, is a trial: it is not trained on,
//! and policies are tuned and experts compared by what they would have cost in it. Only what comes from `from` on is
//! scored.
//!
//! Must hold: nothing here depends on windows to come, but the numbering of shards, which no policy reads a meaning
//! from.

use std::collections::BTreeMap;

use placement::{ShardId, Zone};

use crate::profile::WindowLength;
use crate::window::{OriginCount, WindowCounts};

/// The part of the history that is the trial: the tenth that the trainer holds back too.
const TRIAL_PART: usize = 10;

/// Accesses of one shard in one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The shard's number.
    pub shard: usize,
    /// Accesses by the origin's number.
    pub accesses: Vec<u32>,
}

impl Cell {
    /// Accesses of all origins.
    pub fn total(&self) -> u64 {
        self.accesses.iter().map(|count| u64::from(*count)).sum()
    }
}

/// Windows, in numbers.
#[derive(Clone, Debug)]
pub struct Ground<'a> {
    /// The windows, without gaps.
    pub windows: &'a [WindowCounts],
    /// The origins, which are also the places that a home may be at; their order is that of the matrix.
    pub zones: &'a [Zone],
    /// Round trips in microseconds, origin by home.
    pub rtt_micros: &'a [Vec<u64>],
    /// How long a window is.
    pub length: WindowLength,
    /// The place in `windows` of the first that is scored.
    pub from: usize,
    shards: Vec<ShardId>,
    cells: Vec<Vec<Cell>>,
}

impl<'a> Ground<'a> {
    /// Numbers the windows' accesses; those of zones that are not given are left out. The windows before place `from`
    /// are history.
    pub fn new(
        windows: &'a [WindowCounts],
        zones: &'a [Zone],
        rtt_micros: &'a [Vec<u64>],
        length: WindowLength,
        from: usize,
    ) -> Self {
        let mut numbers: BTreeMap<ShardId, usize> = BTreeMap::new();
        for shard in windows.iter().flat_map(|window| window.shards.keys()) {
            let next = numbers.len();
            numbers.entry(*shard).or_insert(next);
        }
        let mut shards: Vec<(usize, ShardId)> = numbers.iter().map(|(shard, at)| (*at, *shard)).collect();
        shards.sort_unstable();
        let cell = |(shard, by_zone): (&ShardId, &BTreeMap<Zone, OriginCount>)| Cell {
            shard: numbers[shard],
            accesses: zones
                .iter()
                .map(|zone| by_zone.get(zone).map_or(0, |count| count.accesses() as u32))
                .collect(),
        };
        Self {
            cells: windows
                .iter()
                .map(|window| window.shards.iter().map(cell).collect())
                .collect(),
            shards: shards.into_iter().map(|(_, shard)| shard).collect(),
            windows,
            zones,
            rtt_micros,
            length,
            from: from.min(windows.len()),
        }
    }

    /// The place of the trial's first window.
    pub fn trial(&self) -> usize {
        self.from - self.from / TRIAL_PART
    }

    /// The shards by number, in the order in which they were first accessed.
    pub fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    /// The accesses of the window at a place.
    pub fn cells(&self, at: usize) -> &[Cell] {
        &self.cells[at]
    }

    /// The accesses that are scored.
    pub fn scored(&self) -> u64 {
        self.cells[self.from..].iter().flatten().map(Cell::total).sum()
    }

    /// Each shard's accesses in the windows before place `until`, by origin.
    pub(crate) fn sums(&self, until: usize) -> Vec<Vec<u64>> {
        let mut sums = vec![vec![0u64; self.zones.len()]; self.shards.len()];
        for cell in self.cells[..until].iter().flatten() {
            let counts = sums[cell.shard].iter_mut().zip(&cell.accesses);
            counts.for_each(|(sum, count)| *sum += u64::from(*count));
        }
        sums
    }

    /// For each shard the origin with most accesses in the windows before place `until`; that of all shards together
    /// for a shard without any. The first of equals.
    pub fn majority_homes(&self, until: usize) -> Vec<usize> {
        let sums = self.sums(until);
        let mut all = vec![0u64; self.zones.len()];
        for sum in &sums {
            all.iter_mut().zip(sum).for_each(|(all, count)| *all += count);
        }
        let everywhere = largest(&all).unwrap_or(0);
        sums.iter()
            .map(|sum| largest(sum).unwrap_or(everywhere))
            .collect()
    }
}

/// The place of the first of the largest numbers; none if all are zero.
fn largest(numbers: &[u64]) -> Option<usize> {
    let most = numbers.iter().max().filter(|most| **most > 0)?;
    numbers.iter().position(|number| number == most)
}

#[cfg(test)]
pub(crate) mod tests {
    use placement::WindowId;

    use super::*;

    /// Windows 0, 1, ... with one access of shard 1 from each named zone.
    pub(crate) fn windows_from(zones: &[&str]) -> Vec<WindowCounts> {
        let window = |(at, zone): (usize, &&str)| {
            let mut counts = WindowCounts::empty(WindowId(at as u64));
            if !zone.is_empty() {
                counts.count(ShardId(1), &Zone::from(*zone), 1, 0);
            }
            counts
        };
        zones.iter().enumerate().map(window).collect()
    }

    #[test]
    fn homes_begin_where_the_history_had_most() {
        let windows = windows_from(&["b", "b", "a", "a", "a", "a"]);
        let (zones, rtt) = ([Zone::from("a"), Zone::from("b")], vec![vec![1, 9], vec![9, 1]]);
        let ground = Ground::new(&windows, &zones, &rtt, WindowLength::HOUR, 3);
        assert_eq!(ground.majority_homes(3), [1]);
        assert_eq!((ground.scored(), ground.cells(0)[0].total()), (3, 1));
    }
}
