//! What shards were asked for in the windows that have ended, as far as it says where a shard should be cut.
//!
//! Kept by the controller and gone with it: one that takes over has a window's wait before it cuts anything.

use std::collections::BTreeMap;

use ml::partition::{Halves, KeyLoad, by_affinity, by_load};
use placement::{ShardId, Zone};

use crate::config::ShardsConfig;
use crate::profiler::{ClusterWindow, KeySample};

/// Sampled accesses below which nothing is concluded: a window and a half of a single host.
const SAMPLED_MIN: usize = 96;

/// What is known of one shard.
#[derive(Debug, Clone, Default)]
pub(super) struct ShardLoad {
    /// Accesses a second, over the last window.
    per_second: f64,
    sample: KeySample,
}

/// Where a shard should be cut for what it is asked, and why.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DueCut {
    pub(super) policy: &'static str,
    pub(super) halves: Halves,
    pub(super) per_second: f64,
}

/// What is known of all shards.
#[derive(Debug, Default)]
pub(super) struct ShardLoads(BTreeMap<ShardId, ShardLoad>);

impl ShardLoads {
    /// Takes in a window that has ended. A shard without accesses in it is asked for nothing now.
    pub(super) fn observe(&mut self, window: &ClusterWindow, window_ms: u64) {
        for load in self.0.values_mut() {
            load.per_second = 0.0;
            load.sample.fade();
        }
        for (shard, seen) in &window.shards {
            let accesses: u64 = seen
                .origins
                .values()
                .map(|used| used.reads() + used.writes())
                .sum();
            let load = self.0.entry(*shard).or_default();
            load.per_second = accesses as f64 * 1_000.0 / window_ms.max(1) as f64;
            load.sample.merge(seen.keys.clone());
        }
        self.0.retain(|_, load| load.sample.seen > 0);
    }

    /// Forgets a shard whose range is about to change: what is known of it is about another range.
    pub(super) fn forget(&mut self, shard: ShardId) {
        self.0.remove(&shard);
    }

    /// Where a shard should be cut, if it should.
    pub(super) fn due(&self, shard: ShardId, config: &ShardsConfig) -> Option<DueCut> {
        self.0.get(&shard)?.due(config)
    }

    /// Whether two shards, once they were one, should be cut again, or nearly: then they are better left apart.
    pub(super) fn would_part(&self, shard: ShardId, next: ShardId, config: &ShardsConfig) -> bool {
        let [Some(one), Some(other)] = [self.0.get(&shard), self.0.get(&next)] else {
            return false;
        };
        let mut joint = one.clone();
        joint.per_second += other.per_second;
        joint.sample.merge(other.sample.clone());
        // Half of what parts them, or what was merged would be cut at the next occasion.
        let close = ShardsConfig {
            accesses_max_per_s: config.accesses_max_per_s.div_ceil(2),
            affinity_gain_min_ppm: config.affinity_gain_min_ppm.div_ceil(2),
            ..config.clone()
        };
        joint.due(&close).is_some()
    }
}

impl ShardLoad {
    fn due(&self, config: &ShardsConfig) -> Option<DueCut> {
        if self.sample.accesses.len() < SAMPLED_MIN {
            return None;
        }
        let cut = |policy, halves| DueCut {
            policy,
            halves,
            per_second: self.per_second,
        };
        let most = config.accesses_max_per_s;
        if most > 0 && self.per_second > most as f64 {
            return by_load(&self.by_key()).map(|halves| cut("load", halves));
        }
        let gain_min = f64::from(config.affinity_gain_min_ppm) / 1e6;
        let halves = by_affinity(&self.by_key()).filter(|halves| gain_min > 0.0 && halves.gain >= gain_min);
        halves.map(|halves| cut("affinity", halves))
    }

    /// The sample as loads of keys by origin.
    fn by_key(&self) -> KeyLoad {
        let mut origins: Vec<&Zone> = Vec::new();
        let mut loads = KeyLoad::new();
        for access in &self.sample.accesses {
            let known = origins.iter().position(|origin| **origin == access.origin);
            let origin = known.unwrap_or_else(|| {
                origins.push(&access.origin);
                origins.len() - 1
            });
            let counts = loads.entry(access.key.clone()).or_default();
            counts.resize(counts.len().max(origin + 1), 0);
            counts[origin] += 1;
        }
        loads
    }
}

#[cfg(test)]
mod tests {
    use placement::{HostId, WindowId};

    use super::*;
    use crate::profiler::{Access, Op, Profiler};

    const SHARD: ShardId = ShardId(1);
    const NEXT: ShardId = ShardId(2);
    const WINDOW_MS: u64 = 1_000;

    /// A window of accesses: shard, key, origin.
    fn window(number: u64, accesses: impl Iterator<Item = (ShardId, u32, &'static str)>) -> ClusterWindow {
        let profiler = Profiler::new(HostId(1), number);
        for (shard, key, origin) in accesses {
            profiler.record(Access {
                shard,
                origin: profiler.origin(origin),
                op: Op::Get,
                by_lease: false,
                key: &key.to_be_bytes(),
                user: "",
                bytes: 8,
                at_ms: number * WINDOW_MS,
            });
        }
        let mut window = ClusterWindow::empty(WindowId(number));
        window.merge(profiler.take_window(WindowId(number))).unwrap();
        window
    }

    fn config() -> ShardsConfig {
        ShardsConfig {
            accesses_max_per_s: 5_000,
            affinity_gain_min_ppm: 200_000,
            ..ShardsConfig::default()
        }
    }

    /// `count` accesses spread evenly over 1,000 keys; those from `west` are the keys from `west_from`.
    fn spread(count: u32, west_from: u32) -> impl Iterator<Item = (ShardId, u32, &'static str)> {
        (0..count).map(move |at| {
            let key = at.wrapping_mul(7_919) % 1_000;
            (SHARD, key, if key < west_from { "east" } else { "west" })
        })
    }

    fn observed(windows: u64, accesses: impl Fn() -> Vec<(ShardId, u32, &'static str)>) -> ShardLoads {
        let mut loads = ShardLoads::default();
        (0..windows).for_each(|number| loads.observe(&window(number, accesses().into_iter()), WINDOW_MS));
        loads
    }

    fn key(cut: &DueCut) -> u32 {
        u32::from_be_bytes(cut.halves.at.as_slice().try_into().unwrap())
    }

    #[test]
    fn a_shard_that_is_asked_too_much_is_cut_in_the_middle_of_its_load() {
        let loads = observed(4, || spread(6_000, 1_000).collect());
        let cut = loads.due(SHARD, &config()).unwrap();
        assert_eq!((cut.policy, cut.per_second), ("load", 6_000.0));
        assert!((350..650).contains(&key(&cut)), "{cut:?}");
        assert_eq!(
            observed(4, || spread(4_000, 1_000).collect()).due(SHARD, &config()),
            None
        );
        let never = ShardsConfig {
            accesses_max_per_s: 0,
            ..config()
        };
        assert_eq!(loads.due(SHARD, &never), None);
    }

    #[test]
    fn a_shard_of_two_places_is_cut_between_them() {
        let loads = observed(4, || spread(2_000, 600).collect());
        let cut = loads.due(SHARD, &config()).unwrap();
        assert_eq!(cut.policy, "affinity");
        assert!((590..=640).contains(&key(&cut)), "{cut:?}");
        // One in ten from elsewhere is not worth a shard of its own.
        assert_eq!(
            observed(4, || spread(2_000, 900).collect()).due(SHARD, &config()),
            None
        );
    }

    #[test]
    fn nothing_is_concluded_from_little_or_from_what_is_past() {
        let few = observed(1, || spread(6_000, 600).collect());
        assert_eq!(
            few.due(SHARD, &config()),
            None,
            "one window of one host is 64 accesses"
        );
        let mut loads = observed(4, || spread(6_000, 1_000).collect());
        loads.observe(&window(9, std::iter::empty()), WINDOW_MS);
        assert_eq!(
            loads.due(SHARD, &config()),
            None,
            "it was asked for nothing in the last window"
        );
        let mut cut = observed(4, || spread(6_000, 1_000).collect());
        cut.forget(SHARD);
        assert_eq!(cut.due(SHARD, &config()), None);
    }

    #[test]
    fn what_would_be_cut_again_is_not_merged() {
        let sides = |other: &'static str| {
            move || {
                let one = spread(2_000, 1_000);
                let next = spread(2_000, 1_000).map(move |(_, key, _)| (NEXT, 1_000 + key, other));
                one.chain(next).collect()
            }
        };
        assert!(observed(4, sides("west")).would_part(SHARD, NEXT, &config()));
        // From one place, but together asked for more than half of what one may be.
        assert!(observed(4, sides("east")).would_part(SHARD, NEXT, &config()));
        let larger = ShardsConfig {
            accesses_max_per_s: 50_000,
            ..config()
        };
        assert!(!observed(4, sides("east")).would_part(SHARD, NEXT, &larger));
    }
}
