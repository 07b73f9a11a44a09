//! Series of single shards, as many as the configuration allows: those with the lowest ids.

use super::families::Families;
use crate::host::{Host, LocalShard};

pub(super) fn collect(host: &Host, into: &mut Families) {
    let most = usize::try_from(host.config().monitoring.shards_max).unwrap_or(usize::MAX);
    let shards = host.shards();
    let left_out = shards.len().saturating_sub(most);
    for local in shards.iter().take(most) {
        one(local, into);
    }
    into.gauge(
        "godwit_shards_without_series",
        "Shards with a replica here that have no series of their own, because of monitoring.shards_max.",
        &[],
        left_out as f64,
    );
}

fn one(local: &LocalShard, into: &mut Families) {
    let shard = local.group.id().0.to_string();
    let status = local.group.status();
    let stats = local.store.stats();
    let is_leader = status.leader == Some(local.group.replica());
    let gauges = [
        (
            "godwit_shard_leader",
            "1 on the host that leads the shard.",
            u64::from(is_leader),
        ),
        ("godwit_shard_term", "The shard's Raft term.", status.term),
        (
            "godwit_shard_applied_index",
            "The last entry of the shard's log that is applied here.",
            status.applied.map_or(0, |at| at.index),
        ),
        (
            "godwit_shard_revision",
            "Changes of the shard so far.",
            local.store.revision(),
        ),
        ("godwit_shard_keys", "Keys of the shard.", stats.keys),
        (
            "godwit_shard_bytes",
            "Bytes of its keys and newest values.",
            stats.bytes,
        ),
    ];
    for (name, help, value) in gauges {
        into.gauge(name, help, &[("shard", &shard)], value as f64);
    }
}
