//! The rules a configuration must keep, each tied to the field an operator would change.
//!
//! All broken rules are reported at once. A rule between two fields is reported at the one more
//! likely to be wrong and names the other.

use std::ops::RangeInclusive;
use std::path::Path;

use super::{HostConfig, PolicyName};

const LABEL_BYTES_MAX: usize = 64;
/// Room for the frame around one mutation: session, sequence, lengths.
const FRAME_OVERHEAD_BYTES: u64 = 256;
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
const MIB: u64 = 1024 * 1024;

/// A broken rule: the field's path and what is wrong with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Breach {
    pub(super) field: &'static str,
    pub(super) problem: String,
}

type Checks = Vec<Breach>;

impl HostConfig {
    /// Every rule this configuration breaks; empty when it may be used.
    pub(super) fn breaches(&self) -> Vec<Breach> {
        let mut checks = Checks::new();
        self.check_identity(&mut checks);
        self.check_limits(&mut checks);
        self.check_shards(&mut checks);
        self.check_watch(&mut checks);
        self.check_raft(&mut checks);
        self.check_snapshot(&mut checks);
        self.check_storage(&mut checks);
        self.check_scrub(&mut checks);
        self.check_durability(&mut checks);
        self.check_profiling(&mut checks);
        self.check_emulation(&mut checks);
        self.check_monitoring(&mut checks);
        checks
    }

    fn check_identity(&self, checks: &mut Checks) {
        require(checks, "data_dir", !is_empty(&self.data_dir), || {
            "is empty".to_owned()
        });
        address(checks, "listen", &self.listen, 0);
        if let Some(advertise) = &self.advertise {
            address(checks, "advertise", advertise, 1);
        }
        for peer in &self.join {
            address(checks, "join", peer, 1);
        }
        label(checks, "zone", &self.zone);
        label(checks, "region", &self.region);
        within(checks, "capacity_bytes", self.capacity_bytes, MIB..=u64::MAX >> 1);
        within(checks, "background_nice", u64::from(self.background_nice), 0..=19);
    }

    fn check_shards(&self, checks: &mut Checks) {
        // A shard that is split at once again would never come to rest.
        if self.shards.bytes_max > 0 {
            within(
                checks,
                "shards.bytes_max",
                self.shards.bytes_max,
                64 * 1024..=u64::MAX >> 1,
            );
        }
        // Nor one that is merged and split in turns.
        let bytes_min_most = match self.shards.bytes_max {
            0 => u64::MAX >> 1,
            bytes_max => bytes_max / 2,
        };
        within(
            checks,
            "shards.bytes_min",
            self.shards.bytes_min,
            0..=bytes_min_most,
        );
        within(checks, "shards.count_max", self.shards.count_max, 1..=16_384);
        within(
            checks,
            "shards.affinity_gain_min_ppm",
            u64::from(self.shards.affinity_gain_min_ppm),
            0..=1_000_000,
        );
    }

    fn check_limits(&self, checks: &mut Checks) {
        let limits = &self.limits;
        within(
            checks,
            "limits.key_bytes_max",
            limits.key_bytes_max,
            1..=64 * 1024,
        );
        within(
            checks,
            "limits.value_bytes_max",
            limits.value_bytes_max,
            1..=64 * MIB,
        );
        let pair = limits.key_bytes_max.saturating_add(limits.value_bytes_max);
        let batch_min = pair.saturating_add(FRAME_OVERHEAD_BYTES);
        within(
            checks,
            "limits.batch_bytes_max",
            limits.batch_bytes_max,
            batch_min..=256 * MIB,
        );
        within(
            checks,
            "limits.scan_pairs_max",
            limits.scan_pairs_max,
            1..=1_000_000,
        );
        within(
            checks,
            "limits.scan_bytes_max",
            limits.scan_bytes_max,
            pair..=256 * MIB,
        );
        let of_shards = [
            (
                "limits.transaction_actions_max",
                limits.transaction_actions_max,
                1..=10_000,
            ),
            (
                "limits.transaction_pairs_max",
                limits.transaction_pairs_max,
                1..=1_000_000,
            ),
            (
                "limits.transaction_bytes_max",
                limits.transaction_bytes_max,
                pair..=256 * MIB,
            ),
            ("limits.leases_max", limits.leases_max, 0..=100_000),
            ("limits.lease_keys_max", limits.lease_keys_max, 1..=100_000),
        ];
        for (field, value, range) in of_shards {
            within(checks, field, value, range);
        }
        let in_flight = limits.batch_bytes_max..=u64::MAX >> 1;
        within(
            checks,
            "limits.in_flight_bytes_max",
            limits.in_flight_bytes_max,
            in_flight,
        );
        within(
            checks,
            "limits.connections_max",
            limits.connections_max,
            8..=1_000_000,
        );
    }

    fn check_watch(&self, checks: &mut Checks) {
        let watch = &self.watch;
        let most = 1_000_000;
        within(checks, "watch.watches_max", watch.watches_max, 1..=most);
        let bytes = 4 * 1024..=1024 * MIB;
        within(
            checks,
            "watch.queue_bytes_max",
            watch.queue_bytes_max,
            bytes.clone(),
        );
        within(checks, "watch.page_rows_max", watch.page_rows_max, 1..=most);
        within(checks, "watch.page_bytes_max", watch.page_bytes_max, bytes);
        let interval_ms = watch.progress_interval_ms;
        within(checks, "watch.progress_interval_ms", interval_ms, 100..=DAY_MS);
        // A watch without events keeps its place by its notes of progress alone.
        let retention = interval_ms.saturating_mul(2)..=30 * DAY_MS;
        within(checks, "limits.retention_ms", self.limits.retention_ms, retention);
    }

    fn check_raft(&self, checks: &mut Checks) {
        let raft = &self.raft;
        within(checks, "raft.heartbeat_ms", raft.heartbeat_ms, 10..=10_000);
        let min = raft.heartbeat_ms.saturating_mul(3);
        within(checks, "raft.election_min_ms", raft.election_min_ms, min..=60_000);
        let max = raft.election_min_ms.saturating_add(raft.heartbeat_ms);
        within(
            checks,
            "raft.election_max_ms",
            raft.election_max_ms,
            max..=120_000,
        );
        within(
            checks,
            "raft.snapshot_entries",
            raft.snapshot_entries,
            10..=10_000_000,
        );
        // More than a snapshot's worth kept behind it would never be purged.
        within(
            checks,
            "raft.keep_entries",
            raft.keep_entries,
            0..=raft.snapshot_entries,
        );
    }

    fn check_snapshot(&self, checks: &mut Checks) {
        let snapshot = &self.snapshot;
        // A frame is a mebibyte: one that takes longer than a minute would pass for a transfer that stands still.
        let rates = [
            ("snapshot.bytes_per_s", snapshot.bytes_per_s),
            ("snapshot.move_bytes_per_s", snapshot.move_bytes_per_s),
        ];
        for (name, rate) in rates.into_iter().filter(|(_, rate)| *rate > 0) {
            within(checks, name, rate, 64 * 1024..=u64::MAX >> 1);
        }
        within(
            checks,
            "snapshot.sends_max",
            u64::from(snapshot.sends_max),
            1..=64,
        );
        let receives_max = u64::from(snapshot.receives_max);
        within(checks, "snapshot.receives_max", receives_max, 1..=64);
    }

    fn check_storage(&self, checks: &mut Checks) {
        let storage = &self.storage;
        let most = u64::MAX >> 1;
        within(checks, "storage.free_bytes_min", storage.free_bytes_min, 0..=most);
        // A log of its ordinary length must not raise the alarm by itself.
        if storage.quota_bytes > 0 {
            let log = &self.log;
            let least = log
                .live_bytes_max
                .saturating_add(log.segment_bytes.saturating_mul(4));
            within(checks, "storage.quota_bytes", storage.quota_bytes, least..=most);
        }
    }

    fn check_scrub(&self, checks: &mut Checks) {
        let interval_s = self.scrub.interval_s;
        within(checks, "scrub.interval_s", interval_s, 0..=365 * DAY_MS / 1_000);
    }

    fn check_durability(&self, checks: &mut Checks) {
        within(
            checks,
            "log.segment_bytes",
            self.log.segment_bytes,
            64 * 1024..=4096 * MIB,
        );
        let live = self.log.segment_bytes.saturating_mul(2)..=u64::MAX >> 1;
        within(checks, "log.live_bytes_max", self.log.live_bytes_max, live);
        within(
            checks,
            "checkpoint.interval_ms",
            self.checkpoint.interval_ms,
            100..=600_000,
        );
        within(
            checks,
            "checkpoint.cache_bytes",
            self.checkpoint.cache_bytes,
            64 * 1024..=u64::MAX >> 1,
        );
        let dirty = self.checkpoint.dirty_bytes_max;
        within(
            checks,
            "checkpoint.dirty_bytes_max",
            dirty,
            64 * 1024..=4096 * MIB,
        );
    }

    fn check_profiling(&self, checks: &mut Checks) {
        let profiler = &self.profiler;
        within(
            checks,
            "balancer.dead_after_ms",
            self.balancer.dead_after_ms,
            1_000..=u64::MAX >> 1,
        );
        within(checks, "profiler.window_ms", profiler.window_ms, 100..=DAY_MS);
        let kept = profiler.access_log_bytes_max;
        within(
            checks,
            "profiler.access_log_bytes_max",
            kept,
            64 * 1024..=u64::MAX >> 1,
        );
        let ppm = u64::from(profiler.access_log_sample_ppm);
        within(checks, "profiler.access_log_sample_ppm", ppm, 0..=1_000_000);
        within(
            checks,
            "balancer.dwell_windows",
            u64::from(self.balancer.dwell_windows),
            0..=10_000,
        );
        let moves = u64::from(self.balancer.trust_moves);
        let moves_max = u64::from(placement::TRUST_MOVES_MAX);
        within(checks, "balancer.trust_moves", moves, 0..=moves_max);
        let ppm = u64::from(self.balancer.trust_share_ppm);
        within(checks, "balancer.trust_share_ppm", ppm, 0..=1_000_000);
        let windows = u64::from(self.balancer.trust_windows);
        within(checks, "balancer.trust_windows", windows, 1..=10_000);
        let ppm = u64::from(self.balancer.lease_reads_ppm);
        within(checks, "balancer.lease_reads_ppm", ppm, 0..=1_000_000);
        self.check_training(checks);
    }

    fn check_training(&self, checks: &mut Checks) {
        let balancer = &self.balancer;
        let interval = balancer.retrain_interval_ms;
        within(checks, "balancer.retrain_interval_ms", interval, 0..=365 * DAY_MS);
        let windows = balancer.retrain_windows_min;
        within(checks, "balancer.retrain_windows_min", windows, 1..=1_000_000);
        // Shorter, and no training would ever end.
        let timeout = balancer.retrain_timeout_ms;
        within(checks, "balancer.retrain_timeout_ms", timeout, 1_000..=DAY_MS);
        let archive = balancer.archive_bytes_max;
        within(checks, "balancer.archive_bytes_max", archive, 0..=u64::MAX >> 1);
        let trains =
            balancer.retrain_interval_ms > 0 && balancer.archive_bytes_max > 0 && !balancer.external_windows;
        let has_model = balancer.policy != PolicyName::BurnModel || balancer.model_file.is_some() || trains;
        require(checks, "balancer.model_file", has_model, || {
            "must name the trained model when balancer.policy is burn-model and none is trained from the windows kept"
                .to_owned()
        });
    }

    fn check_monitoring(&self, checks: &mut Checks) {
        let monitoring = &self.monitoring;
        if let Some(listen) = &monitoring.listen {
            address(checks, "monitoring.listen", listen, 0);
        }
        within(checks, "monitoring.shards_max", monitoring.shards_max, 0..=16_384);
        let connections_max = monitoring.connections_max;
        within(checks, "monitoring.connections_max", connections_max, 1..=1_024);
    }

    fn check_emulation(&self, checks: &mut Checks) {
        let emulation = &self.emulation;
        let both = emulation.rtt_matrix.is_some() == emulation.addresses.is_some();
        require(checks, "emulation.rtt_matrix", both, || {
            "must be set together with emulation.addresses, or neither".to_owned()
        });
        let filter = self.tracing.filter.trim();
        require(checks, "tracing.filter", !filter.is_empty(), || {
            "is empty; try \"info\"".to_owned()
        });
    }
}

fn require(checks: &mut Checks, field: &'static str, holds: bool, problem: impl FnOnce() -> String) {
    if !holds {
        checks.push(Breach {
            field,
            problem: problem(),
        });
    }
}

fn within(checks: &mut Checks, field: &'static str, value: u64, allowed: RangeInclusive<u64>) {
    require(checks, field, allowed.contains(&value), || {
        format!(
            "is {value}, must lie between {} and {}",
            allowed.start(),
            allowed.end()
        )
    });
}

fn address(checks: &mut Checks, field: &'static str, address: &str, port_min: u16) {
    let port = address
        .rsplit_once(':')
        .filter(|(host, _)| is_host(host))
        .map(|(_, port)| port.parse::<u16>());
    let valid = matches!(port, Some(Ok(port)) if port >= port_min);
    require(checks, field, valid, || {
        format!("is {address:?}, must be host:port with a port from {port_min} to 65535")
    });
}

fn is_host(host: &str) -> bool {
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = !host.contains([':', '[', ']', '/', ' ', ',']);
    !host.is_empty() && (bracketed || plain)
}

fn label(checks: &mut Checks, field: &'static str, label: &str) {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let valid = !label.is_empty() && label.len() <= LABEL_BYTES_MAX && label.chars().all(known);
    require(checks, field, valid, || {
        format!("is {label:?}, must be 1 to {LABEL_BYTES_MAX} of the characters a-z A-Z 0-9 - _ .")
    });
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(change: impl FnOnce(&mut HostConfig)) -> Vec<&'static str> {
        let mut config = HostConfig::default();
        change(&mut config);
        config.breaches().into_iter().map(|breach| breach.field).collect()
    }

    #[test]
    fn the_defaults_break_no_rule() {
        assert_eq!(broken(|_| {}), Vec::<&str>::new());
    }

    #[test]
    fn each_rule_names_its_field() {
        assert_eq!(broken(|c| c.listen = "7420".into()), ["listen"]);
        assert_eq!(broken(|c| c.listen = "127.0.0.1:70000".into()), ["listen"]);
        assert_eq!(broken(|c| c.listen = "::1:7420".into()), ["listen"]);
        assert_eq!(broken(|c| c.listen = "[::1]:0".into()), Vec::<&str>::new());
        assert_eq!(
            broken(|c| c.advertise = Some("a.example:0".into())),
            ["advertise"]
        );
        assert_eq!(broken(|c| c.join = vec!["a:1".into(), "b".into()]), ["join"]);
        assert_eq!(broken(|c| c.zone = "a,b".into()), ["zone"]);
        assert_eq!(broken(|c| c.region = String::new()), ["region"]);
        assert_eq!(broken(|c| c.limits.key_bytes_max = 0), ["limits.key_bytes_max"]);
        assert_eq!(
            broken(|c| c.limits.connections_max = 0),
            ["limits.connections_max"]
        );
        assert_eq!(
            broken(|c| c.profiler.access_log_sample_ppm = 1_000_001),
            ["profiler.access_log_sample_ppm"]
        );
        assert_eq!(
            broken(|c| {
                c.balancer.policy = PolicyName::BurnModel;
                c.balancer.retrain_interval_ms = 0;
            }),
            ["balancer.model_file"]
        );
        assert_eq!(
            broken(|c| {
                c.balancer.retrain_timeout_ms = 0;
                c.balancer.retrain_windows_min = 0;
            }),
            ["balancer.retrain_windows_min", "balancer.retrain_timeout_ms"]
        );
        assert_eq!(
            broken(|c| c.snapshot.move_bytes_per_s = 1),
            ["snapshot.move_bytes_per_s"]
        );
        assert_eq!(
            broken(|c| c.emulation.rtt_matrix = Some("r.csv".into())),
            ["emulation.rtt_matrix"]
        );
        assert_eq!(broken(|c| c.tracing.filter = " ".into()), ["tracing.filter"]);
    }

    #[test]
    fn rules_between_fields_hold() {
        assert_eq!(
            broken(|c| c.limits.value_bytes_max = 8 * MIB),
            [
                "limits.batch_bytes_max",
                "limits.scan_bytes_max",
                "limits.transaction_bytes_max"
            ]
        );
        assert_eq!(
            broken(|c| c.limits.in_flight_bytes_max = MIB),
            ["limits.in_flight_bytes_max"]
        );
        assert_eq!(broken(|c| c.raft.heartbeat_ms = 500), ["raft.election_min_ms"]);
        assert_eq!(
            broken(|c| c.raft.election_max_ms = 1_100),
            ["raft.election_max_ms"]
        );
        assert_eq!(broken(|c| c.raft.keep_entries = 20_000), ["raft.keep_entries"]);
        assert_eq!(
            broken(|c| c.log.live_bytes_max = 33 * MIB),
            ["log.live_bytes_max"]
        );
    }

    #[test]
    fn all_breaches_are_told_at_once() {
        let fields = broken(|c| {
            c.zone = String::new();
            c.checkpoint.interval_ms = 0;
            c.profiler.window_ms = 0;
        });
        assert_eq!(fields, ["zone", "checkpoint.interval_ms", "profiler.window_ms"]);
    }
}
