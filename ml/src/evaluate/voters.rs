//! Where homes may be: the voters of each shard, chosen once from the training part.
//!
//! Left out: moving them. Replica sets follow over hours to days and are the planner's slow level.

use std::collections::BTreeMap;

use placement::{ShardId, Zone};

use super::sets::Sets;
use crate::window::{OriginCount, WindowCounts};

/// The zones that hold a voter of each shard, the best home of the training part first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voters {
    by_shard: BTreeMap<ShardId, Vec<usize>>,
    all: Vec<usize>,
}

impl Voters {
    /// Every zone holds a voter: what a home could reach if replicas cost nothing.
    pub fn everywhere(zones: usize) -> Self {
        Self {
            by_shard: BTreeMap::new(),
            all: (0..zones).collect(),
        }
    }

    /// For each shard the `count` zones with the least total round trip, each access served by the nearest of them.
    pub fn nearest(training: &[WindowCounts], zones: &[Zone], rtt: &[Vec<u64>], count: usize) -> Self {
        VoterChoice::of(training, zones).nearest(rtt, count)
    }

    /// For each shard the `count` zones with most accesses.
    pub fn busiest(training: &[WindowCounts], zones: &[Zone], count: usize) -> Self {
        VoterChoice::of(training, zones).busiest(count)
    }

    /// A shard's voters by the zones' numbers; every zone for a shard without accesses in training.
    pub fn of(&self, shard: ShardId) -> &[usize] {
        self.by_shard.get(&shard).unwrap_or(&self.all)
    }
}

/// What voters are chosen by: each shard's accesses by origin, over windows that are taken in one by one.
#[derive(Clone, Debug)]
pub struct VoterChoice<'a> {
    zones: &'a [Zone],
    totals: BTreeMap<ShardId, Vec<u64>>,
}

impl<'a> VoterChoice<'a> {
    /// Nothing seen yet.
    pub fn new(zones: &'a [Zone]) -> Self {
        Self {
            zones,
            totals: BTreeMap::new(),
        }
    }

    fn of(windows: &[WindowCounts], zones: &'a [Zone]) -> Self {
        let mut choice = Self::new(zones);
        windows.iter().for_each(|window| choice.observe(window));
        choice
    }

    /// Takes in a window.
    pub fn observe(&mut self, window: &WindowCounts) {
        for (shard, by_zone) in &window.shards {
            let none = || vec![0; self.zones.len()];
            let accesses = self.totals.entry(*shard).or_insert_with(none);
            for (at, zone) in self.zones.iter().enumerate() {
                accesses[at] += by_zone.get(zone).map_or(0, OriginCount::accesses);
            }
        }
    }

    /// As [`Voters::nearest`].
    pub fn nearest(&self, rtt: &[Vec<u64>], count: usize) -> Voters {
        self.cheapest(count, &|accesses, set| {
            let nearest = |origin: usize| set.iter().map(|home| rtt[origin][*home]).min().unwrap_or(0);
            accesses
                .iter()
                .enumerate()
                .map(|(at, n)| u128::from(*n) * u128::from(nearest(at)))
                .sum()
        })
    }

    fn busiest(&self, count: usize) -> Voters {
        self.cheapest(count, &|accesses, set| {
            u128::from(accesses.iter().sum::<u64>() - set.iter().map(|at| accesses[*at]).sum::<u64>())
        })
    }

    fn cheapest(&self, count: usize, cost: &dyn Fn(&[u64], &[usize]) -> u128) -> Voters {
        let sets = Sets::new(self.zones.len(), count);
        let choose = |(shard, accesses): (&ShardId, &Vec<u64>)| {
            let mut set = sets.cheapest(|set| cost(accesses, set), Ord::cmp);
            set.sort_by_key(|at| (u64::MAX - accesses[*at], *at));
            (*shard, set)
        };
        Voters {
            by_shard: self.totals.iter().map(choose).collect(),
            all: (0..self.zones.len()).collect(),
        }
    }
}
