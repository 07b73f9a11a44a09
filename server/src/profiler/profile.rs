//! [`Profiler`]: counts accesses, a window at a time.
//!
//! Shards are spread over stripes, each behind its own lock, so that requests for different shards
//! rarely meet. Closing a window swaps each stripe's counts for empty ones, one stripe after the other:
//! an access at that very moment lands in the old window or the new, never in both and never in none.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use placement::{HostId, ShardId, WindowId, Zone};

use super::key_sample::mix;
use super::origins::{ORIGINS_MAX, Origins};
use super::report::{Touch, WindowReport};
use super::shard_profile::ShardProfile;
use super::{Access, OriginId};

/// Most shards told apart on one host; accesses of others are counted as untracked.
pub const SHARDS_MAX: usize = 1_024;

/// Most single touches kept of one window on one host, the first ones.
pub const TRAIL_MAX: u64 = 16_384;

const STRIPES: usize = 16;
const SHARDS_PER_STRIPE_MAX: usize = SHARDS_MAX / STRIPES;

/// Counts every access a host serves. Shared by all its connections.
#[derive(Debug)]
pub struct Profiler {
    host: HostId,
    seed: u64,
    origins: Origins,
    stripes: Vec<Mutex<Stripe>>,
    /// Touches kept in the open window, over all stripes.
    touches: AtomicU64,
    lease_reads: AtomicU64,
    /// Accesses since the beginning, by the origin's number.
    served: Vec<AtomicU64>,
}

#[derive(Debug, Default)]
struct Stripe {
    shards: BTreeMap<ShardId, ShardProfile>,
    trail: Vec<(OriginId, Touch)>,
    untracked: u64,
    untrailed: u64,
}

impl Profiler {
    /// A profiler of `host`. `seed` decides which keys are sampled, and nothing else.
    pub fn new(host: HostId, seed: u64) -> Self {
        let stripes = (0..STRIPES).map(|_| Mutex::default()).collect();
        Profiler {
            host,
            seed,
            origins: Origins::new(),
            stripes,
            touches: AtomicU64::new(0),
            lease_reads: AtomicU64::new(0),
            served: (0..=ORIGINS_MAX).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The number of an origin, for [`Access::origin`]. Ask once a connection.
    pub fn origin(&self, name: &str) -> OriginId {
        self.origins.number(name)
    }

    /// Counts one access.
    pub fn record(&self, access: Access<'_>) {
        let key = ml::digest(access.key);
        let user = ml::digest(access.user.as_bytes());
        let has_room = self.touches.fetch_add(1, Ordering::Relaxed) < TRAIL_MAX;
        if access.by_lease {
            self.lease_reads.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(served) = self.served.get(access.origin.index()) {
            served.fetch_add(1, Ordering::Relaxed);
        }
        let mut stripe = self.stripe(access.shard);
        if !stripe.count(&access, key, user, self.seed) {
            return;
        }
        if has_room {
            let (shard, at_ms) = (access.shard, access.at_ms);
            let touch = Touch {
                at_ms,
                shard,
                key,
                user,
                origin: Default::default(),
            };
            stripe.trail.push((access.origin, touch));
        } else {
            stripe.untrailed += 1;
        }
    }

    /// Accesses since the profiler was made, by the zone that clients said they are in; windows do not reset them.
    pub fn served(&self) -> BTreeMap<Zone, u64> {
        let counted = self.served.iter().enumerate().filter_map(|(number, served)| {
            let accesses = served.load(Ordering::Relaxed);
            let origin = OriginId::of_index(number)?;
            (accesses > 0).then(|| (self.origins.name(origin), accesses))
        });
        counted.collect()
    }

    /// Ends the open window, which the caller names, and starts the next.
    pub fn take_window(&self, window: WindowId) -> WindowReport {
        let mut report = WindowReport::empty(window, self.host);
        for stripe in &self.stripes {
            let taken = std::mem::take(&mut *lock(stripe));
            report.untracked += taken.untracked;
            report.untrailed += taken.untrailed;
            let shards = taken.shards.into_iter();
            report
                .shards
                .extend(shards.map(|(shard, profile)| (shard, profile.into_window(&self.origins))));
            let trail = taken.trail.into_iter();
            report.trail.extend(trail.map(|(origin, touch)| Touch {
                origin: self.origins.name(origin),
                ..touch
            }));
        }
        self.touches.store(0, Ordering::Relaxed);
        report.lease_reads = self.lease_reads.swap(0, Ordering::Relaxed);
        report.trail.sort();
        report
    }

    fn stripe(&self, shard: ShardId) -> MutexGuard<'_, Stripe> {
        lock(&self.stripes[shard.0 as usize % STRIPES])
    }
}

impl Stripe {
    /// Counts under the access's shard; false when there are too many shards to tell this one apart.
    fn count(&mut self, access: &Access<'_>, key: u64, user: u64, seed: u64) -> bool {
        if let Some(profile) = self.shards.get_mut(&access.shard) {
            profile.record(access, key, user);
            return true;
        }
        if self.shards.len() >= SHARDS_PER_STRIPE_MAX {
            self.untracked += 1;
            return false;
        }
        let mut profile = ShardProfile::new(mix(seed ^ mix(access.shard.0)));
        profile.record(access, key, user);
        self.shards.insert(access.shard, profile);
        true
    }
}

/// Counts stay usable after a panic elsewhere: at worst one access is half counted.
fn lock(stripe: &Mutex<Stripe>) -> MutexGuard<'_, Stripe> {
    stripe.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::profiler::{HOT_KEYS_MAX, HOT_USERS_MAX, KEY_SAMPLE_MAX, Op, OpUse};

    const WINDOW: WindowId = WindowId(4);

    fn access<'a>(shard: u64, origin: OriginId, op: Op, key: &'a [u8], user: &'a str) -> Access<'a> {
        Access {
            shard: ShardId(shard),
            origin,
            op,
            by_lease: op == Op::Scan,
            key,
            user,
            bytes: 10,
            at_ms: 1_000,
        }
    }

    #[test]
    fn accesses_are_counted_by_shard_origin_op_and_bytes() {
        let profiler = Profiler::new(HostId(1), 7);
        let (east, west) = (profiler.origin("east"), profiler.origin("west"));
        for (shard, origin, op) in [
            (1, east, Op::Get),
            (1, east, Op::Get),
            (1, east, Op::Put),
            (1, west, Op::Scan),
            (2, west, Op::Delete),
        ] {
            profiler.record(access(shard, origin, op, b"k", "u"));
        }
        let report = profiler.take_window(WINDOW);
        assert_eq!((report.window, report.host), (WINDOW, HostId(1)));
        let east = &report.shards[&ShardId(1)].origins[&Zone::from("east")];
        assert_eq!(
            (east.get, east.put),
            (OpUse { count: 2, bytes: 20 }, OpUse { count: 1, bytes: 10 })
        );
        assert_eq!((east.reads(), east.writes()), (2, 1));
        let west = &report.shards[&ShardId(2)].origins[&Zone::from("west")];
        assert_eq!((west.reads(), west.writes()), (0, 1));
        assert_eq!(report.lease_reads, 1);
        assert_eq!(report.trail.len(), 5);
        assert_eq!(
            profiler.take_window(WINDOW),
            WindowReport::empty(WINDOW, HostId(1))
        );
    }

    #[test]
    fn hot_keys_and_users_are_named_with_their_origins() {
        let profiler = Profiler::new(HostId(1), 7);
        let (east, west) = (profiler.origin("east"), profiler.origin("west"));
        for i in 0..1_000_u32 {
            let cold = format!("cold/{i}");
            profiler.record(access(1, east, Op::Get, cold.as_bytes(), &cold));
            profiler.record(access(1, west, Op::Get, b"hot", "ann"));
        }
        let report = profiler.take_window(WINDOW);
        let shard = &report.shards[&ShardId(1)];
        assert_eq!(shard.hot_keys[0].key, b"hot");
        assert!(shard.hot_keys[0].count - shard.hot_keys[0].error <= 1_000);
        let ann = &shard.hot_users[0];
        assert_eq!(
            (ann.user.as_str(), ann.origins[&Zone::from("west")]),
            ("ann", 1_000)
        );
        let lengths = (
            shard.hot_keys.len(),
            shard.hot_users.len(),
            shard.keys.accesses.len(),
        );
        assert_eq!(lengths, (HOT_KEYS_MAX, HOT_USERS_MAX, KEY_SAMPLE_MAX));
        assert_eq!(shard.keys.seen, 2_000);
    }

    #[test]
    fn memory_is_bounded_and_what_is_left_out_is_counted() {
        let profiler = Profiler::new(HostId(1), 7);
        let origin = profiler.origin("east");
        let shards = 2 * SHARDS_MAX as u64;
        for shard in 0..shards {
            for _ in 0..20 {
                profiler.record(access(shard, origin, Op::Get, b"k", ""));
            }
        }
        let report = profiler.take_window(WINDOW);
        assert_eq!(report.shards.len(), SHARDS_MAX);
        assert_eq!(report.untracked, 20 * (shards - SHARDS_MAX as u64));
        let counted: u64 = report
            .shards
            .values()
            .map(|shard| shard.origins[&Zone::from("east")].reads())
            .sum();
        assert_eq!(counted + report.untracked, 20 * shards);
        assert_eq!(report.trail.len() as u64, TRAIL_MAX);
        assert_eq!(report.trail.len() as u64 + report.untrailed, counted);
    }

    #[test]
    fn no_access_is_lost_or_doubled_while_windows_close() {
        let profiler = Arc::new(Profiler::new(HostId(1), 7));
        let origin = profiler.origin("east");
        let count = |report: WindowReport| -> u64 {
            report
                .shards
                .values()
                .flat_map(|shard| shard.origins.values())
                .map(|used| used.reads())
                .sum()
        };
        let mut seen = 0;
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4_u64)
                .map(|worker| {
                    let profiler = profiler.clone();
                    scope.spawn(move || {
                        for i in 0..20_000 {
                            profiler.record(access((worker + i) % 40, origin, Op::Get, b"k", "u"));
                        }
                    })
                })
                .collect();
            while !workers.iter().all(|worker| worker.is_finished()) {
                seen += count(profiler.take_window(WINDOW));
            }
        });
        seen += count(profiler.take_window(WINDOW));
        assert_eq!(seen, 80_000);
    }

    #[test]
    fn equal_seeds_give_equal_reports() {
        let run = |seed| {
            let profiler = Profiler::new(HostId(1), seed);
            let origin = profiler.origin("east");
            for i in 0..5_000_u32 {
                profiler.record(access(1, origin, Op::Get, &i.to_be_bytes(), "u"));
            }
            profiler.take_window(WINDOW)
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
}
