//! What this host takes of its disk, what its snapshots do, and what is wrong with it and with the shards it leads.

use client::proto::{Alarm, ScrubReply, ScrubbedReplica, SnapshotUsage, UsageReply};
use placement::ShardId;
use raft::SnapshotCounts;

use crate::config::StorageConfig;
use crate::host::Host;
use crate::host::scrub::{Finding, Report, Scrubbed, Verdict, describe};

/// The host as it stands.
pub(super) fn usage(host: &Host) -> UsageReply {
    let StorageConfig {
        quota_bytes,
        free_bytes_min,
    } = host.config().storage;
    let (look, _) = host.space().own();
    let snapshots = host.raft().map(raft::RaftHost::snapshot_counts);
    UsageReply {
        host_id: host.id().0,
        used_bytes: look.used_bytes,
        quota_bytes,
        free_bytes: look.free_bytes,
        free_bytes_min,
        snapshots: snapshots.map(snapshot_usage),
        alarms: alarms(host),
    }
}

fn snapshot_usage(counts: SnapshotCounts) -> SnapshotUsage {
    SnapshotUsage {
        sending: counts.sending,
        waiting: counts.waiting,
        receiving: counts.receiving,
        sent_bytes: counts.sent_bytes,
        received_bytes: counts.received_bytes,
        turned_away: counts.turned_away,
        held_back_ms: counts.held_back_ms,
    }
}

/// The alarms of this host, in no order.
fn alarms(host: &Host) -> Vec<Alarm> {
    let corrupt = host.scrubs().alarms().into_iter();
    let corrupt = corrupt.map(|((shard, replica), corrupt)| Alarm {
        kind: "CORRUPT".to_owned(),
        host_id: corrupt.host.0,
        shard_id: shard.0,
        replica_id: replica.0,
        since_ms: corrupt.since_ms,
        detail: corrupt.detail,
    });
    no_space(host).into_iter().chain(corrupt).collect()
}

fn no_space(host: &Host) -> Option<Alarm> {
    let (look, since_ms) = host.space().own();
    let config = &host.config().storage;
    let quota = match config.quota_bytes {
        0 => "without a quota".to_owned(),
        quota => format!("of a quota of {quota}"),
    };
    Some(Alarm {
        kind: "NOSPACE".to_owned(),
        host_id: host.id().0,
        shard_id: 0,
        replica_id: 0,
        since_ms: since_ms?,
        detail: format!(
            "{} bytes are taken {quota}; {} are free on the disk, of which {} are to stay free",
            look.used_bytes, look.free_bytes, config.free_bytes_min
        ),
    })
}

/// What a scrub came to, as operators are told.
pub(super) fn scrub_reply(shard: ShardId, report: Report) -> ScrubReply {
    ScrubReply {
        shard_id: shard.0,
        index: report.index,
        replicas: report.replicas.iter().map(scrubbed_replica).collect(),
    }
}

fn scrubbed_replica(scrubbed: &Scrubbed) -> ScrubbedReplica {
    let (checksum, keys) = match scrubbed.finding {
        Finding::Sum { checksum, keys } => (checksum, keys),
        _ => (0, 0),
    };
    let (verdict, detail) = match scrubbed.verdict {
        Verdict::Sound => ("sound", String::new()),
        Verdict::Corrupt => ("corrupt", describe(&scrubbed.finding)),
        Verdict::Unknown => ("unknown", describe(&scrubbed.finding)),
    };
    ScrubbedReplica {
        replica_id: scrubbed.replica.0,
        host_id: scrubbed.host.0,
        verdict: verdict.to_owned(),
        checksum,
        keys,
        detail,
    }
}
