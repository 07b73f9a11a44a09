//! What a host counted in a window, and what all hosts counted together.
//!
//! A [`WindowReport`] travels from each host to the placement leader, which merges them into a
//! [`ClusterWindow`]. A host whose report was merged is remembered, so a report that is sent again after a
//! lost answer is refused instead of counted twice.

use std::collections::{BTreeMap, BTreeSet};

use ml::WindowCounts;
use placement::{HostId, ShardId, WindowId, Zone};
use serde::{Deserialize, Serialize};

use super::shard_profile::{HOT_KEYS_MAX, HOT_USERS_MAX};
use super::{KeySample, Op};

/// Accesses of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpUse {
    /// How many.
    pub count: u64,
    /// Bytes of keys and values they carried.
    pub bytes: u64,
}

/// Accesses from one origin, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginUse {
    /// Reads of one key.
    pub get: OpUse,
    /// Pages of range reads.
    pub scan: OpUse,
    /// Writes.
    pub put: OpUse,
    /// Deletions.
    pub delete: OpUse,
    /// Conditional writes.
    pub compare_and_set: OpUse,
}

impl OriginUse {
    pub(super) fn count(&mut self, op: Op, bytes: u64) {
        let used = match op {
            Op::Get => &mut self.get,
            Op::Scan => &mut self.scan,
            Op::Put => &mut self.put,
            Op::Delete => &mut self.delete,
            Op::CompareAndSet => &mut self.compare_and_set,
        };
        used.count += 1;
        used.bytes += bytes;
    }

    /// Accesses that only read.
    pub fn reads(&self) -> u64 {
        self.get.count + self.scan.count
    }

    /// Accesses that write.
    pub fn writes(&self) -> u64 {
        self.put.count + self.delete.count + self.compare_and_set.count
    }

    /// Bytes carried by all of them.
    pub fn bytes(&self) -> u64 {
        self.by_op().iter().map(|used| used.bytes).sum()
    }

    fn by_op(&self) -> [OpUse; 5] {
        [self.get, self.scan, self.put, self.delete, self.compare_and_set]
    }

    fn add(&mut self, other: &OriginUse) {
        let ours = [
            &mut self.get,
            &mut self.scan,
            &mut self.put,
            &mut self.delete,
            &mut self.compare_and_set,
        ];
        for (used, more) in ours.into_iter().zip(other.by_op()) {
            used.count += more.count;
            used.bytes += more.bytes;
        }
    }
}

/// A key with many accesses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotKey {
    /// The key, cut to 128 bytes.
    #[serde(with = "hex")]
    pub key: Vec<u8>,
    /// Its accesses, never too few.
    pub count: u64,
    /// By how much `count` may be too high.
    pub error: u64,
}

/// A user with many accesses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotUser {
    /// The application's id, cut to 64 bytes.
    pub user: String,
    /// Its accesses, never too few.
    pub count: u64,
    /// By how much `count` may be too high.
    pub error: u64,
    /// Its accesses from its first few origins, since it was last noticed; never too many.
    pub origins: BTreeMap<Zone, u64>,
}

/// What was counted of one shard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardWindow {
    /// Accesses by origin.
    pub origins: BTreeMap<Zone, OriginUse>,
    /// Where in the shard's range they fell.
    pub keys: KeySample,
    /// The keys with the most accesses, heaviest first.
    pub hot_keys: Vec<HotKey>,
    /// The users with the most accesses, heaviest first.
    pub hot_users: Vec<HotUser>,
}

/// One access, with digests for the key and the user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Touch {
    /// When, in milliseconds of workload time.
    pub at_ms: u64,
    /// The shard that held the key.
    pub shard: ShardId,
    /// The digest of the key.
    pub key: u64,
    /// The digest of the user.
    pub user: u64,
    /// Where it came from.
    pub origin: Zone,
}

/// What one host counted in one window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowReport {
    /// The window.
    pub window: WindowId,
    /// The host.
    pub host: HostId,
    /// Shards with at least one access.
    pub shards: BTreeMap<ShardId, ShardWindow>,
    /// Single accesses in order of time, bounded.
    pub trail: Vec<Touch>,
    /// Accesses of shards beyond the bound, counted nowhere else.
    pub untracked: u64,
    /// Accesses that are counted but left no touch.
    pub untrailed: u64,
    /// Reads that relied on a leader's lease.
    #[serde(default)]
    pub lease_reads: u64,
}

impl WindowReport {
    /// A window without accesses.
    pub fn empty(window: WindowId, host: HostId) -> Self {
        let (shards, trail) = (BTreeMap::new(), Vec::new());
        WindowReport {
            window,
            host,
            shards,
            trail,
            untracked: 0,
            untrailed: 0,
            lease_reads: 0,
        }
    }
}

/// Why a report was not merged. The cluster's window is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// It is of another window.
    #[error("the report of {host} is of {found}, not of {expected}")]
    OtherWindow {
        /// The reporting host.
        host: HostId,
        /// The window being merged.
        expected: WindowId,
        /// The report's window.
        found: WindowId,
    },
    /// The host's report was merged before.
    #[error("the report of {host} on {window} was merged before")]
    Repeated {
        /// The reporting host.
        host: HostId,
        /// The window.
        window: WindowId,
    },
}

/// What all hosts that reported counted in one window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterWindow {
    /// The window.
    pub window: WindowId,
    /// The hosts whose reports are in.
    pub hosts: BTreeSet<HostId>,
    /// Shards with at least one access.
    pub shards: BTreeMap<ShardId, ShardWindow>,
    /// Single accesses in order of time.
    pub trail: Vec<Touch>,
    /// Accesses that no host could attribute to a shard.
    pub untracked: u64,
    /// Reads that relied on a leader's lease.
    pub lease_reads: u64,
}

impl ClusterWindow {
    /// A window no host has reported on.
    pub fn empty(window: WindowId) -> Self {
        let (hosts, shards) = (BTreeSet::new(), BTreeMap::new());
        ClusterWindow {
            window,
            hosts,
            shards,
            trail: Vec::new(),
            untracked: 0,
            lease_reads: 0,
        }
    }

    /// Adds a host's report. The order of hosts does not change the counts.
    pub fn merge(&mut self, report: WindowReport) -> Result<(), MergeError> {
        let (host, window) = (report.host, self.window);
        if report.window != window {
            return Err(MergeError::OtherWindow {
                host,
                expected: window,
                found: report.window,
            });
        }
        if !self.hosts.insert(host) {
            return Err(MergeError::Repeated { host, window });
        }
        for (shard, seen) in report.shards {
            self.shards.entry(shard).or_default().merge(seen);
        }
        self.trail.extend(report.trail);
        self.trail.sort();
        // A read and a write of one key by one user at one moment are one touch: a record is read and then updated.
        self.trail.dedup();
        self.untracked += report.untracked;
        self.lease_reads += report.lease_reads;
        Ok(())
    }

    /// The share of the reads that relied on a lease, in parts per million; `None` without reads.
    pub fn lease_reads_ppm(&self) -> Option<u32> {
        let origins = self.shards.values().flat_map(|shard| shard.origins.values());
        let reads: u64 = origins.map(OriginUse::reads).sum();
        let share = self
            .lease_reads
            .min(reads)
            .saturating_mul(1_000_000)
            .checked_div(reads)?;
        u32::try_from(share).ok()
    }

    /// The window as a forecaster observes it. `starts_at_ms` is its start in workload time; touches
    /// outside it (an access at the very turn of the window) are left out of the trail, not of the counts.
    pub fn counts(&self, starts_at_ms: u64) -> WindowCounts {
        let mut counts = WindowCounts::empty(self.window);
        for (shard, seen) in &self.shards {
            for (origin, used) in &seen.origins {
                counts.count(*shard, origin, used.reads(), used.writes());
            }
        }
        for touch in &self.trail {
            if let Some(offset_ms) = touch.at_ms.checked_sub(starts_at_ms) {
                let Touch {
                    shard,
                    key,
                    user,
                    origin,
                    ..
                } = touch.clone();
                counts.leave_trail(ml::Touch {
                    shard,
                    key,
                    user,
                    origin,
                    offset_ms,
                });
            }
        }
        counts
    }
}

impl ShardWindow {
    fn merge(&mut self, other: ShardWindow) {
        for (origin, used) in &other.origins {
            self.origins.entry(origin.clone()).or_default().add(used);
        }
        self.keys.merge(other.keys);
        merge_hot_keys(&mut self.hot_keys, other.hot_keys);
        merge_hot_users(&mut self.hot_users, other.hot_users);
    }
}

fn merge_hot_keys(ours: &mut Vec<HotKey>, theirs: Vec<HotKey>) {
    for hot in theirs {
        match ours.iter_mut().find(|known| known.key == hot.key) {
            Some(known) => {
                known.count += hot.count;
                known.error += hot.error;
            }
            None => ours.push(hot),
        }
    }
    ours.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.key.cmp(&b.key)));
    ours.truncate(HOT_KEYS_MAX);
}

fn merge_hot_users(ours: &mut Vec<HotUser>, theirs: Vec<HotUser>) {
    for hot in theirs {
        match ours.iter_mut().find(|known| known.user == hot.user) {
            Some(known) => {
                known.count += hot.count;
                known.error += hot.error;
                for (origin, count) in hot.origins {
                    *known.origins.entry(origin).or_default() += count;
                }
            }
            None => ours.push(hot),
        }
    }
    ours.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.user.cmp(&b.user)));
    ours.truncate(HOT_USERS_MAX);
}

/// Keys are bytes; in reports they are written in hexadecimal.
pub(super) mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(bytes))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        decode(&String::deserialize(deserializer)?)
            .ok_or_else(|| D::Error::custom("expected hexadecimal digits"))
    }

    fn encode(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn decode(text: &str) -> Option<Vec<u8>> {
        if !text.len().is_multiple_of(2) || !text.is_ascii() {
            return None;
        }
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use ml::OriginCount;

    use super::*;
    use crate::profiler::{Access, Profiler};

    fn report(host: u64, accesses: &[(u64, &str, Op, &str, &str, u64)]) -> WindowReport {
        let profiler = Profiler::new(HostId(host), 1);
        for (shard, origin, op, key, user, at_ms) in accesses {
            let (shard, origin) = (ShardId(*shard), profiler.origin(origin));
            profiler.record(Access {
                shard,
                origin,
                by_lease: false,
                op: *op,
                key: key.as_bytes(),
                user,
                bytes: 3,
                at_ms: *at_ms,
            });
        }
        profiler.take_window(WindowId(9))
    }

    fn two_hosts() -> [WindowReport; 2] {
        [
            report(
                1,
                &[(1, "a", Op::Get, "k", "u", 5), (1, "b", Op::Put, "k", "v", 1)],
            ),
            report(
                2,
                &[(1, "a", Op::Get, "k", "u", 3), (2, "a", Op::Scan, "z", "u", 4)],
            ),
        ]
    }

    #[test]
    fn reports_of_hosts_add_up() {
        let mut merged = ClusterWindow::empty(WindowId(9));
        for report in two_hosts() {
            merged.merge(report).unwrap();
        }
        let zone = Zone::from;
        let count = |reads, writes| OriginCount { reads, writes };
        let first = BTreeMap::from([(zone("a"), count(2, 0)), (zone("b"), count(0, 1))]);
        let second = BTreeMap::from([(zone("a"), count(1, 0))]);
        let counts = merged.counts(2);
        assert_eq!(
            counts.shards,
            BTreeMap::from([(ShardId(1), first), (ShardId(2), second)])
        );
        assert_eq!(
            counts
                .trail
                .iter()
                .map(|touch| touch.offset_ms)
                .collect::<Vec<_>>(),
            [1, 2, 3]
        );
        assert_eq!(merged.shards[&ShardId(1)].origins[&zone("a")].bytes(), 6);
        let shard = &merged.shards[&ShardId(1)];
        assert_eq!(
            (shard.hot_keys[0].count, shard.keys.seen, shard.hot_users[0].count),
            (3, 3, 2)
        );
        assert_eq!(
            merged.trail.iter().map(|touch| touch.at_ms).collect::<Vec<_>>(),
            [1, 3, 4, 5]
        );
    }

    #[test]
    fn a_record_read_and_then_updated_is_one_touch_and_two_accesses() {
        let session = [(1, "a", Op::Get, "k", "u", 5), (1, "a", Op::Put, "k", "u", 5)];
        let mut merged = ClusterWindow::empty(WindowId(9));
        merged.merge(report(1, &session)).unwrap();
        let counts = merged.counts(0);
        assert_eq!((counts.trail.len(), counts.accesses()), (1, 2));
    }

    #[test]
    fn the_order_of_hosts_does_not_matter() {
        let merge = |reports: [WindowReport; 2]| {
            let mut merged = ClusterWindow::empty(WindowId(9));
            reports
                .into_iter()
                .for_each(|report| merged.merge(report).unwrap());
            merged
        };
        let [first, second] = two_hosts();
        assert_eq!(merge(two_hosts()), merge([second, first]));
    }

    #[test]
    fn a_report_is_merged_once_and_into_its_window() {
        let [first, mut second] = two_hosts();
        let mut merged = ClusterWindow::empty(WindowId(9));
        merged.merge(first.clone()).unwrap();
        let before = merged.clone();
        let repeated = MergeError::Repeated {
            host: HostId(1),
            window: WindowId(9),
        };
        assert_eq!(merged.merge(first), Err(repeated));
        second.window = WindowId(8);
        let other = MergeError::OtherWindow {
            host: HostId(2),
            expected: WindowId(9),
            found: WindowId(8),
        };
        assert_eq!(merged.merge(second), Err(other));
        assert_eq!(merged, before);
    }

    #[test]
    fn a_report_survives_its_encoding() {
        let report = report(1, &[(1, "a", Op::Get, "\u{0}\u{7f}ö", "ü", 5)]);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<WindowReport>(&text).unwrap(), report);
        let broken = text.replace("007fc3b6", "007fc3b");
        assert_ne!(text, broken);
        assert!(serde_json::from_str::<WindowReport>(&broken).is_err());
    }
}
