//! What the planner remembers from window to window, and the rule that keeps it from flapping.
//!
//! For each shard and each place it could go, the memory sums what staying has cost against being there: a window in
//! which the other place would have been better adds, a window in which it would have been worse takes away, never
//! below zero. A move waits until that regret has reached the move's cost. It is the ski-rental rule; between two
//! places and with one bar for both ways it is the work-function algorithm: whatever the accesses do, latency and
//! moves together cost at most three times what the best plan in hindsight would have, plus a constant. By default
//! going straight back has a higher bar for a while: fewer moves, for a larger factor.
//!
//! The memory follows what happened, not what was proposed: regret is forgotten when the placement is seen to have
//! changed, by a planned move or by any other, and kept when a proposed move was refused. Planning a window a second
//! time adds nothing.
//!
//! The memory is plain data. Losing it costs time, not correctness: regret starts again from zero.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{HostId, ShardId, WindowId, Zone};

use super::forecast::PPM;
use super::input::{Hysteresis, PlacementView, ShardView};

/// Places remembered per shard and level; the least regretted is forgotten first.
const PLACES_MAX: usize = 8;

/// The planner's memory of all shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanMemory {
    window: Option<WindowId>,
    shards: BTreeMap<ShardId, ShardMemory>,
}

/// Whether a plan adds its window's gains to the regret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Regret {
    /// The window is new to the memory.
    Grows,
    /// The window was planned before, or there is no hysteresis to need it.
    Stays,
}

/// The planner's memory of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ShardMemory {
    home: Option<HostId>,
    voters: BTreeSet<HostId>,
    /// Regret for homes, by host.
    pub(super) homes: Track<HostId>,
    /// Regret for replica sets, by the zone of the first replica that would come.
    pub(super) replicas: Track<Zone>,
}

/// The regret against each place of one kind, and where the last move came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Track<P: Ord> {
    regret_micros: BTreeMap<P, u64>,
    left: BTreeMap<P, WindowId>,
}

impl PlanMemory {
    /// The last window that was planned with this memory.
    pub fn window(&self) -> Option<WindowId> {
        self.window
    }

    /// The regret, in microseconds, of keeping the home of `shard` where it is rather than on `host`.
    pub fn home_regret_micros(&self, shard: ShardId, host: HostId) -> u64 {
        self.shards
            .get(&shard)
            .map_or(0, |memory| memory.homes.regret(&host))
    }

    /// Whether planning `window` adds to the regret.
    pub(super) fn regret_in(&self, window: WindowId, rule: Hysteresis) -> Regret {
        let is_new = self.window.is_none_or(|seen| seen < window);
        if is_new && rule != Hysteresis::None {
            Regret::Grows
        } else {
            Regret::Stays
        }
    }

    /// The memory brought up to the placement as it is now, for planning `window`.
    pub(super) fn observed(&self, placement: &PlacementView, window: WindowId) -> Self {
        let since = self.window.unwrap_or(window);
        let mut shards = BTreeMap::new();
        for (id, shard) in &placement.shards {
            let mut memory = self.shards.get(id).cloned().unwrap_or_default();
            memory.follow(shard, placement, since);
            shards.insert(*id, memory);
        }
        Self {
            window: Some(window.max(since)),
            shards,
        }
    }

    /// The memory of a shard that [`PlanMemory::observed`] has seen.
    pub(super) fn shard(&mut self, id: ShardId) -> &mut ShardMemory {
        self.shards.entry(id).or_default()
    }
}

impl ShardMemory {
    /// Forgets what a change since the last plan has settled, and notes what was left behind in window `since`.
    fn follow(&mut self, shard: &ShardView, placement: &PlacementView, since: WindowId) {
        let voters: BTreeSet<HostId> = shard.voters().map(|(_, host)| host).collect();
        if voters != self.voters {
            let zone_of = |host: &HostId| placement.hosts.get(host).map(|host| host.zone.clone());
            self.replicas.moved(
                self.voters.difference(&voters).filter_map(zone_of).collect(),
                since,
            );
            self.voters = voters;
        }
        let home = shard.home_host();
        if home.is_some() && home != self.home {
            self.homes.moved(self.home.into_iter().collect(), since);
            self.home = home;
        }
    }
}

impl<P: Ord> Default for Track<P> {
    fn default() -> Self {
        Self {
            regret_micros: BTreeMap::new(),
            left: BTreeMap::new(),
        }
    }
}

impl<P: Ord + Clone> Track<P> {
    /// The regret against `place`, in microseconds.
    pub(super) fn regret(&self, place: &P) -> u64 {
        self.regret_micros.get(place).copied().unwrap_or(0)
    }

    /// The places regretted at present.
    pub(super) fn places(&self) -> impl Iterator<Item = &P> {
        self.regret_micros.keys()
    }

    /// Adds one window's gain of `place` over the present one, which may be negative; at most `max_micros` is kept.
    pub(super) fn add(&mut self, place: P, gain_micros: i64, max_micros: u64) {
        let sum = self
            .regret(&place)
            .saturating_add_signed(gain_micros)
            .min(max_micros);
        if sum == 0 {
            self.regret_micros.remove(&place);
            return;
        }
        self.regret_micros.insert(place, sum);
        if self.regret_micros.len() > PLACES_MAX {
            self.forget_least();
        }
    }

    /// The regret that a move to `place` needs in `window`, where it costs `cost_micros`.
    pub(super) fn bar(&self, rule: Hysteresis, place: &P, cost_micros: u64, window: WindowId) -> u64 {
        let Hysteresis::SkiRental(rental) = rule else {
            return 0;
        };
        let back = self
            .left
            .get(place)
            .is_some_and(|left| window.0 < left.0.saturating_add(rental.return_windows));
        let ppm = if back {
            rental.return_bar_ppm
        } else {
            rental.bar_ppm
        };
        let bar = u128::from(cost_micros) * u128::from(ppm) / u128::from(PPM);
        u64::try_from(bar).unwrap_or(u64::MAX)
    }

    fn moved(&mut self, left: Vec<P>, window: WindowId) {
        self.regret_micros.clear();
        for place in left {
            self.left.insert(place, window);
        }
        while self.left.len() > PLACES_MAX {
            let oldest = self
                .left
                .iter()
                .min_by_key(|(_, window)| **window)
                .map(|(place, _)| place.clone());
            oldest.map(|place| self.left.remove(&place));
        }
    }

    fn forget_least(&mut self) {
        let least = self
            .regret_micros
            .iter()
            .min_by_key(|(_, regret)| **regret)
            .map(|(place, _)| place.clone());
        least.map(|place| self.regret_micros.remove(&place));
    }
}
