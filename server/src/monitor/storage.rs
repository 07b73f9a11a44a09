//! What a host holds: its disk, the data of its shards, the cache of rows, sessions, leases and watches.

use storage::shard::ShardStats;

use super::families::Families;
use crate::host::Host;

pub(super) fn collect(host: &Host, into: &mut Families) {
    disk(host, into);
    data(host, into);
    let cache = host.shared.row_cache.stats();
    into.gauge(
        "godwit_row_cache_bytes",
        "Memory taken by rows that were read from shards' files.",
        &[],
        cache.bytes as f64,
    );
    into.counter(
        "godwit_row_cache_hits_total",
        "Reads that found their row in the cache.",
        &[],
        cache.hits as f64,
    );
    into.counter(
        "godwit_row_cache_misses_total",
        "Reads that had to go to a shard's file.",
        &[],
        cache.misses as f64,
    );
}

fn disk(host: &Host, into: &mut Families) {
    let (look, _) = host.space().own();
    let config = &host.config().storage;
    let gauges = [
        (
            "godwit_storage_used_bytes",
            "Bytes that the shards' files and the log take of the disk.",
            look.used_bytes,
        ),
        (
            "godwit_storage_free_bytes",
            "Bytes that the disk still takes.",
            look.free_bytes,
        ),
        (
            "godwit_storage_quota_bytes",
            "storage.quota_bytes; 0: no limit.",
            config.quota_bytes,
        ),
        (
            "godwit_storage_free_min_bytes",
            "storage.free_bytes_min; 0: no limit.",
            config.free_bytes_min,
        ),
        (
            "godwit_capacity_bytes",
            "capacity_bytes: what the planner may place here.",
            host.config().capacity_bytes,
        ),
    ];
    for (name, help, value) in gauges {
        into.gauge(name, help, &[], value as f64);
    }
}

fn data(host: &Host, into: &mut Families) {
    let mut sum = ShardStats::default();
    let (mut leases, mut watches) = (0, 0);
    for local in host.shards() {
        let stats = local.store.stats();
        sum.keys += stats.keys;
        sum.bytes += stats.bytes;
        sum.versions += stats.versions;
        sum.dirty_bytes += stats.dirty_bytes;
        sum.sessions += stats.sessions;
        watches += local.feed.count();
        if local.group.is_leader() {
            leases += local.store.leases().len();
        }
    }
    let gauges = [
        (
            "godwit_storage_keys",
            "Keys of the shards with a replica here.",
            sum.keys,
        ),
        (
            "godwit_storage_data_bytes",
            "Bytes of their keys and newest values.",
            sum.bytes,
        ),
        (
            "godwit_storage_versions",
            "Versions of keys that can be read, deletions among them.",
            sum.versions,
        ),
        (
            "godwit_storage_dirty_bytes",
            "Bytes applied since the checkpoints of their shards.",
            sum.dirty_bytes,
        ),
        (
            "godwit_sessions",
            "Sessions of clients, over the shards with a replica here.",
            sum.sessions,
        ),
        (
            "godwit_leases",
            "Leases of the shards that this host leads.",
            leases as u64,
        ),
        ("godwit_watches", "Watches that this host serves.", watches as u64),
    ];
    for (name, help, value) in gauges {
        into.gauge(name, help, &[], value as f64);
    }
}
